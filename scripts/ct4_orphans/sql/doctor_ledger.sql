-- Whether the ledger still protects itself. Only the catalogues are read.
select
    'STOPS' as severity,
    wanted.relation as object,
    case
        when pg_trigger.oid is null then 'its trigger ' || wanted.name || ' is missing'
        else 'its trigger ' || wanted.name || ' is disabled'
    end as problem,
    case
        when pg_trigger.oid is null
            then 'Someone dropped it: ask who, and restore it from the migration or the backup.'
        else
            'Ask who did it, look for lost history (orphans verify), then:  alter table '
            || wanted.relation || ' enable always trigger ' || wanted.name || ';'
    end as remedy
from (
    values
    (
        'canon.driver_orphan_quarantine_ledger',
        'driver_orphan_quarantine_ledger_is_append_only',
        'A'
    ),
    ('canon.driver_orphan_quarantine', 'driver_orphan_quarantine_append', 'O')
) as wanted (relation, name, enabled)
left join pg_trigger
    on
        pg_trigger.tgrelid = to_regclass(wanted.relation)
        and wanted.name = pg_trigger.tgname
where
    to_regclass(wanted.relation) is not null
    and coalesce(pg_trigger.tgenabled not in (wanted.enabled, 'A'), true)
