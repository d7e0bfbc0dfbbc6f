-- Indexes of canon.identity_links by which a person's links are found. One of ours that was left
-- behind half made is named too.
select
    pg_class.relname::text as name,
    pg_index.indisvalid and pg_index.indisready as is_usable
from pg_index
inner join pg_class on pg_index.indexrelid = pg_class.oid
inner join pg_attribute
    on
        pg_index.indrelid = pg_attribute.attrelid
        and pg_index.indkey[0] = pg_attribute.attnum
where
    pg_index.indrelid = to_regclass('canon.identity_links')
    and pg_index.indpred is null
    and pg_attribute.attname = 'person_key'
order by is_usable desc, name
