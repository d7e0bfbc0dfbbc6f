with lead_events as (

    select * from {{ ref('stg_observational__lead_events') }}

),

lead_sources as (

    select * from {{ ref('lead_sources') }}

),

-- ->> on a payload that is no object gives null, but an array or a string names nobody by rule.
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

-- A bare id is as a rule the lead's own: it names a driver only because it is compared with known
-- driver ids further on. match_meta is a matcher's opinion, not a naming.
final as (

    select
        readable_events.event_id,
        identifiers.payload_path,
        identifiers.kind,
        identifiers.value
    from readable_events
    cross join lateral (
        values
        ('driver_id', 'driver_id', readable_events.payload ->> 'driver_id'),
        ('driverId', 'driver_id', readable_events.payload ->> 'driverId'),
        ('id', 'driver_id', readable_events.payload ->> 'id'),
        (
            'driver.driver_id',
            'driver_id',
            readable_events.payload -> 'driver' ->> 'driver_id'
        ),
        (
            'driver.driverId',
            'driver_id',
            readable_events.payload -> 'driver' ->> 'driverId'
        ),
        ('driver.id', 'driver_id', readable_events.payload -> 'driver' ->> 'id'),
        (
            'driver_license',
            'license',
            {{ normalize_license("(readable_events.payload ->> 'driver_license')") }}
        ),
        (
            'driver_phone',
            'phone',
            {{ normalize_phone("(readable_events.payload ->> 'driver_phone')") }}
        ),
        (
            'park_phone',
            'phone',
            {{ normalize_phone("(readable_events.payload ->> 'park_phone')") }}
        )
    ) as identifiers (payload_path, kind, value)
    where identifiers.value is not null

)

select * from final
