-- Indexes by which the rows with one value of a column are found, usable ones first. One that is
-- half made (create index concurrently was stopped, or is on) is named too.
select
    pg_class.relname::text as name,
    pg_index.indisvalid and pg_index.indisready as is_usable
from pg_index
inner join pg_class on pg_index.indexrelid = pg_class.oid
inner join pg_am on pg_class.relam = pg_am.oid
inner join pg_attribute
    on
        pg_index.indrelid = pg_attribute.attrelid
        and pg_index.indkey[0] = pg_attribute.attnum
where
    pg_index.indrelid = to_regclass(%(table)s)
    and pg_index.indpred is null
    and pg_am.amname in ('btree', 'hash')
    and pg_attribute.attname = %(column)s
order by is_usable desc, name
