-- What this project has made, with the owner it has now and the word for it in ALTER … OWNER. Views
-- that CT4 had before belong to CT4's owner, and stay so.
with ours as (
    select pg_class.relowner as owner
    from pg_class
    where pg_class.oid = to_regclass('canon.driver_orphan_quarantine_ledger')
)

select
    'schema' as kind,
    quote_ident(pg_namespace.nspname) as name,
    pg_get_userbyid(pg_namespace.nspowner) as owner
from pg_namespace
where pg_namespace.nspname in ('ct4_orphans', 'ct4_orphans_audit')

union all

select
    case pg_class.relkind when 'v' then 'view' else 'table' end,
    quote_ident(pg_namespace.nspname) || '.' || quote_ident(pg_class.relname),
    pg_get_userbyid(pg_class.relowner)
from pg_class
inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
cross join ours
where
    pg_class.relkind in ('r', 'v')
    and (
        pg_namespace.nspname in ('ct4_orphans', 'ct4_orphans_audit')
        or pg_namespace.nspname = 'canon'
        and (
            pg_class.relname like 'driver\_orphan\_quarantine%%'
            or pg_class.relname like 'ct4\_orphans\_%%'
        )
        or pg_class.oid = any(%(views)s::regclass[])
        and pg_class.relowner = ours.owner
    )

union all

select
    'function',
    pg_proc.oid::regprocedure::text,
    pg_get_userbyid(pg_proc.proowner)
from pg_proc
where
    pg_proc.pronamespace = to_regnamespace('canon')
    and (
        pg_proc.proname like 'driver\_orphan\_quarantine%%'
        or pg_proc.proname like 'ct4\_orphans\_%%'
    )

union all

select
    'type',
    pg_type.oid::regtype::text,
    pg_get_userbyid(pg_type.typowner)
from pg_type
where obj_description(pg_type.oid, 'pg_type') = 'Made by ct4-orphans; dropped by its downgrade.'

order by kind, name
