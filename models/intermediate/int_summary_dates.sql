-- A calendar of thirty years: a text that is in it need not be parsed, which would take
-- longer than everything else that is done with the millions of rows. What is not in it
-- is parsed.
with days as (

    select date '2010-01-01' + day_no as summary_date
    from generate_series(0, date '2039-12-31' - date '2010-01-01') as day_no

),

-- Grouped, so that PostgreSQL knows that a text is there once, and hashes. A timestamp,
-- because to_char() reads a bare date in the session's time zone, where a day can be
-- missing (Apia has no 30-12-2011).
final as (

    select
        to_char(summary_date::timestamp, 'DD-MM-YYYY') as date_file,
        min(summary_date) as summary_date
    from days
    group by to_char(summary_date::timestamp, 'DD-MM-YYYY')

)

select * from final
