with conversions as (

    select * from {{ ref('int_conversions') }}

),

rules as (

    select * from {{ ref('int_payment_rules') }}

),

-- A conversion has a row for each rule that applies to it: the least and the greatest
-- are the same.
grouped as (

    select
        conversions.driver_id,
        max(conversions.lead_date) as latest_lead_date,
        -- cabinet before fleet_migration before any other tag; unknown says least, so
        -- it comes last
        min(
            case conversions.origin_tag
                when 'cabinet' then '1'
                when 'fleet_migration' then '2'
                when 'unknown' then '4'
                else '3'
            end || conversions.origin_tag collate "C"
        ) filter (where rules.rule_id is not null) as first_origin
    from conversions
    left join rules on {{ rule_applies('conversions', 'rules') }}
    where conversions.driver_id is not null
    group by conversions.driver_id

),

final as (

    select
        driver_id,
        latest_lead_date,
        substr(first_origin, 2) collate "default" as origin_tag
    from grouped

)

select * from final
