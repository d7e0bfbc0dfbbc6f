-- The parts of the guard, and whether each is there and switched on. Only the catalogues are read.
select
    wanted.name,
    wanted.kind,
    case wanted.kind
        when 'trigger' then pg_trigger.oid is not null
        when 'function' then pg_proc.oid is not null
        else pg_class.oid is not null
    end as is_there,
    coalesce(pg_trigger.tgenabled <> 'A', false) as is_off
from (
    values
    ('table', 'ct4_orphans_guard', null),
    ('table', 'ct4_orphans_guard_pending', null),
    ('table', 'ct4_orphans_guard_persons', null),
    ('table', 'ct4_orphans_guard_drivers', null),
    ('table', 'ct4_orphans_guard_violations', null),
    ('function', 'ct4_orphans_guard_settings', null),
    ('function', 'ct4_orphans_guard_collect_links', null),
    ('function', 'ct4_orphans_guard_collect_entries', null),
    ('function', 'ct4_orphans_guard_judge', null),
    ('function', 'ct4_orphans_guard_check', null),
    ('trigger', 'ct4_orphans_guard_insert', 'identity_links'),
    ('trigger', 'ct4_orphans_guard_update', 'identity_links'),
    ('trigger', 'ct4_orphans_guard_delete', 'identity_links'),
    ('trigger', 'ct4_orphans_guard_entries', 'driver_orphan_quarantine_ledger'),
    ('trigger', 'ct4_orphans_guard_check', 'ct4_orphans_guard_pending')
) as wanted (kind, name, relation)
left join pg_namespace on pg_namespace.nspname = 'canon'
left join pg_class
    on
        pg_namespace.oid = pg_class.relnamespace
        and coalesce(wanted.relation, wanted.name) = pg_class.relname
left join pg_proc
    on pg_namespace.oid = pg_proc.pronamespace and wanted.name = pg_proc.proname
left join pg_trigger
    on pg_class.oid = pg_trigger.tgrelid and wanted.name = pg_trigger.tgname
order by wanted.kind, wanted.name
