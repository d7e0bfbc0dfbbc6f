-- What an install (or, without needs_to_create, a removal) of the guard lacks, with what to do.
with relations as (
    select
        pg_class.oid,
        pg_class.relkind,
        pg_class.relowner,
        'canon.' || pg_class.relname as name
    from pg_class
    where pg_class.relnamespace = to_regnamespace('canon')
),

wanted (name, remedy) as (
    values
    ('canon.identity_links', 'this is no CT4 database: check DB_NAME'),
    ('canon.driver_orphan_quarantine_ledger', 'run ''orphans deploy'''),
    ('canon.driver_orphan_quarantine', 'run ''orphans deploy'''),
    ('canon.driver_orphan_quarantine_seals', 'run ''orphans deploy''')
),

problems as (
    select
        wanted.name || ' is missing: ' || wanted.remedy as problem,
        null as grant_text
    from wanted
    left join relations on wanted.name = relations.name
    where %(needs_to_create)s and relations.oid is null

    union all

    -- Only the owner's role may make a trigger fire always, or drop it.
    select
        relations.name || ' belongs to ' || pg_get_userbyid(relations.relowner),
        'grant ' || quote_ident(pg_get_userbyid(relations.relowner))
    from relations
    where
        not pg_has_role(relations.relowner, 'usage')
        and (
            relations.name in (
                'canon.identity_links',
                'canon.driver_orphan_quarantine_ledger',
                'canon.driver_orphan_quarantine_seals' -- an install is sealed
            )
            or relations.name like 'canon.ct4\_orphans\_guard%%' and relations.relkind = 'r'
        )

    union all

    select
        'this user may not read canon.driver_orphan_quarantine',
        'grant select on canon.driver_orphan_quarantine'
    from relations
    where
        %(needs_to_create)s
        and relations.name = 'canon.driver_orphan_quarantine'
        and not has_table_privilege(relations.oid, 'select')

    union all

    select
        'this user may not create in schema canon',
        'grant usage, create on schema canon'
    where
        %(needs_to_create)s
        and not (
            has_schema_privilege('canon', 'usage') and has_schema_privilege('canon', 'create')
        )
)

select distinct
    problem
    || coalesce(
        '; its owner says:  ' || grant_text || ' to ' || quote_ident(current_user) || ';', ''
    ) as problem
from problems
order by problem
