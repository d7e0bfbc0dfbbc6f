with event_persons as (

    select * from {{ ref('int_lead_event_origins') }}

),

excluded_drivers as (

    select * from {{ ref('int_excluded_drivers') }}

),

-- A person has one driver or none, so the driver adds no row. It is among the keys, and
-- the first of them, for who asks about one driver, or sorts by it.
leads as (

    select
        driver_id,
        person_key,
        origin_tag,
        min(event_date) as lead_date,
        case
            when origin_tag = 'fleet_migration'
                then (array_agg(scout_id order by event_date desc, event_id desc))[1]
        end as scout_id,
        max(match_rule)::varchar as match_rule,
        max(confidence_level) as confidence_level,
        max(snapshot_at) as snapshot_at
    from event_persons
    group by driver_id, person_key, origin_tag

),

final as (

    select
        leads.person_key,
        leads.origin_tag,
        leads.lead_date,
        leads.scout_id,
        leads.driver_id,
        leads.match_rule,
        leads.confidence_level,
        leads.snapshot_at,
        case
            when leads.driver_id is not null
                then excluded_drivers.driver_id is not null
        end as is_excluded
    from leads
    left join excluded_drivers on leads.driver_id = excluded_drivers.driver_id

)

select * from final
