"""Personal data and secrets: phones, licences, names and plates leave the database only masked.

One story runs every command as an operator does, while a thread looks at what the server and /proc
show of it. Then every command meets server errors that quote data.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from conftest import run_command
from ct4_orphans import backup, cli, embedded, errors, verify
from ct4_orphans.database import Settings, connect
from older import execute, query
from private_town import (
    LICENCE,
    NAME,
    PERSONAL,
    PHONE,
    PLATE,
    driver,
    fill_private,
    person,
)

# Everything that a shell, a URL, a conninfo string, a format string or Jinja would trip over.
PASSWORD = 's3cr3t\' "pw"%s%(x)s @/:?#&={{ 7*7 }}\\ñ;--'


def leaks(text: str) -> list[str]:
    """What of the planted data, or of the password, is in a text."""
    found = [match[0] for match in PERSONAL.finditer(text)]
    encoded = json.dumps(PASSWORD)[1:-1]
    return found + [secret for secret in (PASSWORD, encoded, "s3cr3t") if secret in text]


# --- The story ------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What others can see while a command runs: queries on the server, command lines here."""

    settings: Settings
    queries: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        parameters: dict[str, Any] = self.settings.connection_parameters()
        parameters |= {"dbname": "postgres", "application_name": "watch", "password": "x"}
        with psycopg.connect(**parameters, autocommit=True) as connection:
            while not self._stop.wait(0.01):
                found = connection.execute(
                    "select query || ' ' || application_name from pg_stat_activity"
                    " where datname = %s and application_name <> 'somebody else'",
                    [self.settings.dbname],
                )
                self.queries |= {row[0] for row in found}
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        words = path.read_bytes()
                    except OSError:
                        continue  # it has ended
                    self.commands.add(words.replace(b"\0", b" ").decode(errors="replace"))


@dataclass
class Story:
    """All that left the database."""

    settings: Settings
    home: Path
    said: dict[str, subprocess.CompletedProcess[str]]
    watch: Watch

    @property
    def output(self) -> Path:
        return self.home / "made" / "output"

    def files(self, *names: str) -> list[Path]:
        found = [path for path in self.home.rglob("*") if path.is_file()]
        return [p for p in found if not names or any(name in p.name for name in names)]


@pytest.fixture(scope="module")
def story(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Every command in its turn, under umask 000, with a password that is odd."""
    home = tmp_path_factory.mktemp("story")
    name = f"test_private_{os.getpid()}"
    settings = embedded.recreate_database(server, name, template="template_ct4")
    fill_private(settings)
    settings = replace(settings, password=PASSWORD)
    output = home / "made" / "output"
    said: dict[str, subprocess.CompletedProcess[str]] = {}

    def say(label: str, *words: str) -> subprocess.CompletedProcess[str]:
        said[label] = run_command(
            "bash",
            "-c",
            'umask 000; exec "$@"',
            "bash",
            *words,
            settings=settings,
            DBT_TARGET_PATH=str(home / "target"),
            DBT_LOG_PATH=str(home / "logs"),
        )
        return said[label]

    def orphans(label: str, *words: str) -> subprocess.CompletedProcess[str]:
        makes_files = words[0] in ("fix", "deploy", "rollback")
        return say(
            label, "orphans", *words, *(["--output-dir", str(output)] if makes_files else [])
        )

    with Watch(settings) as watch:
        orphans("deploy", "deploy")
        act(settings, refuse("L10"))
        first = min(output.glob("orphans_report_*.json"))
        orphans("fix --plan", "fix", "--execute", "--plan", str(first))
        orphans("verify red", "verify")
        act(settings, "drop trigger of_ct4 on canon.identity_links")
        orphans("fix --execute", "fix", "--execute")
        orphans("purge", "resolve", driver(6), "--status", "purged", "--note", "A ghost")
        orphans("explain purged", "explain", driver(6))
        orphans("explain --json purged", "explain", "--json", driver(6))
        orphans("take back", "resolve", driver(6), "--status", "quarantined", "--note", "No ghost")
        orphans("purge again", "resolve", driver(8), "--status", "purged", "--note", "A ghost")
        run_id = query(
            settings,
            "select run_id::text from canon.driver_orphan_quarantine_ledger where driver_id = %s",
            driver(10),
        )[-1][0]
        orphans("undo --dry-run", "undo", run_id, "--dry-run")
        orphans("undo", "undo", run_id)
        orphans("fix --reprocess", "fix", "--execute", "--reprocess-quarantined")
        for number in (1, 2, 4, 7):
            orphans(f"explain {number}", "explain", driver(number))
        orphans("explain --json", "explain", "--json", driver(4))
        say("dbt snapshot", "dbt", "snapshot")
        say("alembic", "alembic", "current")
        orphans("rollback --dry-run", "rollback", "--dry-run", "--migration")
        orphans("rollback", "rollback", "--migration")
    yield Story(settings, home, said, watch)
    execute(server, f"drop database {name} with (force)")


def act(settings: Settings, statements: str) -> None:
    """Do what somebody else does in the database; the watch does not look at that."""
    parameters: dict[str, Any] = settings.connection_parameters()
    parameters["application_name"] = "somebody else"
    with psycopg.connect(**parameters, autocommit=True) as connection:
        connection.execute(statements)  # type: ignore[arg-type]


def refuse(lead: str) -> str:
    """A trigger of CT4 that quotes what it has against a lead, in as many ways as people write."""
    return (
        "create function canon.of_ct4() returns trigger language plpgsql as $$ begin"
        f" if new.source_pk = '{lead}' then raise exception '{QUOTING}'; end if;"
        " return new; end $$;"
        " create trigger of_ct4 before insert on canon.identity_links"
        " for each row execute function canon.of_ct4()"
    )


QUOTING = (
    f"the phone {PHONE.format(10)} (+51 942 424 010), licence {LICENCE.format(10)} or qzxw-90010,"
    f' plate {PLATE.format(10)}, of Xochitl ZUÑIGA Yupanqui, "{NAME.format(10)}", «xochitl'
    " zuñiga», is known"
)

EXPECTED_CODES = {"fix --plan": 1, "verify red": 1}


def test_the_story_is_one_in_which_everything_happens(story: Story) -> None:
    codes = {label: done.returncode for label, done in story.said.items()}
    wrong = {k: v for k, v in codes.items() if v != EXPECTED_CODES.get(k, 0)}
    assert wrong == {}, {k: story.said[k].stdout + story.said[k].stderr for k in wrong}
    assert "is known" in "".join(map(read, story.files("orphans_report")))
    assert "relinked" in story.said["fix --plan"].stdout
    assert len(story.watch.queries) > 30
    assert any("pg_dump" in command for command in story.watch.commands)
    assert any("dbt.cli.main" in command for command in story.watch.commands)
    assert [len(story.files(name)) for name in ("orphans_deploy", ".dump", "orphans_ledger")] == [
        1,
        1,
        1,
    ]
    assert story.files("run_results.json")


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def test_no_command_prints_personal_data_or_the_password(story: Story) -> None:
    found = {label: leaks(done.stdout + done.stderr) for label, done in story.said.items()}
    assert {label: leak for label, leak in found.items() if leak} == {}


def test_no_report_and_no_log_has_personal_data_or_the_password(story: Story) -> None:
    paths = story.files("orphans_report", "orphans_deploy")
    assert len(paths) > 6
    assert {path.name: leaks(read(path)) for path in paths if leaks(read(path))} == {}


def test_what_dbt_writes_has_no_personal_data_and_no_password(story: Story) -> None:
    paths = [p for p in story.files() if {"target", "logs"} & set(p.relative_to(story.home).parts)]
    assert any(path.name == "run_results.json" for path in paths)
    assert {path.name: leaks(read(path)) for path in paths if leaks(read(path))} == {}


def test_the_server_shows_no_personal_data_in_the_queries_that_run(story: Story) -> None:
    found = {query[:200]: leaks(query) for query in story.watch.queries}
    assert {query: leak for query, leak in found.items() if leak} == {}


def test_no_process_has_the_password_or_personal_data_on_its_command_line(story: Story) -> None:
    found = {command[:200]: leaks(command) for command in story.watch.commands}
    assert {command: leak for command, leak in found.items() if leak} == {}


def test_whatever_is_written_is_for_nobody_else_whatever_the_umask(story: Story) -> None:
    assert oct(stat.S_IMODE(story.output.stat().st_mode)) == oct(0o700)
    assert oct(stat.S_IMODE(story.output.parent.stat().st_mode)) == oct(0o700)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in story.output.iterdir()}
    assert len(modes) > 8
    assert set(modes.values()) == {oct(0o600)}, modes


def test_the_backup_and_the_ledger_of_a_purge_are_said_to_hold_personal_data(story: Story) -> None:
    # They must bring everything back, the driver link of a purge with what CT4 had put in it.
    assert "personal data" in story.said["deploy"].stdout
    assert "personal data" in story.said["rollback"].stdout


# --- Errors that quote data -----------------------------------------------------------------------

# What a server can say: in CT4's own words under any code, and in PostgreSQL's with a value.
SAYINGS = {
    code: f"raise exception '{QUOTING}' using errcode = '{code}'"
    for code in ("raise_exception", "data_exception", "check_violation", "disk_full", "ZZ042")
} | {
    "detail": f"raise exception 'is refused' using detail = '{QUOTING}', hint = '{QUOTING}'",
    "cast to int": f"perform '{NAME.format(10)}'::int",
    "cast to date": f"perform '{LICENCE.format(10)} Zuñiga'::date",
    "cast to bigint": f"perform '{PHONE.format(10)} '::bigint::int, '{PHONE.format(1)}x'::int",
    "cast to enum": f"perform '{PLATE.format(10)}'::public.confidencelevel",
    "cast to json": f"perform '{{\"name\": {NAME.format(10)}}}'::jsonb",
    "cast to uuid": "perform 'xochitl'::uuid",
    "execute": f"execute 'select \"{NAME.format(10)}\"'",
    "not null": (
        "insert into canon.drivers_index (driver_id, phone_norm, full_name_norm)"
        f" values ('x', '{PHONE.format(10)}', '{NAME.format(10)}')"
    ),
    "unique": (
        "create unique index on public.drivers (phone);"
        " insert into public.drivers (driver_id, phone)"
        f" values ('y', '{PHONE.format(1)}'), ('z', '{PHONE.format(1)}')"
    ),
}
# Where the error strikes, and the commands that it strikes.
ON_READING = """
    create or replace view ct4_orphans.stg_public__drivers as
    select driver_id, canon.boom()::varchar as phone, license_number, license_normalized_number
    from public.drivers
"""
ON_WRITING = """
    create function canon.boom_on_writing() returns trigger language plpgsql as
    $$ begin perform canon.boom(); return new; end $$;
    create trigger boom before insert on {} for each row execute function canon.boom_on_writing()
"""
ON_DDL = """
    create function canon.boom_on_ddl() returns event_trigger language plpgsql as
    $$ begin perform canon.boom(); end $$;
    create event trigger boom on ddl_command_start
    when tag in ('DROP VIEW', 'CREATE VIEW', 'DROP TABLE', 'ALTER VIEW')
    execute function canon.boom_on_ddl()
"""
STRUCK: dict[str, tuple[str, list[str]]] = {
    "fix": (ON_READING, ["fix"]),
    "fix --execute, reading": (ON_READING, ["fix", "--execute"]),
    "fix --execute, links": (ON_WRITING.format("canon.identity_links"), ["fix", "--execute"]),
    "fix --execute, ledger": (
        ON_WRITING.format("canon.driver_orphan_quarantine_ledger"),
        ["fix", "--execute"],
    ),
    "explain": (ON_READING, ["explain", driver(4)]),
    "explain --json": (ON_READING, ["explain", "--json", driver(4)]),
    "resolve": (
        ON_WRITING.format("canon.driver_orphan_quarantine_ledger"),
        ["resolve", driver(6), "--status", "quarantined", "--note", "n"],
    ),
    "undo": (ON_WRITING.format("canon.driver_orphan_quarantine_ledger"), ["undo", "RUN"]),
    "rollback": (ON_DDL, ["rollback"]),
    "rollback --migration": (ON_DDL, ["rollback", "--migration"]),
    "deploy --only save": (
        ON_WRITING.format("canon.ct4_orphans_saved_views"),
        ["deploy", "--only", "save"],
    ),
}


@pytest.fixture(scope="module")
def half_fixed(
    server: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Settings]]:
    """Copies of a town in which person 1 is relinked, and one view is to be saved."""
    names = [f"test_half_{os.getpid()}_{number}" for number in range(2)]
    template = embedded.recreate_database(server, names[0], template="template_built")
    fill_private(template)
    code, text = invoke(template, tmp_path_factory.mktemp("x"), "fix", "--execute", "--limit", "1")
    assert code == 0, text
    execute(
        template,
        "insert into canon.ct4_orphans_saved_views (relation)"
        " select 'ops.' || viewname from pg_views"
        " where schemaname = 'ops' and viewname <> 'v_yango_payments_ledger_latest_enriched'",
    )
    yield lambda: embedded.recreate_database(server, names[1], template=names[0])
    for name in names[::-1]:
        execute(server, f"drop database if exists {name} with (force)")


def invoke(settings: Settings, directory: Path, *words: str) -> tuple[int, str]:
    """Run a command here; return its exit code, and what it printed and wrote."""
    if words[0] in ("fix", "deploy", "rollback"):
        words = (*words, "--output-dir", str(directory))
    variables = replace(settings, password=PASSWORD).environment()
    result = CliRunner(env=variables).invoke(cli.main, words, prog_name="orphans")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise AssertionError("a traceback") from result.exception
    return result.exit_code, result.output + "".join(map(read, directory.glob("*")))


# Every command in three ways, and one command in every way: all read errors in the same place.
CASES = [(struck, saying) for struck in STRUCK for saying in ("ZZ042", "cast to date", "not null")]
CASES += [("fix", saying) for saying in SAYINGS if ("fix", saying) not in CASES]


@pytest.mark.parametrize(("struck", "saying"), CASES)
def test_whatever_a_server_error_quotes_is_not_passed_on(
    half_fixed: Callable[[], Settings], tmp_path: Path, struck: str, saying: str
) -> None:
    settings = half_fixed()
    run_id = query(settings, "select run_id::text from canon.driver_orphan_quarantine_ledger")
    where, words = STRUCK[struck]
    execute(settings, boom(SAYINGS[saying]) + where)
    words = [run_id[0][0] if word == "RUN" else word for word in words]
    code, text = invoke(settings, tmp_path, *words)
    assert code in (1, 3, 4), text
    assert "rror" in text
    assert leaks(text) == []


def boom(saying: str, name: str = "boom") -> str:
    return (
        f"create function canon.{name}() returns text language plpgsql as"
        f" $$ begin {saying}; return null; end $$;"
    )


def boom_instead_of(table: str, columns: str) -> str:
    """A view that raises, in place of one of CT4's tables; the views above go on with the table."""
    schema, name = table.split(".")
    return (
        f"alter table {table} rename to {name}_before; create view {table} as select {columns}"
        f" from {schema}.{name}_before where canon.boom() is null;"
    )


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (
            ["verify"],
            boom(SAYINGS["cast to int"], "boom_cast")
            + boom(SAYINGS["not null"], "boom_null")
            + ON_READING
            + """
            ; create or replace view ct4_orphans.stg_canon__identity_registry as
            select person_key, primary_phone, canon.boom_cast()::varchar as primary_license,
            primary_full_name, confidence_level::text as confidence_level
            from canon.identity_registry;
            create or replace view ct4_orphans.stg_ops__yango_payments_ledger as
            select driver_id_final as driver_id, canon.boom_null() as identity_status, match_rule,
            match_confidence, latest_snapshot_at
            from ops.v_yango_payments_ledger_latest_enriched;
            insert into ops.yango_payments_ledger (driver_id) values ('x');
            """,
        ),
        (["deploy", "--only", "build"], ON_DDL),
        (["doctor", "--no-backup"], boom_instead_of("canon.identity_links", "*")),
        (["deploy", "--only", "dry-run"], ON_READING),
        (
            ["alembic", "downgrade", "base"],
            "drop schema ops, ct4_orphans cascade; delete from canon.ct4_orphans_saved_views;"
            + ON_DDL,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nor_is_it_by_dbt_and_the_commands_that_run_it(
    half_fixed: Callable[[], Settings], tmp_path: Path, words: list[str], before: str
) -> None:
    settings = half_fixed()
    saying = SAYINGS["raise_exception"].replace("the phone", "the\n phone")
    execute(settings, boom(saying) + before)
    more = ["--output-dir", str(tmp_path / "out")] if words[0] == "deploy" else []
    done = run_command(
        *(*(() if words[0] == "alembic" else ("orphans",)), *words, *more),
        settings=replace(settings, password=PASSWORD),
        DBT_TARGET_PATH=str(tmp_path / "target"),
        DBT_LOG_PATH=str(tmp_path / "logs"),
        ORPHANS_DOWNGRADE_DESTROYS_LEDGER="yes",
    )
    assert done.returncode in (1, 3), done.stdout + done.stderr
    texts = {path.name: read(path) for path in tmp_path.rglob("*") if path.is_file()}
    texts["terminal"] = done.stdout + done.stderr
    assert {name: leaks(text) for name, text in texts.items() if leaks(text)} == {}
    assert any("is known" in text or '"***"' in text for text in texts.values()), "it struck"


def test_rows_that_verify_shows_of_a_red_check_have_no_licence_and_no_phone(
    half_fixed: Callable[[], Settings],
) -> None:
    settings = half_fixed()
    name = "int_lead_event_matches_has_one_row_per_event_id_kind_value"
    execute(
        settings,
        f"create schema ct4_orphans_audit; create view ct4_orphans_audit.{name} as"
        " select event_id, split_part(identifier, ':', 1) as kind,"
        " split_part(identifier, ':', 2) as value, 2 as rows_found"
        " from ct4_orphans.int_lead_source_identifiers",
    )
    with connect(settings, read_only=True) as connection:
        shown = list(verify.violators(connection, [verify.Check(name, "fail", 1)]))
    assert len(shown) > 4
    assert leaks("\n".join(shown)) == []


# --- The password, when there is no way in --------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["orphans", "fix"],
        ["orphans", "explain", driver(1)],
        ["orphans", "resolve", driver(1), "--status", "purged", "--note", "n"],
        ["orphans", "undo", str(person(1))],
        ["orphans", "doctor"],
        ["orphans", "deploy"],
        ["orphans", "verify"],
        ["orphans", "rollback"],
        ["alembic", "upgrade", "head"],
        ["dbt", "run"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("host", ["/no/such/directory"])
def test_the_password_is_not_told_when_the_server_cannot_be_reached(
    server: Settings, tmp_path: Path, words: list[str], host: str
) -> None:
    done = run_command(
        *words,
        settings=replace(server, host=host, password=PASSWORD),
        DBT_TARGET_PATH=str(tmp_path / "target"),
        DBT_LOG_PATH=str(tmp_path / "logs"),
    )
    assert done.returncode == (2 if words[0] == "dbt" else 3), done.stdout + done.stderr
    texts = [read(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert [leaks(text) for text in (done.stdout, done.stderr, *texts) if leaks(text)] == []


def test_the_password_is_not_told_when_pg_dump_fails(server: Settings, tmp_path: Path) -> None:
    settings = replace(server, dbname="no such database", password=PASSWORD)
    pg_dump = backup.find_pg_dump(130000)
    with pytest.raises(errors.DatabaseError) as failure:
        backup.make_backup(settings, pg_dump, tmp_path, datetime.now(timezone.utc))
    assert "no such database" in failure.value.message
    assert leaks(failure.value.message) == []


@pytest.mark.parametrize("password", ["12", "true", "null", "[1]", "{{ 7 }}", "'", "%", " ", "="])
def test_any_password_is_passed_on_as_it_is(
    server: Settings, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("DB_PASSWORD", password)
    monkeypatch.setenv("DB_NAME", "x")
    monkeypatch.setenv("DB_USER", "x")
    settings = Settings.from_environment()
    conninfo = psycopg.conninfo.make_conninfo(**settings.connection_parameters())
    assert psycopg.conninfo.conninfo_to_dict(conninfo)["password"] == password
    assert backup.libpq_environment(settings)["PGPASSWORD"] == password
