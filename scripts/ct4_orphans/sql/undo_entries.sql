-- One new entry per driver: the state before the run, or none if there was none.
insert into canon.driver_orphan_quarantine_ledger (
    driver_id,
    revision,
    person_key,
    detected_at,
    detected_reason,
    creation_rule,
    evidence_json,
    status,
    resolved_at,
    resolution_notes,
    run_id,
    is_withdrawn,
    undoes_run_id,
    removed_links
)
select
    undone.driver_id,
    newest.revision + 1,
    entry.person_key,
    entry.detected_at,
    entry.detected_reason,
    entry.creation_rule,
    case
        when undone.was_in_no_state
            then
                jsonb_build_object(
                    'action', 'undo',
                    'explanation', 'Undone: ' || %(note)s::text,
                    'run_id', %(undo_run_id)s::text
                )
        else entry.evidence_json
    end,
    entry.status,
    entry.resolved_at,
    entry.resolution_notes,
    %(undo_run_id)s::uuid,
    undone.was_in_no_state,
    %(run_id)s::uuid,
    removed_links.links
from pg_temp.undone
inner join canon.driver_orphan_quarantine_ledger as entry
    on
        undone.driver_id = entry.driver_id
        and case
            when undone.was_in_no_state then undone.revision else undone.revision_before
        end = entry.revision
cross join lateral (
    select max(ledger.revision) as revision
    from canon.driver_orphan_quarantine_ledger as ledger
    where ledger.driver_id = undone.driver_id
) as newest
left join pg_temp.removed_links on undone.person_key = removed_links.person_key
where undone.refusal is null
order by undone.driver_id
