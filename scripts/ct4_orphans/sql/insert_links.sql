-- The lead rows of every relinked person, once per person.
insert into canon.identity_links (
    person_key,
    source_table,
    source_pk,
    snapshot_date,
    match_rule,
    match_score,
    confidence_level,
    evidence
)
select
    persons.person_key,
    lead_rows.source_table,
    lead_rows.source_pk,
    lead_rows.event_date::timestamp at time zone 'UTC',
    'LEAD_EVENT_RECONSTRUCTION',
    strategies.match_score,
    strategies.confidence_level::public.confidencelevel,
    jsonb_build_object(
        'event_id', lead_rows.event_id,
        'evidence_level', lead_rows.evidence_level,
        'strategy', lead_rows.strategy,
        'run_id', %(run_id)s::text
    )
from (
    select distinct on (person_key)
        person_key,
        lead_rows
    from pg_temp.planned
    where
        person_no between %(first)s and %(last)s
        and action = 'relink'
        and outcome is null
    order by person_key
) as persons
cross join lateral jsonb_to_recordset(persons.lead_rows) as lead_rows (
    event_id int,
    source_table text,
    source_pk text,
    event_date date,
    evidence_level int,
    strategy text
)
inner join ct4_orphans.evidence_strategies as strategies
    on lead_rows.strategy = strategies.strategy
