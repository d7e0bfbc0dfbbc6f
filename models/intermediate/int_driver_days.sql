with summaries as (

    select * from {{ ref('stg_public__summary_daily') }}

),

summary_dates as (

    select * from {{ ref('int_summary_dates') }}

),

-- One text per day, so a group of texts is a day.
sums as (

    select
        driver_id,
        date_file,
        coalesce(sum(trips), 0)::bigint as trips,
        -- numeric: two absurd rows must not overflow and break every view
        coalesce(sum(work_seconds), 0) as work_seconds
    from summaries
    where driver_id is not null
    group by driver_id, date_file

),

final as (

    select
        sums.driver_id,
        summary_dates.summary_date as activity_date,
        sums.trips,
        sums.work_seconds
    from sums
    inner join summary_dates on sums.date_file = summary_dates.date_file
    where summary_dates.summary_date is not null

)

select * from final
