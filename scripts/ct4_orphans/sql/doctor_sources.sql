-- What a source lacks: the relation, a column, a type, a privilege. Only the catalogues are read.
with relations as (
    select
        wanted.relation ->> 'name' as name,
        (wanted.relation ->> 'is_required')::boolean as is_required,
        wanted.relation -> 'columns' as columns,
        pg_class.oid
    from jsonb_array_elements(%(sources)s::jsonb) as wanted (relation)
    left join pg_namespace on wanted.relation ->> 'schema' = pg_namespace.nspname
    left join pg_class
        on
            pg_namespace.oid = pg_class.relnamespace
            and wanted.relation ->> 'identifier' = pg_class.relname
            and pg_class.relkind in ('r', 'p', 'v', 'm', 'f')
),

columns as (
    select
        relations.name,
        relations.oid,
        relations.is_required,
        wanted.column ->> 'name' as column_name,
        wanted.column ->> 'type' as type,
        attribute.attnum,
        attribute.atttypid
    from relations
    cross join lateral jsonb_array_elements(relations.columns) as wanted ("column")
    left join pg_attribute as attribute
        on
            relations.oid = attribute.attrelid
            and wanted.column ->> 'name' = attribute.attname
            and attribute.attnum > 0
            and not attribute.attisdropped
    where relations.oid is not null
),

problems as (
    select
        is_required,
        name as object,
        'is missing' as problem,
        'It is CT4''s: check DB_NAME, and that CT4''s own migrations have run.' as remedy
    from relations
    where oid is null

    union all

    select
        is_required,
        name || '.' || column_name,
        'is missing; expected ' || type,
        'It is CT4''s: check that CT4''s own migrations have run.'
    from columns
    where attnum is null

    union all

    select
        is_required,
        name || '.' || column_name,
        'is ' || format_type(atttypid, null) || '; expected ' || type,
        'Ask CT4''s developers: the rules were written for ' || type || '.'
    from columns
    where attnum is not null and atttypid is distinct from to_regtype(type)

    union all

    select
        is_required,
        name,
        'this user may not read ' || string_agg(column_name, ', ' order by column_name),
        'Its owner says:  grant select on ' || name || ' to ' || quote_ident(current_user) || ';'
    from columns
    where attnum is not null and not has_column_privilege(oid, attnum, 'select')
    group by is_required, name
)

select
    case when is_required then 'STOPS' else 'note' end as severity,
    object,
    case when is_required then problem else problem || ' (only the parity tests read it)' end
        as problem,
    remedy
from problems
order by object, problem
