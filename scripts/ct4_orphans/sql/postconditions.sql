-- What must hold before this batch may commit; one row per promise that does not.
with batch as (
    select *
    from pg_temp.planned
    where
        person_no between %(first)s and %(last)s
        and outcome is null
),

persons_with_lead as (
    select distinct person_key
    from ct4_orphans.int_lead_links
    where person_key in (select batch.person_key from batch)
)

select
    'a driver that was let out has no lead' as broken_promise,
    batch.driver_id
from batch
left join persons_with_lead on batch.person_key = persons_with_lead.person_key
where batch.status <> 'quarantined' and persons_with_lead.person_key is null

union all

select
    'a driver that was quarantined has a lead by now',
    batch.driver_id
from batch
inner join persons_with_lead on batch.person_key = persons_with_lead.person_key
where batch.status = 'quarantined'

union all

select
    'a lead row is not linked to the person',
    batch.driver_id
from batch
cross join lateral
    jsonb_to_recordset(batch.lead_rows) as lead_rows (source_table text, source_pk text)
-- With a limit, so that each is looked up by the unique index: all links are many more.
left join lateral (
    select identity_links.id
    from canon.identity_links
    where
        identity_links.source_table = lead_rows.source_table
        and identity_links.source_pk = lead_rows.source_pk
        and identity_links.person_key = batch.person_key
    limit 1
) as linked on true
where linked.id is null

union all

select
    'the quarantine does not show the new state',
    batch.driver_id
from batch
left join canon.driver_orphan_quarantine as quarantine
    on batch.driver_id = quarantine.driver_id
where
    quarantine.status is distinct from batch.status
    or quarantine.evidence_json ->> 'run_id' is distinct from %(run_id)s::text
