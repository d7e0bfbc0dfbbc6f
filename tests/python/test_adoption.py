"""`alembic upgrade head` on a database with an older deployment, and `alembic downgrade base`.

The older deployment's table becomes the ledger's first entries and stays, untouched, under another
name; whoever read or wrote the old name goes on doing so; and the way back restores the table with
what has happened since. Tests that only look, or roll back, share one adopted database.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

import psycopg
import pytest
from conftest import must_run, open_connection, run_command
from ct4_orphans import embedded
from ct4_orphans.database import Connection, Settings
from older import (
    VERSION_TABLE,
    catalogue,
    driver,
    execute,
    grants,
    make_older,
    older_database,
    person,
    query,
    rows,
    view_definitions,
    without_version_table,
)
from psycopg import errors
from test_migration import VIEW_COLUMNS

__all__ = ["older_database"]

VIEW = "canon.driver_orphan_quarantine"
KEPT = "canon.driver_orphan_quarantine_before_ledger"
LEDGER = "canon.driver_orphan_quarantine_ledger"
DESTROY = "ORPHANS_DOWNGRADE_DESTROYS_LEDGER"
REFUSED = 4
OLDER_ROWS = 11
RESOLVED = [driver(n) for n in (6, 7, 8, 13)]

# Of the older deployment and of other teams: those that show a driver because it is in the
# quarantine, and those that hide it.
SHOW = [
    "ops.v_driver_orphans",
    "reporting.driver_matrix",
    "reporting.quarantine_export",
    "reporting.quarantine_export_open",
    "reporting.quarantine_desk",
    "reporting.quarantine_and_matrix",
]
HIDE = [
    "ops.v_cabinet_funnel_status",
    "ops.v_payment_calculation",
    "ops.v_ct4_eligible_drivers",
    "reporting.claims",
]

PRIVILEGES = """
    with roles as (
        select rolname from pg_roles where rolname like 'older\\_%%'
        union all
        select 'public'
    ),

    wanted as (
        select privilege || option as privilege, privilege in (
            'SELECT', 'INSERT', 'UPDATE', 'REFERENCES'
        ) as of_columns
        from unnest(
            array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
        ) as privilege, unnest(array['', ' WITH GRANT OPTION']) as option
    )

    select rolname, '', privilege
    from roles, wanted
    where has_table_privilege(rolname, %(relation)s::regclass, privilege)
    union
    select rolname, attname, privilege
    from roles, wanted, pg_attribute
    where
        attrelid = %(relation)s::regclass
        and attnum > 0
        and of_columns
        and has_column_privilege(rolname, attrelid, attnum, privilege)
"""
# Everything that belongs to a table, without its name.
TABLE_FACTS = """
    select 'table', oid::text, relkind::text, relowner::regrole::text, relacl::text,
        reloptions::text, obj_description(oid, 'pg_class'), relrowsecurity::text
    from pg_class where oid = %(relation)s::regclass
    union all
    select 'column', attname, attnum::text, format_type(atttypid, atttypmod), attnotnull::text,
        pg_get_expr(adbin, adrelid), attacl::text, col_description(attrelid, attnum)
    from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attrelid = %(relation)s::regclass and attnum > 0
    union all
    select 'constraint', conname, pg_get_constraintdef(oid), convalidated::text,
        obj_description(oid, 'pg_constraint'), confrelid::regclass::text, null, null
    from pg_constraint where conrelid = %(relation)s::regclass
    union all
    select 'index', indexrelid::regclass::text,
        substring(pg_get_indexdef(indexrelid) from ' USING .*'), indisunique::text,
        indisvalid::text, obj_description(indexrelid, 'pg_class'), null, null
    from pg_index where indrelid = %(relation)s::regclass
    union all
    select 'trigger', tgname, tgenabled::text, tgfoid::regproc::text, null, null, null, null
    from pg_trigger where tgrelid = %(relation)s::regclass
    order by 1, 2
"""


def alembic(settings: Settings, *arguments: str, **more: str) -> CompletedProcess[str]:
    return run_command("alembic", *arguments, settings=settings, **more)


def upgrade(settings: Settings) -> None:
    must_run("alembic", "upgrade", "head", settings=settings)


def downgrade(settings: Settings) -> None:
    must_run("alembic", "downgrade", "base", settings=settings, **{DESTROY: "yes"})


def message_of(done: CompletedProcess[str]) -> str:
    """The one line that a refusal or a failure prints."""
    assert done.returncode != 0, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def is_refused(settings: Settings, *words: str) -> str:
    """The upgrade names these, changes nothing, and says so with one line and exit code 4."""
    before = catalogue(settings)
    done = alembic(settings, "upgrade", "head")
    message = message_of(done)
    assert done.returncode == REFUSED
    for word in words:
        assert word.lower() in message.lower()
    assert catalogue(settings) == before
    return message


def privileges(settings: Settings, relation: str) -> set[tuple[str, str, str]]:
    """What every role of the older deployment, and everyone, may do: (role, column, privilege)."""
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        return set(connection.execute(PRIVILEGES, {"relation": relation}).fetchall())


def table_facts(settings: Settings, relation: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        return connection.execute(TABLE_FACTS, {"relation": relation}).fetchall()


def without_the_table(blocks: list[str]) -> list[str]:
    """All that is not the quarantine table itself: its views, CT4's objects, other teams'."""
    return [
        block
        for block in blocks
        if "Schema: canon;" not in block.partition("\n")[0] or "driver_orphan_quar" not in block
        if not (block.startswith("-- Trigger") and "driver_orphan_quarantine" in block)
    ]


@dataclass(frozen=True)
class Adoption:
    """An older deployment, before, and its database after the upgrade."""

    settings: Settings
    catalogue: list[str]
    definitions: dict[str, str]
    grants: list[tuple[Any, ...]]
    privileges: set[tuple[str, str, str]]
    table: list[tuple[Any, ...]]
    rows: dict[str, list[str]]


@pytest.fixture(scope="module")
def adoption(server: Settings) -> Iterator[Adoption]:
    """For tests that only look, or roll back."""
    name = f"test_{uuid.uuid4().hex}"
    settings = make_older(embedded.recreate_database(server, name, template="template_ct4"))
    definitions = view_definitions(settings)
    before = Adoption(
        settings,
        catalogue(settings),
        definitions,
        grants(settings),
        privileges(settings, VIEW),
        table_facts(settings, VIEW),
        {relation: rows(settings, relation) for relation in (VIEW, *definitions)},
    )
    upgrade(settings)
    yield before
    execute(server, f"drop database {name} with (force)")


@pytest.fixture
def session(adoption: Adoption) -> Iterator[Connection]:
    """A superuser's transaction on the adopted database that leaves nothing behind."""
    connection = open_connection(adoption.settings)
    yield connection
    connection.rollback()
    connection.close()


@pytest.fixture
def adopted_database(older_database: Settings) -> Settings:
    """An adopted database of the test's own."""
    upgrade(older_database)
    return older_database


@contextmanager
def acting_as(session: Connection, role: str) -> Iterator[None]:
    """Be this role, as if it had logged in itself."""
    session.execute(f"set local session authorization {role}")  # type: ignore[arg-type]
    yield
    session.execute("set local session authorization default")


def count(session: Connection, relation: str, where: str, *values: Any) -> int:
    found = session.execute(f"select count(*) as n from {relation} where {where}", values)  # type: ignore[arg-type]
    return found.fetchone()["n"]  # type: ignore[index]


def entries(session: Connection, driver_id: str) -> list[dict[str, Any]]:
    return session.execute(
        f"select * from {LEDGER} where driver_id = %s order by revision",  # type: ignore[arg-type]
        [driver_id],
    ).fetchall()


def raises(session: Connection, error: type[Exception], statement: str) -> None:
    with pytest.raises(error), session.transaction():
        session.execute(statement)  # type: ignore[arg-type]


# --- The rows -------------------------------------------------------------------------------------


def test_every_row_is_in_the_ledger_and_a_resolved_row_is_two_revisions(
    session: Connection,
) -> None:
    older = session.execute(f"select * from {KEPT} order by driver_id").fetchall()
    assert len(older) == OLDER_ROWS
    for row in older:
        found = entries(session, row["driver_id"])
        newest = {name: found[-1][name] for name in VIEW_COLUMNS}
        assert newest == row, "the newest entry is the row, detected_at and resolved_at kept"
        if row["driver_id"] not in RESOLVED:
            assert [entry["revision"] for entry in found] == [1]
            continue
        assert [entry["revision"] for entry in found] == [1, 2]
        first = found[0]
        assert (first["status"], first["resolved_at"]) == ("quarantined", None)
        for kept in ("detected_at", "detected_reason", "person_key", "creation_rule"):
            assert first[kept] == row[kept]
    assert count(session, LEDGER, "true") == OLDER_ROWS + len(RESOLVED)
    assert count(session, LEDGER, "run_id is not null") == 0


def test_the_view_shows_the_older_tables_rows_exactly(adoption: Adoption) -> None:
    assert len(adoption.rows[VIEW]) == OLDER_ROWS
    assert rows(adoption.settings, VIEW) == adoption.rows[VIEW]
    kinds = query(
        adoption.settings,
        "select relkind::text from pg_class where oid in (%s::regclass, %s::regclass) order by 1",
        *(VIEW, KEPT),
    )
    assert kinds == [("r",), ("v",)]


def test_rows_that_break_the_rules_are_adopted_as_they_are(session: Connection) -> None:
    """Resolved without a lead, purged but still linked, without a person, of one person twice."""
    shown = session.execute(f"select * from {VIEW}").fetchall()
    status = {row["driver_id"]: row["status"] for row in shown}
    assert status[driver(7)] == "resolved_relinked"
    assert status[driver(10)] == "purged"
    assert status[driver(15)] == "quarantined"
    assert (status[driver(13)], status[driver(14)]) == ("resolved_relinked", "quarantined")
    assert count(session, "canon.identity_links", "source_pk = %s", driver(10)) == 1


def test_dates_and_statuses_that_contradict_each_other_are_adopted_as_they_are(
    older_database: Settings,
) -> None:
    """Resolved without a date, quarantined with one, resolved before it was detected."""
    execute(
        older_database,
        f"""
        update {VIEW} set resolved_at = null where driver_id = '{driver(6)}';
        update {VIEW} set resolved_at = '2025-06-01 00:00:00+00' where driver_id = '{driver(4)}';
        update {VIEW} set resolved_at = '2020-01-01 00:00:00+00' where driver_id = '{driver(7)}';
        update {VIEW} set detected_at = 'infinity' where driver_id = '{driver(5)}';
        """,
    )
    before = rows(older_database, VIEW)
    upgrade(older_database)
    assert rows(older_database, VIEW) == before
    downgrade(older_database)
    assert rows(older_database, VIEW) == before


def test_the_view_has_the_tables_columns_and_defaults(session: Connection) -> None:
    found = session.execute(
        """
        select attname, format_type(atttypid, atttypmod) as type, pg_get_expr(adbin, adrelid) as def
        from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attrelid = %s::regclass and attnum > 0 order by attnum
        """,
        [VIEW],
    ).fetchall()
    assert {row["attname"]: row["type"] for row in found} == VIEW_COLUMNS
    assert [row["attname"] for row in found] == list(VIEW_COLUMNS)
    assert {row["attname"]: row["def"] for row in found if row["def"]} == {
        "detected_at": "now()",
        "status": "'quarantined'::orphan_status",
    }


def test_an_empty_table_and_one_without_views_or_grants_are_adopted_too(
    ct4_database: Settings,
) -> None:
    execute(ct4_database, plain_table())
    before = catalogue(ct4_database)
    upgrade(ct4_database)
    assert query(ct4_database, f"select count(*) from {LEDGER}") == [(0,)]
    must_run("alembic", "downgrade", "base", settings=ct4_database)  # nothing to destroy
    assert without_version_table(catalogue(ct4_database)) == before
    execute(ct4_database, f"insert into {VIEW} (driver_id, detected_reason) values {ONE_ROW}")
    upgrade(ct4_database)
    assert query(ct4_database, f"select driver_id, revision from {LEDGER}") == [("one", 1)]


def test_upgrading_twice_changes_nothing_more(adopted_database: Settings) -> None:
    before = catalogue(adopted_database), rows(adopted_database, LEDGER)
    upgrade(adopted_database)
    assert (catalogue(adopted_database), rows(adopted_database, LEDGER)) == before


def test_100000_rows_are_adopted_and_given_back_in_seconds(older_database: Settings) -> None:
    execute(
        older_database,
        f"""
        insert into {VIEW} (
            driver_id, person_key, detected_reason, evidence_json, status, resolved_at
        )
        select
            md5(n::text), ('00000000-0000-4000-8000-' || lpad((n % 13 + 1)::text, 12, '0'))::uuid,
            'no_lead_no_events', jsonb_build_object('n', n, 'explanation', repeat('why ', 50)),
            (enum_range(null::public.orphan_status))[n % 4 + 1], now()
        from generate_series(1, 100000) as n
        """,
    )
    before = rows(older_database, VIEW)
    started = time.monotonic()
    upgrade(older_database)
    assert time.monotonic() - started < 30
    assert rows(older_database, VIEW) == before
    resolved = 50_000 + len(RESOLVED)
    expected = [(100_000 + OLDER_ROWS + resolved,)]
    assert query(older_database, f"select count(*) from {LEDGER}") == expected
    started = time.monotonic()
    downgrade(older_database)
    assert time.monotonic() - started < 30
    assert rows(older_database, VIEW) == before


# --- The table that is kept, and everything around it ---------------------------------------------


def test_the_older_table_is_untouched_under_its_other_name(adoption: Adoption) -> None:
    """The same table: rows, columns, indexes, constraints, comments, grants, owner."""
    assert table_facts(adoption.settings, KEPT) == adoption.table
    assert rows(adoption.settings, KEPT) == adoption.rows[VIEW]
    assert privileges(adoption.settings, KEPT) == adoption.privileges


def test_writing_by_the_old_name_leaves_the_kept_table_alone(session: Connection) -> None:
    before = session.execute(f"select * from {KEPT} order by driver_id").fetchall()
    session.execute(f"update {VIEW} set status = 'purged'")
    enter(session, driver(1), person(1))
    assert session.execute(f"select * from {KEPT} order by driver_id").fetchall() == before


def test_nothing_else_of_the_schema_changes(adoption: Adoption) -> None:
    """Definitions, owners, grants, comments, defaults, options of every view, type and table."""
    after = set(catalogue(adoption.settings))
    before = without_the_table(adoption.catalogue)
    assert len(before) > 100
    assert [block for block in before if block not in after] == []


def test_ct4s_own_migrations_and_data_are_not_touched(adoption: Adoption) -> None:
    found = query(adoption.settings, "select version_num from public.alembic_version")
    assert found == [("014_driver_orphan_quarantine",)]


# --- The views that read it -----------------------------------------------------------------------


def enter(session: Connection, driver_id: str, person_key: str | None, **values: Any) -> None:
    """Insert by the old name."""
    given = {"driver_id": driver_id, "person_key": person_key} | values
    given.setdefault("detected_reason", "manual_detection")
    session.execute(
        f"insert into {VIEW} ({', '.join(given)}) values ({', '.join(['%s'] * len(given))})",  # type: ignore[arg-type]
        list(given.values()),
    )


def test_no_view_reads_the_kept_table(session: Connection) -> None:
    readers = session.execute(
        """
        select ev_class::regclass::text as reader
        from pg_depend inner join pg_rewrite on pg_rewrite.oid = pg_depend.objid
        where pg_depend.classid = 'pg_rewrite'::regclass and refobjid = %s::regclass
        """,
        [KEPT],
    ).fetchall()
    assert readers == []


def test_every_view_shows_the_same_rows_as_before(adoption: Adoption) -> None:
    after = {view: rows(adoption.settings, view) for view in adoption.definitions}
    assert after == {view: adoption.rows[view] for view in adoption.definitions}


@pytest.mark.parametrize("view", SHOW)
def test_a_new_entry_shows_in_the_views_that_read_the_old_name(
    session: Connection, view: str
) -> None:
    before = count(session, view, "true")
    assert count(session, view, "driver_id = %s", driver(1)) == 0
    enter(session, driver(1), person(1))
    assert count(session, view, "driver_id = %s", driver(1)) == 1
    assert count(session, view, "true") == before + 1


@pytest.mark.parametrize("view", HIDE)
def test_a_new_entry_takes_the_driver_out_of_the_views_that_exclude_it_at_once(
    session: Connection, view: str
) -> None:
    assert count(session, view, "driver_id = %s", driver(1)) > 0
    enter(session, driver(1), person(1))
    assert count(session, view, "driver_id = %s", driver(1)) == 0
    session.execute(f"update {VIEW} set status = 'resolved_relinked'")
    assert count(session, view, "driver_id = %s", driver(1)) > 0


def test_a_view_with_capitals_and_signs_in_its_names_counts_the_new_entry(
    session: Connection,
) -> None:
    total = 'select sum("Drivers") as n, sum("100%") as open from reporting."Quarantine by Week"'
    before = session.execute(total).fetchone()
    enter(session, driver(1), person(1))
    after = session.execute(total).fetchone()
    assert before and after
    assert (after["n"], after["open"]) == (before["n"] + 1, before["open"] + 1)


def test_the_views_definitions_are_equal_by_pg_get_viewdef(adoption: Adoption) -> None:
    after = view_definitions(adoption.settings)
    assert {view: after.get(view) for view in adoption.definitions} == adoption.definitions


def test_the_views_owners_grants_and_options_are_equal(adoption: Adoption) -> None:
    others = {grant[0] for grant in adoption.grants} - {VIEW}
    before = [grant for grant in adoption.grants if grant[0] in others]
    assert [grant for grant in grants(adoption.settings) if grant[0] in others] == before


def test_a_view_of_others_can_still_be_written_through_with_its_check_and_defaults(
    session: Connection,
) -> None:
    desk = "reporting.quarantine_desk"
    with acting_as(session, "older_writer"):
        session.execute(
            f"update {desk} set status = 'purged' where driver_id = %s",  # type: ignore[arg-type]
            [driver(4)],
        )
        session.execute(f"insert into {desk} (driver_id) values (%s)", [driver(1)])  # type: ignore[arg-type]
        raises(
            session,
            errors.WithCheckOptionViolation,
            f"update {desk} set status = 'resolved_relinked' where driver_id = '{driver(16)}'",
        )
    assert [entry["status"] for entry in entries(session, driver(4))] == ["quarantined", "purged"]
    (entry,) = entries(session, driver(1))
    assert (entry["detected_reason"], entry["recorded_by"]) == ("manual_detection", "older_writer")


# --- The roles ------------------------------------------------------------------------------------


def test_the_reader_reads_and_cannot_write(session: Connection) -> None:
    with acting_as(session, "older_reader"):
        assert count(session, VIEW, "true") == OLDER_ROWS
        assert count(session, "reporting.quarantine_export", "true") > 0
        for statement in (
            f"update {VIEW} set status = 'purged'",
            f"insert into {VIEW} (driver_id, detected_reason) values {ONE_ROW}",
            f"delete from {VIEW}",
        ):
            raises(session, errors.InsufficientPrivilege, statement)


def test_a_writers_select_then_update_or_insert_appends_history(session: Connection) -> None:
    with acting_as(session, "older_writer"):
        for driver_id in (driver(4), driver(1)):
            select = f"select status from {VIEW} where driver_id = %s"
            if session.execute(select, [driver_id]).fetchone():
                done = session.execute(
                    f"update {VIEW} set status = 'resolved_created_lead', resolved_at = now(),"
                    " resolution_notes = 'by the service' where driver_id = %s",
                    [driver_id],
                )
                assert done.rowcount == 1
            else:
                enter(session, driver_id, person(1))
        raises(session, errors.InsufficientPrivilege, f"delete from {VIEW}")
    found = [*entries(session, driver(4)), *entries(session, driver(1))]
    assert [(entry["revision"], entry["status"], entry["recorded_by"]) for entry in found[1:]] == [
        (2, "resolved_created_lead", "older_writer"),
        (1, "quarantined", "older_writer"),
    ]
    assert found[1]["detected_at"] == found[0]["detected_at"]
    assert (found[0]["status"], found[0]["resolved_at"]) == ("quarantined", None)


def test_a_writers_select_for_update_then_update_appends_history(session: Connection) -> None:
    with acting_as(session, "older_writer"):
        row = session.execute(
            f"select * from {VIEW} where driver_id = %s for update", [driver(6)]
        ).fetchone()
        assert row and row["status"] == "resolved_relinked"
        session.execute(
            f"update {VIEW} set status = 'quarantined', resolved_at = null where driver_id = %s",
            [driver(6)],
        )
    assert [entry["status"] for entry in entries(session, driver(6))] == [
        "quarantined",
        "resolved_relinked",
        "quarantined",
    ]


def test_an_insert_of_a_driver_that_was_adopted_is_a_unique_violation(session: Connection) -> None:
    with acting_as(session, "older_writer"):
        for known in (driver(4), driver(6)):
            with pytest.raises(errors.UniqueViolation), session.transaction():
                enter(session, known, None)


def test_the_clerk_reads_his_two_columns_and_no_other(session: Connection) -> None:
    with acting_as(session, "older_clerk"):
        found = session.execute(f"select driver_id, status from {VIEW}").fetchall()
        assert len(found) == OLDER_ROWS
        for statement in (
            f"select * from {VIEW}",
            f"select driver_id, resolution_notes from {VIEW}",
            f"update {VIEW} set status = 'purged'",
            f"select * from {LEDGER}",
        ):
            raises(session, errors.InsufficientPrivilege, statement)


def test_the_tables_owner_reads_and_writes_by_the_old_name(session: Connection) -> None:
    with acting_as(session, "older_owner"):
        enter(session, driver(1), person(1))
        session.execute(f"update {VIEW} set status = 'purged' where driver_id = %s", [driver(1)])
        assert count(session, VIEW, "true") == OLDER_ROWS + 1
        for view in (*SHOW[:1], *HIDE[:3], "reporting.quarantine_and_matrix"):
            count(session, view, "true")
    assert [entry["status"] for entry in entries(session, driver(1))] == ["quarantined", "purged"]


def has_the_same_rights(
    before: set[tuple[str, str, str]], after: set[tuple[str, str, str]]
) -> None:
    """No role has more; and all but the owner (of whom `test_the_tables_owner…`) have as much."""
    kept = {"SELECT", "INSERT", "UPDATE"}
    assert after - before == set()
    missing = {
        (role, column, privilege)
        for role, column, privilege in before - after
        if privilege.split()[0] in kept and (role != "older_owner" or privilege in kept)
    }
    assert missing == set()


def test_nobody_has_more_or_fewer_rights_on_the_view_than_on_the_table(adoption: Adoption) -> None:
    assert ("older_clerk", "status", "SELECT") in adoption.privileges
    has_the_same_rights(adoption.privileges, privileges(adoption.settings, VIEW))


DEFAULT_PRIVILEGES = """
    alter default privileges in schema canon grant all on tables to older_clerk;
    alter default privileges in schema canon grant all on sequences to older_clerk;
    alter default privileges grant select on tables to public;
"""


def test_default_privileges_give_nobody_more_on_the_view_than_on_the_table(
    older_database: Settings,
) -> None:
    execute(older_database, DEFAULT_PRIVILEGES)
    before, before_all = privileges(older_database, VIEW), catalogue(older_database)
    upgrade(older_database)
    has_the_same_rights(before, privileges(older_database, VIEW))
    downgrade(older_database)
    assert without_version_table(catalogue(older_database)) == before_all


def test_default_privileges_do_not_open_the_ledger_to_who_could_not_read_the_table(
    older_database: Settings,
) -> None:
    """It holds the same facts, and is written through the view alone."""
    execute(older_database, DEFAULT_PRIVILEGES)
    upgrade(older_database)
    found = privileges(older_database, LEDGER)
    assert {(role, right) for role, _, right in found if role != "older_owner"} == set()


def test_grant_options_grants_to_everyone_and_grants_of_grantees_follow(
    older_database: Settings,
) -> None:
    execute(
        older_database,
        f"""
        set role older_owner;
        grant select, update (status) on {VIEW} to older_reader with grant option;
        grant select (driver_id) on {VIEW} to public;
        set role older_reader;
        grant select, update (status) on {VIEW} to older_clerk;
        """,
    )
    before, before_all = privileges(older_database, VIEW), catalogue(older_database)
    assert ("older_clerk", "status", "UPDATE") in before
    upgrade(older_database)
    has_the_same_rights(before, privileges(older_database, VIEW))
    downgrade(older_database)
    assert without_version_table(catalogue(older_database)) == before_all


# --- Enums, wherever they are ---------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["public", "canon", "enums"])
def test_enums_are_used_where_they_are_and_survive_the_downgrade(
    ct4_database: Settings, schema: str
) -> None:
    if schema == "enums":
        execute(ct4_database, "create schema enums; grant usage on schema enums to public")
    make_older(ct4_database, enum_schema=schema)
    types = (
        "select oid, typnamespace::regnamespace::text, typname from pg_type"
        " where typname in ('orphan_detected_reason', 'orphan_status') order by typname"
    )
    of_columns = """
        select attname, atttypid from pg_attribute
        where
            attrelid = %s::regclass
            and atttypid in (
                select oid from pg_type where typname in ('orphan_detected_reason', 'orphan_status')
            )
        order by attname
    """
    before = catalogue(ct4_database), rows(ct4_database, VIEW)
    enums, columns = query(ct4_database, types), query(ct4_database, of_columns, VIEW)
    assert {where for _, where, _ in enums} == {schema}
    assert len(columns) == 2

    upgrade(ct4_database)
    assert query(ct4_database, types) == enums, "no second pair was made"
    for relation in (VIEW, KEPT, LEDGER):
        assert query(ct4_database, of_columns, relation) == columns
    assert rows(ct4_database, VIEW) == before[1]
    with open_connection(ct4_database) as connection:
        enter(connection, driver(1), person(1))
        connection.execute(f"update {VIEW} set status = 'purged' where driver_id = %s", [driver(1)])
        assert [entry["status"] for entry in entries(connection, driver(1))] == [
            "quarantined",
            "purged",
        ]
        assert count(connection, "reporting.quarantine_and_matrix", "status = 'purged'") == 3
        connection.rollback()

    downgrade(ct4_database)
    assert query(ct4_database, types) == enums
    assert (without_version_table(catalogue(ct4_database)), rows(ct4_database, VIEW)) == before


def test_an_enum_with_another_label_is_refused_by_name(older_database: Settings) -> None:
    execute(older_database, "alter type public.orphan_status add value 'lost'")
    is_refused(older_database, "status", "lost")


# --- A table of another structure -----------------------------------------------------------------

ONE_ROW = "('one', 'manual_detection')"
PLAIN_COLUMNS = {
    "driver_id": "varchar primary key",
    "person_key": "uuid references canon.identity_registry (person_key) on delete set null",
    "detected_at": "timestamptz not null default now()",
    "detected_reason": "public.orphan_detected_reason not null",
    "creation_rule": "varchar",
    "evidence_json": "jsonb",
    "status": "public.orphan_status not null default 'quarantined'",
    "resolved_at": "timestamptz",
    "resolution_notes": "text",
}


def plain_table(**columns: str | None) -> str:
    """The older table alone, with some columns replaced, added or (None) left out."""
    given = {
        name: definition for name, definition in (PLAIN_COLUMNS | columns).items() if definition
    }
    listed = ", ".join(f"{name} {definition}" for name, definition in given.items())
    return f"""
        create type public.orphan_detected_reason as enum (
            'no_lead_no_events', 'no_lead_has_events_repair_failed',
            'legacy_driver_without_origin', 'manual_detection'
        );
        create type public.orphan_status as enum (
            'quarantined', 'resolved_relinked', 'resolved_created_lead', 'purged'
        );
        create table {VIEW} ({listed});
    """


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"resolution_notes": None}, ["resolution_notes", "text"]),
        ({"reviewed_by": "varchar(20)"}, ["reviewed_by", "character varying(20)"]),
        (
            {"resolved_at": "timestamp"},
            ["resolved_at", "timestamp with time zone", "timestamp without time zone"],
        ),
        ({"driver_id": "text primary key"}, ["driver_id", "character varying", "text"]),
        (
            {"driver_id": "varchar(32) primary key"},
            ["driver_id", "character varying", "character varying(32)"],
        ),
        ({"status": "text not null default 'quarantined'"}, ["status", "orphan_status", "text"]),
        ({"evidence_json": "json"}, ["evidence_json", "jsonb", "json"]),
        (
            {
                "resolution_notes": None,
                "reviewed_by": "int",
                "person_key": "text",
                "creation_rule": "text",
            },
            ["resolution_notes", "reviewed_by", "integer", "person_key", "uuid", "creation_rule"],
        ),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_a_table_of_another_structure_is_refused_column_by_column(
    ct4_database: Settings, columns: dict[str, str | None], words: list[str]
) -> None:
    execute(ct4_database, plain_table(**columns))
    message = is_refused(ct4_database, VIEW, *words)
    for name in set(PLAIN_COLUMNS) - set(columns):
        assert not re.search(rf"\b{name}\b", message), "names a column that does not differ"


@pytest.mark.parametrize("key", ["", "primary key (driver_id, detected_at)", "unique (driver_id)"])
def test_a_table_without_driver_id_as_its_primary_key_is_refused(
    ct4_database: Settings, key: str
) -> None:
    execute(ct4_database, plain_table(driver_id="varchar not null"))
    if key:
        execute(ct4_database, f"alter table {VIEW} add {key}")
    is_refused(ct4_database, VIEW, "primary key", "driver_id")


@pytest.mark.parametrize("column", ["status", "detected_reason", "detected_at"])
def test_rows_without_a_status_a_reason_or_a_date_are_refused_by_name(
    ct4_database: Settings, column: str
) -> None:
    definition = PLAIN_COLUMNS[column].split(" not null")[0]
    execute(ct4_database, plain_table(**{column: definition}))
    values = {"status": "'purged'", "detected_reason": "'manual_detection'", "detected_at": "now()"}
    listed, unknown = ", ".join(values), ", ".join((values | {column: "null"}).values())
    execute(
        ct4_database,
        f"""
        insert into {VIEW} (driver_id, {listed}) values ('fine', {", ".join(values.values())});
        insert into {VIEW} (driver_id, {listed}) values ('incomplete', {unknown});
        """,
    )
    before = rows(ct4_database, VIEW)
    message = is_refused(ct4_database, column, "incomplete")
    assert "'fine'" not in message
    assert rows(ct4_database, VIEW) == before


@pytest.mark.parametrize("taken", [KEPT, LEDGER])
def test_names_that_somebody_has_taken_are_refused_by_name(
    older_database: Settings, taken: str
) -> None:
    execute(older_database, f"create table {taken} (theirs int)")
    is_refused(older_database, taken)


@pytest.mark.parametrize("kind", ["view", "materialized view"])
def test_somebodys_view_of_that_name_is_refused(ct4_database: Settings, kind: str) -> None:
    execute(ct4_database, f"create {kind} {VIEW} as select ''::varchar as driver_id")
    is_refused(ct4_database, VIEW)


# --- What cannot follow ---------------------------------------------------------------------------

CANNOT_FOLLOW = {
    "a materialized view": (
        f"create materialized view reporting.nightly as select driver_id, status from {VIEW}",
        "reporting.nightly",
    ),
    "a foreign key of another table": (
        f"create table ops.reviews (id int, driver_id varchar references {VIEW} (driver_id))",
        "ops.reviews",
    ),
    "a trigger": (
        f"""
        create function ops.tell() returns trigger language plpgsql as 'begin return new; end';
        create trigger tell_the_reviewers after update on {VIEW}
        for each row execute function ops.tell();
        """,
        "tell_the_reviewers",
    ),
    "row level security": (
        f"""
        alter table {VIEW} enable row level security;
        create policy only_their_own on {VIEW} for select to older_reader using (false);
        """,
        "row level security",
    ),
    "a rule": (
        f"create rule no_deletes as on delete to {VIEW} do instead nothing",
        "no_deletes",
    ),
    "a table that inherits": (
        f"create table canon.quarantine_archive () inherits ({VIEW})",
        "canon.quarantine_archive",
    ),
    "a publication": (
        f"create publication to_the_warehouse for table {VIEW}",
        "to_the_warehouse",
    ),
    # Views that a view cannot serve, whatever their text says.
    "a view that needs the primary key": (
        f"""
        create view reporting.by_primary_key as
        select driver_id, status, count(*) as n from {VIEW} group by driver_id
        """,
        "reporting.by_primary_key",
    ),
    "a view that reads a system column": (
        f"create view reporting.with_xmin as select driver_id, xmin from {VIEW}",
        "reporting.with_xmin",
    ),
    "a policy of another table": (
        f"""
        create policy not_in_quarantine on canon.drivers_index using (
            not exists (select 1 from {VIEW} as q where q.driver_id = drivers_index.driver_id)
        )
        """,
        "not_in_quarantine",
    ),
    "a function whose body is bound to the table": (
        f"""
        create function reporting.how_many() returns bigint
        begin atomic select count(*) from {VIEW}; end
        """,
        "reporting.how_many",
    ),
    "a column of the row's type": (
        f"create table ops.copies (id int, was {VIEW})",
        "ops.copies",
    ),
}


@pytest.mark.parametrize("what", CANNOT_FOLLOW)
def test_what_cannot_follow_the_name_is_refused_by_name(
    older_database: Settings, what: str
) -> None:
    statements, name = CANNOT_FOLLOW[what]
    if "begin atomic" in statements and query(older_database, "show server_version_num") < [
        ("140000",)
    ]:
        pytest.skip("SQL bodies exist from PostgreSQL 14 on")
    execute(older_database, statements)
    before = rows(older_database, VIEW)
    message = is_refused(older_database, name)
    assert "reporting.quarantine_export" not in message, "views can follow"
    assert rows(older_database, VIEW) == before


def test_everything_that_cannot_follow_is_named_at_once(older_database: Settings) -> None:
    chosen = ["a materialized view", "a foreign key of another table", "a trigger"]
    for what in chosen:
        execute(older_database, CANNOT_FOLLOW[what][0])
    is_refused(older_database, *(CANNOT_FOLLOW[what][1] for what in chosen))


def test_the_offline_script_fails_on_an_older_deployment_and_changes_nothing(
    older_database: Settings,
) -> None:
    """It cannot look, so it cannot adopt; what it must not do is pass the table over."""
    before = catalogue(older_database), rows(older_database, VIEW)
    done = run_command("alembic", "upgrade", "head", "--sql")
    assert done.returncode == 0, done.stderr
    with pytest.raises(psycopg.Error):
        execute(older_database, done.stdout)
    assert (catalogue(older_database), rows(older_database, VIEW)) == before


# --- The way back ---------------------------------------------------------------------------------


def test_a_downgrade_restores_everything_and_leaves_an_empty_version_table(
    older_database: Settings,
) -> None:
    before = catalogue(older_database)
    definitions, granted = view_definitions(older_database), grants(older_database)
    shown = {relation: rows(older_database, relation) for relation in (VIEW, *definitions)}
    upgrade(older_database)
    assert catalogue(older_database) != before
    downgrade(older_database)
    assert view_definitions(older_database) == definitions
    assert [g for g in grants(older_database) if VERSION_TABLE not in g[0]] == granted
    assert {relation: rows(older_database, relation) for relation in shown} == shown
    after = catalogue(older_database)
    assert without_version_table(after) == before
    assert rows(older_database, f"canon.{VERSION_TABLE}") == []
    names = query(older_database, "select to_regclass(%s), to_regclass(%s)", KEPT, LEDGER)
    assert names == [(None, None)]


def live_a_while(settings: Settings) -> None:
    """What happens between the two: new entries, other statuses, several revisions."""
    with open_connection(settings) as connection:
        connection.execute("set session authorization older_writer")
        enter(connection, driver(1), person(1), evidence_json='{"new": "50 %: $1"}')
        enter(connection, driver(12), person(12), status="purged", resolution_notes="it's")
        enter(connection, "unknown person", None, creation_rule="BY_HAND")
        for status in ("resolved_created_lead", "quarantined", "purged"):
            connection.execute(
                f"update {VIEW} set status = %s, resolved_at = now() where driver_id = %s",
                [status, driver(4)],
            )
        connection.execute(
            f"update {VIEW} set status = 'resolved_created_lead', evidence_json = '[1]',"
            " person_key = null where driver_id = %s",
            [driver(16)],
        )


def test_a_downgrade_keeps_the_current_state_and_the_views_of_others_show_it(
    older_database: Settings,
) -> None:
    before = catalogue(older_database)
    upgrade(older_database)
    live_a_while(older_database)
    state = {view: rows(older_database, view) for view in (VIEW, *SHOW, *HIDE)}
    downgrade(older_database)
    assert {view: rows(older_database, view) for view in state} == state
    assert len(state[VIEW]) == OLDER_ROWS + 3
    assert without_version_table(catalogue(older_database)) == before


def test_the_restored_table_is_a_table_to_its_writers_and_readers(
    older_database: Settings,
) -> None:
    upgrade(older_database)
    live_a_while(older_database)
    downgrade(older_database)
    with open_connection(older_database) as connection:
        with acting_as(connection, "older_writer"):
            connection.execute(
                f"insert into {VIEW} (driver_id, detected_reason) values (%s, 'manual_detection')"
                " on conflict (driver_id) do update set status = 'purged'",
                [driver(1)],
            )
            with pytest.raises(errors.ForeignKeyViolation), connection.transaction():
                enter(connection, driver(2), str(uuid.uuid4()))
            raises(connection, errors.InsufficientPrivilege, f"delete from {VIEW}")
        with acting_as(connection, "older_reader"):
            shown = count(
                *(
                    connection,
                    "reporting.quarantine_export",
                    "driver_id = %s and status = 'purged'",
                ),
                driver(1),
            )
            assert shown == 0, "purged without notes: the export leaves it out"
            assert count(connection, VIEW, "status = 'purged'") == 5
        with acting_as(connection, "older_owner"):
            connection.execute(f"delete from {VIEW} where driver_id = %s", [driver(1)])
        connection.rollback()


def test_a_person_deleted_meanwhile_does_not_stop_the_downgrade(older_database: Settings) -> None:
    before = catalogue(older_database)
    upgrade(older_database)
    live_a_while(older_database)
    gone = (person(10), person(12), person(13))
    execute(
        older_database,
        "".join(
            f"""
            delete from canon.identity_links where person_key = '{key}';
            delete from observational.lead_events where person_key = '{key}';
            delete from canon.identity_registry where person_key = '{key}';
            """
            for key in gone
        ),
    )
    expected = [row for row in query(older_database, f"select * from {VIEW} order by driver_id")]
    downgrade(older_database)
    found = query(older_database, f"select * from {VIEW} order by driver_id")
    assert [row[0] for row in found if row[1] is None] == [
        driver(10),
        driver(12),
        driver(13),
        driver(14),
        driver(15),
        driver(16),
        "unknown person",
    ]
    assert [(row[0], *row[2:]) for row in found] == [(row[0], *row[2:]) for row in expected]
    assert without_version_table(catalogue(older_database)) == before


def test_a_person_that_never_existed_does_not_stop_the_downgrade(older_database: Settings) -> None:
    upgrade(older_database)
    with open_connection(older_database) as connection:
        enter(connection, driver(1), str(uuid.uuid4()))
    downgrade(older_database)
    found = query(older_database, f"select person_key from {VIEW} where driver_id = %s", driver(1))
    assert found == [(None,)]


def test_views_made_changed_and_dropped_meanwhile_are_as_their_owners_left_them(
    older_database: Settings,
) -> None:
    upgrade(older_database)
    execute(
        older_database,
        f"""
        set role older_reader;
        create view reporting.made with (security_barrier) as
        select driver_id, to_char(detected_at, 'HH24:MI') as at, status from {VIEW};
        comment on view reporting.made is 'It''s new: 100 %';
        grant select on reporting.made to older_clerk;
        create or replace view reporting."Quarantine by Week" as
        select
            date_trunc('week', detected_at) as "Week of: Detection",
            count(*) as "Drivers", 0::bigint as "100%", max(status) as "Last"
        from {VIEW} group by 1;
        drop view reporting.quarantine_export_open;
        """,
    )
    definitions, granted = view_definitions(older_database), grants(older_database)
    reporting = [block for block in catalogue(older_database) if "Schema: reporting;" in block]
    downgrade(older_database)
    after = [block for block in catalogue(older_database) if "Schema: reporting;" in block]
    assert after == reporting
    ours = {VIEW, "canon.driver_orphan_quarantine_runs"}
    expected = {name: view for name, view in definitions.items() if name not in ours}
    assert view_definitions(older_database) == expected
    assert [g for g in granted if g[0].startswith(("reporting.", "ops."))] == [
        g for g in grants(older_database) if g[0].startswith(("reporting.", "ops."))
    ]
    execute(older_database, f"delete from {VIEW}")
    assert query(older_database, "select count(*) from reporting.made") == [(0,)]


def test_a_downgrade_refuses_to_destroy_adopted_history_unless_told_to(
    adopted_database: Settings,
) -> None:
    before = catalogue(adopted_database), rows(adopted_database, LEDGER)
    done = alembic(adopted_database, "downgrade", "base")
    assert f"{DESTROY}=yes" in message_of(done)
    assert done.returncode == REFUSED
    assert (catalogue(adopted_database), rows(adopted_database, LEDGER)) == before


def test_an_upgrade_after_a_downgrade_adopts_what_there_is_then(older_database: Settings) -> None:
    upgrade(older_database)
    first = catalogue(older_database)
    live_a_while(older_database)
    state = rows(older_database, VIEW)
    downgrade(older_database)
    upgrade(older_database)
    assert catalogue(older_database) == first
    assert rows(older_database, VIEW) == rows(older_database, KEPT) == state
    live_again = f"update {VIEW} set resolution_notes = 'again' where driver_id = '{driver(5)}'"
    execute(older_database, live_again)
    downgrade(older_database)
    found = query(
        older_database, f"select resolution_notes from {VIEW} where driver_id = %s", driver(5)
    )
    assert found == [("again",)]


# --- Others at work meanwhile ---------------------------------------------------------------------


def test_an_open_transaction_on_the_table_makes_the_upgrade_give_up_with_nothing_changed(
    older_database: Settings,
) -> None:
    before = catalogue(older_database)
    with open_connection(older_database) as writer:
        enter(writer, driver(1), person(1))
        started = time.monotonic()
        done = alembic(older_database, "upgrade", "head")
        assert time.monotonic() - started < 30
        message_of(done)
        assert catalogue(older_database) == before
        writer.commit()
    upgrade(older_database)
    found = query(older_database, f"select revision from {LEDGER} where driver_id = %s", driver(1))
    assert found == [(1,)]


@contextmanager
def writing_without_a_break(settings: Settings) -> Iterator[list[str]]:
    """Insert drivers by the old name, one transaction each, beside the block: those that it got."""
    written: list[str] = []
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
            while not stop.is_set():
                driver_id = uuid.uuid4().hex
                try:
                    enter(connection, driver_id, None)  # type: ignore[arg-type]
                except psycopg.Error:
                    continue
                written.append(driver_id)
                time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def moving(move: Callable[[Settings], None], settings: Settings) -> Iterator[None]:
    """Do it beside the block, from when it waits for a lock; wait for its end."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            move(settings)
        except AssertionError as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        started = time.monotonic()
        blocked = (
            "select 1 from pg_stat_activity"
            " where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0"
        )
        while thread.is_alive() and not query(settings, blocked):
            assert time.monotonic() - started < 30
            time.sleep(0.05)
        yield
    finally:
        thread.join(60)
    assert failed == []


@pytest.mark.parametrize("statement", ["insert", "update"])
@pytest.mark.parametrize("move", [upgrade, downgrade])
def test_what_is_committed_while_the_migration_waits_for_the_writer_is_not_lost(
    older_database: Settings, move: Callable[[Settings], None], statement: str
) -> None:
    if move is downgrade:
        upgrade(older_database)
    with open_connection(older_database) as writer:
        if statement == "insert":
            enter(writer, driver(1), person(1), status="purged")
        else:
            writer.execute(f"update {VIEW} set status = 'purged' where driver_id = '{driver(4)}'")
        with moving(move, older_database):
            writer.commit()
    found = query(
        older_database,
        f"select status::text from {VIEW} where driver_id = %s",
        driver(1 if statement == "insert" else 4),
    )
    assert found == [("purged",)]


def wait_for_more(written: list[str]) -> None:
    there, started = len(written), time.monotonic()
    while len(written) < there + 20:
        assert time.monotonic() - started < 30, "the writer gets nothing in any more"
        time.sleep(0.01)


@pytest.mark.parametrize("move", [upgrade, downgrade])
def test_no_row_that_was_written_during_the_migration_is_lost(
    older_database: Settings, move: Callable[[Settings], None]
) -> None:
    if move is downgrade:
        upgrade(older_database)
    with writing_without_a_break(older_database) as written:
        wait_for_more(written)
        move(older_database)
        wait_for_more(written)
    found = {driver_id for (driver_id,) in query(older_database, f"select driver_id from {VIEW}")}
    assert set(written) - found == set()


def test_a_service_that_reads_the_views_all_the_time_does_not_stop_the_migration(
    older_database: Settings,
) -> None:
    """It locks a view and then the table: who locks them the other way round meets a deadlock."""
    stop, failed = threading.Event(), []

    def read(view: str) -> None:
        parameters = older_database.connection_parameters() | {"prepare_threshold": None}
        with psycopg.connect(**parameters, autocommit=True) as connection:  # type: ignore[arg-type]
            while not stop.is_set():
                try:
                    connection.execute(f"select * from {view}")  # type: ignore[arg-type]
                except psycopg.Error as error:
                    failed.append(f"{view}: {error}")

    views = (SHOW[0], "reporting.quarantine_and_matrix", "reporting.claims")
    threads = [threading.Thread(target=read, args=[view]) for view in views]
    for thread in threads:
        thread.start()
    try:
        upgrade(older_database)
        downgrade(older_database)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failed == []
