with quarantine as (

    select * from {{ ref('int_quarantine_state') }}

),

quarantined_persons as not materialized (

    select
        driver_id,
        person_key
    from {{ ref('stg_canon__driver_orphan_quarantine') }}

),

registry as (

    select * from {{ ref('stg_canon__identity_registry') }}

),

driver_links as (

    select * from {{ ref('int_driver_links') }}

),

lead_events as not materialized (

    select * from {{ ref('stg_observational__lead_events') }}

),

links as (

    select * from {{ ref('stg_canon__identity_links') }}

),

-- Each count starts from the quarantine and is grouped by its driver: so a question
-- about one driver counts the links and events of one person.
driver_link_counts as (

    select
        quarantined_persons.driver_id,
        count(*) as driver_links_count
    from quarantined_persons
    inner join
        driver_links
        on quarantined_persons.person_key = driver_links.person_key
    group by quarantined_persons.driver_id

),

own_event_counts as (

    select
        quarantined_persons.driver_id,
        count(*) as events_count
    from quarantined_persons
    inner join
        lead_events
        on quarantined_persons.person_key = lead_events.person_key
    group by quarantined_persons.driver_id

),

-- Events that belong to the person by the link of their lead row alone, as in
-- int_lead_event_origins.
linked_event_counts as (

    select
        quarantined_persons.driver_id,
        count(*) as events_count
    from quarantined_persons
    inner join links on quarantined_persons.person_key = links.person_key
    inner join lead_events
        on
            links.source_table = lead_events.source_table
            and links.source_pk = lead_events.source_pk
    where lead_events.person_key is null
    group by quarantined_persons.driver_id

),

final as (

    select
        quarantine.driver_id,
        quarantine.person_key,
        quarantine.detected_at,
        quarantine.detected_reason,
        quarantine.creation_rule,
        quarantine.evidence_json,
        quarantine.status,
        quarantine.resolved_at,
        quarantine.resolution_notes,
        registry.primary_phone,
        registry.primary_license,
        registry.primary_full_name,
        registry.confidence_level,
        coalesce(driver_link_counts.driver_links_count, 0) as driver_links_count,
        coalesce(own_event_counts.events_count, 0)
        + coalesce(linked_event_counts.events_count, 0) as lead_events_count,
        quarantine.last_recorded_at as last_updated_at
    from quarantine
    left join registry on quarantine.person_key = registry.person_key
    left join
        driver_link_counts
        on quarantine.driver_id = driver_link_counts.driver_id
    left join own_event_counts on quarantine.driver_id = own_event_counts.driver_id
    left join
        linked_event_counts
        on quarantine.driver_id = linked_event_counts.driver_id
    where quarantine.status is not null

)

select * from final
