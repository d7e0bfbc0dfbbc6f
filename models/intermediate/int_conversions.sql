with event_persons as (

    select * from {{ ref('int_lead_event_persons') }}

),

lead_sources as (

    select * from {{ ref('lead_sources') }}

),

lead_ledger as (

    select * from {{ ref('stg_observational__lead_ledger') }}

),

driver_links as (

    select * from {{ ref('int_driver_links') }}

),

tagged_events as (

    select
        event_persons.person_key,
        event_persons.event_id,
        event_persons.event_date,
        event_persons.scout_id,
        coalesce(
            event_persons.payload ->> 'origin_tag',
            lead_sources.origin_tag,
            lead_ledger.attributed_source,
            'unknown'
        )::text as origin_tag
    from event_persons
    left join lead_sources on event_persons.source_table = lead_sources.source_table
    left join lead_ledger on event_persons.person_key = lead_ledger.person_key

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
    from tagged_events
    group by person_key, origin_tag

),

current_drivers as (

    select distinct on (person_key)
        person_key,
        driver_id
    from driver_links
    order by person_key, linked_at desc, link_id desc

),

final as (

    select
        leads.person_key,
        leads.origin_tag,
        leads.lead_date,
        leads.scout_id,
        current_drivers.driver_id
    from leads
    left join current_drivers on leads.person_key = current_drivers.person_key

)

select * from final
