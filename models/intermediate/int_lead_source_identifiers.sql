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

final as (

    {{ lead_event_identifiers('events_of_lead_sources') }}

)

select * from final
