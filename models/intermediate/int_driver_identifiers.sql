with driver_links as (

    select * from {{ ref('int_driver_links') }}

),

final as (

    {{ driver_identifiers('driver_links') }}

)

select * from final
