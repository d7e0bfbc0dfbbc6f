{#-
    Identifiers by which lead events speak for persons with an orphan driver. A macro, so that
    int_all_orphan_verdicts has this step in one statement with the others, and each of them once;
    the model of this name has it alone.
-#}
{% macro lead_event_matches(orphan_identifiers) %}
    with orphan_identifiers as (

        select distinct kind || ':' || value as identifier
        from {{ orphan_identifiers }}

    ),

    driver_identifiers as (

        select * from {{ ref('int_driver_identifiers') }}

    ),

    lead_events as (

        select * from {{ ref('stg_observational__lead_events') }}

    ),

    event_identifiers as (

        select * from {{ ref('int_lead_source_identifiers') }}

    ),

    -- The one pass over all lead events: those that carry an identifier of any orphan.
    candidate_events as (

        select distinct event_identifiers.event_id
        from event_identifiers
        inner join
            orphan_identifiers
            on event_identifiers.identifier = orphan_identifiers.identifier

    ),

    payloads_of_candidates as (

        select
            lead_events.event_id,
            lead_events.payload
        from candidate_events
        inner join lead_events on candidate_events.event_id = lead_events.event_id

    ),

    identifiers_of_candidates as (

        {{ lead_event_identifiers('payloads_of_candidates') }}

    ),

    candidate_identifiers as materialized (

        select distinct
            event_id,
            split_part(identifier, ':', 1) collate "default" as kind,
            substr(identifier, strpos(identifier, ':') + 1) as value
        from identifiers_of_candidates

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
{% endmacro %}
