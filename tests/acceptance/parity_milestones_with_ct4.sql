{{ config(enabled=var('parity_with_ct4')) }}
-- Our lifetime milestones are CT4's, row for row, from the base tables.
with milestones as (

    select
        history.driver_id,
        milestones.milestone_value,
        history.days,
        history.trips_so_far,
        {{ row_reaching('history', 'milestones.milestone_value', 0) }} as achieved_row
    from {{ ref('int_driver_history') }} as history
    cross join (values (1), (5), (25)) as milestones (milestone_value)

),

ours as (

    select
        driver_id,
        milestone_value,
        days[achieved_row] as achieved_date,
        trips_so_far[achieved_row] as trips_at_achieved
    from milestones
    where days[achieved_row] is not null

),

theirs as (

    select
        driver_id,
        milestone_value,
        achieved_date,
        trips_at_achieved
    from {{ source('ops', 'v_cabinet_milestones_achieved_from_trips') }}
    where achieved_flag

)

select
    'only ours' as side,
    only_ours.*
from (select * from ours except all select * from theirs) as only_ours
union all
select
    'only CT4' as side,
    only_theirs.*
from (select * from theirs except all select * from ours) as only_theirs
