with final as (

    {{ orphan_verdicts(
        ref('int_orphan_drivers'),
        ref('int_person_evidence')
    ) }}

)

select * from final
