-- What stands in the way of a fix, one row per problem; none when it can start.
-- Only the system catalogues are read: the objects themselves may be missing.
with required (name, made_by) as (
    values
    ('canon.identity_links', null),
    ('canon.driver_orphan_quarantine_ledger', 'alembic upgrade head'),
    ('ops.v_orphan_fix_plan', 'dbt seed, then dbt run')
),

relations as (
    select
        name,
        made_by,
        to_regclass(name) as oid
    from required
)

select
    name || ' is missing' as problem,
    coalesce(
        'Run: ' || made_by || '.', 'This is no CT4 database: check DB_NAME.'
    ) as advice
from relations
where oid is null

union all

select
    'this user may not ' || wanted.privilege || ' on ' || relations.name,
    'Ask its owner for: grant ' || wanted.privilege || ' on ' || relations.name
    || ' to ' || quote_ident(current_user) || ';'
from relations
inner join (
    values
    ('ops.v_orphan_fix_plan', 'select', false),
    ('canon.identity_links', 'insert', true),
    ('canon.driver_orphan_quarantine_ledger', 'insert', true)
) as wanted (name, privilege, only_to_execute) on relations.name = wanted.name
where
    relations.oid is not null
    and (not wanted.only_to_execute or %(execute)s)
    and not has_table_privilege(relations.oid, wanted.privilege)

union all

select
    'the database only reads here',
    'It is a standby, or the user is set to read only: use the primary and a user that may write.'
where %(execute)s and current_setting('transaction_read_only')::bool;
