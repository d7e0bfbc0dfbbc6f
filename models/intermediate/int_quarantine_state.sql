with quarantine as (

    select * from {{ ref('stg_canon__driver_orphan_quarantine') }}

),

ledger as (

    select * from {{ ref('stg_canon__driver_orphan_quarantine_ledger') }}

),

entries as (

    select
        driver_id,
        max(revision) as revision,
        max(recorded_at) as last_recorded_at
    from ledger
    group by driver_id

),

-- A driver whose entries were all undone is in the ledger, but in no state.
final as (

    select
        entries.driver_id,
        quarantine.person_key,
        quarantine.detected_at,
        quarantine.detected_reason,
        quarantine.creation_rule,
        quarantine.evidence_json,
        quarantine.status,
        quarantine.resolved_at,
        quarantine.resolution_notes,
        entries.revision,
        entries.last_recorded_at
    from entries
    left join quarantine on entries.driver_id = quarantine.driver_id

)

select * from final
