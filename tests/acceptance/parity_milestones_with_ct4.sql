{{ config(enabled=var('parity_with_ct4')) }}
-- Our lifetime milestones are CT4's, row for row, from the base tables.
with ours as (

    select
        driver_id,
        milestone_value,
        achieved_date,
        trips_at_achieved
    from {{ ref('int_driver_milestones') }}

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
