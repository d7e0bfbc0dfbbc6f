with driver_links as (

    select * from {{ ref('int_driver_links') }}

),

conversion_activity as (

    select * from {{ ref('int_conversion_activity') }}

),

driver_milestones as (

    select * from {{ ref('int_driver_milestones') }}

),

driver_origins as (

    select * from {{ ref('int_driver_origins') }}

),

excluded_drivers as (

    select * from {{ ref('int_excluded_drivers') }}

),

milestones as (

    select
        driver_id,
        max(milestone_value) as highest_milestone,
        max(achieved_date) filter (where milestone_value = 1) as m1_date,
        max(achieved_date) filter (where milestone_value = 5) as m5_date,
        max(achieved_date) filter (where milestone_value = 25) as m25_date
    from driver_milestones
    group by driver_id

),

latest_activity as (

    select distinct on (driver_id)
        driver_id,
        first_connection_date,
        trips_30d
    from conversion_activity
    where driver_id is not null
    order by driver_id, lead_date desc

),

-- Drivers with a payment row have a conversion row, and that one's driver has a link:
-- these two are all there are.
drivers as (

    select driver_id::text as driver_id from driver_links
    union
    select driver_id::text as driver_id from milestones

),

joined as (

    select
        drivers.driver_id,
        driver_links.person_key,
        coalesce(driver_origins.origin_tag, 'unknown') as origin_tag,
        latest_activity.first_connection_date as connected_date,
        coalesce(latest_activity.trips_30d, 0) as trips_total,
        milestones.highest_milestone,
        milestones.m1_date,
        milestones.m5_date,
        milestones.m25_date
    from drivers
    left join driver_links on drivers.driver_id = driver_links.driver_id
    left join driver_origins on drivers.driver_id = driver_origins.driver_id
    left join latest_activity on drivers.driver_id = latest_activity.driver_id
    left join milestones on drivers.driver_id = milestones.driver_id
    where
        not exists (
            select 1
            from excluded_drivers
            where excluded_drivers.driver_id = drivers.driver_id
        )

),

final as (

    select
        driver_id::varchar as driver_id,
        person_key,
        origin_tag,
        case
            when person_key is null then 'registered_incomplete'
            when connected_date is null then 'registered_complete'
            when trips_total = 0 then 'connected_no_trips'
            when highest_milestone = 25 then 'reached_m25'
            when highest_milestone = 5 then 'reached_m5'
            when highest_milestone = 1 then 'reached_m1'
            else 'connected_no_trips'
        end as funnel_status,
        connected_date is not null as connected_flag,
        connected_date,
        trips_total,
        highest_milestone,
        m1_date,
        m5_date,
        m25_date
    from joined

)

select * from final
