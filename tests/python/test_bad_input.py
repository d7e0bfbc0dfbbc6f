"""Bad input: one clear line that says what to do, an exit code of its own, and nothing written.

Exit codes, as `--help` documents them: 2 usage, 3 database, 4 refused, 5 reports. The second half
is about bad data: it must neither break a view or a run, nor reach a terminal or a spreadsheet raw.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ct4_orphans import embedded, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings, connect
from psycopg import sql
from reading import CABINET_LEADS, MIGRATIONS, SCOUTING, Person, World
from test_fix import (
    DAY,
    EXPECTED,
    ID,
    KEY,
    SCRIPT,
    Outcome,
    acceptance,
    contents,
    driver_of,
    event,
    fill,
    in_this_process,
    linked,
    on_link_insert,
    person_key,
    plan,
    query,
    run_script,
    town,
    violations,
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]
BOTH_MODES = pytest.mark.parametrize("mode", ["--dry-run", "--execute"])


# --- Databases and roles --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def new_database(server: Settings) -> Iterator[Callable[[str], Settings]]:
    """Make a database from a template, for the whole module."""
    made: list[str] = []

    def make(template: str) -> Settings:
        made.append(f"test_{uuid.uuid4().hex}")
        return embedded.recreate_database(server, made[-1], template=template)

    yield make
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for name in made:
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            )


@pytest.fixture(scope="module")
def town_database(new_database: Callable[[str], Settings]) -> Settings:
    """A town with work for a fix. For tests in which nothing may be written."""
    settings = new_database("template_built")
    fill(settings, town())
    return settings


@pytest.fixture
def make_town(make_database: Callable[[str], Settings]) -> Callable[..., Settings]:
    """Make a town that a test may change."""

    def make(world: World | None = None) -> Settings:
        settings = make_database("template_built")
        fill(settings, world or town())
        return settings

    return make


@pytest.fixture
def make_role(town_database: Settings, server: Settings) -> Iterator[Callable[[], str]]:
    """Make a login role with exactly the privileges that a fix of the town needs."""
    made: list[str] = []

    def make() -> str:
        made.append(f"role_{uuid.uuid4().hex}")
        for statement in (
            "create role {} login",
            "grant usage on schema canon, observational, ops, ct4_orphans to {}",
            "grant select on all tables in schema canon, observational, ops, ct4_orphans to {}",
            "grant insert on canon.identity_links to {}",
            "grant insert on canon.driver_orphan_quarantine_ledger to {}",
            "grant insert on canon.driver_orphan_quarantine_seals to {}",
            "grant execute on function canon.driver_orphan_quarantine_wait_for_writers() to {}",
            "grant usage on sequence canon.identity_links_id_seq to {}",
        ):
            query(town_database, statement.format(made[-1]))
        return made[-1]

    yield make
    for role in made:
        query(town_database, f"drop owned by {role} cascade")
        query(server, f"drop owned by {role} cascade")
        query(server, f"drop role {role}")


def login(
    settings: Settings,
    user: str | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    dbname: str | None = None,
    password: str = "",
) -> Settings:
    """The same database by another way."""
    return Settings(
        host or settings.host,
        port or settings.port,
        dbname or settings.dbname,
        user or settings.user,
        password,
        settings.sslmode,
    )


def alter_database(settings: Settings, what: str) -> None:
    query(settings, f"alter database {settings.dbname} {what}")


# --- One clear line -------------------------------------------------------------------------------


def one_clear_line(outcome: Outcome, code: int, *words: str) -> str:
    """The only line on stderr; it says what happened and what to do, and no report is there."""
    assert outcome.code == code, outcome.out + outcome.err
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in outcome.out
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert_printable(outcome)
    assert no_report(outcome.directory)
    return lines[0]


def assert_printable(outcome: Outcome) -> None:
    for line in (outcome.out + outcome.err).split("\n"):
        assert line.isprintable(), repr(line)


def no_report(directory: Path) -> bool:
    return not directory.is_dir() or list(directory.iterdir()) == []


def usage_error(outcome: Outcome, *words: str) -> None:
    """The last line says what is wrong; above it at most how to get help."""
    assert outcome.code == 2, outcome.out + outcome.err
    lines = outcome.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert [word for word in words if word not in lines[-1]] == [], lines[-1]
    assert outcome.out == ""
    assert no_report(outcome.directory)


# --- Usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "0"], ["--limit", "0"]),
        (["--limit", "-5"], ["--limit", "-5"]),
        (["--limit", "abc"], ["--limit", "abc"]),
        (["--limit", "1.5"], ["--limit", "1.5"]),
        (["--limit", ""], ["--limit"]),
        (["--limit"], ["--limit"]),
        (["--execute", "--dry-run"], ["--execute", "--dry-run"]),
        (["--nonsense"], ["--nonsense"]),
        (["--execute", "all"], ["all"]),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2_and_nothing_is_touched(
    town_database: Settings, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    before = contents(town_database)
    outcome = in_this_process(town_database, tmp_path / "out", *arguments)
    usage_error(outcome, *words)
    assert contents(town_database) == before


def test_wrong_usage_of_the_script_itself_is_exit_2(
    town_database: Settings, run: Run, tmp_path: Path
) -> None:
    usage_error(run_script(run, town_database, tmp_path / "out", "--limit", "0"), "--limit")


@pytest.mark.parametrize("limit", ["2147483648", "99999999999999999999"])
def test_a_limit_above_every_number_of_drivers_is_no_limit_or_wrong_usage(
    town_database: Settings, tmp_path: Path, limit: str
) -> None:
    outcome = in_this_process(town_database, tmp_path / "out", "--limit", limit)
    if outcome.code == 0:
        assert outcome.stats["processed"] == len(EXPECTED)
    else:
        usage_error(outcome, "--limit")


def test_the_exit_codes_are_documented_in_the_help(run: Run) -> None:
    done = run("python", SCRIPT, "--help")
    assert done.returncode == 0
    for code in "012345":
        assert f"\n    {code}  " in done.stdout


# --- Where the database is ------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["DB_NAME", "DB_USER"])
@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_a_missing_variable_is_named(
    town_database: Settings, run: Run, tmp_path: Path, missing: str, value: str | None
) -> None:
    variables = town_database.environment()
    del variables[missing]
    if value is not None:
        variables[missing] = value
    done = run("python", SCRIPT, "--output-dir", str(tmp_path / "out"), **variables)
    outcome = Outcome(done.returncode, done.stdout, done.stderr, tmp_path / "out")
    one_clear_line(outcome, 3, missing, "Set ")
    assert outcome.out == ""


@pytest.mark.parametrize("port", ["abc", "54x", "-1", "99999999", "0"])
def test_a_port_that_is_none_is_a_database_error(
    town_database: Settings, run: Run, tmp_path: Path, port: str
) -> None:
    variables = town_database.environment() | {"DB_PORT": port}
    done = run("python", SCRIPT, "--output-dir", str(tmp_path / "out"), **variables)
    outcome = Outcome(done.returncode, done.stdout, done.stderr, tmp_path / "out")
    one_clear_line(outcome, 3, "DB_PORT")


def test_an_sslmode_that_is_none_is_a_database_error(
    town_database: Settings, run: Run, tmp_path: Path
) -> None:
    variables = town_database.environment() | {"DB_SSLMODE": "nonsense"}
    done = run("python", SCRIPT, "--output-dir", str(tmp_path / "out"), **variables)
    outcome = Outcome(done.returncode, done.stdout, done.stderr, tmp_path / "out")
    one_clear_line(outcome, 3, "nonsense")


@BOTH_MODES
@pytest.mark.parametrize("host", ["127.0.0.1", "/no/such/directory"])
def test_an_unreachable_host_is_a_database_error_that_says_what_to_check(
    town_database: Settings, tmp_path: Path, mode: str, host: str
) -> None:
    nowhere = login(town_database, host=host, port=1)
    outcome = in_this_process(nowhere, tmp_path / "out", mode)
    one_clear_line(outcome, 3, host, "DB_HOST")


@BOTH_MODES
def test_an_unknown_database_is_named(town_database: Settings, tmp_path: Path, mode: str) -> None:
    wrong = login(town_database, dbname="no_such_database")
    one_clear_line(in_this_process(wrong, tmp_path / "out", mode), 3, "no_such_database", "DB_NAME")


def test_an_unknown_role_is_named(town_database: Settings, tmp_path: Path) -> None:
    wrong = login(town_database, "no_such_role")
    one_clear_line(in_this_process(wrong, tmp_path / "out"), 3, "no_such_role", "DB_USER")


def test_control_characters_in_the_settings_do_not_reach_the_terminal(
    town_database: Settings, tmp_path: Path
) -> None:
    wrong = login(town_database, dbname="no\x1b[31m\x07such\u202edatabase")
    one_clear_line(in_this_process(wrong, tmp_path / "out"), 3, "DB_NAME")


@pytest.fixture
def role_with_password(make_role: Callable[[], str], server: Settings) -> Iterator[str]:
    """A role that, unlike the others of the test server, needs its password (secret)."""
    role = make_role()
    query(server, f"alter role {role} password 'secret'")
    hba = Path(query(server, "show hba_file")[0][0])
    if not server.host.startswith("/") or not os.access(hba, os.W_OK):
        pytest.skip(f"the server's pg_hba.conf cannot be changed from here: {hba}")
    line = f"local all {role} scram-sha-256\n"
    hba.write_text(line + hba.read_text())
    reload_until(server, lambda: not can_connect(login(server, role, password="wrong")))
    yield role
    hba.write_text(hba.read_text().replace(line, ""))
    reload_until(server, lambda: can_connect(login(server, role, password="wrong")))


def reload_until(server: Settings, is_done: Callable[[], bool]) -> None:
    query(server, "select pg_reload_conf()")
    for _ in range(100):
        if is_done():
            return
        time.sleep(0.05)
    raise AssertionError("the server has not read its configuration again")


def can_connect(settings: Settings) -> bool:
    with suppress(psycopg.OperationalError):
        psycopg.connect(**settings.connection_parameters()).close()  # type: ignore[arg-type]
        return True
    return False


def test_a_wrong_password_is_a_database_error_and_is_never_shown(
    town_database: Settings, tmp_path: Path, run: Run, role_with_password: str
) -> None:
    right = login(town_database, role_with_password, password="secret")
    assert in_this_process(right, tmp_path / "right").code == 0
    for number, mode in enumerate(("--dry-run", "--execute")):
        wrong = login(town_database, role_with_password, password="pass-5ecret")
        outcome = in_this_process(wrong, tmp_path / f"out{number}", mode)
        line = one_clear_line(outcome, 3, "password", role_with_password, "DB_PASSWORD")
        assert "pass-5ecret" not in line + outcome.out
    done = run("alembic", "current", settings=wrong)
    assert "pass-5ecret" not in done.stdout + done.stderr
    one_clear_line_of_alembic(done, 3, "password", "DB_PASSWORD")
    missing = login(town_database, role_with_password)
    one_clear_line(in_this_process(missing, tmp_path / "out"), 3, "password", "DB_PASSWORD")


# --- Read only, or without privileges -------------------------------------------------------------


def test_on_a_read_only_database_a_dry_run_works_and_an_execute_says_why_not(
    make_town: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_town()
    alter_database(settings, "set default_transaction_read_only = on")
    before = contents(settings)
    dry_run = in_this_process(settings, tmp_path / "dry-run")
    assert dry_run.code == 0, dry_run.err
    assert dry_run.stats["processed"] == len(EXPECTED)
    outcome = in_this_process(settings, tmp_path / "out", "--execute")
    one_clear_line(outcome, 3, "only reads", "primary")
    assert contents(settings) == before


def test_a_role_that_only_reads_may_do_the_dry_run_and_nothing_else(
    town_database: Settings, make_role: Callable[[], str], server: Settings, tmp_path: Path
) -> None:
    role = make_role()
    query(server, f"alter role {role} set default_transaction_read_only = on")
    before = contents(town_database)
    assert in_this_process(login(town_database, role), tmp_path / "dry-run").code == 0
    outcome = in_this_process(login(town_database, role), tmp_path / "out", "--execute")
    one_clear_line(outcome, 3, "only reads")
    assert contents(town_database) == before


MISSING_TO_READ = {
    "usage on schema canon": "canon",
    "usage on schema ops": "ops",
    "usage on schema ct4_orphans": "ct4_orphans",
    "select on ops.v_orphan_fix_plan": "ops.v_orphan_fix_plan",
    "select on ct4_orphans.lead_sources": "lead_sources",
    "select on canon.driver_orphan_quarantine_seals": "driver_orphan_quarantine_seals",
}
MISSING_TO_EXECUTE = MISSING_TO_READ | {
    "insert on canon.identity_links": "canon.identity_links",
    "select on canon.identity_links": "identity_links",
    "insert on canon.driver_orphan_quarantine_ledger": "canon.driver_orphan_quarantine_ledger",
    "select on canon.driver_orphan_quarantine_ledger": "driver_orphan_quarantine_ledger",
    "select on canon.driver_orphan_quarantine": "driver_orphan_quarantine",
    "insert on canon.driver_orphan_quarantine_seals": "canon.driver_orphan_quarantine_seals",
    "execute on function canon.driver_orphan_quarantine_wait_for_writers()": "wait_for_writers",
    "usage on sequence canon.identity_links_id_seq": "identity_links_id_seq",
    "select on ct4_orphans.evidence_strategies": "evidence_strategies",
    "select on ct4_orphans.int_driver_links": "int_driver_links",
    "select on ct4_orphans.int_lead_links": "int_lead_links",
}


@pytest.mark.parametrize("privilege", MISSING_TO_READ)
def test_a_privilege_that_a_dry_run_lacks_is_named(
    town_database: Settings, make_role: Callable[[], str], tmp_path: Path, privilege: str
) -> None:
    role = make_role()
    query(town_database, f"revoke {privilege} from {role}")
    outcome = in_this_process(login(town_database, role), tmp_path / "out")
    one_clear_line(outcome, 3, MISSING_TO_READ[privilege])
    assert "grant" in outcome.err.lower()


@pytest.mark.parametrize("privilege", MISSING_TO_EXECUTE)
def test_a_privilege_that_an_execute_lacks_is_named_and_nothing_is_written(
    town_database: Settings, make_role: Callable[[], str], tmp_path: Path, privilege: str
) -> None:
    role = make_role()
    query(town_database, f"revoke {privilege} from {role}")
    before = contents(town_database)
    outcome = in_this_process(login(town_database, role), tmp_path / "out", "--execute")
    assert contents(town_database) == before
    one_clear_line(outcome, 3, MISSING_TO_EXECUTE[privilege])
    assert "grant" in outcome.err.lower()


def test_a_role_with_the_privileges_asked_for_may_execute(
    make_town: Callable[..., Settings], make_role: Callable[[], str], tmp_path: Path
) -> None:
    settings, role = make_town(), make_role()
    for statement in (
        "grant usage on schema canon, ops, ct4_orphans to {}",
        "grant select, insert on canon.identity_links to {}",
        "grant select, insert on canon.driver_orphan_quarantine_ledger to {}",
        "grant select, insert on canon.driver_orphan_quarantine_seals to {}",
        "grant execute on function canon.driver_orphan_quarantine_wait_for_writers() to {}",
        "grant usage on sequence canon.identity_links_id_seq to {}",
        "grant select on canon.driver_orphan_quarantine, ops.v_orphan_fix_plan to {}",
        "grant select on all tables in schema ct4_orphans to {}",
    ):
        query(settings, statement.format(role))
    outcome = in_this_process(login(settings, role), tmp_path / "out", "--execute")
    query(settings, f"drop owned by {role}")
    assert outcome.code == 0, outcome.err
    assert plan(settings) == []


# --- Not built, or built half ---------------------------------------------------------------------


@BOTH_MODES
def test_without_the_migration_it_says_to_run_it(
    ct4_database: Settings, tmp_path: Path, mode: str
) -> None:
    outcome = in_this_process(ct4_database, tmp_path / "out", mode)
    one_clear_line(outcome, 3, "alembic upgrade head", "dbt run")


@pytest.fixture(scope="module")
def migrated_database(new_database: Callable[[str], Settings]) -> Settings:
    """Migrated, but dbt has not run."""
    from conftest import must_run

    settings = new_database("template_ct4")
    must_run("alembic", "upgrade", "head", settings=settings)
    return settings


@BOTH_MODES
def test_without_the_views_it_says_to_build_them(
    migrated_database: Settings, tmp_path: Path, mode: str
) -> None:
    outcome = in_this_process(migrated_database, tmp_path / "out", mode)
    line = one_clear_line(outcome, 3, "ops.v_orphan_fix_plan", "dbt seed", "dbt run")
    assert "alembic" not in line


@BOTH_MODES
def test_a_database_that_is_no_ct4_is_recognised(
    server: Settings, tmp_path: Path, mode: str
) -> None:
    outcome = in_this_process(server, tmp_path / "out", mode)
    one_clear_line(outcome, 3, "canon.identity_links", "no CT4 database", "DB_NAME")


DROPPED = [
    "view ops.v_orphan_fix_plan",
    "view canon.driver_orphan_quarantine",
    "view ct4_orphans.int_driver_links",
    "view ct4_orphans.int_lead_links",
    "table ct4_orphans.lead_sources",
    "table ct4_orphans.evidence_strategies",
    "table observational.lead_events",
    "table canon.driver_orphan_quarantine_ledger",
    "table canon.identity_links",
    "schema ct4_orphans",
    "schema ops",
    "schema canon",
]


@pytest.mark.parametrize("dropped", DROPPED)
def test_whatever_is_dropped_is_one_clear_line(
    make_town: Callable[..., Settings], tmp_path: Path, dropped: str
) -> None:
    settings = make_town()
    query(settings, f"drop {dropped} cascade")
    for number, mode in enumerate(("--dry-run", "--execute")):
        outcome = in_this_process(settings, tmp_path / f"out{number}", mode)
        line = one_clear_line(outcome, 3)
        assert "dbt" in line or "DB_NAME" in line


@BOTH_MODES
def test_a_plan_view_of_another_version_is_one_clear_line(
    make_town: Callable[..., Settings], tmp_path: Path, mode: str
) -> None:
    settings = make_town()
    query(settings, "drop view ops.v_orphan_fix_plan")
    query(settings, "create view ops.v_orphan_fix_plan as select ''::text as driver_id")
    one_clear_line(in_this_process(settings, tmp_path / "out", mode), 3, "dbt run")


@BOTH_MODES
def test_empty_lead_sources_are_refused_or_every_driver_would_be_an_orphan(
    make_town: Callable[..., Settings], tmp_path: Path, mode: str
) -> None:
    settings = make_town()
    query(settings, "delete from ct4_orphans.lead_sources")
    before = contents(settings)
    outcome = in_this_process(settings, tmp_path / "out", mode)
    one_clear_line(outcome, 4, "lead_sources", "dbt seed")
    assert contents(settings) == before


@BOTH_MODES
def test_a_search_that_times_out_is_an_error_and_never_no_events(
    make_town: Callable[..., Settings], tmp_path: Path, mode: str
) -> None:
    settings = make_town()
    rows = query(
        settings,
        "select pg_get_viewdef('ops.v_orphan_fix_plan'::regclass)",
    )
    definition = rows[0][0].rstrip().rstrip(";")
    query(
        settings,
        "create or replace view ops.v_orphan_fix_plan as select plan.* from"
        f" ({definition}) as plan where pg_sleep(1) is not null",
    )
    alter_database(settings, "set statement_timeout = '500ms'")
    before = contents(settings)
    outcome = in_this_process(settings, tmp_path / "out", mode)
    one_clear_line(outcome, 3, "timeout", "again")
    assert contents(settings) == before


# --- Where the reports go -------------------------------------------------------------------------


@BOTH_MODES
@pytest.mark.parametrize(
    "place", ["below a file", "/proc/x", "/proc/self", "/dev/null/x", "name too long"]
)
def test_an_unwritable_output_directory_is_noticed_before_anything_is_executed(
    town_database: Settings, tmp_path: Path, mode: str, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    directory = {
        "below a file": tmp_path / "file" / "reports",
        "name too long": tmp_path / ("x" * 300),
    }.get(place, Path(place))
    before = contents(town_database)
    outcome = in_this_process(town_database, directory, mode)
    assert contents(town_database) == before
    assert outcome.code == 5, outcome.out + outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: ")
    assert str(directory) in line
    assert "--output-dir" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_directory_that_is_a_file_is_wrong_usage(
    town_database: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    usage_error(in_this_process(town_database, file, "--execute"), "--output-dir", str(file))
    assert file.read_text() == "mine"


def on_a_full_disk(
    run: Run, settings: Settings, directory: Path, mode: str
) -> subprocess.CompletedProcess[str]:
    """Run the script where no file may grow."""
    return run(
        "bash",
        "-c",
        'ulimit -f 0; exec python "$@"',
        "bash",
        SCRIPT,
        "--output-dir",
        str(directory),
        mode,
        settings=settings,
        PYTHONDONTWRITEBYTECODE="1",
    )


def test_a_disk_that_is_full_ends_a_dry_run_with_one_clear_line(
    town_database: Settings, run: Run, tmp_path: Path
) -> None:
    done = on_a_full_disk(run, town_database, tmp_path / "out", "--dry-run")
    outcome = Outcome(done.returncode, done.stdout, done.stderr, tmp_path / "out")
    one_clear_line(outcome, 5, str(tmp_path / "out"), "--output-dir")


def test_a_disk_that_is_full_at_the_end_of_an_execute_says_that_the_changes_are_in(
    make_town: Callable[..., Settings], run: Run, tmp_path: Path
) -> None:
    settings = make_town()
    done = on_a_full_disk(run, settings, tmp_path / "out", "--execute")
    outcome = Outcome(done.returncode, done.stdout, done.stderr, tmp_path / "out")
    line = one_clear_line(outcome, 5, "--output-dir")
    run_ids = query(
        settings,
        "select distinct run_id from canon.driver_orphan_quarantine_ledger"
        " where run_id is not null",
    )
    if run_ids:  # noticed only after the changes: then the line must say so
        assert f"run_id {run_ids[0][0]}" in line
        assert "ARE in the database" in line


# --- Alembic --------------------------------------------------------------------------------------


def one_clear_line_of_alembic(
    done: subprocess.CompletedProcess[str], code: int, *words: str
) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize("command", [["upgrade", "head"], ["current"]], ids=" ".join)
def test_alembic_on_an_unknown_database_is_one_clear_line(
    server: Settings, run: Run, command: list[str]
) -> None:
    done = run("alembic", *command, settings=login(server, dbname="no_such_database"))
    one_clear_line_of_alembic(done, 3, "no_such_database", "DB_NAME")


def test_alembic_without_db_name_is_one_clear_line(server: Settings, run: Run) -> None:
    variables = server.environment()
    del variables["DB_NAME"]
    one_clear_line_of_alembic(run("alembic", "current", **variables), 3, "DB_NAME")


def test_alembic_on_a_database_that_is_no_ct4_writes_nothing(
    make_database: Callable[[str], Settings], run: Run
) -> None:
    empty = make_database("template0")
    done = run("alembic", "upgrade", "head", settings=empty)
    one_clear_line_of_alembic(done, 3, "no CT4 database", "DB_NAME")
    assert query(empty, "select 1 from pg_namespace where nspname in ('canon', 'ops')") == []


def test_alembic_on_a_read_only_database_writes_nothing(ct4_database: Settings, run: Run) -> None:
    alter_database(ct4_database, "set default_transaction_read_only = on")
    done = run("alembic", "upgrade", "head", settings=ct4_database)
    one_clear_line_of_alembic(done, 3, "read-only")
    assert our_relations(ct4_database) == []


def test_alembic_with_a_role_that_may_not_create_writes_nothing(
    ct4_database: Settings, make_role: Callable[[], str], run: Run
) -> None:
    role = make_role()
    query(ct4_database, f"grant usage on schema canon to {role}")
    done = run("alembic", "upgrade", "head", settings=login(ct4_database, role))
    query(ct4_database, f"drop owned by {role}")
    one_clear_line_of_alembic(done, 3, "permission denied", "GRANT")
    assert our_relations(ct4_database) == []


def our_relations(settings: Settings) -> list[tuple[Any, ...]]:
    return query(
        settings,
        "select oid::regclass from pg_class"
        " where relname like 'driver_orphan_quarantine%%' or relname like 'ct4_orphans%%'",
    )


# --- Malformed rows -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town_connection(town_database: Settings) -> Iterator[Connection]:
    with connect(town_database) as connection:
        yield connection


class Undo(Exception):
    """Ends a transaction without keeping it."""


@pytest.fixture
def undone(town_connection: Connection) -> Iterator[Connection]:
    """A town in a transaction that is never kept."""
    with suppress(Undo), town_connection.transaction():
        yield town_connection
        raise Undo


def fixed(connection: Connection) -> dict[str, str]:
    """Read every row and column of all views, fix the town, return what became of its drivers."""
    read_all_views(connection)
    fixing.prepare(connection, fixing.Options(True))
    fixing.apply(connection, seals.Run("fix", {}))
    with fixing.applied_rows(connection) as applied:
        rows = list(applied)
    read_all_views(connection)
    return {row["driver_id"]: f"{row['action']} {row['outcome']}" for row in rows}


def assert_undisturbed(connection: Connection) -> None:
    """Views and run are what they are without the malformed rows."""
    assert fixed(connection) == UNDISTURBED
    assert set(acceptance(connection).values()) == {0}


def read_all_views(connection: Connection) -> None:
    for view in (
        "ops.v_orphan_fix_plan",
        "ops.v_driver_orphans",
        "ops.v_cabinet_funnel_status",
        "ops.v_payment_calculation",
        "ops.v_ct4_eligible_drivers",
    ):
        connection.execute(f"select sum(length(rows::text)) from {view} as rows")  # type: ignore[arg-type]


# What the town's drivers come to when nothing disturbs them.
UNDISTURBED = {ID[name]: f"{action} applied" for name, (action, _, _) in EXPECTED.items()}

PAYLOADS = [
    None,
    "null",
    "true",
    "7",
    "-1.5e300",
    "1e1000",
    '""',
    '"text"',
    "[]",
    '[{"driver_id": "x"}]',
    "{}",
    '{"driver_id": null}',
    '{"driver_id": 12345678901234567890123456789012}',
    '{"driver_id": 1e1000}',
    '{"driver_id": {"driver_id": "x"}, "driver": "x"}',
    '{"driver": [], "driverId": [], "id": {}}',
    '{"driver_license": [], "driver_phone": {}, "park_phone": true}',
    '{"driver_license": "", "driver_phone": "", "park_phone": ""}',
    '{"driver_license": 0, "driver_phone": 0.0}',
    '{"origin_tag": {"a": 1}}',
    '{"origin_tag": ""}',
    '{"origin_tag": "%s %(x)s \\\\ \' \\" \\u202e \\u001b[31m"}',
    '{"driver_phone": "' + "9" * 100_000 + '"}',
    '{"a": ' * 500 + "1" + "}" * 500,
]


@pytest.mark.parametrize("table", [CABINET_LEADS, SCOUTING, MIGRATIONS, "elsewhere"])
def test_no_payload_breaks_a_view_or_a_run(undone: Connection, table: str) -> None:
    for payload in PAYLOADS:
        for person in (None, KEY["hugo"], KEY["nora"]):
            undone.execute(
                "insert into observational.lead_events"
                " (source_table, source_pk, event_date, person_key, payload_json)"
                " values (%s, gen_random_uuid(), %s, %s, %s::jsonb)",
                [table, DAY, person, payload],
            )
    assert_undisturbed(undone)


IMPOSSIBLE = ["infinity", "-infinity", "20250-03-10", "5874897-12-31", "4713-01-01 BC"]


@pytest.mark.parametrize("day", IMPOSSIBLE)
def test_an_impossible_event_date_of_a_lead_breaks_no_view_and_no_run(
    undone: Connection, day: str
) -> None:
    # Hugo has a lead, drives, and is paid; now he has an event of that day too.
    undone.execute(
        "insert into observational.lead_events"
        " (source_table, source_pk, event_date, person_key, payload_json)"
        " values (%s, 'odd', %s, %s, '{\"origin_tag\": \"fleet_migration\"}')",
        [MIGRATIONS, day, KEY["hugo"]],
    )
    assert_undisturbed(undone)


@pytest.mark.parametrize("day", IMPOSSIBLE)
def test_an_impossible_date_of_an_event_that_proves_a_lead_does_not_stop_the_others(
    undone: Connection, day: str
) -> None:
    undone.execute("update observational.lead_events set event_date = %s where id = 1", [day])
    found = fixed(undone)
    assert found.pop(ID["ana"]) in ("relink applied", "relink failed", "quarantine applied")
    assert found == {driver: done for driver, done in UNDISTURBED.items() if driver != ID["ana"]}


BAD_DAYS = ["31-02-2025", "00-00-0000", "99-99-9999", "1-1-2025", "2025-01-01", "01/02/2025"]
BAD_DAYS += ["", " ", "abc", "29-02-2025", "٠١-٠١-٢٠٢٥", "01-01-20250", "-1-01-2025", "'; --", "%s"]


def test_no_date_of_a_summary_row_breaks_a_view_or_a_run(undone: Connection) -> None:
    for day in [*BAD_DAYS, None]:
        for driver in (ID["hugo"], ID["ana"], "", "stranger", None):
            undone.execute(
                "insert into public.summary_daily values (%s, %s, 5, 3600)", [driver, day]
            )
    assert_undisturbed(undone)


@pytest.mark.parametrize(
    ("orders", "seconds"),
    [(2**31 - 1, 0), (-(2**31), 0), (None, None), (1, 2**63 - 1), (1, -(2**63))],
)
def test_no_number_of_a_summary_row_breaks_a_view_or_a_run(
    undone: Connection, orders: int | None, seconds: int | None
) -> None:
    for _ in range(3):
        undone.execute(
            "insert into public.summary_daily values (%s, '11-03-2025', %s, %s)",
            [ID["hugo"], orders, seconds],
        )
    assert_undisturbed(undone)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "4714-11-24 BC", "294276-12-31"])
def test_no_moment_of_a_driver_link_breaks_a_view_or_a_run(undone: Connection, moment: str) -> None:
    undone.execute(
        "update canon.identity_links set snapshot_date = %s, linked_at = %s"
        " where source_table = 'drivers'",
        [moment, moment],
    )
    assert_undisturbed(undone)


def test_the_command_reports_a_town_full_of_malformed_rows(
    make_town: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_town()
    with connect(settings) as connection, connection.transaction():
        for payload in PAYLOADS:
            connection.execute(
                "insert into observational.lead_events"
                " (source_table, source_pk, event_date, person_key, payload_json)"
                " values (%s, gen_random_uuid(), %s, %s, %s::jsonb)",
                [SCOUTING, DAY, KEY["ivan"], payload],
            )
        for day in BAD_DAYS:
            connection.execute("insert into summary_daily values (%s, %s, 1, 1)", [ID["ana"], day])
    for arguments in ([], ["--execute"]):
        outcome = in_this_process(settings, tmp_path / f"out{len(arguments)}", *arguments)
        assert outcome.code == 0, outcome.err
        assert outcome.stats["processed"] == len(EXPECTED)
        assert outcome.stats["errors"] == 0
    assert set(violations(settings).values()) == {0}


# --- Hostile text ---------------------------------------------------------------------------------

HOSTILE = [
    "o'brien\"; drop table canon.identity_links; --",
    "%s %(driver_id)s %% {} {0}",
    "back\\slash \\n \\u0000 $1 $$",
    "\u202eright to left\u2066\u200b",
    "\x1b[2J\x1b[31mred\x07\x9b31m\x08",
    "tab\tnew\nline\r\nend",
    "=cmd|' /C calc'!A1",
    "+1+1",
    "@SUM(A1)",
    "ñandú 😀 é",
]


def hostile_world() -> World:
    """Ten drivers with hostile ids and match rules; every other one is named by a lead event."""
    people = [person_key(number) for number in range(201, 201 + len(HOSTILE))]
    return World(
        persons=[Person(person) for person in people],
        links=[
            linked(number, person, text, match_rule=f"{text} rule")
            for number, (person, text) in enumerate(zip(people, HOSTILE, strict=True), start=1)
        ],
        lead_events=[
            event(number, SCOUTING, {"driver_id": text, "note": text}, source_pk=f"{text} lead")
            for number, text in enumerate(HOSTILE[::2], start=1)
        ],
    )


@BOTH_MODES
def test_hostile_text_reaches_neither_terminal_nor_spreadsheet_raw_and_is_kept_exactly(
    make_town: Callable[..., Settings], tmp_path: Path, mode: str
) -> None:
    settings = make_town(hostile_world())
    outcome = in_this_process(settings, tmp_path / "out", mode)
    assert outcome.code == 0, outcome.err
    assert_printable(outcome)
    assert "red" in outcome.out  # the sample does show the driver, without what it would do
    assert outcome.drivers.keys() == set(HOSTILE)
    for driver, row in outcome.drivers.items():
        assert row["creation_rule"] == f"{driver} rule"
        assert row["action"] == ("relink" if driver in HOSTILE[::2] else "quarantine")
        assert [lead["source_pk"] for lead in row["lead_rows"]] in ([], [f"{driver} lead"])
    cells = [row["driver_id"] for row in outcome.csv_rows]
    assert {cell.removeprefix("'") for cell in cells} == set(HOSTILE)
    for row in outcome.csv_rows:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())
    if mode == "--execute":
        assert plan(settings) == []
        assert set(violations(settings).values()) == {0}
        ledger = query(settings, "select driver_id from canon.driver_orphan_quarantine")
        assert {driver for (driver,) in ledger} == set(HOSTILE)


@BOTH_MODES
def test_text_that_the_terminal_cannot_encode_does_not_end_the_run(
    make_town: Callable[..., Settings], run: Run, tmp_path: Path, mode: str
) -> None:
    settings = make_town(hostile_world())
    done = run(
        "python",
        SCRIPT,
        "--output-dir",
        str(tmp_path / "out"),
        mode,
        settings=settings,
        PYTHONIOENCODING="ascii",
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("Next: ")


def test_an_empty_driver_id_is_no_obstacle_for_the_others(
    make_town: Callable[..., Settings], tmp_path: Path
) -> None:
    world = town()
    world.persons.append(Person(person_key(99)))
    world.links.append(linked(99, person_key(99), ""))
    settings = make_town(world)
    outcome = in_this_process(settings, tmp_path / "out", "--execute")
    assert outcome.code in (0, 1)
    for name in EXPECTED:
        assert outcome.drivers[ID[name]]["outcome"] == "applied"


@pytest.mark.parametrize("errcode", ["raise_exception", "disk_full"])
def test_control_characters_in_what_the_server_says_do_not_reach_the_terminal(
    make_town: Callable[..., Settings], tmp_path: Path, errcode: str
) -> None:
    settings = make_town()
    on_link_insert(
        settings,
        "if new.source_pk = 'L3' then raise exception using"
        f" message = E'no \\x1b[31m\\x07 \\u202e way', errcode = '{errcode}'; end if;",
    )
    outcome = in_this_process(settings, tmp_path / "out", "--execute")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: ")
    assert_printable(outcome)


def test_a_hostile_reason_of_a_refusal_stays_one_cell_and_no_formula(
    make_town: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_town()
    on_link_insert(
        settings,
        "if new.source_pk = 'L2' then raise exception using"
        " message = E'=cmd()\\n\"two\",lines'; end if;",
    )
    outcome = in_this_process(settings, tmp_path / "out", "--execute")
    (row,) = [row for row in outcome.csv_rows if row["driver_id"] == ID["beto"]]
    assert row["outcome"] == "failed"
    assert row["error"].startswith("'=cmd()")
    assert json.dumps(outcome.drivers[ID["beto"]]["error"])
    assert len(outcome.csv_rows) == len(EXPECTED)


def test_ids_of_the_town_are_those_of_production() -> None:
    assert all(len(driver) == 32 for driver in (*ID.values(), driver_of("x")))
