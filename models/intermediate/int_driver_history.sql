with daily_summaries as (

    select
        -- Sorted by bytes: most of the time goes into this sort, and by a language it
        -- would take several times as long.
        driver_id collate "C" as driver_id,
        activity_date,
        trips,
        work_seconds
    from {{ ref('int_daily_summaries') }}
    where
        driver_id is not null
        and activity_date is not null

),

-- Rows of one day are peers: each has the sum up to the day's end.
running as (

    select
        driver_id,
        activity_date,
        trips,
        work_seconds,
        sum(trips) over (
            partition by driver_id
            order by activity_date
        ) as trips_so_far
    from daily_summaries

),

histories as (

    select
        driver_id,
        array_agg(activity_date order by activity_date) as days,
        array_agg(trips_so_far order by activity_date) as trips_so_far,
        array_agg(work_seconds order by activity_date) as work_seconds,
        array_agg(activity_date order by activity_date) filter (
            where work_seconds > 0
        ) as days_with_work,
        min(trips) < 0 as has_trips_taken_back,
        min(work_seconds) < 0 as has_work_taken_back
    from running
    group by driver_id

),

final as (

    select
        driver_id collate "default" as driver_id,
        days,
        trips_so_far,
        has_trips_taken_back,
        -- numeric sums: two absurd rows must not overflow and break every view
        case
            when has_work_taken_back
                then (
                    select array_agg(worked.activity_date order by worked.activity_date)
                    from (
                        select rows.activity_date
                        from
                            unnest(histories.days, histories.work_seconds)
                                as rows (activity_date, work_seconds)
                        group by rows.activity_date
                        having sum(rows.work_seconds) > 0
                    ) as worked
                )
            else days_with_work
        end as connected_days
    from histories

)

select * from final
