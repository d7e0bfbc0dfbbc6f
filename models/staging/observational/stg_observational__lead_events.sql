select
    id as event_id,
    source_table,
    source_pk,
    event_date,
    person_key,
    scout_id,
    payload_json as payload
from {{ source('observational', 'lead_events') }}
