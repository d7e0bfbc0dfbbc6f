select
    id as link_id,
    person_key,
    source_table,
    source_pk,
    snapshot_date as snapshot_at,
    match_rule,
    confidence_level::text as confidence_level,
    linked_at
from {{ source('canon', 'identity_links') }}
