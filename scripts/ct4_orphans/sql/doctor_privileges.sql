-- What this user may not do, and a deploy would. Only the catalogues are read.
with schemas as (
    select
        wanted.name,
        wanted.to_create,
        pg_namespace.oid
    from (
        values
        ('canon', %(needs_migration)s),
        ('observational', false),
        ('ops', false),
        ('public', %(needs_enums)s),
        ('ct4_orphans', true),
        ('ct4_orphans_audit', true)
        union all
        select
            name,
            true
        from unnest(%(schemas_to_replace_in)s::text[]) as to_replace_in (name)
    ) as wanted (name, to_create)
    left join pg_namespace on wanted.name = pg_namespace.nspname
),

relations as (
    select
        pg_class.oid,
        pg_class.relkind,
        pg_class.relowner,
        pg_namespace.nspowner as schema_owner,
        pg_namespace.nspname || '.' || pg_class.relname as name
    from pg_class
    inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
    where pg_class.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
),

problems as (
    select
        'STOPS' as severity,
        'schema ' || schemas.name as object,
        'this user may not ' || privileges.says as problem,
        'grant ' || privileges.name || ' on schema ' || schemas.name as remedy
    from schemas
    cross join (
        values ('usage', 'use it'), ('create', 'create in it')
    ) as privileges (name, says)
    where
        schemas.oid is not null
        and (privileges.name = 'usage' or schemas.to_create)
        and not has_schema_privilege(schemas.oid, privileges.name)

    union all

    select
        'STOPS',
        'database ' || current_database(),
        'this user may not create the schema ' || schemas.name,
        'grant create on database ' || quote_ident(current_database())
    from schemas
    where
        schemas.oid is null
        and schemas.name like 'ct4\_orphans%%'
        and not has_database_privilege(current_database(), 'create')

    union all

    select
        wanted.severity,
        relations.name,
        'this user may not ' || wanted.privilege || wanted.what_for,
        'grant ' || wanted.privilege || ' on ' || relations.name
    from (
        values
        ('canon.identity_links', 'insert', 'STOPS', ''),
        ('canon.identity_links', 'delete', 'note', ' (only a purge and an undo do)'),
        ('canon.driver_orphan_quarantine', 'select', 'STOPS', ''),
        ('canon.driver_orphan_quarantine_ledger', 'select', 'STOPS', ''),
        ('canon.driver_orphan_quarantine_ledger', 'insert', 'STOPS', ''),
        ('canon.driver_orphan_quarantine_seals', 'select', 'STOPS', ''),
        ('canon.driver_orphan_quarantine_seals', 'insert', 'STOPS', ''),
        ('canon.ct4_orphans_saved_views', 'select', 'STOPS', ''),
        ('canon.ct4_orphans_saved_views', 'insert', 'STOPS', '')
    ) as wanted (name, privilege, severity, what_for)
    inner join relations on wanted.name = relations.name
    where
        case
            when relations.relkind = 'S' then false
            -- The columns that are needed are enough: see roles_grant.sql.
            when wanted.privilege = 'delete' then not has_table_privilege(relations.oid, 'delete')
            else not has_any_column_privilege(relations.oid, wanted.privilege)
        end

    union all

    select
        'STOPS',
        relations.name,
        'this user may not use it',
        'grant usage on sequence ' || relations.name
    from relations
    inner join pg_depend on relations.oid = pg_depend.objid and pg_depend.deptype in ('a', 'i')
    inner join relations as owners on pg_depend.refobjid = owners.oid
    where
        owners.name = 'canon.identity_links'
        and case
            when relations.relkind = 'S' then not has_sequence_privilege(relations.oid, 'usage')
        end

    union all

    -- Replacing a view, and renaming a table, needs its owner's role.
    select
        'STOPS',
        relations.name,
        'belongs to ' || pg_get_userbyid(relations.relowner)
        || ', and only that role may replace it',
        case
            when owners.rolsuper and relations.relkind = 'v'
                then 'alter view ' || relations.name || ' owner'
            else 'grant ' || quote_ident(owners.rolname)
        end
    from relations
    inner join pg_roles as owners on relations.relowner = owners.oid
    where
        (
            relations.name = any(%(to_replace)s)
            or relations.name like 'ct4\_orphans%%.%%'
            and relations.relkind = 'v'
            -- Violations are dropped and made anew, which the schema's owner may do too.
            and not (
                relations.name like 'ct4\_orphans\_audit.%%'
                and pg_has_role(relations.schema_owner, 'usage')
            )
        )
        and not pg_has_role(relations.relowner, 'usage')
)

select distinct
    severity,
    object,
    problem,
    'Its owner says:  ' || remedy || ' to ' || quote_ident(current_user) || ';' as remedy
from problems
order by severity desc, object, problem
