"""The append-only ledger, and the view that keeps the name everyone knows.

Revision ID: 0001
Revises:
Created: 2026-11-22

The table is canon.driver_orphan_quarantine_ledger: it only ever gains rows, and the newest revision
of a driver is that driver's state. canon.driver_orphan_quarantine is a view of that state, so that
the acceptance SQL of instrucciones-deploy.md runs word for word, and services that insert into or
update the old name append through INSTEAD OF triggers.

A table of that name, of an older deployment, is adopted: ct4_orphans.adoption.
"""

from __future__ import annotations

from typing import Any

import click
import psycopg
from alembic import context, op
from ct4_orphans import adoption
from ct4_orphans.errors import RefusedError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

OURS = "Made by ct4-orphans; dropped by its downgrade."

LEDGER = """
create table canon.driver_orphan_quarantine_ledger (
    entry_id bigint generated always as identity primary key,
    driver_id varchar not null,
    revision int not null check (revision > 0),
    -- A fact of that moment, so no foreign key: ON DELETE SET NULL would be an UPDATE of history.
    person_key uuid,
    detected_at timestamptz not null default now(),
    detected_reason {orphan_detected_reason} not null,
    creation_rule varchar,
    evidence_json jsonb,
    status {orphan_status} not null default 'quarantined',
    resolved_at timestamptz,
    resolution_notes text,
    recorded_at timestamptz not null default now(),
    recorded_by text not null default session_user,
    run_id uuid
);

-- One "next" entry per driver: of two writers one gets unique_violation. Descending, because the
-- newest revision is what everyone asks for.
create unique index uq_driver_orphan_quarantine_ledger_revision
on canon.driver_orphan_quarantine_ledger (driver_id, revision desc);

create index ix_driver_orphan_quarantine_ledger_run_id
on canon.driver_orphan_quarantine_ledger (run_id);

comment on table canon.driver_orphan_quarantine_ledger is
'Append-only history of the quarantine: one row per driver and revision. The newest '
'revision is the driver''s state, which canon.driver_orphan_quarantine shows.';
comment on column canon.driver_orphan_quarantine_ledger.person_key is
'Person of the driver when the entry was written. A fact, not a reference.';
comment on column canon.driver_orphan_quarantine_ledger.creation_rule is
'match_rule of the driver link that made this driver an orphan.';
comment on column canon.driver_orphan_quarantine_ledger.evidence_json is
'Why: the sentence, the lead rows linked, the rivals where a repair was refused, the run.';
comment on column canon.driver_orphan_quarantine_ledger.recorded_by is
'Login role of the writer.';
comment on column canon.driver_orphan_quarantine_ledger.run_id is
'Run of the fix that wrote the entry; null for entries by hand or by other services.';
"""

APPEND_ONLY = """
create function canon.driver_orphan_quarantine_ledger_is_append_only() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    raise exception '% on %.% is refused: it is append-only', tg_op, tg_table_schema, tg_table_name
        using hint = 'Append a new entry; the newest revision of a driver is its state.',
            errcode = 'restrict_violation';
end
$$;

create trigger driver_orphan_quarantine_ledger_is_append_only
before update or delete or truncate on canon.driver_orphan_quarantine_ledger
for each statement execute function canon.driver_orphan_quarantine_ledger_is_append_only();

-- ALWAYS: holds under session_replication_role = replica too.
alter table canon.driver_orphan_quarantine_ledger
enable always trigger driver_orphan_quarantine_ledger_is_append_only;
"""

VIEW = """
-- Not "distinct on": PostgreSQL knows nothing of a column behind that, takes every status to be
-- rare, and reads whatever is joined to it in nested loops.
create view canon.driver_orphan_quarantine as
select
    driver_id,
    person_key,
    detected_at,
    detected_reason,
    creation_rule,
    evidence_json,
    status,
    resolved_at,
    resolution_notes
from canon.driver_orphan_quarantine_ledger as entry
where
    not exists (
        select 1
        from canon.driver_orphan_quarantine_ledger as newer
        where newer.driver_id = entry.driver_id and newer.revision > entry.revision
    );

-- As the table had them: writers that leave these out keep working.
alter view canon.driver_orphan_quarantine alter column detected_at set default now();
alter view canon.driver_orphan_quarantine alter column status set default 'quarantined';

comment on view canon.driver_orphan_quarantine is
'State of every driver ever entered in the quarantine: its newest ledger entry. Inserts and '
'updates append to canon.driver_orphan_quarantine_ledger; delete is refused.';
"""

# SECURITY DEFINER: a grant on the old name must be enough, as it was when the name was a table.
INSTEAD_OF = """
create function canon.driver_orphan_quarantine_append() returns trigger
language plpgsql
security definer
set search_path = pg_catalog
as $$
declare
    newest canon.driver_orphan_quarantine%rowtype;
    next_revision int;
begin
    if tg_op = 'DELETE' then
        raise exception 'DELETE on canon.driver_orphan_quarantine is refused: it is append-only'
            using hint = 'Update the status instead; history is kept in the ledger.',
                errcode = 'restrict_violation';
    end if;
    if tg_op = 'INSERT' then
        -- A driver that is there already: unique_violation, as with the table's primary key.
        next_revision := 1;
    else
        if new.driver_id is distinct from old.driver_id then
            raise exception 'driver_id of a quarantine entry cannot change'
                using errcode = 'restrict_violation';
        end if;
        if new is not distinct from old then
            return new;
        end if;
        -- In this order: a commit after the first statement makes the revision a duplicate, one
        -- before it is seen by the second.
        select max(ledger.revision) + 1 into next_revision
        from canon.driver_orphan_quarantine_ledger as ledger
        where ledger.driver_id = old.driver_id;
        select quarantine.* into newest
        from canon.driver_orphan_quarantine as quarantine
        where quarantine.driver_id = old.driver_id;
        if newest is distinct from old then
            raise exception 'the quarantine entry of driver % was changed meanwhile', old.driver_id
                using hint = 'Run the transaction again.', errcode = 'serialization_failure';
        end if;
    end if;
    insert into canon.driver_orphan_quarantine_ledger (
        driver_id, revision, person_key, detected_at, detected_reason, creation_rule,
        evidence_json, status, resolved_at, resolution_notes
    )
    values (
        new.driver_id, next_revision, new.person_key, new.detected_at, new.detected_reason,
        new.creation_rule, new.evidence_json, new.status, new.resolved_at, new.resolution_notes
    );
    return new;
end
$$;

-- Or anyone could attach it to a view of their own, and write with the owner's rights.
revoke execute on function canon.driver_orphan_quarantine_append() from public;

create trigger driver_orphan_quarantine_append
instead of insert or update or delete on canon.driver_orphan_quarantine
for each row execute function canon.driver_orphan_quarantine_append();
"""


def upgrade() -> None:
    """Create the enums that are missing, the ledger, the view and the triggers; adopt a table."""
    older = None
    if not context.is_offline_mode():
        adoption.refuse_names_that_are_taken(driver())
        if adoption.is_older_table(driver()):
            adoption.examine(driver())
            adoption.views.lock(driver(), adoption.NAME)
            older = adoption.examine(driver())  # what it is now that nobody can change it
            adoption.set_aside(driver())
        click.echo("Creating the append-only ledger and the quarantine view over it.")
    enums = {name: enum(name, older) for name in adoption.ENUMS}
    op.execute(LEDGER.format(**enums))
    if not context.is_offline_mode():
        # Default privileges are meant for CT4's tables: writers go through the view.
        adoption.views.take_grants(driver(), adoption.LEDGER, [], {})
    for statements in (APPEND_ONLY, VIEW, INSTEAD_OF):
        op.execute(statements)
    if older:
        rows, entries = adoption.move_in(driver(), older)
        readers = ", ".join(adoption.views.qualified(view) for view in older.readers) or "none"
        click.echo(
            f"Adopted the older table: {rows} rows became {entries} ledger entries. It is kept as "
            f"{adoption.KEPT}. Views that read the new view now: {readers}."
        )


def downgrade() -> None:
    """Drop all of it again; ledger rows only when ORPHANS_DOWNGRADE_DESTROYS_LEDGER=yes.

    An older table that was adopted gets its name back, with the state of now.
    """
    adopted = False
    if not context.is_offline_mode():
        adoption.views.lock(driver(), adoption.LEDGER)
        adopted = adoption.was_adopted(driver())
        adoption.refuse_to_destroy_history(driver())
        refuse_to_break_dependants(adopted)
        click.echo("Dropping the quarantine view and the ledger.")
    if adopted:
        changed = adoption.give_back(driver())
        click.echo(f"{adoption.NAME} is the older table again; {changed} of its rows have changed.")
    else:
        op.execute("drop view canon.driver_orphan_quarantine")
    op.execute(
        """
        drop function canon.driver_orphan_quarantine_append();
        drop table canon.driver_orphan_quarantine_ledger;
        drop function canon.driver_orphan_quarantine_ledger_is_append_only();
        """
    )
    for name in adoption.ENUMS:
        drop_enum_if_ours(name)


def driver() -> psycopg.Connection[Any]:
    """Return psycopg's connection below Alembic's: same session, same transaction."""
    connection: psycopg.Connection[Any] = op.get_bind().connection.driver_connection
    return connection


def enum(name: str, older: adoption.OlderTable | None) -> str:
    """Return the enum to use: the older table's, else one that is there, else a new one."""
    if older:
        schema, found = older.enums[name]
        return f'"{schema}"."{found}"'
    if not context.is_offline_mode():
        existing = adoption.existing_enum(driver(), name)
        if existing:
            return f'"{existing[0]}"."{existing[1]}"'
    labels = ", ".join(f"'{label}'" for label in adoption.ENUMS[name])
    op.execute(f"create type public.{name} as enum ({labels})")
    op.execute(f"comment on type public.{name} is '{OURS}'")
    return f"public.{name}"


def drop_enum_if_ours(name: str) -> None:
    """Drop the enum unless it was there before this project."""
    op.execute(
        f"""
        do $$ begin
            if obj_description(to_regtype('public.{name}'), 'pg_type') = '{OURS}' then
                drop type public.{name};
            end if;
        end $$
        """
    )


def refuse_to_break_dependants(adopted: bool) -> None:
    """Views read the quarantine: name them rather than fail half way, and never cascade.

    Views of others that read the name go on reading it where the older table comes back.
    """
    ledger = "canon.driver_orphan_quarantine_ledger"
    readers, others = adoption.views.dependants_of(
        driver(), ledger, *([] if adopted else [adoption.NAME])
    )
    dependants = [*(adoption.views.qualified(view) for view in readers), *others]
    dependants = sorted(set(dependants) - {adoption.NAME})
    if dependants:
        raise RefusedError(
            f"These read the quarantine: {', '.join(dependants)}. Take this project's views "
            "out first ('orphans rollback'), and re-point those of others."
        )
