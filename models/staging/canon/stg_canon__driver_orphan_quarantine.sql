select
    driver_id,
    person_key,
    detected_at,
    detected_reason::text as detected_reason,
    creation_rule,
    evidence_json,
    status::text as status,
    resolved_at,
    resolution_notes
from {{ source('canon', 'driver_orphan_quarantine') }}
