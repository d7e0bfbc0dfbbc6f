with lead_events as (

    select * from {{ ref('stg_observational__lead_events') }}

),

lead_sources as (

    select * from {{ ref('lead_sources') }}

),

-- ->> on a payload that is no object gives null, but an array or a string names nobody
-- by rule.
readable_events as (

    select
        lead_events.event_id,
        lead_events.payload
    from lead_events
    where
        jsonb_typeof(lead_events.payload) = 'object'
        and exists (
            select 1
            from lead_sources
            where lead_sources.source_table = lead_events.source_table
        )

),

-- A bare id is as a rule the lead's own: it names a driver only because it is compared
-- with known driver ids further on. match_meta is a matcher's opinion, not a naming.
-- (Arrays rather than lateral values: PostgreSQL prepares every expression of a values
-- list anew for every row.)
final as (

    select
        events.event_id,
        identifiers.payload_path,
        identifiers.kind,
        identifiers.value
    from readable_events as events
    cross join
        lateral unnest(
            array[
                'driver_id',
                'driverId',
                'id',
                'driver.driver_id',
                'driver.driverId',
                'driver.id',
                'driver_license',
                'driver_phone',
                'park_phone'
            ],
            array[
                'driver_id',
                'driver_id',
                'driver_id',
                'driver_id',
                'driver_id',
                'driver_id',
                'license',
                'phone',
                'phone'
            ],
            array[
                events.payload ->> 'driver_id',
                events.payload ->> 'driverId',
                events.payload ->> 'id',
                events.payload -> 'driver' ->> 'driver_id',
                events.payload -> 'driver' ->> 'driverId',
                events.payload -> 'driver' ->> 'id',
                {{ normalize_license("(events.payload ->> 'driver_license')") }},
                {{ normalize_phone("(events.payload ->> 'driver_phone')") }},
                {{ normalize_phone("(events.payload ->> 'park_phone')") }}
            ]
        ) as identifiers (payload_path, kind, value)
    where identifiers.value is not null

)

select * from final
