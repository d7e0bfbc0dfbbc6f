with conversion_rules as (

    select * from {{ ref('int_conversion_rules') }}

),

history as (

    select * from {{ ref('int_driver_history') }}

),

-- Trips are counted from the lead date on, each day once, whatever the number of rules.
reached as (

    select
        conversion_rules.*,
        coalesce(conversion_rules.driver_id::text, history.driver_id) as any_driver_id,
        history.days,
        history.trips_so_far,
        {{ trips_until('history', day_before('conversion_rules.lead_date')) }}
            as trips_before,
        case conversion_rules.milestone_type
            when 'trips'
                then {{ row_reaching(
                    'history',
                    '(milestone_trips + '
                    ~ trips_until('history', day_before('conversion_rules.lead_date'))
                    ~ ')',
                    rows_until('history', day_before('conversion_rules.lead_date'))
                ) }}
            when 'connection'
                then {{ rows_until(
                    'history', first_connection('history', 'conversion_rules.lead_date')
                ) }}
        end as reached_row
    -- A full join of which one side is wanted, because PostgreSQL has no nested loop
    -- for it: by its estimates there are few rows here, and it would read the history
    -- once for each.
    from conversion_rules
    full join history on conversion_rules.driver_id::text = history.driver_id
    where coalesce(conversion_rules.rule_id is not null, false)

),

dated as (

    select
        *,
        case
            when
                days[reached_row] < {{ window_end('lead_date', 'window_days') }}
                then reached_row
        end as achieved_row
    from reached

),

final as (

    select
        person_key,
        origin_tag,
        scout_id,
        any_driver_id::varchar as driver_id,
        lead_date,
        rule_scope,
        rule_id,
        milestone_trips,
        milestone_type,
        window_days,
        currency,
        amount,
        valid_from,
        valid_to,
        payable_after_days,
        payment_scheme,
        days[achieved_row] as achieved_date,
        trips_so_far[achieved_row] - trips_before as achieved_trips_in_window
    from dated

)

select * from final
