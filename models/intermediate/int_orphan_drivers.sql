with driver_links as (

    select * from {{ ref('int_driver_links') }}

),

lead_links as (

    select * from {{ ref('int_lead_links') }}

),

-- An anti join says the same, but PostgreSQL takes it to leave one row (nearly every
-- person has a lead) and then runs everything above it in nested loops: hours at 10,000
-- orphans. Persons with several leads are no matter: none of their rows stays.
final as (

    select
        driver_links.driver_id,
        driver_links.person_key,
        driver_links.match_rule
    from driver_links
    left join lead_links on driver_links.person_key = lead_links.person_key
    where (lead_links.link_id is not null) is not true

)

select * from final
