-- The role of the reads: it must exist, see what the console shows, and be open to this user.
select rolname as name
from pg_catalog.pg_roles
where
    rolname = %(reader)s
    and pg_has_role(oid, 'member')
    and has_schema_privilege(oid, 'ct4_orphans', 'usage')
    and to_regclass('ct4_orphans.int_masked_orphans') is not null
    and has_table_privilege(oid, to_regclass('ct4_orphans.int_masked_orphans'), 'select')
