with driver_days as (

    select * from {{ ref('int_driver_days') }}

),

running as (

    select
        driver_id,
        activity_date,
        trips,
        sum(trips) over (
            partition by driver_id
            order by activity_date
        )::bigint as trips_so_far
    from driver_days

),

-- The day that crosses the milestone; the first one, should a correction (negative
-- trips) have taken the driver below it again.
final as (

    select distinct on (running.driver_id, milestones.milestone_value)
        running.driver_id,
        milestones.milestone_value,
        running.activity_date as achieved_date,
        running.trips_so_far as trips_at_achieved
    from running
    inner join {{ ref('milestones') }} as milestones
        on
            running.trips_so_far >= milestones.milestone_value
            and running.trips_so_far - running.trips < milestones.milestone_value
    order by running.driver_id, milestones.milestone_value, running.activity_date

)

select * from final
