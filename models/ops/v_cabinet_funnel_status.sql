with driver_activity as (

    select * from {{ ref('int_driver_activity') }}

),

excluded_drivers as (

    select * from {{ ref('int_excluded_drivers') }}

),

shown as (

    select
        driver_activity.*,
        case
            when driver_activity.m25_date is not null then 25
            when driver_activity.m5_date is not null then 5
            when driver_activity.m1_date is not null then 1
        end as highest_milestone
    from driver_activity
    where
        not exists (
            select 1
            from excluded_drivers
            where excluded_drivers.driver_id = driver_activity.driver_id
        )

),

final as (

    select
        driver_id::varchar as driver_id,
        person_key,
        coalesce(origin_tag, 'unknown') as origin_tag,
        case
            when person_key is null then 'registered_incomplete'
            when first_connection_date is null then 'registered_complete'
            when trips_30d = 0 then 'connected_no_trips'
            when highest_milestone = 25 then 'reached_m25'
            when highest_milestone = 5 then 'reached_m5'
            when highest_milestone = 1 then 'reached_m1'
            else 'connected_no_trips'
        end as funnel_status,
        first_connection_date is not null as connected_flag,
        first_connection_date as connected_date,
        trips_30d as trips_total,
        highest_milestone,
        m1_date,
        m5_date,
        m25_date
    from shown

)

select * from final
