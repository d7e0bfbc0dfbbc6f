{{ config(enabled=var('parity_with_ct4')) }}
-- Our conversions are CT4's, row for row, from the base tables. Persons with an event
-- that belongs to them by its lead link alone are left out: CT4's view does not see
-- those events.
with by_lead_link as (

    select distinct person_key
    from {{ ref('int_lead_event_origins') }}
    where is_by_lead_link

),

ours as (

    select
        conversions.person_key,
        conversions.origin_tag,
        conversions.lead_date,
        conversions.scout_id,
        conversions.driver_id,
        activity.first_connection_date,
        activity.trips_7d,
        activity.trips_14d,
        activity.trips_30d
    from {{ ref('int_conversions') }} as conversions
    inner join {{ ref('int_conversion_activity') }} as activity
        on
            conversions.person_key = activity.person_key
            and conversions.origin_tag = activity.origin_tag

),

theirs as (

    select
        person_key,
        origin_tag,
        lead_date,
        scout_id,
        driver_id,
        first_connection_date,
        trips_7d,
        trips_14d,
        trips_30d
    from {{ source('observational', 'v_conversion_metrics') }}

),

differences as (

    select
        'only ours' as side,
        only_ours.*
    from (select * from ours except all select * from theirs) as only_ours
    union all
    select
        'only CT4' as side,
        only_theirs.*
    from (select * from theirs except all select * from ours) as only_theirs

)

select *
from differences
where
    not exists (
        select 1
        from by_lead_link
        where by_lead_link.person_key = differences.person_key
    )
