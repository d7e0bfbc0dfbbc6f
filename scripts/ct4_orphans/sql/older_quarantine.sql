-- The columns of a table canon.driver_orphan_quarantine beside those it must have, one row per
-- column. An enum is told by its labels: an older deployment may have it under any name, anywhere.
with expected (position, name, type, enum_of) as (
    values
    (1, 'driver_id', 'character varying', null),
    (2, 'person_key', 'uuid', null),
    (3, 'detected_at', 'timestamp with time zone', null),
    (4, 'detected_reason', 'orphan_detected_reason', 'orphan_detected_reason'),
    (5, 'creation_rule', 'character varying', null),
    (6, 'evidence_json', 'jsonb', null),
    (7, 'status', 'orphan_status', 'orphan_status'),
    (8, 'resolved_at', 'timestamp with time zone', null),
    (9, 'resolution_notes', 'text', null)
),

found as (
    select
        attribute.attname::text as name,
        row_number() over (order by attribute.attnum) as position,
        format_type(attribute.atttypid, attribute.atttypmod) as type,
        type_schema.nspname::text as type_schema,
        type.typname::text as type_name,
        (
            select array_agg(enumlabel::text order by enumlabel)
            from pg_enum
            where enumtypid = type.oid
        ) as labels
    from pg_attribute as attribute
    inner join pg_type as type on attribute.atttypid = type.oid
    inner join pg_namespace as type_schema on type.typnamespace = type_schema.oid
    where
        attribute.attrelid = %(oid)s::oid
        and attribute.attnum > 0
        and not attribute.attisdropped
)

select
    coalesce(expected.name, found.name) as name,
    expected.position as expected_position,
    found.position as found_position,
    expected.type as expected_type,
    found.type as found_type,
    expected.enum_of,
    found.type_schema,
    found.type_name,
    found.labels
from expected
full join found on expected.name = found.name
order by coalesce(expected.position, 100), found.position
