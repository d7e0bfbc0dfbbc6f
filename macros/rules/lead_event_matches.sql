{#-
    Identifiers by which lead events speak for persons with an orphan driver. A macro, so that
    int_all_orphan_verdicts has this step in one statement with the others, and each of them once;
    the model of this name has it alone.
-#}
{% macro lead_event_matches(orphan_identifiers) %}
    with orphan_identifiers as (

        select distinct
            kind,
            value
        from {{ orphan_identifiers }}

    ),

    driver_identifiers as (

        select * from {{ ref('int_driver_identifiers') }}

    ),

    event_search_keys as (

        select * from {{ ref('int_lead_event_search_keys') }}

    ),

    event_identifiers as (

        select * from {{ ref('int_lead_source_identifiers') }}

    ),

    -- The one pass over all lead events: those that may speak for an orphan. What is sought
    -- is an array, because parallel workers can be given one, but no CTE.
    candidate_events as (

        select distinct event_search_keys.event_id
        from event_search_keys
        inner join
            unnest(
                array(
                    select
                        case kind
                            when 'phone' then {{ end_of_phone('value') }}
                            else value
                        end
                    from orphan_identifiers
                )
            ) as sought (search_key)
            on event_search_keys.search_key = sought.search_key

    ),

    -- By the primary key: an array of the events, not a join, which would read them all again.
    identifiers_of_candidates as materialized (

        select distinct
            event_id,
            split_part(identifier, ':', 1) collate "default" as kind,
            substr(identifier, strpos(identifier, ':') + 1) as value
        from event_identifiers
        where event_id = any(array(select event_id from candidate_events))

    ),

    events_for_orphans as (

        select distinct identifiers_of_candidates.event_id
        from identifiers_of_candidates
        inner join orphan_identifiers
            on
                identifiers_of_candidates.kind = orphan_identifiers.kind
                and identifiers_of_candidates.value = orphan_identifiers.value

    ),

    candidate_identifiers as materialized (

        select identifiers_of_candidates.*
        from identifiers_of_candidates
        inner join
            events_for_orphans
            on identifiers_of_candidates.event_id = events_for_orphans.event_id

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
