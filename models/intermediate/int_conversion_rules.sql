with conversions as (

    select * from {{ ref('int_conversions') }}

),

rules as (

    select * from {{ ref('int_payment_rules') }}

),

final as (

    select
        conversions.person_key,
        conversions.origin_tag,
        conversions.scout_id,
        conversions.driver_id,
        conversions.lead_date,
        rules.rule_scope,
        rules.rule_id,
        rules.milestone_trips,
        rules.milestone_type,
        rules.window_days,
        rules.currency,
        rules.amount,
        rules.valid_from,
        rules.valid_to,
        rules.payable_after_days,
        rules.payment_scheme
    from conversions
    inner join rules on {{ rule_applies('conversions', 'rules') }}
    where
        conversions.driver_id is not null
        and conversions.is_excluded is not true

)

select * from final
