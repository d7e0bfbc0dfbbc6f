-- Which of these views are this project's: those that read a relation of its schema.
select distinct readers.name
from unnest(%(names)s::text[]) as readers (name)
inner join pg_rewrite on to_regclass(readers.name) = pg_rewrite.ev_class
inner join pg_depend
    on
        pg_rewrite.oid = pg_depend.objid
        and pg_depend.classid = 'pg_rewrite'::regclass
        and pg_depend.refclassid = 'pg_class'::regclass
inner join pg_class on pg_depend.refobjid = pg_class.oid
inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
where pg_namespace.nspname = 'ct4_orphans'
