with driver_links as (

    select * from {{ ref('int_driver_links') }}

),

lead_links as (

    select * from {{ ref('int_lead_links') }}

),

persons_with_lead as (

    select
        person_key,
        true as has_lead
    from lead_links
    group by person_key

),

-- An anti join says the same, but PostgreSQL takes it to leave one row (nearly every
-- person has a lead) and then runs everything above it in nested loops: hours at 10,000
-- orphans.
final as (

    select
        driver_links.driver_id,
        driver_links.person_key,
        driver_links.match_rule
    from driver_links
    left join
        persons_with_lead
        on driver_links.person_key = persons_with_lead.person_key
    where persons_with_lead.has_lead is not true

)

select * from final
