{{ config(severity='warn') }}
-- Events of a lead source whose payload is no object: they can prove nothing and are
-- skipped.
select
    lead_events.event_id,
    lead_events.source_table,
    lead_events.source_pk,
    jsonb_typeof(lead_events.payload) as payload_type
from {{ ref('stg_observational__lead_events') }} as lead_events
inner join {{ ref('lead_sources') }} as lead_sources
    on lead_events.source_table = lead_sources.source_table
where {{ is_no_object('lead_events.payload') }}
