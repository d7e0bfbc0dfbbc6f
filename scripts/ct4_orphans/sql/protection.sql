-- What protects the ledger, line by line. Only what reads the same on every server version.
select jsonb_agg(lines.line order by lines.line collate "C")
from (
    select
        'trigger ' || pg_trigger.tgname || ' on ' || pg_class.relname || ', enabled '
        || pg_trigger.tgenabled::text || ', type ' || pg_trigger.tgtype::text || ', calls '
        || pg_proc.proname || case when pg_trigger.tgqual is null then '' else ' conditionally' end
        as line
    from pg_trigger
    inner join pg_class on pg_trigger.tgrelid = pg_class.oid
    inner join pg_proc on pg_trigger.tgfoid = pg_proc.oid
    where
        pg_trigger.tgrelid in (
            to_regclass('canon.driver_orphan_quarantine_ledger'),
            to_regclass('canon.driver_orphan_quarantine_seals'),
            to_regclass('canon.driver_orphan_quarantine')
        )
        and not pg_trigger.tgisinternal

    union all

    select
        'function ' || pg_proc.proname || ', source '
        || encode(sha256(convert_to(pg_proc.prosrc, 'UTF8')), 'hex')
        || case when pg_proc.prosecdef then ', security definer' else '' end
        || coalesce(', ' || array_to_string(pg_proc.proconfig, ', '), '')
    from pg_proc
    where
        pg_proc.pronamespace = to_regnamespace('canon')
        and (
            pg_proc.proname like 'driver\_orphan\_quarantine%%'
            or pg_proc.oid in (
                select pg_trigger.tgfoid
                from pg_trigger
                where pg_trigger.tgrelid = to_regclass('canon.driver_orphan_quarantine_ledger')
            )
        )

    union all

    select 'rule ' || pg_rewrite.rulename || ' on ' || pg_class.relname
    from pg_rewrite
    inner join pg_class on pg_rewrite.ev_class = pg_class.oid
    where
        pg_class.oid in (
            to_regclass('canon.driver_orphan_quarantine_ledger'),
            to_regclass('canon.driver_orphan_quarantine_seals'),
            to_regclass('canon.driver_orphan_quarantine')
        )
        and pg_rewrite.rulename <> '_RETURN'

    union all

    select
        'table ' || pg_class.relname || ', kind ' || pg_class.relkind::text || ', persistence '
        || pg_class.relpersistence::text
        || case when pg_class.relrowsecurity then ', row security' else '' end
        || case when pg_class.relispartition then ', a partition' else '' end
        || case
            when
                exists (
                    select 1 from pg_inherits
                    where pg_class.oid in (pg_inherits.inhrelid, pg_inherits.inhparent)
                )
                then ', inherits or is inherited'
            else ''
        end
    from pg_class
    where
        pg_class.oid in (
            to_regclass('canon.driver_orphan_quarantine_ledger'),
            to_regclass('canon.driver_orphan_quarantine_seals')
        )

    union all

    select
        'column ' || pg_class.relname || '.' || pg_attribute.attname || ' '
        || format_type(pg_attribute.atttypid, pg_attribute.atttypmod)
        || case when pg_attribute.attnotnull then ' not null' else '' end
        || coalesce(' default ' || pg_get_expr(pg_attrdef.adbin, pg_attrdef.adrelid), '')
        || case when pg_attribute.attgenerated <> '' then ' generated' else '' end
        || case when pg_attribute.attidentity <> '' then ' identity' else '' end
    from pg_attribute
    inner join pg_class on pg_attribute.attrelid = pg_class.oid
    left join pg_attrdef
        on
            pg_attribute.attrelid = pg_attrdef.adrelid
            and pg_attribute.attnum = pg_attrdef.adnum
    where
        pg_class.oid in (
            to_regclass('canon.driver_orphan_quarantine_ledger'),
            to_regclass('canon.driver_orphan_quarantine_seals')
        )
        and pg_attribute.attnum > 0
        and not pg_attribute.attisdropped

    union all

    -- Without them two writers could both append "the next" entry.
    select
        'unique index ' || pg_class.relname || ' on ' || owner.relname
        || case when pg_index.indisvalid then '' else ', not valid' end
    from pg_index
    inner join pg_class on pg_index.indexrelid = pg_class.oid
    inner join pg_class as owner on pg_index.indrelid = owner.oid
    where
        pg_index.indisunique
        and owner.oid in (
            to_regclass('canon.driver_orphan_quarantine_ledger'),
            to_regclass('canon.driver_orphan_quarantine_seals')
        )
) as lines
