with quarantine as (

    select * from {{ ref('stg_canon__driver_orphan_quarantine') }}

),

final as (

    select
        driver_id,
        status
    from quarantine
    where status in ('quarantined', 'purged')

)

select * from final
