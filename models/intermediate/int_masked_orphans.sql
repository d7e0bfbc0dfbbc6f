-- What the console shows to who may not see personal data. Of the evidence it has what
-- the fix has written: an older deployment, or a purge, can have put anything into it.
select
    driver_id,
    person_key,
    detected_at,
    detected_reason,
    creation_rule,
    case
        when jsonb_typeof(evidence_json) = 'object'
            then jsonb_strip_nulls(
                    jsonb_build_object(
                        'action', evidence_json -> 'action',
                        'explanation', evidence_json -> 'explanation',
                        'has_events', evidence_json -> 'has_events',
                        'evidence_level', evidence_json -> 'evidence_level',
                        'strategy', evidence_json -> 'strategy',
                        'lead_rows', evidence_json -> 'lead_rows',
                        'rivals', evidence_json -> 'rivals',
                        'weak_events', evidence_json -> 'weak_events',
                        'run_id', evidence_json -> 'run_id'
                    )
                )
    end as evidence_json,
    status,
    resolved_at,
    resolution_notes,
    {{ mask('primary_phone') }} as primary_phone,
    {{ mask('primary_license') }} as primary_license,
    {{ mask('primary_full_name') }} as primary_full_name,
    confidence_level,
    driver_links_count,
    lead_events_count,
    last_updated_at
from {{ ref('int_orphans') }}
