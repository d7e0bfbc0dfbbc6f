with summaries as (

    select * from {{ ref('stg_public__summary_daily') }}

),

summary_dates as (

    select * from {{ ref('int_summary_dates') }}

),

final as (

    select
        summaries.driver_id,
        summaries.date_file,
        coalesce(
            summary_dates.summary_date, {{ parse_date_file('summaries.date_file') }}
        ) as activity_date,
        coalesce(summaries.trips, 0) as trips,
        coalesce(summaries.work_seconds, 0) as work_seconds
    from summaries
    left join summary_dates on summaries.date_file = summary_dates.date_file

)

select * from final
