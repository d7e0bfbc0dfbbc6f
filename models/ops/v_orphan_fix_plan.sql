with orphan_fixes as (

    select * from {{ ref('int_orphan_fixes') }}

),

releases as (

    select * from {{ ref('int_quarantine_releases') }}

),

fixes as materialized (

    select
        driver_id,
        person_key,
        action,
        new_status,
        reason,
        requires_reprocess,
        current_status,
        next_revision,
        creation_rule,
        has_events,
        evidence_level,
        strategy,
        lead_rows_count,
        lead_rows,
        rivals,
        weak_events,
        explanation
    from orphan_fixes

    union all

    select
        driver_id,
        person_key,
        'release' as action,
        'resolved_created_lead' as new_status,
        reason,
        false as requires_reprocess,
        'quarantined' as current_status,
        next_revision,
        creation_rule,
        has_events,
        null as evidence_level,
        null as strategy,
        0 as lead_rows_count,
        '[]' as lead_rows,
        '[]' as rivals,
        '[]' as weak_events,
        explanation
    from releases

),

contacts as materialized (

    {{ driver_contacts('fixes') }}

),

final as (

    select
        fixes.driver_id::varchar as driver_id,
        fixes.person_key,
        fixes.action,
        fixes.new_status::{{ quarantine_enum('status') }} as status,
        fixes.reason::{{ quarantine_enum('detected_reason') }} as detected_reason,
        fixes.requires_reprocess,
        fixes.current_status::{{ quarantine_enum('status') }} as current_status,
        fixes.next_revision,
        fixes.creation_rule::varchar as creation_rule,
        fixes.has_events,
        fixes.evidence_level,
        fixes.strategy,
        fixes.lead_rows_count,
        fixes.lead_rows,
        fixes.rivals,
        fixes.weak_events,
        fixes.explanation,
        {{ mask('contacts.license') }} as license_masked,
        {{ mask('contacts.phone') }} as phone_masked
    from fixes
    left join contacts on fixes.driver_id = contacts.driver_id

)

select * from final
