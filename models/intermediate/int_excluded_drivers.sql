with quarantine as (

    select * from {{ ref('stg_canon__driver_orphan_quarantine') }}

),

-- coalesce() changes no row. Without it PostgreSQL takes the condition to leave two
-- rows, as long as nobody has analyzed the ledger, and the views that exclude these run
-- in nested loops.
final as (

    select
        driver_id,
        status
    from quarantine
    where coalesce(status in ('quarantined', 'purged'), false)

)

select * from final
