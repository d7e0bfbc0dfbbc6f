with summaries as (

    select * from {{ ref('stg_public__summary_daily') }}

),

-- Millions of rows have a few hundred dates between them: each is read once.
-- Materialized, or a filter on the date is pushed down to the millions.
date_files as materialized (

    select distinct date_file from summaries

),

final as (

    select
        date_file,
        {{ parse_date_file('date_file') }} as summary_date
    from date_files
    where date_file is not null

)

select * from final
