with event_persons as (

    select * from {{ ref('int_lead_event_origins') }}

),

excluded_drivers as (

    select * from {{ ref('int_excluded_drivers') }}

),

yango_ledger as (

    select * from {{ ref('stg_ops__yango_payments_ledger') }}

),

-- One row a driver, which is one a person: a person with both origins counts as
-- cabinet. From the events themselves: conversions would be sorted once more.
converted_drivers as (

    select
        driver_id,
        person_key,
        min(origin_tag collate "C") collate "default" as origin_tag,
        coalesce(
            min(event_date) filter (where origin_tag = 'cabinet'), min(event_date)
        ) as lead_date,
        max(match_rule) as match_rule,
        max(confidence_level) as confidence_level,
        max(snapshot_at) as snapshot_at
    from event_persons
    where
        driver_id is not null
        and coalesce(origin_tag in ('cabinet', 'fleet_migration'), false)
    group by driver_id, person_key

),

latest_ledger as (

    select distinct on (driver_id)
        driver_id,
        identity_status,
        match_rule,
        match_confidence,
        latest_snapshot_at
    from yango_ledger
    where driver_id is not null
    order by
        driver_id,
        latest_snapshot_at desc nulls last,
        identity_status collate "C",
        match_rule collate "C",
        match_confidence collate "C"

),

joined as (

    select
        converted_drivers.driver_id::varchar as driver_id,
        converted_drivers.person_key,
        converted_drivers.origin_tag,
        coalesce(
            latest_ledger.identity_status,
            case converted_drivers.confidence_level
                when 'HIGH' then 'confirmed'
                when 'MEDIUM' then 'enriched'
                when 'LOW' then 'ambiguous'
            end
        ) as identity_status,
        coalesce(
            latest_ledger.match_rule, converted_drivers.match_rule
        )::text as match_rule,
        coalesce(
            latest_ledger.match_confidence, converted_drivers.confidence_level
        ) as match_confidence,
        -- A day needs a time zone: UTC, whatever the reader's session says.
        coalesce(
            (converted_drivers.snapshot_at at time zone 'UTC')::date,
            converted_drivers.lead_date
        ) as first_seen_at,
        coalesce(
            latest_ledger.latest_snapshot_at, converted_drivers.snapshot_at
        ) as latest_snapshot_at
    from converted_drivers
    left join latest_ledger on converted_drivers.driver_id = latest_ledger.driver_id
    where
        not exists (
            select 1
            from excluded_drivers
            where excluded_drivers.driver_id = converted_drivers.driver_id
        )

),

-- No status is no objection. (coalesce(), here and above, changes no row: PostgreSQL
-- takes a bare "in" on a computed column to leave one row in a hundred.)
final as (

    select *
    from joined
    where coalesce(identity_status in ('confirmed', 'enriched'), true)

)

select * from final
