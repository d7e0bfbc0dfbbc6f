-- The older table gets the state that the ledger's newest entries say. A person who was deleted
-- from the registry meanwhile cannot be referenced any more: the driver stays, without a person.
insert into canon.driver_orphan_quarantine_before_ledger as older (
    driver_id,
    person_key,
    detected_at,
    detected_reason,
    creation_rule,
    evidence_json,
    status,
    resolved_at,
    resolution_notes
)
select
    quarantine.driver_id,
    registry.person_key,
    quarantine.detected_at,
    quarantine.detected_reason,
    quarantine.creation_rule,
    quarantine.evidence_json,
    quarantine.status,
    quarantine.resolved_at,
    quarantine.resolution_notes
from canon.driver_orphan_quarantine as quarantine
left join canon.identity_registry as registry
    on quarantine.person_key = registry.person_key
on conflict (driver_id) do update
set
    person_key = excluded.person_key,
    detected_at = excluded.detected_at,
    detected_reason = excluded.detected_reason,
    creation_rule = excluded.creation_rule,
    evidence_json = excluded.evidence_json,
    status = excluded.status,
    resolved_at = excluded.resolved_at,
    resolution_notes = excluded.resolution_notes
where
    (
        older.person_key,
        older.detected_at,
        older.detected_reason,
        older.creation_rule,
        older.evidence_json,
        older.status,
        older.resolved_at,
        older.resolution_notes
    ) is distinct from (
        excluded.person_key,
        excluded.detected_at,
        excluded.detected_reason,
        excluded.creation_rule,
        excluded.evidence_json,
        excluded.status,
        excluded.resolved_at,
        excluded.resolution_notes
    )
