"""Seals: who changed the ledger, when, how, and a digest that shows if its history is whole.

Revision ID: 0003
Revises: 0002
Created: 2026-11-22

The owner of a table, and a superuser, can change anything in it, whatever its triggers say. So
every transaction of this project that writes to the ledger seals it: one row of
canon.driver_orphan_quarantine_seals, with a digest over the entries since the seal before, over its
own facts, and over that seal's digest. `orphans audit` computes them again.
"""

from __future__ import annotations

from alembic import context, op
from ct4_orphans import adoption, guard, seals, views

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEALS = """
create table canon.driver_orphan_quarantine_seals (
    seal_no bigint primary key check (seal_no > 0),
    run_id uuid not null,
    command text not null,
    step text not null check (step in ('started', 'applied', 'ended')),
    sealed_at timestamptz not null default now(),
    sealed_by text not null default session_user,
    parameters jsonb,
    counts jsonb,
    last_entry_id bigint not null,
    entries bigint not null,
    protection jsonb not null,
    digest text not null
);

create index ix_driver_orphan_quarantine_seals_run_id
on canon.driver_orphan_quarantine_seals (run_id);

comment on table canon.driver_orphan_quarantine_seals is
'One row per transaction of ct4-orphans that wrote to the ledger, and per start and end of a run. '
'The digest covers the entries since the seal before, this row, and the digest before.';
comment on column canon.driver_orphan_quarantine_seals.entries is
'Ledger entries that this seal covers: all after the last_entry_id of the seal before.';
comment on column canon.driver_orphan_quarantine_seals.protection is
'Triggers, functions, rules and columns of the ledger at that moment.';
comment on column canon.driver_orphan_quarantine_seals.digest is
'SHA-256, hexadecimal. Every report has it: orphans audit --digest finds it again, or not.';

create trigger driver_orphan_quarantine_seals_are_append_only
before update or delete or truncate on canon.driver_orphan_quarantine_seals
for each statement execute function canon.driver_orphan_quarantine_ledger_is_append_only();

alter table canon.driver_orphan_quarantine_seals
enable always trigger driver_orphan_quarantine_seals_are_append_only;

create view canon.driver_orphan_quarantine_runs as
select
    run_id,
    min(command) as command,
    min(sealed_at) as started_at,
    max(sealed_at) filter (where step = 'ended') as ended_at,
    min(sealed_by) as run_by,
    (array_agg(parameters order by seal_no))[1] as parameters,
    (array_agg(counts order by seal_no desc))[1] as counts,
    (
        select count(*)
        from canon.driver_orphan_quarantine_ledger as ledger
        where ledger.run_id = seals.run_id
    ) as entries,
    sum(entries)::bigint as entries_sealed,
    max(seal_no) as last_seal_no
from canon.driver_orphan_quarantine_seals as seals
group by run_id;

comment on view canon.driver_orphan_quarantine_runs is
'One row per run: who, when, with what, and what came of it. Without an end: killed, or lost.';
"""

# SECURITY DEFINER: to lock a table like this takes more than the right to append to it.
WAIT = """
create function canon.driver_orphan_quarantine_wait_for_writers() returns void
language plpgsql
security definer
set search_path = pg_catalog
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a seal needs isolation level read committed: it would miss entries'
            using errcode = 'invalid_transaction_state';
    end if;
    -- Whoever has an entry that is not committed is waited for, so that all entries up to the
    -- greatest number are there. Readers are not in the way.
    lock table canon.driver_orphan_quarantine_ledger, canon.driver_orphan_quarantine_seals
    in share row exclusive mode;
end
$$;

revoke execute on function canon.driver_orphan_quarantine_wait_for_writers() from public;
"""


def upgrade() -> None:
    """Create the seals; what is in the ledger already is sealed as it is."""
    for statements in (SEALS, WAIT):
        op.execute(statements)
    if not context.is_offline_mode():
        driver = op.get_bind().connection.driver_connection
        for relation in (seals.SEALS, seals.RUNS):
            views.take_grants(driver, relation, [], {})
        # An empty ledger is sealed by its first run: exported seals can be restored before it.
        if adoption.count(driver, adoption.LEDGER):
            seals.seal(driver, seals.Run("migration", {"revision": revision}), "ended")


def downgrade() -> None:
    """Drop the seals; only when ORPHANS_DOWNGRADE_DESTROYS_LEDGER=yes if the ledger has entries."""
    if not context.is_offline_mode():
        driver = op.get_bind().connection.driver_connection
        guard.refuse_while_installed(driver)
        adoption.refuse_to_destroy_history(driver)
    op.execute(
        """
        drop view canon.driver_orphan_quarantine_runs;
        drop function canon.driver_orphan_quarantine_wait_for_writers();
        drop table canon.driver_orphan_quarantine_seals;
        """
    )
