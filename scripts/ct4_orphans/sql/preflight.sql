-- What stands in the way of a fix, one row per problem; none when it can start.
-- Only the system catalogues are read: the objects themselves may be missing.
with required (name, made_by) as (
    values
    ('canon.identity_links', null),
    ('canon.driver_orphan_quarantine_ledger', 'alembic upgrade head'),
    ('canon.driver_orphan_quarantine', 'alembic upgrade head'),
    ('canon.driver_orphan_quarantine_seals', 'alembic upgrade head'),
    ('ops.v_orphan_fix_plan', 'dbt seed, then dbt run'),
    ('ct4_orphans.lead_sources', 'dbt seed, then dbt run'),
    ('ct4_orphans.evidence_strategies', 'dbt seed, then dbt run'),
    ('ct4_orphans.int_driver_links', 'dbt seed, then dbt run'),
    ('ct4_orphans.int_lead_links', 'dbt seed, then dbt run'),
    ('ct4_orphans.stg_observational__lead_events', 'dbt seed, then dbt run')
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
        'Run: orphans deploy (by hand: ' || made_by || ').', 'This is no CT4 database: check DB_NAME.'
    ) as advice
from relations
where oid is null

union all

select
    'this user may not ' || wanted.privilege || ' on ' || relations.name,
    -- Where the roles are, membership says it all; a grant on a table would give too much.
    case
        when to_regrole('ct4_orphans_fixer') is null
            then 'Ask its owner for: grant ' || wanted.privilege || ' on ' || relations.name
        when %(execute)s then 'Ask an administrator for: grant ct4_orphans_fixer'
        else 'Ask an administrator for: grant ct4_orphans_reader'
    end || ' to ' || quote_ident(current_user) || ';'
from relations
inner join (
    values
    ('ops.v_orphan_fix_plan', 'select', false),
    ('ct4_orphans.lead_sources', 'select', false),
    ('canon.identity_links', 'insert', true),
    ('canon.identity_links', 'select', true),
    ('canon.driver_orphan_quarantine_ledger', 'insert', true),
    ('canon.driver_orphan_quarantine_ledger', 'select', true),
    ('canon.driver_orphan_quarantine', 'select', true),
    ('canon.driver_orphan_quarantine_seals', 'select', false),
    ('canon.driver_orphan_quarantine_seals', 'insert', true),
    ('ct4_orphans.stg_observational__lead_events', 'select', true),
    ('ct4_orphans.evidence_strategies', 'select', true),
    ('ct4_orphans.int_driver_links', 'select', true),
    ('ct4_orphans.int_lead_links', 'select', true)
) as wanted (name, privilege, only_to_execute) on relations.name = wanted.name
where
    relations.oid is not null
    and (not wanted.only_to_execute or %(execute)s)
    -- The columns that are needed are enough: see roles_grant.sql.
    and not has_any_column_privilege(relations.oid, wanted.privilege)

union all

select
    'this user may not execute ' || wait_for_writers,
    'Ask its owner for: grant execute on function ' || wait_for_writers
    || ' to ' || quote_ident(current_user) || ';'
from (
    values ('canon.driver_orphan_quarantine_wait_for_writers()')
) as functions (wait_for_writers)
where
    %(execute)s
    and to_regprocedure(wait_for_writers) is not null
    and not has_function_privilege(wait_for_writers, 'execute')

union all

select
    'this user may not use the sequence ' || sequence_name,
    'Ask its owner for: grant usage on sequence ' || sequence_name
    || ' to ' || quote_ident(current_user) || ';'
from (
    select pg_get_serial_sequence(name, 'id') as sequence_name
    from relations
    where name = 'canon.identity_links' and oid is not null
) as sequences
where %(execute)s and not has_sequence_privilege(sequence_name, 'usage')

union all

select
    'the database only reads here',
    'It is a standby, or the user is set to read only: use the primary and a user that may write.'
where %(execute)s and current_setting('transaction_read_only')::bool;
