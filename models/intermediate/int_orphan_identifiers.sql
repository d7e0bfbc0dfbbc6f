with orphan_drivers as (

    select * from {{ ref('int_orphan_drivers') }}

),

final as (

    {{ driver_identifiers('orphan_drivers') }}

)

select * from final
