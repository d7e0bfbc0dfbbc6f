with conversions as (

    select * from {{ ref('int_conversions') }}

),

driver_days as (

    select * from {{ ref('int_driver_days') }}

),

final as (

    select
        conversions.person_key,
        conversions.origin_tag,
        conversions.driver_id,
        conversions.lead_date,
        min(driver_days.activity_date) filter (
            where driver_days.work_seconds > 0
        ) as first_connection_date,
        coalesce(
            sum(driver_days.trips) filter (
                where
                driver_days.activity_date
                < {{ window_end('conversions.lead_date', 7) }}
            ), 0
        )::bigint as trips_7d,
        coalesce(
            sum(driver_days.trips) filter (
                where
                driver_days.activity_date
                < {{ window_end('conversions.lead_date', 14) }}
            ), 0
        )::bigint as trips_14d,
        coalesce(
            sum(driver_days.trips) filter (
                where
                driver_days.activity_date
                < {{ window_end('conversions.lead_date', 30) }}
            ), 0
        )::bigint as trips_30d
    from conversions
    left join driver_days
        on
            conversions.driver_id = driver_days.driver_id
            and conversions.lead_date <= driver_days.activity_date
    group by
        conversions.person_key,
        conversions.origin_tag,
        conversions.driver_id,
        conversions.lead_date

)

select * from final
