{#-
    What the lead events say about each person with an orphan driver. A macro, so that
    int_all_orphan_verdicts has this step in one statement with the others, and each of them once;
    the model of this name has it alone.
-#}
{% macro person_evidence(claims, orphans, orphan_identifiers) %}
    with claims as (

        select * from {{ claims }}

    ),

    lead_events as (

        select * from {{ ref('stg_observational__lead_events') }}

    ),

    strategies as (

        select * from {{ ref('evidence_strategies') }}

    ),

    orphan_persons as materialized (

        select distinct person_key from {{ orphans }}

    ),

    orphan_identifiers as materialized (

        select distinct
            person_key,
            kind,
            value
        from {{ orphan_identifiers }}

    ),

    -- Events that speak for one orphan person alone and that nothing contradicts.
    usable_events as (

        select distinct
            claims.event_id,
            claims.person_keys[1] as person_key,
            claims.evidence_level,
            claims.source_table,
            claims.source_pk,
            claims.event_date,
            claims.strategy,
            strategies.strength
        from claims
        inner join orphan_persons on claims.person_keys[1] = orphan_persons.person_key
        inner join strategies on claims.strategy = strategies.strategy
        where claims.is_usable

    ),

    ranked_usable_events as (

        select
            *,
            min(evidence_level) over (partition by person_key) as best_level,
            min(strength) over (partition by person_key) as best_strength
        from usable_events

    ),

    -- Every usable event of the best level becomes a link, none of a weaker level.
    repairs as (

        select
            person_key,
            min(evidence_level) as evidence_level,
            min(strategy) filter (where strength <= best_strength) as strategy,
            count(*)::int as lead_rows_count,
            jsonb_agg(
                jsonb_build_object(
                    'event_id', event_id,
                    'source_table', source_table,
                    'source_pk', source_pk,
                    'event_date', event_date,
                    'evidence_level', evidence_level,
                    'strategy', strategy
                )
                order by event_id
            ) as lead_rows
        from ranked_usable_events
        where evidence_level <= best_level
        group by person_key

    ),

    -- A telephone that thousands share would make persons times events: ten events per
    -- value show a reviewer what the matter is, and one is enough to know that an event
    -- spoke.
    refused_events as (

        select
            claims.*,
            row_number() over (
                partition by claims.kind, claims.value
                order by claims.event_id
            ) as event_rank
        from claims
        where not claims.is_usable

    ),

    refusals_of_persons as (

        select
            orphan_identifiers.person_key,
            refused_events.event_id,
            refused_events.evidence_level,
            refused_events.refusal,
            jsonb_build_object(
                'event_id', refused_events.event_id,
                'source_table', refused_events.source_table,
                'source_pk', refused_events.source_pk,
                'event_date', refused_events.event_date,
                'evidence_level', refused_events.evidence_level,
                'matched_by', jsonb_agg(distinct refused_events.kind),
                'refusal', refused_events.refusal,
                'persons', to_jsonb(refused_events.person_keys),
                'lead_row_linked_to', refused_events.lead_row_person_key,
                'event_of_person', refused_events.event_person_key
            ) as rival
        from refused_events
        inner join orphan_identifiers
            on
                refused_events.kind = orphan_identifiers.kind
                and refused_events.value = orphan_identifiers.value
        where refused_events.event_rank <= 10
        group by
            orphan_identifiers.person_key,
            refused_events.event_id,
            refused_events.source_table,
            refused_events.source_pk,
            refused_events.event_date,
            refused_events.evidence_level,
            refused_events.refusal,
            refused_events.person_keys,
            refused_events.lead_row_person_key,
            refused_events.event_person_key

    ),

    refusals as (

        select
            person_key,
            min(evidence_level) as evidence_level,
            array_agg(distinct refusal order by refusal) as refusals,
            count(*)::int as refused_events_count,
            jsonb_agg(rival order by evidence_level, event_id) as rivals
        from refusals_of_persons
        group by person_key

    ),

    -- Weak evidence: the event's person is the orphan's, and nothing else. Context for a
    -- reviewer. An array rather than a join: CT4 has an index on the person.
    events_of_orphan_persons as materialized (

        select
            lead_events.event_id,
            lead_events.source_table,
            lead_events.source_pk,
            lead_events.event_date,
            lead_events.person_key
        from lead_events
        where lead_events.person_key = any(array(select person_key from orphan_persons))

    ),

    weak_events as (

        select
            events_of_orphan_persons.*,
            row_number() over (
                partition by events_of_orphan_persons.person_key
                order by events_of_orphan_persons.event_id
            ) as event_rank
        from events_of_orphan_persons
        where
            not exists (
                select 1
                from claims
                inner join orphan_identifiers
                    on
                        claims.kind = orphan_identifiers.kind
                        and claims.value = orphan_identifiers.value
                where
                    claims.event_id = events_of_orphan_persons.event_id
                    and orphan_identifiers.person_key = events_of_orphan_persons.person_key
            )

    ),

    weak_evidence as (

        select
            person_key,
            count(*)::int as weak_events_count,
            jsonb_agg(
                jsonb_build_object(
                    'event_id', event_id,
                    'source_table', source_table,
                    'source_pk', source_pk,
                    'event_date', event_date
                )
                order by event_id
            ) filter (where event_rank <= 10) as weak_events
        from weak_events
        group by person_key

    ),

    final as (

        select
            orphan_persons.person_key,
            repairs.person_key is not null as is_repairable,
            repairs.person_key is not null or refusals.person_key is not null as has_events,
            coalesce(repairs.evidence_level, refusals.evidence_level) as evidence_level,
            repairs.strategy,
            coalesce(repairs.lead_rows_count, 0) as lead_rows_count,
            coalesce(repairs.lead_rows, '[]') as lead_rows,
            refusals.refusals,
            coalesce(refusals.refused_events_count, 0) as refused_events_count,
            coalesce(refusals.rivals, '[]') as rivals,
            coalesce(weak_evidence.weak_events_count, 0) as weak_events_count,
            coalesce(weak_evidence.weak_events, '[]') as weak_events
        from orphan_persons
        left join repairs on orphan_persons.person_key = repairs.person_key
        left join refusals on orphan_persons.person_key = refusals.person_key
        left join weak_evidence on orphan_persons.person_key = weak_evidence.person_key

    )

    select * from final
{% endmacro %}
