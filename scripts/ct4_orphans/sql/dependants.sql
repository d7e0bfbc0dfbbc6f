-- What depends on relations, directly, but for their own parts (indexes, constraints, defaults,
-- triggers, rules, statistics): one row per dependant. A view can be made anew in place; anything else cannot.
with relations as (
    select
        oid,
        reltype
    from pg_class
    where oid = any(%(oids)s::oid[])
),

-- A column or a function argument can have a table's row type.
targets (classid, objid, relid) as (
    select
        'pg_class'::regclass,
        oid,
        oid
    from relations
    union all
    select
        'pg_type'::regclass,
        pg_type.oid,
        relations.oid
    from relations
    inner join pg_type on relations.reltype in (pg_type.oid, pg_type.typelem)
),

dependencies as (
    select distinct
        pg_depend.classid,
        pg_depend.objid,
        pg_depend.objsubid,
        targets.relid
    from targets
    inner join pg_depend
        on targets.classid = pg_depend.refclassid and targets.objid = pg_depend.refobjid
),

owned as (
    select
        dependencies.*,
        rewritten.oid as reader,
        rewritten.relkind as reader_kind,
        rewrite.rulename
    from dependencies
    left join pg_rewrite as rewrite
        on dependencies.classid = 'pg_rewrite'::regclass and dependencies.objid = rewrite.oid
    left join pg_class as rewritten on rewrite.ev_class = rewritten.oid
    where
        not (
            dependencies.classid = 'pg_type'::regclass
            or dependencies.classid = 'pg_attrdef'::regclass
            or dependencies.classid = 'pg_statistic_ext'::regclass
            or dependencies.classid = 'pg_class'::regclass and exists (
                select 1
                from pg_class as part
                where
                    part.oid = dependencies.objid
                    and (
                        part.relkind in ('i', 't')
                        or part.oid = dependencies.relid
                        or part.relkind = 'S' and exists (
                            select 1
                            from pg_depend as owner
                            where
                                owner.classid = 'pg_class'::regclass
                                and owner.objid = part.oid
                                and owner.refobjid = dependencies.relid
                                and owner.deptype in ('a', 'i')
                        )
                    )
            )
            or dependencies.classid = 'pg_constraint'::regclass and exists (
                select 1
                from pg_constraint
                where oid = dependencies.objid and conrelid = dependencies.relid
            )
            or dependencies.classid = 'pg_trigger'::regclass and exists (
                select 1
                from pg_trigger
                where
                    oid = dependencies.objid
                    and (tgisinternal or tgrelid = dependencies.relid)
            )
            or coalesce(rewritten.oid = dependencies.relid, false)
        )
)

select distinct
    relid::int8 as relation,
    case when rulename = '_RETURN' and reader_kind = 'v' then reader::int8 end as view,
    case
        when rulename = '_RETURN' and reader_kind = 'm'
            then 'materialized view ' || reader::regclass
        when rulename = '_RETURN' then 'view ' || reader::regclass
        else pg_describe_object(classid, objid, objsubid)
    end as description
from owned
order by description
