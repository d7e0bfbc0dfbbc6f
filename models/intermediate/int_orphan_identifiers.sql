-- Materialized, so that orphans are picked before anything is normalised.
with orphan_drivers as materialized (

    select * from {{ ref('int_orphan_drivers') }}

),

final as (

    {{ driver_identifiers('orphan_drivers') }}

)

select * from final
