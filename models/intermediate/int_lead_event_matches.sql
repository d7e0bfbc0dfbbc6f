with final as (

    {{ lead_event_matches(
        ref('int_orphan_identifiers')
    ) }}

)

select * from final
