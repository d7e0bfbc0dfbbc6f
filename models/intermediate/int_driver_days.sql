with summaries as (

    select * from {{ ref('stg_public__summary_daily') }}

),

final as (

    select
        driver_id,
        summary_date as activity_date,
        coalesce(sum(trips), 0)::bigint as trips,
        coalesce(sum(work_seconds), 0)::bigint as work_seconds
    from summaries
    where
        driver_id is not null
        and summary_date is not null
    group by driver_id, summary_date

)

select * from final
