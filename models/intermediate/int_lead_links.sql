with links as (

    select * from {{ ref('stg_canon__identity_links') }}

),

lead_sources as (

    select * from {{ ref('lead_sources') }}

),

final as (

    select
        links.link_id,
        links.person_key,
        links.source_table,
        links.source_pk
    from links
    where
        exists (
            select 1
            from lead_sources
            where lead_sources.source_table = links.source_table
        )

)

select * from final
