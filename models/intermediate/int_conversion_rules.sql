with conversions as (

    select * from {{ ref('int_conversions') }}

),

rules as (

    select * from {{ ref('int_payment_rules') }}

),

excluded_drivers as (

    select * from {{ ref('int_excluded_drivers') }}

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
    inner join rules
        on
            conversions.origin_tag = rules.origin_tag
            and conversions.lead_date >= rules.valid_from
            and (rules.valid_to is null or conversions.lead_date <= rules.valid_to)
    where
        conversions.driver_id is not null
        and not exists (
            select 1
            from excluded_drivers
            where excluded_drivers.driver_id = conversions.driver_id
        )

)

select * from final
