with final as (

    {{ person_evidence(
        ref('int_lead_event_claims'),
        ref('int_orphan_drivers'),
        ref('int_orphan_identifiers')
    ) }}

)

select * from final
