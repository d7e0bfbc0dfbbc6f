-- One new ledger entry per driver. A driver that was in quarantine keeps the day of detection.
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
    run_id
)
select
    planned.driver_id,
    planned.next_revision,
    planned.person_key,
    case
        when planned.current_status = 'quarantined' then quarantine.detected_at
        else now()
    end,
    planned.detected_reason,
    planned.creation_rule,
    jsonb_build_object(
        'action', planned.action,
        'explanation', planned.explanation,
        'has_events', planned.has_events,
        'evidence_level', planned.evidence_level,
        'strategy', planned.strategy,
        'lead_rows', planned.lead_rows,
        'rivals', planned.rivals,
        'weak_events', planned.weak_events,
        'fingerprint', planned.fingerprint,
        'run_id', %(run_id)s::text
    ),
    planned.status,
    case when planned.status <> 'quarantined' then now() end,
    case when planned.status <> 'quarantined' then planned.explanation end,
    %(run_id)s::uuid
from pg_temp.planned
left join canon.driver_orphan_quarantine as quarantine
    on planned.driver_id = quarantine.driver_id
where
    planned.person_no between %(first)s and %(last)s
    and planned.outcome is null
order by planned.person_no, planned.driver_id
