with conversion_rules as materialized (

    select * from {{ ref('int_conversion_rules') }}

),

driver_days as (

    select * from {{ ref('int_driver_days') }}

),

conversions as (

    select
        person_key,
        origin_tag,
        driver_id,
        lead_date,
        max(window_days) as longest_window_days
    from conversion_rules
    group by person_key, origin_tag, driver_id, lead_date

),

-- Trips are added up once per conversion, before the rules come in: summed after that
-- join, a day would count once per rule, and the milestone would be reached too early.
running as (

    select
        conversions.person_key,
        conversions.origin_tag,
        driver_days.activity_date,
        driver_days.trips,
        driver_days.work_seconds,
        sum(driver_days.trips) over (
            partition by conversions.person_key, conversions.origin_tag
            order by driver_days.activity_date
        )::bigint as trips_so_far
    from conversions
    inner join driver_days
        on
            conversions.driver_id = driver_days.driver_id
            and conversions.lead_date <= driver_days.activity_date
            and driver_days.activity_date
            < {{ window_end(
                'conversions.lead_date', 'conversions.longest_window_days'
            ) }}

),

final as (

    select distinct on (
        conversion_rules.person_key,
        conversion_rules.origin_tag,
        conversion_rules.rule_scope,
        conversion_rules.rule_id
    )
        conversion_rules.person_key,
        conversion_rules.origin_tag,
        conversion_rules.rule_scope,
        conversion_rules.rule_id,
        running.activity_date as achieved_date,
        running.trips_so_far as achieved_trips_in_window
    from conversion_rules
    inner join running
        on
            conversion_rules.person_key = running.person_key
            and conversion_rules.origin_tag = running.origin_tag
            and running.activity_date
            < {{ window_end(
                'conversion_rules.lead_date', 'conversion_rules.window_days'
            ) }}
    where
        case conversion_rules.milestone_type
            when 'trips'
                then
                    running.trips_so_far >= conversion_rules.milestone_trips
                    and running.trips_so_far - running.trips
                    < conversion_rules.milestone_trips
            when 'connection' then running.work_seconds > 0
            else false
        end
    order by
        conversion_rules.person_key,
        conversion_rules.origin_tag,
        conversion_rules.rule_scope,
        conversion_rules.rule_id,
        running.activity_date

)

select * from final
