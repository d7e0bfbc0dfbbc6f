with orphans as (

    select * from {{ ref('int_orphans') }}

),

final as (

    select
        driver_id::varchar as driver_id,
        person_key,
        detected_at,
        detected_reason::{{ quarantine_enum('detected_reason') }} as detected_reason,
        creation_rule::varchar as creation_rule,
        evidence_json,
        status::{{ quarantine_enum('status') }} as status,
        resolved_at,
        resolution_notes,
        primary_phone,
        primary_license,
        primary_full_name,
        confidence_level::public.confidencelevel as confidence_level,
        driver_links_count,
        lead_events_count,
        last_updated_at
    from orphans

)

select * from final
