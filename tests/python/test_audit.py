"""The ledger against everyone: what a role may do, and what `orphans audit` finds afterwards.

ATTACKS are the ways round an append-only table that PostgreSQL knows. A reader and a fixer are
refused every one of them; the owner and a superuser can go some of them: then the audit is red.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from conftest import WORK, open_connection, profiles_directory
from ct4_orphans import audit as auditing
from ct4_orphans import cli, embedded, seals
from ct4_orphans import roles as role_making
from ct4_orphans.database import Connection, Settings, connect
from ct4_orphans.errors import RefusedError
from psycopg import sql
from test_fix import ID, fill, in_this_process, town

LEDGER = "canon.driver_orphan_quarantine_ledger"
SEALS = "canon.driver_orphan_quarantine_seals"
OFF = f"alter table {LEDGER} disable trigger all; alter table {SEALS} disable trigger all;"
ON = f"""
    alter table {LEDGER} enable always trigger driver_orphan_quarantine_ledger_is_append_only;
    alter table {SEALS} enable always trigger driver_orphan_quarantine_seals_are_append_only;
"""
NEWEST = f"(select max(entry_id) from {LEDGER})"
A_DRIVER = f"(select driver_id from {LEDGER} order by entry_id limit 1)"

# What somebody might try. All that reach the data do so with the ledger's protection as it was,
# before and after, so that only the digest can tell.
ATTACKS = {
    "update": f"update {LEDGER} set resolution_notes = 'forged'",
    "update of nothing": f"update {LEDGER} set status = status where false",
    "delete": f"delete from {LEDGER}",
    "delete in a with query": f"with gone as (delete from {LEDGER} returning *) select * from gone",
    "truncate": f"truncate {LEDGER}",
    "truncate with its dependants": f"truncate {LEDGER} restart identity cascade",
    "delete through the old name": "delete from canon.driver_orphan_quarantine",
    "merge or upsert": f"""
        insert into {LEDGER} (driver_id, revision, detected_reason)
        select driver_id, revision, detected_reason from {LEDGER}
        on conflict (driver_id, revision) do update set resolution_notes = 'forged'
    """,
    "select for update": f"select * from {LEDGER} for update",
    "update of a seal": f"update {SEALS} set sealed_by = 'somebody else'",
    "delete of a seal": f"delete from {SEALS} where step = 'started'",
    "truncate of the seals": f"truncate {SEALS}",
    "replication role": f"set session_replication_role = replica; delete from {LEDGER}",
    "replication role on a seal": f"set session_replication_role = replica; delete from {SEALS}",
    "retyped with using": f"alter table {LEDGER} alter recorded_by type text using 'forged'",
    "retyped uuid": f"alter table {LEDGER} alter undoes_run_id type uuid using gen_random_uuid()",
    "trigger disabled": f"alter table {LEDGER} disable trigger all",
    "trigger disabled and enabled": f"{OFF} delete from {LEDGER} where entry_id = {NEWEST}; {ON}",
    "edited behind the trigger": f"{OFF} update {LEDGER} set status = 'purged'; {ON}",
    "recorded_by forged": f"{OFF} update {LEDGER} set recorded_by = 'ana'; {ON}",
    "null for a JSON null": f"{OFF} update {LEDGER} set removed_links = 'null'; {ON}",
    "an entry put in between": f"""
        insert into {LEDGER} (entry_id, driver_id, revision, detected_reason)
        overriding system value values (-1, 'x', 1, 'manual_detection')
    """,
    "a seal's row edited": f"{OFF} update {SEALS} set counts = '{{}}' where seal_no = 2; {ON}",
    "a seal left out": f"{OFF} delete from {SEALS} where seal_no = 2; {ON}",
    "all seals left out": f"{OFF} delete from {SEALS}; {ON}",
    "trigger dropped": f"drop trigger driver_orphan_quarantine_ledger_is_append_only on {LEDGER}",
    "trigger's function replaced": """
        create or replace function canon.driver_orphan_quarantine_ledger_is_append_only()
        returns trigger language plpgsql set search_path = pg_catalog as 'begin return null; end';
    """,
    "writers' function replaced": """
        create or replace function canon.driver_orphan_quarantine_append()
        returns trigger language plpgsql security definer set search_path = pg_catalog
        as 'begin return null; end';
    """,
    "lock's function replaced": """
        create or replace function canon.driver_orphan_quarantine_wait_for_writers()
        returns void language sql security definer set search_path = pg_catalog as '';
    """,
    "trigger that changes entries": f"""
        create function canon.forge() returns trigger language plpgsql
        as 'begin new.status := ''purged''; return new; end';
        create trigger forge before insert on {LEDGER} for each row execute function canon.forge();
    """,
    "rule that swallows entries": f"create rule r as on insert to {LEDGER} do instead nothing",
    "rule on a delete": f"create rule r as on delete to {LEDGER} do instead nothing",
    "child table": f"""
        create table canon.child () inherits ({LEDGER});
        insert into canon.child (entry_id, driver_id, revision, detected_reason, status)
        select 1000000, driver_id, revision + 1, detected_reason, 'purged' from {LEDGER} limit 1;
    """,
    "parent table": f"""
        create table canon.parent (like {LEDGER});
        alter table {LEDGER} inherit canon.parent;
        delete from canon.parent;
    """,
    "partition of another": f"""
        alter table {LEDGER} alter entry_id drop identity;
        create table canon.whole (like {LEDGER}) partition by list (driver_id);
        alter table canon.whole attach partition {LEDGER} default;
    """,
    "dropped": f"drop table {LEDGER} cascade",
    "dropped and made anew": f"""
        create table canon.copy (like {LEDGER} including all);
        insert into canon.copy overriding system value
        select * from {LEDGER} where entry_id <> {NEWEST};
        drop view canon.driver_orphan_quarantine cascade;
        drop table {LEDGER} cascade;
        alter table canon.copy rename to driver_orphan_quarantine_ledger;
    """,
    "column dropped": f"alter table {LEDGER} drop column evidence_json cascade",
    "column's default forged": f"alter table {LEDGER} alter recorded_by set default 'ana'",
    "status renamed": "alter type public.orphan_status rename value 'purged' to 'gone'",
    "row security": f"""
        alter table {LEDGER} enable row level security, force row level security
    """,
    "not logged": f"alter table {LEDGER} set unlogged",
    "unique index dropped": "drop index canon.uq_driver_orphan_quarantine_ledger_revision",
    "old name's view replaced": f"""
        create or replace view canon.driver_orphan_quarantine as
        select
            driver_id, person_key, detected_at, detected_reason, creation_rule, evidence_json,
            'purged'::public.orphan_status as status, resolved_at, resolution_notes
        from {LEDGER}
    """,
    "system catalogue": f"""
        set allow_system_table_mods = on;
        update pg_trigger set tgenabled = 'D' where tgrelid = '{LEDGER}'::regclass
    """,
    "owner changed": f"alter table {LEDGER} owner to current_user",
    "renamed away": f"alter table {LEDGER} rename to elsewhere",
    "another schema": f"alter table {LEDGER} set schema ops",
    "copy in with a number": f"""
        copy {LEDGER} (entry_id, driver_id, revision, detected_reason, recorded_by) from stdin
    """,
}

# The owner of a table can do these, and nothing is wrong afterwards: no history is changed.
HARMLESS_TO_HISTORY = {"select for update", "owner changed", "copy in with a number"}
# PostgreSQL keeps these to superusers.
REFUSED_TO_THE_OWNER = {"system catalogue"}
# Nobody gets through with these, not a superuser either: the triggers refuse.
REFUSED_TO_ALL = {
    "update",
    "update of nothing",
    "delete",
    "delete in a with query",
    "truncate",
    "truncate with its dependants",
    "delete through the old name",
    "merge or upsert",
    "update of a seal",
    "delete of a seal",
    "truncate of the seals",
    "replication role",
    "replication role on a seal",
}


@pytest.fixture(scope="module")
def roles() -> role_making.Roles:
    """Roles belong to the server, which other tests share."""
    return role_making.Roles.named(f"test_{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def template(
    server: Settings, roles: role_making.Roles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """A fixed town with roles; nobody is connected to it, so that it can be copied."""
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    fill(settings, town())
    assert audited(settings).exit_code == 0
    reports = str(tmp_path_factory.mktemp("reports"))
    assert command(settings, "fix", "--execute", "--output-dir", reports).exit_code == 0
    installed = command(settings, "roles", "install", "--prefix", prefix(roles))
    assert installed.exit_code == 0, installed.output
    yield settings
    assert command(settings, "roles", "remove", "--prefix", prefix(roles)).exit_code == 0
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database(template: Settings, make_database: Callable[[str], Settings]) -> Settings:
    return make_database(template.dbname)


def prefix(roles: role_making.Roles) -> str:
    return roles.reader.removesuffix("_reader")


def command(settings: Settings, *arguments: str) -> Result:
    environment = settings.environment() | {
        "DBT_PROFILES_DIR": str(profiles_directory()),
        "DBT_TARGET_PATH": str(WORK / f"target-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"),
    }
    return CliRunner().invoke(cli.main, arguments, env=environment)


def audited(settings: Settings, *arguments: str) -> Result:
    return command(settings, "audit", *arguments)


def attack(
    connection: psycopg.Connection[Any], role: str | None, statements: str
) -> psycopg.Error | None:
    """Run statements as a role in the transaction that is on; return what the server says."""
    if role:
        connection.execute(
            sql.SQL("set local session authorization {}").format(sql.Identifier(role))
        )
    try:
        with connection.transaction():
            if "from stdin" in statements:
                with connection.cursor().copy(statements) as copy:  # type: ignore[arg-type]
                    copy.write_row((10**6, "x", 1, "manual_detection", "ana"))
            else:
                connection.execute(statements)  # type: ignore[arg-type]
    except psycopg.Error as error:
        return error
    finally:
        connection.execute("reset session authorization")
    return None


def run_as(settings: Settings, role: str | None, statements: str) -> psycopg.Error | None:
    """Run and commit statements as a role; return what the server said against it."""
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        return attack(connection, role, statements)


def snapshot(connection: psycopg.Connection[Any]) -> list[Any]:
    return [
        connection.execute(f"select * from {table} order by 1").fetchall()  # type: ignore[arg-type]
        for table in (LEDGER, SEALS)
    ]


@pytest.fixture(scope="module")
def shared(template: Settings) -> Iterator[Connection]:
    """One connection for all attacks: each is rolled back."""
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(template, name, template=template.dbname)
    with open_connection(settings) as connection:
        yield connection
    with psycopg.connect(**template.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type,assignment]
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def transaction(shared: Connection) -> Iterator[Connection]:
    shared.rollback()
    yield shared
    shared.rollback()


# --- Who may do what ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("who", ["reader", "fixer"])
def test_reader_and_fixer_are_refused_every_way_round_the_ledger(
    transaction: Connection, roles: role_making.Roles, who: str, name: str
) -> None:
    before = snapshot(transaction)
    error = attack(transaction, getattr(roles, who), ATTACKS[name])
    assert isinstance(
        error, (psycopg.errors.InsufficientPrivilege, psycopg.errors.RestrictViolation)
    ), error
    assert snapshot(transaction) == before
    assert auditing.examine(transaction, {}).problems == []


@pytest.mark.parametrize("who", ["migrator", "superuser"])
@pytest.mark.parametrize("name", ATTACKS)
def test_what_the_owner_and_a_superuser_can_do_the_audit_finds(
    transaction: Connection, roles: role_making.Roles, name: str, who: str
) -> None:
    role = roles.migrator if who == "migrator" else None
    before = snapshot(transaction)
    error = attack(transaction, role, ATTACKS[name])
    refused = REFUSED_TO_ALL if who == "superuser" else REFUSED_TO_ALL | REFUSED_TO_THE_OWNER
    assert (error is not None) == (name in refused), error
    if error is not None:
        assert snapshot(transaction) == before
        return
    try:
        problems = auditing.examine(transaction, {}).problems
    except RefusedError as lost:
        problems = [lost.message]
    assert bool(problems) == (name not in HARMLESS_TO_HISTORY), problems


def test_a_fixer_may_append_but_not_choose_who_and_when(
    database: Settings, roles: role_making.Roles
) -> None:
    columns = "driver_id, revision, detected_reason"
    values = "'x', 1, 'manual_detection'"
    assert (
        run_as(database, roles.fixer, f"insert into {LEDGER} ({columns}) values ({values})") is None
    )
    for column, value in {
        "recorded_by": "'ana'",
        "recorded_at": "'2020-01-01'",
        "entry_id": "7",
    }.items():
        error = run_as(
            database,
            roles.fixer,
            f"insert into {LEDGER} ({column}, {columns}) overriding system value"
            f" values ({value}, 'y', 1, 'manual_detection')",
        )
        assert isinstance(error, psycopg.errors.InsufficientPrivilege), column


# --- The commands as each role --------------------------------------------------------------------


@pytest.fixture
def login(
    server: Settings, roles: role_making.Roles
) -> Iterator[Callable[[Settings, str], Settings]]:
    made: list[str] = []

    def make(settings: Settings, role: str) -> Settings:
        made.append(f"user_{uuid.uuid4().hex[:8]}")
        with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute(
                sql.SQL("create role {} login in role {}").format(
                    sql.Identifier(made[-1]), sql.Identifier(role)
                )
            )
        return Settings(settings.host, settings.port, settings.dbname, made[-1], "", "prefer")

    yield make
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for name in made:
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_a_reader_reads_all_reports_and_no_personal_data(
    database: Settings,
    roles: role_making.Roles,
    login: Callable[[Settings, str], Settings],
    tmp_path: Path,
) -> None:
    reader = login(database, roles.reader)
    assert in_this_process(reader, tmp_path / "dry-run").code == 0
    for arguments in (["audit"], ["explain", ID["ana"]], ["roles", "status"]):
        outcome = command(reader, *arguments)
        assert outcome.exit_code == 0, outcome.output
    assert in_this_process(reader, tmp_path / "execute", "--execute").code == 3
    for relation in (
        "ops.v_driver_orphans",
        "ct4_orphans.stg_public__drivers",
        "ct4_orphans.stg_observational__lead_events",
        "canon.identity_registry",
        "public.drivers",
    ):
        error = run_as(reader, None, f"select * from {relation}")
        assert isinstance(error, psycopg.errors.InsufficientPrivilege), relation
    assert run_as(reader, None, "select driver_id, status from ops.v_driver_orphans") is None


def test_a_fixer_fixes_decides_and_undoes_without_more_rights(
    template: Settings,
    roles: role_making.Roles,
    make_database: Callable[[str], Settings],
    login: Callable[[Settings, str], Settings],
    tmp_path: Path,
) -> None:
    settings = make_database("template_built")
    fill(settings, town())
    assert command(settings, "roles", "install", "--prefix", prefix(roles)).exit_code == 0
    fixer = login(settings, roles.fixer)
    outcome = in_this_process(fixer, tmp_path / "out", "--execute")
    assert outcome.code == 0, outcome.err
    run_id = outcome.report["run_id"]
    shut_out = next(row for row in outcome.report["drivers"] if row["action"] == "quarantine")
    for arguments in (
        ["resolve", shut_out["driver_id"], "--status", "purged", "--note", "x"],
        ["resolve", shut_out["driver_id"], "--status", "quarantined", "--note", "y"],
        ["undo", run_id],
        ["audit"],
    ):
        done = command(fixer, *arguments)
        assert done.exit_code in (0, 1), done.output
        assert "permission" not in done.output
    with connect(settings) as connection:
        by = connection.execute(
            f"select distinct recorded_by, run_id is null from {LEDGER}"
        ).fetchall()
    assert {row["recorded_by"] for row in by if not row["?column?"]} == {fixer.user}


def test_nothing_stands_in_the_way_of_a_migrator_who_is_no_superuser(
    database: Settings, roles: role_making.Roles, login: Callable[[Settings, str], Settings]
) -> None:
    deployer = login(database, roles.migrator)
    with open_connection(database) as connection:
        # A copy of a database does not have the rights on the database itself.
        connection.execute(
            sql.SQL("grant create on database {} to {}").format(
                sql.Identifier(database.dbname), sql.Identifier(roles.migrator)
            )
        )
        connection.execute(
            sql.SQL("alter role {} in database {} set role to {}").format(
                sql.Identifier(deployer.user),
                sql.Identifier(database.dbname),
                sql.Identifier(roles.migrator),
            )
        )
    outcome = command(deployer, "doctor", "--no-backup")
    assert "STOPS" not in outcome.output, outcome.output


def test_roles_can_be_installed_again_and_removed_without_a_trace(
    make_database: Callable[[str], Settings],
) -> None:
    settings = make_database("template_built")
    name = f"gone_{uuid.uuid4().hex[:8]}"
    acl = "select relname, relacl::text, relowner::regrole::text from pg_class order by 1, oid"
    with connect(settings) as connection:
        before = connection.execute(acl).fetchall()
    dry = command(settings, "roles", "install", "--prefix", name, "--dry-run")
    assert dry.exit_code == 0
    assert "Nothing was changed" in dry.output
    with connect(settings) as connection:
        assert connection.execute(acl).fetchall() == before
    for _ in range(2):
        assert command(settings, "roles", "install", "--prefix", name).exit_code == 0
    assert "All three" in command(settings, "roles", "status", "--prefix", name).output
    assert command(settings, "roles", "remove", "--prefix", name).exit_code == 0
    assert "Nothing was changed" in command(settings, "roles", "remove", "--prefix", name).output
    with connect(settings) as connection:
        assert not connection.execute(
            "select 1 from pg_roles where rolname like %s", [f"{name}%"]
        ).fetchall()
        owners = {row["relname"]: row["relowner"] for row in connection.execute(acl)}
        assert owners["driver_orphan_quarantine_ledger"] == "postgres"


def test_a_user_that_may_not_make_roles_is_told_so(
    database: Settings, roles: role_making.Roles, login: Callable[[Settings, str], Settings]
) -> None:
    outcome = command(login(database, roles.reader), "roles", "install", "--prefix", "nobody")
    assert outcome.exit_code in (3, 4), outcome.output
    assert "Nothing was changed" in outcome.output or "GRANT" in outcome.output


# --- Digests --------------------------------------------------------------------------------------


def test_every_report_and_every_last_line_has_the_digest_of_the_ledger(
    database: Settings, tmp_path: Path
) -> None:
    for number, arguments in enumerate(([], ["--execute"])):
        outcome = in_this_process(database, tmp_path / str(number), *arguments)
        digest = outcome.report["digest"]
        assert re.fullmatch("[0-9a-f]{64}", digest)
        assert f"seal {outcome.report['seal_no']}, digest {digest}" in outcome.out
        assert outcome.report["result"] == "complete"
        (path,) = outcome.directory.glob("*.json")
        remembered = audited(database, "--report", str(path), "--digest", digest)
        assert remembered.exit_code == 0, remembered.output
        assert "as it was then" in remembered.output


def test_a_ledger_rewritten_as_a_whole_shows_beside_an_earlier_digest_only(
    database: Settings, tmp_path: Path
) -> None:
    report = in_this_process(database, tmp_path / "before").report
    with connect(database) as connection, connection.transaction():
        first = snapshot(connection)[1][0]["digest"]
        connection.execute(OFF)
        connection.execute(f"update {LEDGER} set status = 'purged'")
        connection.execute(f"delete from {SEALS}")
        connection.execute(ON)
        seals.seal(connection, seals.Run("migration", {}), "ended")
    assert audited(database).exit_code == 0, "consistent in itself: nothing else can tell"
    for digest in (report["digest"], first):
        outcome = audited(database, "--digest", digest)
        assert outcome.exit_code == 1
        assert "not in the ledger any more" in outcome.output


def test_an_earlier_digest_is_not_believed_where_what_it_sealed_was_changed(
    database: Settings, tmp_path: Path
) -> None:
    report = in_this_process(database, tmp_path / "before").report
    edit = f"{OFF} update {LEDGER} set resolution_notes = 'forged' where entry_id = {NEWEST}; {ON}"
    assert run_as(database, None, edit) is None
    outcome = audited(database, "--digest", report["digest"])
    assert outcome.exit_code == 1
    assert "is not as it was" in outcome.output
    assert "as it was then" not in outcome.output


def test_a_tail_cut_cleanly_is_consistent_in_itself_and_shows_beside_a_report(
    database: Settings, tmp_path: Path
) -> None:
    outcome = in_this_process(database, tmp_path / "before")
    with connect(database) as connection, connection.transaction():
        connection.execute(OFF)  # type: ignore[arg-type]
        kept = connection.execute(f"select last_entry_id from {SEALS} where seal_no = 1").fetchone()
        assert kept is not None
        connection.execute(f"delete from {LEDGER} where entry_id > %s", [kept["last_entry_id"]])
        connection.execute(f"delete from {SEALS} where seal_no > 1")
        connection.execute(ON)  # type: ignore[arg-type]
    assert audited(database).exit_code == 0
    (path,) = outcome.directory.glob("*.json")
    found = audited(database, "--report", str(path))
    assert found.exit_code == 1
    assert str(path) in found.output


def test_the_digest_is_the_same_in_every_session(database: Settings) -> None:
    found = set()
    for options in (
        "-c timezone=UTC -c datestyle=ISO",
        "-c timezone=Pacific/Apia -c datestyle=German -c intervalstyle=sql_standard",
        "-c timezone=America/Lima -c extra_float_digits=0 -c bytea_output=escape"
        " -c search_path=public,canon -c standard_conforming_strings=off",
    ):
        with (
            psycopg.connect(
                **database.connection_parameters(),  # type: ignore[arg-type]
                options=options,
                autocommit=True,
            ) as connection,
            connection.transaction(),
        ):
            intact = seals.rows_of(connection, "audit_seals", {})
            found.add(json.dumps(intact, default=str))
            assert all(row["is_intact"] for row in intact)
            assert seals.rows_of(connection, "audit_now", {})[0]["protection_changes"] == []
    assert len(found) == 1


def test_entries_of_other_services_are_sealed_by_the_next_run(
    database: Settings, tmp_path: Path
) -> None:
    with connect(database) as connection:
        connection.execute(
            "insert into canon.driver_orphan_quarantine (driver_id, detected_reason)"
            " values ('by hand', 'manual_detection')"
        )
    outcome = audited(database)
    assert outcome.exit_code == 0
    assert "1 entries since the last seal" in outcome.output
    assert in_this_process(database, tmp_path / "fix", "--execute").code == 0
    assert "since the last seal" not in audited(database).output
    assert (
        run_as(database, None, f"{OFF} delete from {LEDGER} where driver_id = 'by hand'; {ON}")
        is None
    )
    assert audited(database).exit_code == 1


def test_a_seal_waits_for_entries_that_are_not_committed(database: Settings) -> None:
    """Or one with a lower number would come in below it later, and look put in."""
    with (
        psycopg.connect(**database.connection_parameters()) as other,
        connect(database) as connection,
    ):  # type: ignore[arg-type]
        other.execute(
            "insert into canon.driver_orphan_quarantine (driver_id, detected_reason)"
            " values ('slow', 'manual_detection')"
        )
        with pytest.raises(psycopg.errors.LockNotAvailable), connection.transaction():
            connection.execute("set local lock_timeout = '200ms'")
            seals.seal(connection, seals.Run("fix", {}), "started")
        other.commit()
        with connection.transaction():
            sealed = seals.seal(connection, seals.Run("fix", {}), "started")
        row = connection.execute(
            f"select entries from {SEALS} where seal_no = %s", [sealed.seal_no]
        )
        assert row.fetchone() == {"entries": 1}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_seal_is_refused_where_it_could_miss_entries(connection: Connection, level: str) -> None:
    connection.rollback()
    connection.execute(f"set transaction isolation level {level}")  # type: ignore[arg-type]
    with pytest.raises(psycopg.errors.InvalidTransactionState):
        seals.seal(connection, seals.Run("fix", {}), "started")


def test_the_runs_say_who_did_what_when_with_what_and_what_came_of_it(
    database: Settings, tmp_path: Path
) -> None:
    outcome = in_this_process(database, tmp_path / "out", "--execute", "--limit", "3")
    with connect(database) as connection:
        found = connection.execute(
            "select * from canon.driver_orphan_quarantine_runs where run_id = %s",
            [outcome.report["run_id"]],
        ).fetchone()
    assert found is not None
    assert (found["command"], found["run_by"]) == ("fix", "postgres")
    assert found["parameters"]["limit"] == 3
    assert found["counts"] == outcome.stats | {"result": "complete"}
    assert found["started_at"] <= found["ended_at"]
    said = audited(database).output
    assert outcome.report["run_id"] in said
    assert found["entries"] == outcome.stats["processed"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--digest", "abc"], 2),
        (["--digest", "G" * 64], 2),
        (["--digest", "0" * 64], 1),
        (["--report", "/nowhere.json"], 2),
    ],
)
def test_a_digest_that_is_none_is_wrong_usage_an_unknown_one_is_red(
    database: Settings, arguments: list[str], code: int
) -> None:
    assert audited(database, *arguments).exit_code == code


@pytest.mark.parametrize(
    "text", ["", "[]", "7", '{"digest": null}', '{"digest": "abc"}', "[" * 9000]
)
def test_a_report_without_a_digest_is_exit_5(database: Settings, tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    outcome = audited(database, "--report", str(tmp_path / "r.json"))
    assert outcome.exit_code == 5
    assert "digest" in outcome.output


def test_an_audit_of_100_000_entries_is_set_based_and_takes_seconds(database: Settings) -> None:
    with connect(database) as connection:
        connection.execute(
            f"insert into {LEDGER} (driver_id, revision, detected_reason, evidence_json)"
            " select md5(number::text), 1, 'manual_detection',"
            " jsonb_build_object('explanation', repeat('x', 500))"
            " from generate_series(1, 100000) as numbers (number)"
        )
        with connection.transaction():
            connection.execute("set local statement_timeout = '60s'")
            seals.seal(connection, seals.Run("fix", {}), "started")
            assert all(row["is_intact"] for row in seals.rows_of(connection, "audit_seals", {}))
