-- ->> on a payload that is no object gives null, but an array or a string names nobody
-- by rule.
with lead_events as (

    select * from {{ ref('stg_observational__lead_events') }}

),

lead_sources as (

    select * from {{ ref('lead_sources') }}

),

events_of_lead_sources as (

    select
        lead_events.event_id,
        lead_events.payload
    from lead_events
    where
        exists (
            select 1
            from lead_sources
            where lead_sources.source_table = lead_events.source_table
        )

),

-- A phone as its digits, which are looked at several times further on.
sayings as (

    select
        event_id,
        unnest({{ said_by_payload('payload') }}) as said
    from events_of_lead_sources
    where jsonb_typeof(payload) = 'object'

),

final as (

    select
        event_id,
        case
            when said like 'phone:%'
                then 'phone:' || {{ phone_of_digits("substr(said, 7)") }}
            else said
        end as identifier
    from sayings
    where said not like 'phone:%' or {{ is_phone("substr(said, 7)") }}

)

select * from final
