with orphan_identifiers as (

    select distinct
        kind,
        value
    from {{ ref('int_orphan_identifiers') }}

),

driver_identifiers as (

    select * from {{ ref('int_driver_identifiers') }}

),

event_identifiers as (

    select * from {{ ref('int_lead_event_identifiers') }}

),

-- The one pass over all lead events: those that carry an identifier of any orphan.
candidate_events as materialized (

    select distinct event_identifiers.event_id
    from event_identifiers
    inner join orphan_identifiers
        on
            event_identifiers.kind = orphan_identifiers.kind
            and event_identifiers.value = orphan_identifiers.value

),

candidate_identifiers as materialized (

    select distinct
        event_identifiers.event_id,
        event_identifiers.kind,
        event_identifiers.value
    from candidate_events
    inner join
        event_identifiers
        on candidate_events.event_id = event_identifiers.event_id

),

candidate_values as (

    select distinct
        kind,
        value
    from candidate_identifiers

),

-- All drivers count here, not orphans only. A value that thousands share is cut to
-- eleven persons: more than one is ambiguous anyway, and ten rivals are enough to show.
owners as materialized (

    select
        driver_identifiers.kind,
        driver_identifiers.value,
        driver_identifiers.evidence_level,
        (
            array_agg(
                distinct driver_identifiers.person_key
                order by driver_identifiers.person_key
            )
        )[1:11] as person_keys
    from driver_identifiers
    inner join candidate_values
        on
            driver_identifiers.kind = candidate_values.kind
            and driver_identifiers.value = candidate_values.value
    group by
        driver_identifiers.kind,
        driver_identifiers.value,
        driver_identifiers.evidence_level

),

matches as (

    select
        candidate_identifiers.event_id,
        candidate_identifiers.kind,
        candidate_identifiers.value,
        owners.evidence_level,
        owners.person_keys,
        min(owners.evidence_level) over (
            partition by candidate_identifiers.event_id
        ) as strongest_level
    from candidate_identifiers
    inner join owners
        on
            candidate_identifiers.kind = owners.kind
            and candidate_identifiers.value = owners.value

),

-- An event speaks at its strongest level only. (<= rather than =, here and further on:
-- PostgreSQL takes an equality of computed columns to leave one row in two hundred, and
-- then chooses nested loops that take hours.)
final as (

    select
        event_id,
        kind,
        value,
        evidence_level,
        person_keys
    from matches
    where evidence_level <= strongest_level

)

select * from final
