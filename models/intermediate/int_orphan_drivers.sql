with driver_links as (

    select * from {{ ref('int_driver_links') }}

),

lead_links as (

    select * from {{ ref('int_lead_links') }}

),

final as (

    select
        driver_links.driver_id,
        driver_links.person_key,
        driver_links.match_rule
    from driver_links
    where
        not exists (
            select 1 from lead_links where lead_links.person_key = driver_links.person_key
        )

)

select * from final
