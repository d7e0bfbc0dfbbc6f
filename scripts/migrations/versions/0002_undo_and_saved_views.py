"""What undoing a run and rolling back a deploy need.

Revision ID: 0002
Revises: 0001
Created: 2026-11-22

An entry can take a driver out of the quarantine's state again: is_withdrawn, written by
`orphans undo` for drivers that were in no quarantine before the run. And the views that a deploy
replaces are kept as they were, in canon.ct4_orphans_saved_views, for `orphans rollback`.
"""

from __future__ import annotations

from alembic import context, op
from ct4_orphans import views
from ct4_orphans.errors import RefusedError
from sqlalchemy import text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LEDGER = """
alter table canon.driver_orphan_quarantine_ledger
add column if not exists is_withdrawn boolean not null default false,
add column if not exists undoes_run_id uuid,
add column if not exists removed_links jsonb;

comment on column canon.driver_orphan_quarantine_ledger.is_withdrawn is
'true: from this entry on the driver is in no state, as if it had never been in the quarantine.';
comment on column canon.driver_orphan_quarantine_ledger.undoes_run_id is
'Run that this entry reverses; null for all entries but those of an undo.';
comment on column canon.driver_orphan_quarantine_ledger.removed_links is
'Rows of canon.identity_links, whole, that an undo removed for the person of this entry.';
"""

VIEW = """
-- Not "distinct on": PostgreSQL knows nothing of a column behind that, takes every status to be
-- rare, and reads whatever is joined to it in nested loops.
create or replace view canon.driver_orphan_quarantine as
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
    not is_withdrawn
    and not exists (
        select 1
        from canon.driver_orphan_quarantine_ledger as newer
        where newer.driver_id = entry.driver_id and newer.revision > entry.revision
    );
"""

# The function of 0001; an insert for a driver that was withdrawn goes on with its history.
INSTEAD_OF = """
create or replace function canon.driver_orphan_quarantine_append() returns trigger
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
        select coalesce(max(ledger.revision), 0) + 1 into next_revision
        from canon.driver_orphan_quarantine_ledger as ledger
        where
            ledger.driver_id = new.driver_id
            and not exists (
                select 1
                from canon.driver_orphan_quarantine as quarantine
                where quarantine.driver_id = new.driver_id
            );
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
"""

SAVED_VIEWS = """
create table canon.ct4_orphans_saved_views (
    save_id bigint generated always as identity primary key,
    relation text not null,
    facts jsonb,
    saved_at timestamptz not null default now(),
    saved_by text not null default session_user
);

comment on table canon.ct4_orphans_saved_views is
'What a deploy of ct4-orphans is about to replace: the newest row per relation is what '
'orphans rollback puts back.';
comment on column canon.ct4_orphans_saved_views.facts is
'Definition, owner, options, comments and grants; null: there was no such relation.';
"""


def upgrade() -> None:
    """Add the columns and the table; the view leaves out withdrawn drivers."""
    for statements in (LEDGER, VIEW, INSTEAD_OF, SAVED_VIEWS):
        op.execute(statements)
    if not context.is_offline_mode():
        driver = op.get_bind().connection.driver_connection
        views.take_grants(driver, "canon.ct4_orphans_saved_views", [], {})


def downgrade() -> None:
    """Drop the saved views, once rolled back. The ledger's columns are history: they stay."""
    if not context.is_offline_mode():
        saved = op.get_bind().execute(
            text("select distinct relation from canon.ct4_orphans_saved_views order by relation")
        )
        relations = [row[0] for row in saved]
        if relations:
            raise RefusedError(
                f"The earlier definitions of {', '.join(relations)} are kept in this database and "
                "would be lost. Put them back first: 'orphans rollback'."
            )
    op.execute("drop table canon.ct4_orphans_saved_views")
