-- Every row of the older table as ledger entries. A resolved row was in quarantine first: two
-- revisions, the first with what is known of the detection.
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
    resolution_notes
)
select
    older.driver_id,
    steps.revision,
    older.person_key,
    older.detected_at,
    older.detected_reason,
    older.creation_rule,
    older.evidence_json,
    case when steps.is_last then older.status else 'quarantined' end,
    case when steps.is_last then older.resolved_at end,
    case when steps.is_last then older.resolution_notes end
from canon.driver_orphan_quarantine_before_ledger as older
cross join lateral (
    select
        revision,
        revision = last_revision as is_last
    from (
        select
            case
                when older.status in ('resolved_relinked', 'resolved_created_lead') then 2
                else 1
            end as last_revision
    ) as length
    cross join lateral generate_series(1, last_revision) as revision
) as steps
order by older.detected_at, older.driver_id, steps.revision
