-- What a run has appended, with the columns of the plan: for a report when its session was lost.
-- Licence and phone are not kept in the ledger.
select
    entry.driver_id,
    entry.person_key,
    entry.evidence_json ->> 'action' as action,
    entry.status::text as status,
    entry.detected_reason::text as detected_reason,
    previous.status::text as current_status,
    'applied' as outcome,
    null as error,
    (entry.evidence_json ->> 'has_events')::bool as has_events,
    (entry.evidence_json ->> 'evidence_level')::int as evidence_level,
    entry.evidence_json ->> 'strategy' as strategy,
    jsonb_array_length(entry.evidence_json -> 'lead_rows') as lead_rows_count,
    entry.evidence_json -> 'lead_rows' as lead_rows,
    entry.evidence_json -> 'rivals' as rivals,
    entry.evidence_json -> 'weak_events' as weak_events,
    null as license_masked,
    null as phone_masked,
    entry.creation_rule,
    entry.evidence_json ->> 'explanation' as explanation,
    entry.evidence_json ->> 'fingerprint' as fingerprint
from canon.driver_orphan_quarantine_ledger as entry
left join canon.driver_orphan_quarantine_ledger as previous
    on
        entry.driver_id = previous.driver_id
        and entry.revision - 1 = previous.revision
where entry.run_id = %(run_id)s
order by entry.person_key, entry.driver_id
