"""The migration from the command line, and the ledger that only ever gains rows.

The commands are run as an operator runs them, with the DB_ variables alone. What the ledger and
the view over it promise is tried on a migrated database, in transactions that are rolled back
where one session is enough.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from subprocess import CompletedProcess
from typing import Any

import psycopg
import pytest
from conftest import open_connection, run_command
from ct4_orphans.database import Connection, Settings
from psycopg import errors, sql
from psycopg.types.json import Jsonb

LEDGER = "canon.driver_orphan_quarantine_ledger"
VIEW = "canon.driver_orphan_quarantine"
VERSION_TABLE = "canon.ct4_orphans_alembic_version"
DESTROY = "ORPHANS_DOWNGRADE_DESTROYS_LEDGER"
REFUSED = 4

VIEW_COLUMNS = {
    "driver_id": "character varying",
    "person_key": "uuid",
    "detected_at": "timestamp with time zone",
    "detected_reason": "orphan_detected_reason",
    "creation_rule": "character varying",
    "evidence_json": "jsonb",
    "status": "orphan_status",
    "resolved_at": "timestamp with time zone",
    "resolution_notes": "text",
}
ENUMS = {
    "orphan_detected_reason": [
        "no_lead_no_events",
        "no_lead_has_events_repair_failed",
        "legacy_driver_without_origin",
        "manual_detection",
    ],
    "orphan_status": ["quarantined", "resolved_relinked", "resolved_created_lead", "purged"],
}
# Everything but the version table and CT4's data: what a migration and its downgrade may not leave.
CATALOGUE = f"""
    select 'relation' as kind, oid::regclass::text as name, relkind::text as detail
    from pg_class
    where
        relnamespace in (
            'canon'::regnamespace, 'observational'::regnamespace,
            'ops'::regnamespace, 'public'::regnamespace
        )
        and oid::regclass::text not like '{VERSION_TABLE}%'
        and relname not like 'ct4_orphans_alembic_version%'
    union all
    select 'type', typname, string_agg(enumlabel, ',' order by enumsortorder)
    from pg_type inner join pg_enum on pg_enum.enumtypid = pg_type.oid
    group by typname
    union all
    select 'function', oid::regprocedure::text, md5(prosrc)
    from pg_proc
    where pronamespace in ('canon'::regnamespace, 'ops'::regnamespace, 'public'::regnamespace)
    union all
    select 'trigger', tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal
    order by 1, 2, 3
"""


def alembic(settings: Settings | None, *arguments: str, **more: str) -> CompletedProcess[str]:
    return run_command("alembic", *arguments, settings=settings, **more)


def succeeds(done: CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_refused(done: CompletedProcess[str], *words: str) -> None:
    """One clear line, the exit code for a refusal, no traceback."""
    message = done.stderr.strip().splitlines()[-1]
    assert done.returncode == REFUSED, done.stdout + done.stderr
    assert message.startswith("Error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in message


def rows(settings: Settings, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        return connection.execute(query, values or None).fetchall()  # type: ignore[arg-type]


def execute(settings: Settings, statements: str) -> None:
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(statements)  # type: ignore[arg-type]


def catalogue(settings: Settings) -> list[tuple[Any, ...]]:
    return rows(settings, CATALOGUE)


def enter(connection: Connection, driver_id: str, **values: Any) -> dict[str, Any]:
    """Insert through the old name, as a service would; return what RETURNING gave."""
    given = {"driver_id": driver_id, "detected_reason": "no_lead_no_events"} | values
    statement = sql.SQL("insert into {} ({}) values ({}) returning *").format(
        sql.Identifier(*VIEW.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, given)),
        sql.SQL(", ").join(sql.Placeholder() * len(given)),
    )
    row = connection.execute(statement, list(given.values())).fetchone()
    assert row
    return row


def entries(connection: Connection, driver_id: str) -> list[dict[str, Any]]:
    return connection.execute(
        f"select * from {LEDGER} where driver_id = %s order by revision", [driver_id]
    ).fetchall()


def relations(connection: Connection) -> dict[str, Any]:
    found = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod) as type
        from pg_attribute
        where attrelid = 'canon.driver_orphan_quarantine'::regclass and attnum > 0
        order by attnum
        """
    )
    return {row["attname"]: row["type"] for row in found}


@pytest.fixture
def rolled_back(built_connection: psycopg.Connection[Any]) -> Iterator[Connection]:
    """The session's built database, in a transaction that leaves nothing behind."""
    row_factory = built_connection.row_factory
    built_connection.row_factory = psycopg.rows.dict_row
    built_connection.rollback()
    yield built_connection
    built_connection.rollback()
    built_connection.row_factory = row_factory


@pytest.fixture
def make_role(server: Settings, built_database: Settings) -> Iterator[Callable[[str], Settings]]:
    """Make a login role with these grants on `built_database`; gone when the test ends."""
    made: list[str] = []

    def make(grants: str) -> Settings:
        made.append(f"test_role_{uuid.uuid4().hex}")
        execute(built_database, f"create role {made[-1]} login; {grants.format(role=made[-1])}")
        return replace(built_database, user=made[-1])

    yield make
    for name in made:
        execute(built_database, f"drop owned by {name}; drop role {name}")


# --- The commands ---------------------------------------------------------------------------------


def test_heads_and_history_name_the_revisions() -> None:
    assert "0003 (head)" in succeeds(alembic(None, "heads"))
    assert "0002 -> 0003 (head)" in succeeds(alembic(None, "history"))


def test_upgrade_shows_in_current_is_harmless_twice_and_leaves_ct4_as_it_was(
    ct4_database: Settings,
) -> None:
    execute(
        ct4_database,
        "create table public.alembic_version (version_num varchar(32) primary key);"
        "insert into public.alembic_version values ('014_ct4_own_head')",
    )
    before = catalogue(ct4_database)
    assert "000" not in succeeds(alembic(ct4_database, "current"))
    succeeds(alembic(ct4_database, "upgrade", "head"))
    assert "0003 (head)" in succeeds(alembic(ct4_database, "current"))
    upgraded = catalogue(ct4_database)
    assert set(before) < set(upgraded)
    execute(
        ct4_database,
        f"insert into {VIEW} (driver_id, detected_reason) values ('d', 'manual_detection')",
    )
    succeeds(alembic(ct4_database, "upgrade", "head"))
    assert catalogue(ct4_database) == upgraded
    assert rows(ct4_database, f"select driver_id from {LEDGER}") == [("d",)]
    assert rows(ct4_database, "select * from public.alembic_version") == [("014_ct4_own_head",)]
    assert rows(ct4_database, f"select * from {VERSION_TABLE}") == [("0003",)]


def test_downgrade_leaves_the_database_as_it_was_before_the_upgrade(ct4_database: Settings) -> None:
    before = catalogue(ct4_database)
    succeeds(alembic(ct4_database, "upgrade", "head"))
    succeeds(alembic(ct4_database, "downgrade", "base"))
    assert catalogue(ct4_database) == before
    assert "000" not in succeeds(alembic(ct4_database, "current"))
    succeeds(alembic(ct4_database, "upgrade", "head"))


def test_offline_sql_upgrades_and_downgrades_a_database_like_the_command(
    ct4_database: Settings,
) -> None:
    before = catalogue(ct4_database)
    execute(ct4_database, succeeds(alembic(None, "upgrade", "head", "--sql")))
    assert "0003 (head)" in succeeds(alembic(ct4_database, "current"))
    assert rows(ct4_database, f"select count(*) from {VIEW}") == [(0,)]
    execute(ct4_database, succeeds(alembic(None, "downgrade", "0003:base", "--sql")))
    assert catalogue(ct4_database) == before


def test_enums_that_exist_already_are_used_and_survive_the_downgrade(
    ct4_database: Settings,
) -> None:
    execute(
        ct4_database,
        "".join(
            f"create type public.{name} as enum ({', '.join(map(repr, labels))});"
            for name, labels in ENUMS.items()
        ),
    )
    oids = "select oid from pg_type where typname in ('orphan_detected_reason', 'orphan_status')"
    before = rows(ct4_database, oids)
    succeeds(alembic(ct4_database, "upgrade", "head"))
    succeeds(alembic(ct4_database, "downgrade", "base"))
    assert rows(ct4_database, oids) == before
    assert len(before) == 2


@pytest.mark.parametrize(
    "labels",
    [
        "'quarantined'",
        "'quarantined', 'resolved_relinked', 'resolved_created_lead', 'purged', 'lost'",
    ],
)
def test_enums_with_other_labels_are_refused_and_nothing_is_changed(
    ct4_database: Settings, labels: str
) -> None:
    execute(ct4_database, f"create type public.orphan_status as enum ({labels})")
    before = catalogue(ct4_database)
    is_refused(alembic(ct4_database, "upgrade", "head"), "public.orphan_status", "quarantined")
    assert catalogue(ct4_database) == before


def test_downgrade_refuses_to_destroy_entries_unless_told_to_by_name(
    ct4_database: Settings,
) -> None:
    succeeds(alembic(ct4_database, "upgrade", "head"))
    execute(
        ct4_database,
        f"insert into {VIEW} (driver_id, detected_reason) values ('d', 'manual_detection')",
    )
    before = catalogue(ct4_database)
    is_refused(alembic(ct4_database, "downgrade", "base"), "1 entries", f"{DESTROY}=yes")
    is_refused(alembic(ct4_database, "downgrade", "base", **{DESTROY: "no"}), DESTROY)
    assert catalogue(ct4_database) == before
    assert rows(ct4_database, f"select driver_id from {LEDGER}") == [("d",)]
    succeeds(alembic(ct4_database, "downgrade", "base", **{DESTROY: "yes"}))
    assert rows(ct4_database, f"select to_regclass('{LEDGER}')") == [(None,)]


# --- Taking it out again, with the views built ----------------------------------------------------


def test_views_are_taken_out_by_the_operation_and_only_then_the_ledger_by_the_downgrade(
    built_database: Settings,
) -> None:
    """One story: named dependants, a stranger in the way, the operation, the downgrade."""
    built = catalogue(built_database)
    is_refused(
        alembic(built_database, "downgrade", "base"),
        "ct4_orphans.stg_canon__driver_orphan_quarantine",
        "orphans rollback",
    )
    assert catalogue(built_database) == built

    execute(
        built_database,
        "create schema claims;"
        "create view claims.payable as select driver_id from ops.v_payment_calculation",
    )
    views = "select schemaname, viewname from pg_views where schemaname in ('ops', 'ct4_orphans')"
    before = rows(built_database, views)
    done = run_command("dbt", "run-operation", "drop_project_views", settings=built_database)
    assert done.returncode != 0
    assert "claims.payable" in done.stdout
    assert rows(built_database, views) == before, "something was dropped although it failed"

    execute(built_database, "drop view claims.payable")
    succeeds(run_command("dbt", "run-operation", "drop_project_views", settings=built_database))
    left = {name for _, name in rows(built_database, views)}
    assert left == {
        "v_yango_payments_ledger_latest_enriched",
        "v_cabinet_milestones_achieved_from_trips",
    }, "CT4's own views, and only they"
    assert rows(built_database, "select count(*) from ct4_orphans.lead_sources") == [(3,)]

    succeeds(alembic(built_database, "downgrade", "base"))
    assert rows(built_database, f"select to_regclass('{VIEW}')") == [(None,)]


# --- What the upgrade makes -----------------------------------------------------------------------


def test_the_old_name_is_a_view_with_exactly_the_nine_columns(rolled_back: Connection) -> None:
    assert list(relations(rolled_back).items()) == list(VIEW_COLUMNS.items())
    kinds = rolled_back.execute(
        "select relkind::text as kind from pg_class where oid in (%s::regclass, %s::regclass)"
        " order by kind",
        [LEDGER, VIEW],
    ).fetchall()
    assert [row["kind"] for row in kinds] == ["r", "v"]


@pytest.mark.parametrize("name", ENUMS)
def test_the_enums_have_their_labels_in_public(rolled_back: Connection, name: str) -> None:
    found = rolled_back.execute(
        "select enumlabel from pg_enum where enumtypid = to_regtype(%s) order by enumsortorder",
        [f"public.{name}"],
    )
    assert [row["enumlabel"] for row in found] == ENUMS[name]


def test_the_indexes_serve_the_newest_revision_and_the_run(rolled_back: Connection) -> None:
    found = rolled_back.execute(
        """
        select indexrelid::regclass::text as name, indisunique, pg_get_indexdef(indexrelid) as def
        from pg_index
        where indrelid = 'canon.driver_orphan_quarantine_ledger'::regclass and not indisprimary
        order by name
        """
    ).fetchall()
    assert [(row["indisunique"], row["def"].partition("btree ")[2]) for row in found] == [
        (False, "(run_id)"),
        (True, "(driver_id, revision DESC)"),
    ]


# --- The ledger only gains rows -------------------------------------------------------------------

MERGE = f"""
    merge into {LEDGER} as ledger
    using (values (%(driver)s)) as wanted (driver_id) on ledger.driver_id = wanted.driver_id
"""
REWRITES = {
    "update": f"update {LEDGER} set status = 'purged' where driver_id = %(driver)s",
    "delete": f"delete from {LEDGER} where driver_id = %(driver)s",
    "truncate": f"truncate {LEDGER}",
    "truncate with others": f"truncate observational.lead_events, {LEDGER} cascade",
    "on conflict do update": (
        f"insert into {LEDGER} (driver_id, revision, detected_reason)"
        " values (%(driver)s, 1, 'manual_detection')"
        " on conflict (driver_id, revision) do update set status = 'purged'"
    ),
    "merge update": MERGE + "when matched then update set status = 'purged'",
    "merge delete": MERGE + "when matched then delete",
}


@pytest.mark.parametrize("role", ["origin", "replica", "local"])
@pytest.mark.parametrize("driver", ["there", "nobody"])
@pytest.mark.parametrize("rewrite", REWRITES)
def test_rewriting_the_ledger_raises_even_as_a_replica_and_without_a_matching_row(
    rolled_back: Connection, rewrite: str, driver: str, role: str
) -> None:
    if rewrite.startswith("merge") and rolled_back.info.server_version < 150000:
        pytest.skip("MERGE exists from PostgreSQL 15 on")
    enter(rolled_back, "there")
    before = entries(rolled_back, "there")
    rolled_back.execute(f"set local session_replication_role = {role}")
    with pytest.raises(errors.RestrictViolation, match="append-only"), rolled_back.transaction():
        values = {"driver": driver} if "%(driver)s" in REWRITES[rewrite] else None
        rolled_back.execute(REWRITES[rewrite], values)
    assert entries(rolled_back, "there") == before


@pytest.mark.parametrize("where", ["", "where driver_id = 'nobody'"])
def test_delete_through_the_old_name_never_removes_history(
    rolled_back: Connection, where: str
) -> None:
    enter(rolled_back, "there")
    if where:
        rolled_back.execute(f"delete from {VIEW} {where}")
    else:
        with pytest.raises(errors.RestrictViolation), rolled_back.transaction():
            rolled_back.execute(f"delete from {VIEW}")
    assert len(entries(rolled_back, "there")) == 1


# --- Writers that use the old name ----------------------------------------------------------------


def test_insert_through_the_old_name_appends_revision_1_with_the_tables_defaults(
    rolled_back: Connection,
) -> None:
    returned = enter(rolled_back, "new")
    (entry,) = entries(rolled_back, "new")
    (now,) = rolled_back.execute("select now()").fetchone().values()  # type: ignore[union-attr]
    assert list(returned) == list(VIEW_COLUMNS)
    assert (returned["status"], returned["detected_at"]) == ("quarantined", now)
    assert {name: entry[name] for name in VIEW_COLUMNS} == returned
    assert (entry["revision"], entry["run_id"], entry["recorded_at"]) == (1, None, now)


def test_insert_through_the_old_name_keeps_every_value_given(rolled_back: Connection) -> None:
    given = {
        "person_key": uuid.uuid4(),
        "detected_at": "2025-01-02 03:04:05+00",
        "detected_reason": "legacy_driver_without_origin",
        "creation_rule": "PHONE_EXACT",
        "evidence_json": Jsonb({"a": [1, None]}),
        "status": "purged",
        "resolved_at": "2025-02-03 04:05:06+00",
        "resolution_notes": "by hand",
    }
    returned = enter(rolled_back, "new", **given)
    shown = rolled_back.execute(f"select * from {VIEW} where driver_id = 'new'").fetchone()
    assert shown == returned
    assert returned["person_key"] == given["person_key"]
    assert returned["detected_at"].isoformat().startswith("2025-01-02T03:04:05")
    assert returned["evidence_json"] == {"a": [1, None]}
    assert (returned["status"], returned["resolution_notes"]) == ("purged", "by hand")


@pytest.mark.parametrize("column", ["driver_id", "detected_reason", "detected_at", "status"])
def test_insert_of_null_where_the_table_had_none_is_refused(
    rolled_back: Connection, column: str
) -> None:
    with pytest.raises(errors.NotNullViolation):
        enter(rolled_back, **({"driver_id": "new"} | {column: None}))


def test_a_second_insert_of_a_driver_is_a_unique_violation(rolled_back: Connection) -> None:
    enter(rolled_back, "new")
    with pytest.raises(errors.UniqueViolation), rolled_back.transaction():
        enter(rolled_back, "new")
    rolled_back.execute(f"update {VIEW} set status = 'purged' where driver_id = 'new'")
    with pytest.raises(errors.UniqueViolation), rolled_back.transaction():
        enter(rolled_back, "new")
    assert [entry["status"] for entry in entries(rolled_back, "new")] == ["quarantined", "purged"]


def test_update_through_the_old_name_appends_a_revision_and_returns_it(
    rolled_back: Connection,
) -> None:
    first = enter(rolled_back, "new", creation_rule="PHONE_EXACT")
    cursor = rolled_back.execute(
        f"update {VIEW} set status = 'purged', resolution_notes = 'gone' where driver_id = 'new'"
        " returning *"
    )
    assert cursor.rowcount == 1
    returned = cursor.fetchone()
    assert returned == first | {"status": "purged", "resolution_notes": "gone"}
    before, after = entries(rolled_back, "new")
    assert {name: before[name] for name in VIEW_COLUMNS} == first
    assert {name: after[name] for name in VIEW_COLUMNS} == returned
    assert (before["revision"], after["revision"]) == (1, 2)
    shown = rolled_back.execute(f"select * from {VIEW}").fetchall()
    assert shown == [returned], "the view shows the newest entry of each driver, once"


def test_update_of_many_drivers_appends_one_revision_each(rolled_back: Connection) -> None:
    for name in ("a", "b", "c"):
        enter(rolled_back, name)
    cursor = rolled_back.execute(f"update {VIEW} set status = 'purged' where driver_id <> 'b'")
    assert cursor.rowcount == 2
    assert [len(entries(rolled_back, name)) for name in ("a", "b", "c")] == [2, 1, 2]


def test_an_update_that_changes_nothing_appends_nothing(rolled_back: Connection) -> None:
    first = enter(rolled_back, "new", evidence_json=Jsonb({"a": 1}))
    cursor = rolled_back.execute(
        f"""update {VIEW}
        set status = 'quarantined', evidence_json = '{{"a": 1}}', person_key = null
        where driver_id = 'new' returning *"""
    )
    assert cursor.fetchone() == first
    assert len(entries(rolled_back, "new")) == 1


def test_the_driver_id_of_an_entry_cannot_change(rolled_back: Connection) -> None:
    enter(rolled_back, "new")
    with pytest.raises(errors.RestrictViolation, match="driver_id"), rolled_back.transaction():
        rolled_back.execute(f"update {VIEW} set driver_id = 'other' where driver_id = 'new'")
    assert not entries(rolled_back, "other")


# --- Who may write --------------------------------------------------------------------------------


def test_a_grant_on_the_old_name_is_enough_to_write_and_the_writer_is_recorded(
    built_database: Settings, make_role: Callable[[str], Settings]
) -> None:
    writer = make_role(
        f"grant usage on schema canon to {{role}};"
        f"grant select, insert, update, delete on {VIEW} to {{role}}"
    )
    with open_connection(writer) as connection:
        enter(connection, "new")
        connection.execute(f"update {VIEW} set status = 'purged' where driver_id = 'new'")
        connection.commit()
        for forbidden in (
            f"insert into {LEDGER} (driver_id, revision, detected_reason)"
            " values ('other', 1, 'manual_detection')",
            f"delete from {LEDGER}",
            f"truncate {LEDGER}",
        ):
            with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(forbidden)  # type: ignore[arg-type]
    found = rows(
        built_database, f"select recorded_by, status::text from {LEDGER} order by revision"
    )
    assert found == [(writer.user, "quarantined"), (writer.user, "purged")]


def test_a_reader_of_the_old_name_cannot_write(make_role: Callable[[str], Settings]) -> None:
    reader = make_role(
        f"grant usage on schema canon to {{role}}; grant select on {VIEW} to {{role}}"
    )
    with open_connection(reader) as connection:
        assert connection.execute(f"select * from {VIEW}").fetchall() == []
        with pytest.raises(errors.InsufficientPrivilege):
            enter(connection, "new")


def test_nobody_without_a_grant_can_borrow_the_trigger_function_to_write(
    built_database: Settings, make_role: Callable[[str], Settings]
) -> None:
    """It runs with its owner's rights: on a view of one's own it would write for anybody."""
    nobody = make_role("grant usage on schema canon to {role}")
    columns = ", ".join(f"null::{type_} as {name}" for name, type_ in VIEW_COLUMNS.items())
    with open_connection(nobody) as connection:
        connection.execute(f"create temporary view mine as select {columns}")  # type: ignore[arg-type]
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(
                "create trigger borrowed instead of insert on mine"
                " for each row execute function canon.driver_orphan_quarantine_append()"
            )
            connection.execute(
                "insert into mine (driver_id, detected_at, detected_reason, status)"
                " values ('victim', now(), 'manual_detection', 'purged')"
            )
            connection.commit()
    assert rows(built_database, f"select driver_id from {LEDGER}") == []


# --- Two writers at once --------------------------------------------------------------------------


@contextmanager
def running(work: Callable[[], None]) -> Iterator[list[Exception]]:
    """Do the work beside the block; wait for its end, and give what it raised."""
    raised: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except psycopg.Error as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield raised
    finally:
        thread.join(30)
        assert not thread.is_alive()


def wait_until_blocked(observer: Connection, blocked: Connection) -> None:
    for _ in range(2000):
        row = observer.execute(
            "select cardinality(pg_blocking_pids(%s)) as blockers", [blocked.info.backend_pid]
        ).fetchone()
        if row and row["blockers"]:
            return
        time.sleep(0.005)
    raise AssertionError("the second writer never waited for the first")


@pytest.fixture
def two_sessions(built_database: Settings) -> Iterator[tuple[Connection, Connection]]:
    with open_connection(built_database) as first, open_connection(built_database) as second:
        enter(first, "contested", evidence_json=Jsonb([]))
        first.commit()
        yield first, second


def test_two_sessions_cannot_both_append_the_same_revision(
    two_sessions: tuple[Connection, Connection],
) -> None:
    first, second = two_sessions
    append = (
        f"insert into {LEDGER} (driver_id, revision, detected_reason, status)"
        " values ('contested', 2, 'manual_detection', 'purged')"
    )
    first.execute(append)
    with running(lambda: second.execute(append)) as raised:  # type: ignore[arg-type,return-value]
        wait_until_blocked(first, second)
        first.commit()
    assert [type(error) for error in raised] == [errors.UniqueViolation]
    assert [entry["revision"] for entry in entries(first, "contested")] == [1, 2]


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_of_two_updates_at_once_one_is_told_that_it_lost(
    two_sessions: tuple[Connection, Connection], level: str
) -> None:
    first, second = two_sessions
    second.execute(f"set transaction isolation level {level}")
    second.execute(f"select * from {VIEW}")
    first.execute(f"update {VIEW} set status = 'purged', resolution_notes = 'reviewer'")
    update = f"update {VIEW} set resolution_notes = 'service'"
    with running(lambda: second.execute(update)) as raised:  # type: ignore[arg-type,return-value]
        wait_until_blocked(first, second)
        first.commit()
    assert len(raised) == 1
    assert isinstance(raised[0], errors.UniqueViolation | errors.SerializationFailure)
    second.rollback()
    assert [entry["resolution_notes"] for entry in entries(first, "contested")] == [
        None,
        "reviewer",
    ]


def test_an_update_on_a_stale_snapshot_errors_rather_than_undo_the_newer_one(
    two_sessions: tuple[Connection, Connection],
) -> None:
    first, second = two_sessions
    second.execute("set transaction isolation level repeatable read")
    second.execute(f"select * from {VIEW}")
    first.execute(f"update {VIEW} set status = 'purged'")
    first.commit()
    with pytest.raises((errors.UniqueViolation, errors.SerializationFailure)):
        second.execute(f"update {VIEW} set resolution_notes = 'stale'")
    second.rollback()
    second.execute(f"update {VIEW} set resolution_notes = 'fresh'")
    second.commit()
    newest = entries(first, "contested")[-1]
    assert (newest["revision"], newest["status"], newest["resolution_notes"]) == (
        3,
        "purged",
        "fresh",
    )


def test_no_update_that_reported_success_is_ever_lost_however_many_write(
    built_database: Settings,
) -> None:
    """Each adds one to what it read: a success that is missing in the end was overwritten."""
    with open_connection(built_database) as connection:
        enter(connection, "contested", evidence_json=Jsonb(0))
    succeeded: list[int] = []
    ends_at = time.monotonic() + 2

    def hammer() -> None:
        done = 0
        with open_connection(built_database) as connection:
            connection.autocommit = True
            while time.monotonic() < ends_at:
                try:
                    connection.execute(
                        f"update {VIEW}"
                        " set evidence_json = to_jsonb((evidence_json #>> '{}')::int + 1)"
                    )
                    done += 1
                except (errors.UniqueViolation, errors.SerializationFailure):
                    continue
        succeeded.append(done)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(succeeded) == 4
    found = rows(
        built_database,
        f"select (evidence_json #>> '{{}}')::int, (select count(*) - 1 from {LEDGER}) from {VIEW}",
    )
    assert found == [(sum(succeeded), sum(succeeded))]
