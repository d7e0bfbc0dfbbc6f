-- A ledger entry as text, the same in every session: times in UTC, as JSON writes them.
row(
    entry.entry_id,
    entry.driver_id,
    entry.revision,
    entry.person_key,
    to_jsonb(entry.detected_at at time zone 'UTC'),
    entry.detected_reason,
    entry.creation_rule,
    entry.evidence_json,
    entry.status,
    to_jsonb(entry.resolved_at at time zone 'UTC'),
    entry.resolution_notes,
    to_jsonb(entry.recorded_at at time zone 'UTC'),
    entry.recorded_by,
    entry.run_id,
    entry.is_withdrawn,
    entry.undoes_run_id,
    entry.removed_links
)::text
