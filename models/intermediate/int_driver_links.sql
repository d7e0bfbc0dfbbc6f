with links as (

    select * from {{ ref('stg_canon__identity_links') }}

),

final as (

    select
        source_pk as driver_id,
        person_key,
        match_rule,
        confidence_level,
        snapshot_at,
        linked_at,
        link_id
    from links
    where source_table = 'drivers'

)

select * from final
