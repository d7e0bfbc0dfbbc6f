with quarantine as (

    select * from {{ ref('int_quarantine_state') }}

),

registry as (

    select * from {{ ref('stg_canon__identity_registry') }}

),

driver_links as (

    select * from {{ ref('int_driver_links') }}

),

event_persons as (

    select * from {{ ref('int_lead_event_persons') }}

),

driver_link_counts as (

    select
        person_key,
        count(*) as driver_links_count
    from driver_links
    group by person_key

),

lead_event_counts as (

    select
        person_key,
        count(*) as lead_events_count
    from event_persons
    group by person_key

),

final as (

    select
        quarantine.driver_id::varchar as driver_id,
        quarantine.person_key,
        quarantine.detected_at,
        quarantine.detected_reason::{{ quarantine_enum('detected_reason') }}
            as detected_reason,
        quarantine.creation_rule::varchar as creation_rule,
        quarantine.evidence_json,
        quarantine.status::{{ quarantine_enum('status') }} as status,
        quarantine.resolved_at,
        quarantine.resolution_notes,
        registry.primary_phone,
        registry.primary_license,
        registry.primary_full_name,
        registry.confidence_level::public.confidencelevel as confidence_level,
        coalesce(driver_link_counts.driver_links_count, 0) as driver_links_count,
        coalesce(lead_event_counts.lead_events_count, 0) as lead_events_count,
        quarantine.last_recorded_at as last_updated_at
    from quarantine
    left join registry on quarantine.person_key = registry.person_key
    left join
        driver_link_counts
        on quarantine.person_key = driver_link_counts.person_key
    left join lead_event_counts on quarantine.person_key = lead_event_counts.person_key
    where quarantine.status is not null

)

select * from final
