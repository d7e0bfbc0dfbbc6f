with outcomes as (

    select * from {{ ref('int_rule_outcomes') }}

),

final as (

    select
        person_key,
        origin_tag,
        scout_id,
        driver_id::varchar as driver_id,
        lead_date,
        rule_id,
        rule_scope,
        milestone_trips,
        window_days,
        currency::varchar(3) as currency,
        amount::numeric(12, 2) as amount,
        valid_from as rule_valid_from,
        valid_to as rule_valid_to,
        achieved_date is not null as milestone_achieved,
        achieved_date,
        coalesce(achieved_trips_in_window, 0) as achieved_trips_in_window,
        achieved_date is not null as is_payable,
        achieved_date + payable_after_days as payable_date,
        payment_scheme
    from outcomes

)

select * from final
