{#-
    Whether an event that speaks for an orphan may repair it. A macro, so that
    int_all_orphan_verdicts has this step in one statement with the others, and each of them once;
    the model of this name has it alone.
-#}
{% macro lead_event_claims(matches, orphan_identifiers) %}
    with matches as (

        select * from {{ matches }}

    ),

    orphan_identifiers as (

        select * from {{ orphan_identifiers }}

    ),

    lead_events as (

        select * from {{ ref('stg_observational__lead_events') }}

    ),

    links as (

        select * from {{ ref('stg_canon__identity_links') }}

    ),

    strategies as (

        select * from {{ ref('evidence_strategies') }}

    ),

    claims as (

        select
            matches.event_id,
            matches.evidence_level,
            array_agg(distinct persons.person_key order by persons.person_key)
                as person_keys
        from matches
        cross join lateral unnest(matches.person_keys) as persons (person_key)
        group by matches.event_id, matches.evidence_level

    ),

    -- Where one person is meant, each of that person's drivers is compared on its own:
    -- licence and phone must both be the same driver's to count as both. Only orphans are
    -- ever repaired. A value of several persons is ambiguous, and needs no strategy.
    driver_matches as (

        select
            matches.event_id,
            orphan_identifiers.driver_id,
            case
                when bool_or(matches.kind = 'driver_id') then 'driver_id_exact'
                when bool_or(matches.kind = 'license') and bool_or(matches.kind = 'phone')
                    then 'both_exact'
                when bool_or(matches.kind = 'license') then 'license_exact'
                else 'phone_exact'
            end as strategy
        from matches
        inner join orphan_identifiers
            on
                matches.kind = orphan_identifiers.kind
                and matches.value = orphan_identifiers.value
        where cardinality(matches.person_keys) < 2
        group by matches.event_id, orphan_identifiers.driver_id

    ),

    strongest_strategies as (

        select distinct on (driver_matches.event_id)
            driver_matches.event_id,
            driver_matches.strategy
        from driver_matches
        inner join strategies on driver_matches.strategy = strategies.strategy
        order by driver_matches.event_id, strategies.strength

    ),

    verdicts as (

        select
            claims.event_id,
            lead_events.source_table,
            lead_events.source_pk,
            lead_events.event_date,
            claims.person_keys[1:10] as person_keys,
            links.person_key as lead_row_person_key,
            lead_events.person_key as event_person_key,
            strongest_strategies.strategy,
            case
                when cardinality(claims.person_keys) > 1 then 'ambiguous'
                when links.link_id is not null then 'lead_already_linked'
                when lead_events.person_key <> claims.person_keys[1]
                    then 'event_of_another_person'
            end as refusal
        from claims
        inner join lead_events on claims.event_id = lead_events.event_id
        left join links
            on
                lead_events.source_table = links.source_table
                and lead_events.source_pk = links.source_pk
        left join strongest_strategies on claims.event_id = strongest_strategies.event_id
        -- So that the events are found by their key, and not all of them read once more.
        where lead_events.event_id = any(array(select event_id from claims))

    ),

    final as (

        select
            matches.event_id,
            matches.kind,
            matches.value,
            matches.evidence_level,
            verdicts.source_table,
            verdicts.source_pk,
            verdicts.event_date,
            verdicts.strategy,
            verdicts.refusal,
            verdicts.refusal is null as is_usable,
            verdicts.person_keys,
            verdicts.lead_row_person_key,
            verdicts.event_person_key
        from matches
        inner join verdicts on matches.event_id = verdicts.event_id

    )

    select * from final
{% endmacro %}
