with scout_rules as (

    select * from {{ ref('stg_ops__scout_payment_rules') }}

),

partner_rules as (

    select * from {{ ref('stg_ops__partner_payment_rules') }}

),

-- The two tables number their rules independently: a rule is its scope and its id.
rules as (

    select
        'scout' as rule_scope,
        rule_id,
        origin_tag,
        window_days,
        milestone_trips,
        milestone_type,
        amount,
        currency,
        valid_from,
        valid_to,
        is_active
    from scout_rules

    union all

    select
        'partner' as rule_scope,
        rule_id,
        origin_tag,
        window_days,
        milestone_trips,
        'trips' as milestone_type,
        amount,
        currency,
        valid_from,
        valid_to,
        is_active
    from partner_rules

),

general_terms as (

    select * from {{ ref('payment_terms') }}
    where origin_tag is null

),

terms as (

    select * from {{ ref('payment_terms') }}
    where origin_tag is not null

),

final as (

    select
        rules.rule_scope,
        rules.rule_id,
        rules.origin_tag,
        rules.window_days,
        rules.milestone_trips,
        rules.milestone_type,
        rules.amount,
        rules.currency,
        rules.valid_from,
        rules.valid_to,
        coalesce(
            terms.payable_after_days, general_terms.payable_after_days
        ) as payable_after_days,
        coalesce(
            terms.payment_scheme, rules.origin_tag || '_' || rules.window_days || 'd'
        ) || '_' || rules.milestone_trips || 'trips' as payment_scheme
    from rules
    left join terms
        on
            rules.rule_scope = terms.rule_scope
            and rules.origin_tag = terms.origin_tag
    left join general_terms on rules.rule_scope = general_terms.rule_scope
    where rules.is_active

)

select * from final
