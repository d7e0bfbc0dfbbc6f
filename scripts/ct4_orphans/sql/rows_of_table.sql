-- About how many rows a table has. One that was never analysed, as after a restore, is judged by
-- its size: rows of these tables take 70 to 200 bytes.
select
    (
        case
            when pg_class.reltuples > 0 then pg_class.reltuples
            else pg_relation_size(pg_class.oid) / 200
        end
    )::bigint as rows_found
from pg_class
where
    pg_class.oid = to_regclass(%(table)s)
    and pg_class.relkind = 'r'
