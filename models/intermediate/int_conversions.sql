with event_persons as (

    select * from {{ ref('int_lead_event_origins') }}

),

driver_links as (

    select * from {{ ref('int_driver_links') }}

),

excluded_drivers as (

    select * from {{ ref('int_excluded_drivers') }}

),

leads as (

    select
        person_key,
        origin_tag,
        min(event_date) as lead_date,
        case
            when origin_tag = 'fleet_migration'
                then (array_agg(scout_id order by event_date desc, event_id desc))[1]
        end as scout_id
    from event_persons
    group by person_key, origin_tag

),

-- Whether the driver is excluded is asked here, where PostgreSQL knows how many drivers
-- there are: of conversions and their rules it expects a handful, and would compare
-- each with every excluded driver.
current_drivers as (

    select distinct on (driver_links.person_key)
        driver_links.person_key,
        driver_links.driver_id,
        driver_links.match_rule,
        driver_links.confidence_level,
        driver_links.snapshot_at,
        excluded_drivers.driver_id is not null as is_excluded
    from driver_links
    left join excluded_drivers on driver_links.driver_id = excluded_drivers.driver_id
    order by
        driver_links.person_key,
        driver_links.linked_at desc,
        driver_links.link_id desc

),

final as (

    select
        leads.person_key,
        leads.origin_tag,
        leads.lead_date,
        leads.scout_id,
        current_drivers.driver_id,
        current_drivers.match_rule,
        current_drivers.confidence_level,
        current_drivers.snapshot_at,
        current_drivers.is_excluded
    from leads
    left join current_drivers on leads.person_key = current_drivers.person_key

)

select * from final
