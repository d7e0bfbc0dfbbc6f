-- What int_lead_source_identifiers says, but rough: without kinds, and of a phone its
-- end only. So it finds all events that can speak for a driver, and now and then one
-- more; but it is asked of all events, and takes half the time. unnest() is in the
-- select list, not joined: so it takes part in a parallel scan.
with lead_events as (

    select * from {{ ref('stg_observational__lead_events') }}

),

final as (

    select
        event_id,
        unnest({{ said_by_payload('payload', is_rough=true) }}) as search_key
    from lead_events

)

select * from final
