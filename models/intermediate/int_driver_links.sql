-- Without CTEs: PostgreSQL merges a view into the query around it only if it has none,
-- and only then can an index find the links of one person.
select
    source_pk as driver_id,
    person_key,
    match_rule,
    confidence_level,
    snapshot_at,
    linked_at,
    link_id
from {{ ref('stg_canon__identity_links') }}
where source_table = 'drivers'
