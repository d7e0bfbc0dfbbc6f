with conversion_rules as (

    select * from {{ ref('int_conversion_rules') }}

),

achievements as (

    select * from {{ ref('int_rule_achievements') }}

),

final as (

    select
        conversion_rules.person_key,
        conversion_rules.origin_tag,
        conversion_rules.scout_id,
        conversion_rules.driver_id::varchar as driver_id,
        conversion_rules.lead_date,
        conversion_rules.rule_id,
        conversion_rules.rule_scope,
        conversion_rules.milestone_trips,
        conversion_rules.window_days,
        conversion_rules.currency::varchar(3) as currency,
        conversion_rules.amount::numeric(12, 2) as amount,
        conversion_rules.valid_from as rule_valid_from,
        conversion_rules.valid_to as rule_valid_to,
        achievements.achieved_date is not null as milestone_achieved,
        achievements.achieved_date,
        coalesce(achievements.achieved_trips_in_window, 0) as achieved_trips_in_window,
        achievements.achieved_date is not null as is_payable,
        achievements.achieved_date
        + conversion_rules.payable_after_days as payable_date,
        conversion_rules.payment_scheme
    from conversion_rules
    left join achievements
        on
            conversion_rules.person_key = achievements.person_key
            and conversion_rules.origin_tag = achievements.origin_tag
            and conversion_rules.rule_scope = achievements.rule_scope
            and conversion_rules.rule_id = achievements.rule_id

)

select * from final
