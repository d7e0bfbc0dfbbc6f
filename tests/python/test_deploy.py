"""`orphans doctor`, `deploy`, `verify` and `rollback`: into a live CT4 database, and out again.

One deploy runs as an operator runs it, in processes of its own (`story`). The others run in this
process, where dbt is loaded once per user and has read the project (`office`), on a database that
every test gets made anew from one that is older, deployed or green.
"""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from conftest import BIN, ROOT, profiles_directory, run_command
from ct4_orphans import backup, cli, embedded, fix, project
from ct4_orphans.database import Settings, connect
from ct4_orphans.indexes import DAYS_OF_A_DRIVER, LINKS_OF_A_PERSON
from older import (
    catalogue,
    driver,
    execute,
    grants,
    make_older,
    person,
    query,
    rows,
    view_definitions,
)
from test_acceptance import SMALL_WORLD
from test_drop_in import DbtSession, dbt_session
from test_indexes import make_large

QUARANTINE = "canon.driver_orphan_quarantine"
KEPT = "canon.driver_orphan_quarantine_before_ledger"
LEDGER = "canon.driver_orphan_quarantine_ledger"
LINKS = "canon.identity_links"
PLAN = "ops.v_orphan_fix_plan"
FOUR = [
    "ops.v_cabinet_funnel_status",
    "ops.v_ct4_eligible_drivers",
    "ops.v_driver_orphans",
    "ops.v_payment_calculation",
]
PHASES = [
    "backup",
    "doctor",
    "migrate",
    "save",
    "build",
    "exclusion",
    "dry-run",
    "fix",
    "verify",
]
DONE, RED, USAGE, NO_DATABASE, REFUSED, NO_OUTPUT = 0, 1, 2, 3, 4, 5
PASSWORD = "correct-horse-battery"
PERSONAL = re.compile(r"98700000\d\d|Q000000\d\d|Person \d|Driver \d+\b(?!:)")

# Of the older deployment: what a fix changes, and what it leaves as it is.
PURGED_BUT_LINKED = driver(10)
CHANGED_BY_THE_FIX = {driver(n) for n in (5, 7, 11, 12, 14)}
OLDER_ROWS = 11

# What a careless restore loses: names that need quoting, grants that a grantee passed on, comments
# on triggers, whatever views on top of one that must be made anew have of their own.
ODD_ROLE = f'odd "{uuid.uuid4().hex}" 100%'
ODD = """
create schema "Odd ""Schema"" %s" authorization older_reader;
grant usage on schema "Odd ""Schema"" %s", ops, canon, reporting
to {role}, older_writer, older_clerk;

set role older_owner;
grant select (driver_id, status) on ops.v_driver_orphans to {role} with grant option;
grant select, references on ops.v_payment_calculation to {role} with grant option;
comment on view ops.v_ct4_eligible_drivers is
e'It''s 100 % "quoted" \\\\ $$x$$ %s {{{{ jinja }}}} :colon\\nnew line';
reset role;

set role older_reader;
create view "Odd ""Schema"" %s"."View: ""x"" 1" with (security_barrier) as
select driver_id as "Driver "" 100%", status, detected_at from ops.v_driver_orphans;
comment on view "Odd ""Schema"" %s"."View: ""x"" 1" is 'it''s 100 %';
comment on column "Odd ""Schema"" %s"."View: ""x"" 1"."Driver "" 100%" is '%s';
alter view "Odd ""Schema"" %s"."View: ""x"" 1" alter column detected_at set default now();
grant select on "Odd ""Schema"" %s"."View: ""x"" 1" to {role};
grant select ("Driver "" 100%") on "Odd ""Schema"" %s"."View: ""x"" 1" to older_clerk;

create view "Odd ""Schema"" %s".passed_on as select * from ops.v_driver_orphans;
grant select on "Odd ""Schema"" %s".passed_on to older_writer with grant option;
set role older_writer;
grant select on "Odd ""Schema"" %s".passed_on to older_clerk;
reset role;

create view "Odd ""Schema"" %s".written_to as select * from ops.v_driver_orphans;
create function "Odd ""Schema"" %s".write_it() returns trigger language plpgsql as $$
begin return new; end $$;
create trigger "Write it" instead of update on "Odd ""Schema"" %s".written_to
for each row execute function "Odd ""Schema"" %s".write_it();
comment on trigger "Write it" on "Odd ""Schema"" %s".written_to is 'it''s 100 %';
"""

# A small CT4 of the newer kind, on which no orphans system has ever been: rule 3 pays a connection.
FRESH = (
    SMALL_WORLD[: SMALL_WORLD.index(f"insert into {QUARANTINE}")]
    + """
    alter table ops.scout_payment_rules add milestone_type text, add milestone_value int;
    insert into ops.scout_payment_rules (
        origin_tag, window_days, milestone_trips, amount, valid_from, milestone_type,
        milestone_value
    )
    values ('fleet_migration', 30, 1, 3, '2024-01-01', 'connection', 1);
"""
)


# --- The commands ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err


class Office:
    """The commands in this process, and one dbt process per user, all for one database's name."""

    def __init__(self, server: Settings, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.name = f"test_desk_{uuid.uuid4().hex}"
        self.skipped: list[str] = []
        self._run = project.run
        self._sessions: dict[str, DbtSession] = {}
        self._stack = ExitStack()

    def database(self, template: str) -> Settings:
        return embedded.recreate_database(self.server, self.name, template=template)

    def close(self) -> None:
        self._stack.close()
        execute(self.server, f"drop database if exists {self.name} with (force)")

    def say(self, settings: Settings, directory: Path, *arguments: str) -> Said:
        assert settings.dbname == self.name, "dbt has read the project for that one"
        if arguments[0] in ("deploy", "rollback") and "--output-dir" not in arguments:
            arguments = (*arguments, "--output-dir", str(directory))
        variables = settings.environment() | {
            "DBT_PROFILES_DIR": str(profiles_directory()),
            "DBT_TARGET_PATH": str(self.target(settings)),
            "DBT_LOG_PATH": str(self._home(settings.user) / "logs"),
        }
        result = CliRunner(env=variables).invoke(cli.main, arguments, prog_name="orphans")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise AssertionError(f"a traceback: {result.exception!r}") from result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    def run(
        self,
        *words: str,
        settings: Settings,
        line_by_line: Callable[[str], None] = lambda _: None,
        **more: Any,
    ) -> tuple[int, str]:
        """Stand in for project.run: what dbt would do, without the start of a new Python."""
        if words[0] != "dbt":
            return self._run(*words, settings=settings, line_by_line=line_by_line, **more)
        if words[1] == "test" and self.skipped:
            words = (*words, "--exclude", *self.skipped)
        session = self._session(settings)
        before = session.log.stat().st_size
        session.start(*words[1:])
        success, _ = session.finish()
        with session.log.open("rb") as log:
            log.seek(before)
            output = project.COLOUR.sub("", log.read().decode())
        for line in output.splitlines():
            line_by_line(line)
        return int(not success), output

    def target(self, settings: Settings) -> Path:
        return self._home(settings.user) / "target"

    def _home(self, user: str) -> Path:
        return self.directory / re.sub(r"\W", "_", user)

    def _session(self, settings: Settings) -> DbtSession:
        if settings.user not in self._sessions:
            session = dbt_session(settings, self._home(settings.user))
            self._sessions[settings.user] = self._stack.enter_context(session)
        return self._sessions[settings.user]


@pytest.fixture(scope="module")
def office(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    here = Office(server, tmp_path_factory.mktemp("office"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project, "run", here.run)
        yield here
    here.close()


@dataclass(frozen=True)
class Desk:
    """A database of the test's own, the commands on it, and the directory of their files."""

    office: Office
    settings: Settings
    output: Path

    def say(self, *arguments: str) -> Said:
        return self.office.say(self.settings, self.output, *arguments)

    def must(self, *arguments: str) -> Said:
        said = self.say(*arguments)
        assert said.code == DONE, f"{arguments}:\n{said.all}"
        return said

    def acting_as(self, user: str) -> Desk:
        return replace(self, settings=replace(self.settings, user=user))

    def do(self, statements: str) -> None:
        execute(self.settings, statements)

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return query(self.settings, statement, *values)


@pytest.fixture
def desk(office: Office, tmp_path: Path) -> Callable[[str], Desk]:
    """Make the desk's database from a template, in place of the last one."""
    return lambda template: Desk(office, office.database(template), tmp_path / "output")


def line_of(said: Said) -> str:
    """The one line that a failure prints on stderr."""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.all
    assert lines[0].startswith("Error: "), said.all
    return lines[0]


def log_in(directory: Path) -> str:
    """The newest log of a deploy."""
    return max(directory.glob("orphans_deploy_*.log")).read_text("utf-8")


def stopped(said: Said, phase: str, code: int, state: str, directory: Path) -> str:
    """One line names the phase, the database's state and how to go on; the log has it too."""
    message = line_of(said)
    assert said.code == code, said.all
    words = " ".join(log_in(directory).split())
    for told in (f"stopped in phase {phase}.", state, f"--from {phase}"):
        assert told in message
        assert told in words
    assert "orphans deploy" in message
    return message


def findings(said: Said) -> list[tuple[str, str]]:
    """Doctor's findings: how bad, and the object with the problem and the remedy."""
    found: list[tuple[str, str]] = []
    for line in said.out.splitlines():
        start = re.match(r" +(STOPS|LATER|note) +(.*)", line)
        if start:
            found.append((start[1], start[2]))
        elif found and line.startswith("      "):
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def finds(said: Said, severity: str, *words: str) -> str:
    """The one finding that has all these words."""
    found = [what for how, what in findings(said) if how == severity]
    fitting = [what for what in found if all(word in what for word in words)]
    assert len(fitting) == 1, f"{severity} {words}:\n{said.out}"
    return fitting[0]


def violations(said: Said) -> dict[str, int]:
    """The number of violations of each criterion in the table, by the name of the dbt test."""
    line = re.compile(r" ([\d,]+|[A-Z]+) +ct4_orphans_audit\.(criterion_\w+)$", re.M)
    table = line.findall(said.out)
    return {name: -1 if count.isalpha() else int(count.replace(",", "")) for count, name in table}


# --- The state of a database ----------------------------------------------------------------------


def contents(settings: Settings) -> dict[str, list[str]]:
    """Every row of every table, and of the quarantine by its name."""
    names = query(
        settings,
        "select format('%%I.%%I', nspname, relname) from pg_class"
        " inner join pg_namespace on relnamespace = pg_namespace.oid"
        " where (relkind in ('r', 'p', 'm') or pg_class.oid = to_regclass(%s))"
        " and nspname <> 'information_schema' and nspname !~ '^pg_'",
        QUARANTINE,
    )
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        return {
            name: sorted(
                row for (row,) in connection.execute(f"select x::text from {name} as x").fetchall()
            )
            for (name,) in names
        }


@contextmanager
def nothing_changed(settings: Settings) -> Iterator[None]:
    before = catalogue(settings), contents(settings)
    yield
    assert catalogue(settings) == before[0]
    assert contents(settings) == before[1]


def readable(settings: Settings) -> set[tuple[str, str, str]]:
    """What the roles of others read: (role, relation, column). Tried, not looked up."""
    found = set()
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        granted = connection.execute(
            """
            select
                rolname,
                format('%%I.%%I', nspname, relname),
                array_agg(quote_ident(attname) order by attnum)
            from pg_roles
            cross join pg_class
            inner join pg_namespace on relnamespace = pg_namespace.oid
            inner join pg_attribute on attrelid = pg_class.oid
            where
                (rolname like 'older\\_%%' or rolname = %s)
                and relkind in ('r', 'v', 'm')
                and nspname !~ '^(pg_|ct4_orphans|information_schema)'
                and attnum > 0 and not attisdropped
                and has_schema_privilege(pg_roles.oid, pg_namespace.oid, 'usage')
                and has_column_privilege(pg_roles.oid, pg_class.oid, attnum, 'select')
            group by rolname, nspname, relname
            """,
            [ODD_ROLE],
        ).fetchall()
        for role, relation, columns in granted:
            with connection.transaction(force_rollback=True):
                connection.execute(
                    psycopg.sql.SQL("set local session authorization {}").format(
                        psycopg.sql.Identifier(role)
                    )
                )
                try:
                    with connection.transaction():
                        connection.execute(
                            f"select count(*) from (select {', '.join(columns)} from {relation}) x"
                        )
                except psycopg.Error:
                    continue
            found |= {(role, relation, column) for column in columns}
    return found


def of_others(blocks: Sequence[str]) -> list[str]:
    """What belongs to other teams, of a catalogue."""
    return [b for b in blocks if re.search(r'Schema: (reporting|Odd "Schema" %s);', b)]


def is_odd(block: str) -> bool:
    return 'Odd "Schema"' in block


def differences(left: Sequence[str], right: Sequence[str]) -> list[str]:
    return [f"- {b}" for b in left if b not in right] + [f"+ {b}" for b in right if b not in left]


@dataclass(frozen=True)
class State:
    """A database at one moment, to be held against another one."""

    catalogue: list[str]
    definitions: dict[str, str]
    grants: list[tuple[Any, ...]]
    readable: set[tuple[str, str, str]]
    contents: dict[str, list[str]]


def state_of(settings: Settings) -> State:
    return State(
        catalogue(settings),
        view_definitions(settings),
        grants(settings),
        readable(settings),
        contents(settings),
    )


# --- The story of one deploy ----------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """An older deployment, the deploy on it, and the decision that turns it green.

    `older`, `deployed` and `green` are templates, to be copied.
    """

    before: State
    after_deploy: State
    after_resolve: State
    deploy: Said
    resolve: Said
    older: str
    deployed: str
    green: str
    output: Path


@pytest.fixture(scope="module")
def story(
    server: Settings, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    output = tmp_path_factory.mktemp("story") / "output"
    names = {kind: f"test_{kind}_{uuid.uuid4().hex}" for kind in ("older", "deployed", "green")}
    role = '"' + ODD_ROLE.replace('"', '""') + '"'
    execute(server, f"create role {role}")
    older = make_older(embedded.recreate_database(server, names["older"], template="template_ct4"))
    execute(older, ODD.format(role=role))
    settings = embedded.recreate_database(server, names["deployed"], template=older.dbname)
    before = state_of(settings)
    done = run_command(
        *("orphans", "deploy", "--execute", "--output-dir", str(output)),
        settings=replace(settings, password=PASSWORD),
        DBT_TARGET_PATH=str(output.parent / "target"),
    )
    after_deploy = state_of(settings)
    green = embedded.recreate_database(server, names["green"], template=settings.dbname)
    resolve = run_command(
        *("orphans", "resolve", PURGED_BUT_LINKED, "--status", "purged", "--note", "A ghost"),
        settings=green,
    )
    yield Story(
        before,
        after_deploy,
        state_of(green),
        Said(done.returncode, done.stdout, done.stderr),
        Said(resolve.returncode, resolve.stdout, resolve.stderr),
        *names.values(),
        output,
    )
    for name in names.values():
        execute(server, f"drop database {name} with (force)")
    execute(server, f"drop database if exists {office.name} with (force)")
    execute(server, f"drop role {role}")


def test_every_phase_is_announced_in_its_order(story: Story) -> None:
    announced = re.findall(r"^\[(\d)/9\] ([\w-]+): \S", story.deploy.out, re.M)
    assert announced == [(str(n), name) for n, name in enumerate(PHASES, start=1)]


def test_a_driver_purged_but_still_linked_turns_the_deploy_red_in_its_last_phase(
    story: Story,
) -> None:
    stopped(story.deploy, "verify", RED, "Nothing was changed in this phase", story.output)
    assert "orphans rollback" in story.deploy.err
    verification = story.deploy.out.partition("[9/9]")[2]
    assert PURGED_BUT_LINKED in verification
    assert "orphans resolve DRIVER_ID --status purged" in verification
    found = violations(Said(0, verification, ""))
    assert {name: n for name, n in found.items() if n} == {
        "criterion_1_drivers_without_lead_outside_quarantine": 1
    }


def test_the_decision_that_was_named_turns_the_verification_green(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    assert story.resolve.code == DONE, story.resolve.all
    said = desk(story.green).must("verify")
    found = violations(said)
    assert len(found) == 9
    assert set(found.values()) == {0}
    for criterion in range(1, 6):
        assert re.search(rf"^ +{criterion}  ", said.out, re.M), said.out


def test_the_log_has_all_that_was_said_and_is_for_nobody_else(story: Story) -> None:
    (log,) = story.output.glob("orphans_deploy_*.log")
    assert log.stat().st_mode & 0o777 == 0o600
    assert str(log) in story.deploy.out
    text = log.read_text("utf-8")
    missing = [line for line in story.deploy.out.splitlines() if line not in text]
    assert missing == [f"Log: {log}"] or missing == []
    assert re.search(r"\d+ of \d+ OK created sql view", text), "and what dbt said, line by line"


def test_the_backup_is_for_nobody_else_and_brings_everything_back(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    (dump,) = story.output.glob("backup_pre_orphans_*.dump")
    assert dump.stat().st_mode & 0o777 == 0o600
    assert str(dump) in story.deploy.out
    empty = desk("template0").settings
    with connect(empty) as connection:
        pg_restore = Path(backup.find_pg_dump(connection.info.server_version)).with_name(
            "pg_restore"
        )
    done = subprocess.run(
        [pg_restore, "--exit-on-error", "-d", empty.dbname, dump],
        env=backup.libpq_environment(empty),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    headers = [
        [b.partition("\n")[0] for b in c] for c in (story.before.catalogue, catalogue(empty))
    ]
    assert differences(*headers) == [], "PostgreSQL itself spells a restored definition anew"
    assert contents(empty) == story.before.contents


def test_no_password_phone_licence_or_name_is_in_what_was_said_and_logged(story: Story) -> None:
    said = [story.deploy.all, story.resolve.all]
    for path in story.output.iterdir():
        if path.suffix != ".dump":
            said.append(path.read_text("utf-8"))
    assert len(said) >= 2 + 1 + 4, "the log, two reports of two files each"
    for text in said:
        assert PASSWORD not in text
        assert PERSONAL.findall(text) == []


def test_whoever_could_read_a_view_still_can_with_every_column(story: Story) -> None:
    before = story.before.readable
    assert len({relation for _, relation, _ in before if relation.startswith("reporting.")}) == 8
    assert len({role for role, _, _ in before}) == 5
    assert before - story.after_deploy.readable == set()
    assert before - story.after_resolve.readable == set()


def test_no_grant_on_anything_of_others_or_on_a_replaced_view_is_lost_or_added(
    story: Story,
) -> None:
    def on_others(state: State) -> list[tuple[Any, ...]]:
        return [
            grant
            for grant in state.grants
            if not grant[0].startswith(("ct4_orphans", "canon.ct4_orphans", PLAN, QUARANTINE))
        ]

    assert len(on_others(story.before)) > 100
    assert on_others(story.after_deploy) == on_others(story.before)


def test_views_of_others_are_as_they_were_and_only_the_four_read_anew(story: Story) -> None:
    after = story.after_deploy
    assert len(of_others(story.before.catalogue)) > 25
    assert differences(of_others(story.before.catalogue), of_others(after.catalogue)) == []
    changed = {
        name
        for name, definition in story.before.definitions.items()
        if after.definitions[name] != definition
    }
    assert changed == set(FOUR)


def test_a_materialized_view_of_others_can_be_refreshed_by_its_owner(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    here.do("set role older_reader; refresh materialized view reporting.eligible_drivers")
    assert here.ask("select count(*) > 0 from reporting.eligible_drivers") == [(True,)]


def test_the_older_table_is_kept_row_for_row(story: Story) -> None:
    older = story.before.contents[QUARANTINE]
    assert len(older) == OLDER_ROWS
    assert story.after_deploy.contents[KEPT] == older
    assert story.after_resolve.contents[KEPT] == older


def test_the_deploy_changes_only_rows_that_are_its_own_and_adds_links(story: Story) -> None:
    before, after = story.before.contents, story.after_deploy.contents
    changed = {name for name, found in before.items() if after[name] != found}
    assert changed == {QUARANTINE, LINKS}
    assert set(before[LINKS]) < set(after[LINKS])
    states = {row for row in before[QUARANTINE] if row not in after[QUARANTINE]}
    assert {row[1:33] for row in states} == CHANGED_BY_THE_FIX & {r[1:33] for r in states}
    assert len(states) == 3


# --- The way back ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Return:
    """A rollback with the migration, of what the story ended with."""

    said: Said
    after: State
    output: Path


@pytest.fixture(scope="module")
def way_back(
    story: Story, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Return]:
    output = tmp_path_factory.mktemp("back")
    settings = office.database(story.green)
    said = office.say(settings, output, "rollback", "--migration")
    yield Return(said, state_of(settings), output)


def test_a_rollback_with_the_migration_leaves_the_catalogue_as_it_was(
    story: Story, way_back: Return
) -> None:
    assert way_back.said.code == DONE, way_back.said.all
    before = [block for block in story.before.catalogue if not is_odd(block)]
    after = [block for block in way_back.after.catalogue if not is_odd(block)]
    assert differences(before, after) == []
    names = {name: d for name, d in way_back.after.definitions.items() if "Odd" not in name}
    assert names == {n: d for n, d in story.before.definitions.items() if "Odd" not in n}


PASSED_ON, COMMENT = "TABLE passed_on; Type: ACL", 'TRIGGER "Write it" ON written_to; Type: COMMENT'


@pytest.mark.parametrize(
    "what",
    {
        "grants that a grantee passed on": lambda block: PASSED_ON in block,
        "comments on triggers": lambda block: COMMENT in block,
        "all the rest": lambda block: PASSED_ON not in block and COMMENT not in block,
    }.items(),
    ids=lambda item: item[0],
)
def test_views_of_others_that_must_be_made_anew_come_back_exactly_with(
    story: Story, way_back: Return, what: tuple[str, Callable[[str], bool]]
) -> None:
    before = [block for block in story.before.catalogue if is_odd(block) and what[1](block)]
    after = [block for block in way_back.after.catalogue if is_odd(block) and what[1](block)]
    assert before
    assert differences(before, after) == []


def test_after_a_rollback_every_role_has_and_reads_what_it_did_no_less_and_no_more(
    story: Story, way_back: Return
) -> None:
    assert way_back.after.readable == story.before.readable
    lost = [grant for grant in story.before.grants if grant not in way_back.after.grants]
    assert [grant for grant in lost if "Odd" not in grant[0]] == []
    assert len(way_back.after.grants) == len(story.before.grants)


def test_the_restored_table_has_the_state_of_now_and_all_other_rows_untouched(
    story: Story, way_back: Return
) -> None:
    state = way_back.after.contents[QUARANTINE]
    assert state == story.after_resolve.contents[QUARANTINE]
    changed = {row[1:33] for row in set(state) ^ set(story.before.contents[QUARANTINE])}
    assert changed == CHANGED_BY_THE_FIX | {PURGED_BUT_LINKED}
    others = {
        name
        for name, found in story.after_resolve.contents.items()
        if name in way_back.after.contents and way_back.after.contents[name] != found
    }
    assert others == set(), "links and all the rest stay"


def test_the_ledger_is_exported_whole_for_nobody_else(story: Story, way_back: Return) -> None:
    (path,) = way_back.output.glob("orphans_ledger_*.csv")
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(path) in way_back.said.out
    with path.open(encoding="utf-8", newline="") as file:
        entries = list(csv.DictReader(file))
    assert len(entries) == len(story.after_resolve.contents[LEDGER])
    assert {entry["driver_id"] for entry in entries} >= CHANGED_BY_THE_FIX
    assert [e for e in entries if e["driver_id"] == PURGED_BUT_LINKED][-1]["status"] == "purged"


def test_a_dry_run_of_a_rollback_says_what_it_would_do_and_changes_nothing(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    with nothing_changed(here.settings):
        said = here.must("rollback", "--dry-run", "--migration")
    for view in FOUR:
        assert re.search(rf"{view}: would be put back as older_owner", said.out)
    assert re.search(rf"{PLAN}: would be dropped", said.out)
    entries = len(story.after_resolve.contents[LEDGER])
    assert f"{entries} entries would be exported and dropped" in said.out
    assert "Nothing was changed." in said.out
    assert not here.output.exists() or not list(here.output.iterdir())


@dataclass(frozen=True)
class SecondTime:
    """Views back; again; deployed anew, without and with the fix, twice; all back."""

    back: Said
    after_back: State
    back_again: Said
    unchanged_by_back_again: bool
    deploy: Said
    fix_and_verify: Said
    saved: list[str]
    again: Said
    saved_again: list[str]
    ledger_grew: bool
    last: Said
    after_last: State


@pytest.fixture(scope="module")
def second_time(
    story: Story, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecondTime]:
    desk = Desk(office, office.database(story.green), tmp_path_factory.mktemp("second"))
    saved = "canon.ct4_orphans_saved_views"
    back = desk.say("rollback")
    after_back = state_of(desk.settings)
    back_again = desk.say("rollback")
    unchanged = catalogue(desk.settings) == after_back.catalogue
    deploy = desk.say("deploy", "--no-backup")
    first = rows(desk.settings, saved)
    fix_and_verify = desk.say("deploy", "--execute", "--from", "fix")
    entries = rows(desk.settings, LEDGER)
    again = desk.say("deploy", "--no-backup")
    second = rows(desk.settings, saved)
    grew = rows(desk.settings, LEDGER) != entries
    last = desk.say("rollback", "--migration")
    yield SecondTime(
        *(back, after_back, back_again, unchanged, deploy, fix_and_verify, first),
        *(again, second, grew, last, state_of(desk.settings)),
    )


def test_a_rollback_alone_puts_the_views_back_and_keeps_the_ledger_with_all_it_holds(
    story: Story, second_time: SecondTime
) -> None:
    assert second_time.back.code == DONE, second_time.back.all
    assert "ledger stays" in second_time.back.out
    after = second_time.after_back
    assert {view: after.definitions[view] for view in FOUR} == {
        view: story.before.definitions[view] for view in FOUR
    }
    assert [name for name in after.definitions if name.startswith("ct4_orphans")] == []
    assert PLAN not in after.definitions
    assert after.contents[LEDGER] == story.after_resolve.contents[LEDGER]
    assert after.contents[LINKS] == story.after_resolve.contents[LINKS]
    assert story.before.readable - after.readable == set()


def test_a_second_rollback_changes_nothing_and_says_that_there_is_nothing(
    second_time: SecondTime,
) -> None:
    assert second_time.back_again.code == DONE, second_time.back_again.all
    assert "no view of this project is there" in second_time.back_again.out
    assert second_time.unchanged_by_back_again


def test_deploying_again_after_a_rollback_works_and_then_verifies_green(
    second_time: SecondTime,
) -> None:
    assert second_time.deploy.code == DONE, second_time.deploy.all
    for phase in ("fix", "verify"):
        assert re.search(rf"^\[\d/9\] {phase}: left out", second_time.deploy.out, re.M)
    assert "orphans deploy --execute --from fix" in second_time.deploy.out, "what comes next"
    assert second_time.fix_and_verify.code == DONE, second_time.fix_and_verify.all
    assert re.findall(r"^\[\d/9\] (\w+):", second_time.fix_and_verify.out, re.M) == PHASES[-2:]


def test_a_second_deploy_is_harmless_and_keeps_the_originals_that_were_saved(
    second_time: SecondTime,
) -> None:
    assert second_time.again.code == DONE, second_time.again.all
    assert second_time.saved_again == second_time.saved
    assert not second_time.ledger_grew


def test_a_rollback_after_all_that_leaves_the_catalogue_as_it_was(
    story: Story, second_time: SecondTime
) -> None:
    assert second_time.last.code == DONE, second_time.last.all
    before = [block for block in story.before.catalogue if not is_odd(block)]
    after = [block for block in second_time.after_last.catalogue if not is_odd(block)]
    assert differences(before, after) == []
    state = second_time.after_last.contents[QUARANTINE]
    assert state == story.after_resolve.contents[QUARANTINE]


@pytest.mark.parametrize("ours", [PLAN, "ct4_orphans.int_orphan_drivers"])
@pytest.mark.parametrize("kind", ["view", "materialized view"])
@pytest.mark.parametrize("more", [[], ["--migration"]])
def test_a_rollback_is_refused_by_name_while_others_read_a_view_that_would_go(
    story: Story, desk: Callable[[str], Desk], ours: str, kind: str, more: list[str]
) -> None:
    here = desk(story.green)
    here.do(f'create {kind} reporting."Built since" as select * from {ours}')
    with nothing_changed(here.settings):
        said = here.say("rollback", *more)
        assert said.code == REFUSED, said.all
        assert "Built since" in line_of(said)


def test_a_rollback_is_refused_by_name_while_others_read_a_column_that_would_go(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    here.do(
        'create view reporting."Built since" as'
        " select driver_id, last_updated_at from ops.v_driver_orphans"
    )
    with nothing_changed(here.settings):
        said = here.say("rollback")
        assert said.code == REFUSED, said.all
        assert "Built since" in line_of(said)


def test_a_rollback_where_nothing_was_deployed_says_so(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    for template in (story.older, "template_ct4"):
        here = desk(template)
        with nothing_changed(here.settings):
            said = here.must("rollback", "--migration")
        assert "no view of this project is there" in said.out


def test_a_rollback_that_cannot_take_the_ledger_out_says_what_is_true(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    """Its views can go back, but something reads the quarantine that cannot follow."""
    here = desk(story.green)
    here.do(f"create materialized view reporting.later as select * from {QUARANTINE}")
    before = catalogue(here.settings)
    said = here.say("rollback", "--migration")
    assert said.code == REFUSED, said.all
    assert "reporting.later" in line_of(said)
    assert rows(here.settings, LEDGER) == story.after_resolve.contents[LEDGER]
    if "nothing was changed" in said.err.lower():
        assert differences(before, catalogue(here.settings)) == []


@pytest.mark.parametrize("read", ["ops.v_driver_orphans", QUARANTINE])
def test_a_dry_run_does_not_promise_a_rollback_that_would_be_refused(
    story: Story, desk: Callable[[str], Desk], read: str
) -> None:
    here = desk(story.green)
    here.do(f"create materialized view reporting.later as select * from {read}")
    dry = here.say("rollback", "--migration", "--dry-run")
    said = here.say("rollback", "--migration")
    assert said.code == REFUSED, said.all
    assert "reporting.later" in dry.all, dry.all
    assert dry.code == REFUSED


def test_a_rollback_whose_ledger_cannot_be_written_changes_nothing(
    story: Story, desk: Callable[[str], Desk], tmp_path: Path
) -> None:
    here = desk(story.green)
    (tmp_path / "file").touch()
    with nothing_changed(here.settings):
        said = here.say("rollback", "--migration", "--output-dir", str(tmp_path / "file" / "below"))
        assert said.code == NO_OUTPUT, said.all
        line_of(said)


def test_a_rollback_waits_for_no_fix_and_disturbs_none(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    with (
        connect(here.settings) as connection,
        fix.only_one_execute(connection),
        nothing_changed(here.settings),
    ):
        said = here.say("rollback")
        assert said.code == REFUSED, said.all
        line_of(said)


# --- Dry-run, phases, usage -----------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--execute"]])
def test_a_dry_run_changes_nothing_and_says_what_each_phase_would_do(
    story: Story, desk: Callable[[str], Desk], more: list[str]
) -> None:
    here = desk(story.older)
    with nothing_changed(here.settings):
        said = here.must("deploy", "--dry-run", *more)
    assert re.findall(r"^\[\d/9\] ([\w-]+):", said.out, re.M) == PHASES
    assert re.search(rf"would\b.*\b{OLDER_ROWS} rows", said.out)
    assert f"{PURGED_BUT_LINKED}" in said.out, "doctor's words"
    for view in FOUR:
        assert re.search(rf"{view}: would be saved \(owner older_owner\)", said.out)
        assert re.search(rf"{view}: would be replaced", said.out)
    assert re.search(rf"{PLAN}: would be created", said.out)
    assert "Nothing was changed." in said.out
    assert [path.suffix for path in here.output.iterdir()] == [".log"]


def test_a_dry_run_on_a_deployed_database_changes_nothing_and_says_that_little_is_left(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    with nothing_changed(here.settings):
        said = here.must("deploy", "--dry-run")
    assert "nothing to do" in said.out
    assert re.search(rf"{PLAN}: would be replaced", said.out)
    assert "drivers processed" in said.out, "there is a plan to show"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "fix", "--only", "fix"],
        ["--from", "nowhere"],
        ["--only", "nowhere"],
        ["--only", "fix"],
        ["now"],
    ],
)
def test_wrong_usage_ends_with_2_and_does_nothing(
    story: Story, desk: Callable[[str], Desk], arguments: list[str]
) -> None:
    here = desk(story.older)
    said = here.say("deploy", *arguments)
    assert said.code == USAGE, said.all
    assert said.out == ""
    assert not here.output.exists()


@pytest.mark.parametrize("phase", ["doctor", "migrate", "save", "dry-run"])
def test_only_runs_that_phase_alone_again_and_again(
    story: Story, desk: Callable[[str], Desk], phase: str
) -> None:
    here = desk(story.green)
    before = contents(here.settings)
    said = here.must("deploy", "--only", phase)
    assert re.findall(r"^\[\d/9\] ([\w-]+):", said.out, re.M) == [phase]
    assert contents(here.settings) == before


def test_from_begins_there_and_goes_on_to_the_end(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    said = desk(story.green).must("deploy", "--from", "dry-run")
    assert re.findall(r"^\[\d/9\] ([\w-]+):", said.out, re.M) == PHASES[6:]


def test_help_names_the_phases_and_an_example() -> None:
    for command in ("doctor", "deploy", "verify", "rollback"):
        done = CliRunner().invoke(cli.main, [command, "--help"], prog_name="orphans")
        assert done.exit_code == DONE
        assert f"Example: orphans {command}" in done.stdout
        if command == "deploy":
            for phase in PHASES:
                assert phase in done.stdout


# --- Stopping in each phase -----------------------------------------------------------------------


@pytest.fixture
def fake_pg_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pg_dump on PATH is new enough, and fails."""
    path = tmp_path / "bin" / "pg_dump"
    path.parent.mkdir()
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "pg_dump (PostgreSQL) 99.1"; exit; fi\n'
        "echo 'pg_dump: error: no space for +51987000001' >&2; exit 1\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")


@pytest.mark.usefixtures("fake_pg_dump")
def test_a_failed_backup_stops_the_deploy_and_leaves_no_half_file(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.older)
    with nothing_changed(here.settings):
        said = here.say("deploy", "--execute")
        message = stopped(said, "backup", NO_DATABASE, "Nothing was changed", here.output)
    assert "no space" in message
    assert "987000001" not in said.all
    assert [path.suffix for path in here.output.iterdir()] == [".log"]


def test_no_pg_dump_is_new_enough_for_a_server_of_the_future() -> None:
    with pytest.raises(Exception, match="PostgreSQL 99 or newer.*--no-backup") as raised:
        backup.find_pg_dump(990_000)
    assert raised.value.exit_code == NO_DATABASE  # type: ignore[attr-defined]


def test_without_a_directory_for_its_files_a_deploy_does_not_begin(
    story: Story, desk: Callable[[str], Desk], tmp_path: Path
) -> None:
    here = desk(story.older)
    (tmp_path / "file").touch()
    with nothing_changed(here.settings):
        said = here.say("deploy", "--output-dir", str(tmp_path / "file" / "below"))
        assert said.code == NO_OUTPUT, said.all
        assert str(tmp_path / "file" / "below") in line_of(said)
        assert here.say("deploy", "--output-dir", str(tmp_path / "file")).code == USAGE


def test_a_deploy_stops_at_what_doctor_finds_and_all_of_it_is_named(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.older)
    here.do(
        """
        alter table canon.drivers_index alter column phone_norm type text;
        alter table public.drivers rename column license_number to licence;
        alter view ops.v_cabinet_funnel_status rename column trips_total to trips;
        """
    )
    with nothing_changed(here.settings):
        said = here.say("deploy", "--execute", "--no-backup")
        stopped(said, "doctor", NO_DATABASE, "Nothing was changed", here.output)
    finds(said, "STOPS", "canon.drivers_index.phone_norm", "text", "varchar")
    finds(said, "STOPS", "public.drivers.license_number", "missing")
    # And what depends on it, at any height.
    finds(said, "STOPS", "ops.v_cabinet_funnel_status", "trips_total", "trips", "reporting.claims")
    assert "[3/9]" not in said.out


def test_a_refused_adoption_stops_the_deploy_in_migrate(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.older)
    here.do(f"alter table {QUARANTINE} add column colour text")
    with nothing_changed(here.settings):
        said = here.say("deploy", "--from", "migrate")
        state = "the database is as it was before this phase"
        message = stopped(said, "migrate", REFUSED, state, here.output)
    assert "colour" in message
    said = here.say("doctor")
    finds(said, "STOPS", QUARANTINE, "colour")


A_TABLE = """
    drop view ops.v_ct4_eligible_drivers cascade;
    create table ops.v_ct4_eligible_drivers as select 'x'::varchar as driver_id;
"""


def test_a_table_in_a_views_place_stops_the_deploy_and_a_rollback_leaves_it_there(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.older)
    here.do(A_TABLE)
    finds(here.say("doctor"), "STOPS", "ops.v_ct4_eligible_drivers", "is no view")
    said = here.say("deploy", "--from", "migrate")
    assert said.code in (RED, REFUSED), said.all
    assert "v_ct4_eligible_drivers" in line_of(said)
    assert re.search("stopped in phase (save|build)", line_of(said))
    here.must("rollback", "--migration")
    definitions = view_definitions(here.settings)
    for view in set(FOUR) - {"ops.v_ct4_eligible_drivers"}:
        assert definitions[view] == story.before.definitions[view]
    assert here.ask("select driver_id from ops.v_ct4_eligible_drivers") == [("x",)]


@dataclass(frozen=True)
class Stopped:
    """A deploy that stopped in build, because one view became a table once it was saved.

    `template` is the database as it was left.
    """

    said: Said
    output: Path
    template: str


@pytest.fixture(scope="module")
def failed_build(
    story: Story, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stopped]:
    desk = Desk(office, office.database(story.older), tmp_path_factory.mktemp("build") / "output")
    for phase in ("migrate", "save"):
        desk.must("deploy", "--only", phase)
    desk.do(A_TABLE)
    said = desk.say("deploy", "--from", "build")
    name = f"test_failed_build_{uuid.uuid4().hex}"
    embedded.recreate_database(office.server, name, template=office.name)
    yield Stopped(said, desk.output, name)
    execute(office.server, f"drop database {name} with (force)")


def test_a_failed_build_stops_the_deploy_with_each_view_whole(failed_build: Stopped) -> None:
    state = "Each view is either the earlier one or the new one, whole"
    stopped(failed_build.said, "build", RED, state, failed_build.output)
    assert "orphans rollback" in failed_build.said.err


def test_a_failed_build_says_why_on_the_terminal(failed_build: Stopped) -> None:
    said = failed_build.said.all
    assert re.search(r"v_ct4_eligible_drivers.* is a table", said), said


def test_after_a_failed_build_the_way_on_that_was_named_works(
    desk: Callable[[str], Desk], failed_build: Stopped
) -> None:
    here = desk(failed_build.template)
    here.do("drop table ops.v_ct4_eligible_drivers")
    here.must("deploy", "--from", "build")


def test_after_a_failed_build_the_way_back_that_was_named_works(
    story: Story, desk: Callable[[str], Desk], failed_build: Stopped
) -> None:
    """What has come in the place of a view since is somebody's: it is left there, by name."""
    here = desk(failed_build.template)
    said = here.must("rollback", "--migration")
    assert re.search(r"v_ct4_eligible_drivers: left as it is", said.out)
    assert here.ask("select driver_id from ops.v_ct4_eligible_drivers") == [("x",)]
    definitions = view_definitions(here.settings)
    for view in set(FOUR) - {"ops.v_ct4_eligible_drivers"}:
        assert definitions[view] == story.before.definitions[view]


def test_no_view_is_replaced_whose_original_was_not_saved(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    """Whatever order an operator takes: either the build is refused, or a rollback undoes it."""
    here = desk(story.older)
    here.must("deploy", "--only", "migrate")
    here.say("deploy", "--only", "build")
    said = here.say("rollback")
    definitions = view_definitions(here.settings)
    now = {view: definitions[view] for view in FOUR}
    assert now == {view: story.before.definitions[view] for view in FOUR}, said.all


def show_driver(desk: Desk, view: str, driver_id: str = f"'{driver(4)}'::varchar") -> None:
    """Replace a view of ours by one that shows somebody who is shut out, with its columns."""
    columns = desk.ask(
        """
        select string_agg(
            case attname
                when 'driver_id' then %s
                else 'null::' || format_type(atttypid, atttypmod)
            end || ' as ' || attname, ', ' order by attnum
        )
        from pg_attribute where attrelid = %s::regclass and attnum > 0
        """,
        driver_id,
        view,
    )[0][0]
    desk.do(f"create or replace view {view} as select {columns}")


def test_a_view_that_shows_somebody_who_is_shut_out_stops_the_deploy_in_exclusion(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    show_driver(here, "ops.v_payment_calculation")
    said = here.say("deploy", "--only", "exclusion")
    stopped(said, "exclusion", RED, "Nothing was changed in this phase", here.output)
    found = violations(said)
    assert found["criterion_2_excluded_drivers_in_payments"] == 1
    assert found["criterion_2_excluded_drivers_in_funnel"] == 0
    assert "orphans rollback" in said.err


def test_while_another_execute_runs_the_deploy_stops_in_fix(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.deployed)
    with (
        connect(here.settings) as connection,
        fix.only_one_execute(connection),
        nothing_changed(here.settings),
    ):
        said = here.say("deploy", "--execute", "--only", "fix")
        message = stopped(said, "fix", REFUSED, "nothing is half done", here.output)
    assert "Another execute is running" in message


@contextmanager
def a_waiting_deploy(settings: Settings, output: Path) -> Iterator[subprocess.Popen[str]]:
    """A deploy in its phase save, which waits until the block lets go of a table."""
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        connection.execute("lock table canon.ct4_orphans_saved_views in access exclusive mode")
        process = subprocess.Popen(
            [BIN / "orphans", "deploy", "--only", "save", "--output-dir", str(output)],
            cwd=ROOT,
            env={"PATH": str(BIN)} | settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started = time.monotonic()
        while not query(
            settings,
            "select 1 from pg_locks where not granted and database ="
            " (select oid from pg_database where datname = current_database())",
        ):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - started < 60
            time.sleep(0.05)
        yield process
    process.wait(60)


def test_of_two_deploys_at_once_the_second_is_refused(
    story: Story, desk: Callable[[str], Desk], tmp_path: Path
) -> None:
    here = desk(story.green)
    with a_waiting_deploy(here.settings, tmp_path / "first") as first:
        for arguments in (["deploy", "--only", "save"], ["rollback"]):
            said = here.say(*arguments)
            assert said.code == REFUSED, said.all
            assert "is running" in line_of(said)
    out, err = first.communicate(timeout=60)
    assert first.returncode == DONE, out + err
    here.must("deploy", "--only", "save")


def test_an_interrupted_deploy_says_where_it_was_and_lets_the_next_one_in(
    story: Story, desk: Callable[[str], Desk], tmp_path: Path
) -> None:
    here = desk(story.green)
    with a_waiting_deploy(here.settings, tmp_path) as first:
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=60)
    assert first.returncode not in (None, DONE), out + err
    assert "Traceback" not in err
    assert "phase save" in err
    assert "--from save" in err
    here.must("deploy", "--only", "save")


# --- A database without anything older, and the newer rules ---------------------------------------


@dataclass(frozen=True)
class Fresh:
    """In, out, and in again, where no orphans system has ever been."""

    before: State
    doctor: Said
    deploy: Said
    payments: list[tuple[Any, ...]]
    rollback: Said
    after: State
    doctor_again: Said
    deploy_again: Said | None


@pytest.fixture(scope="module")
def fresh(office: Office, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    desk = Desk(office, office.database("template_ct4"), tmp_path_factory.mktemp("fresh"))
    desk.do(FRESH)
    before = state_of(desk.settings)
    doctor = desk.say("doctor")
    deploy = desk.say("deploy", "--execute", "--no-backup")
    payments = desk.ask(
        "select origin_tag, rule_id, is_payable, achieved_date = lead_date + 0, payable_date"
        " - achieved_date from ops.v_payment_calculation"
        " where rule_scope = 'scout' and rule_id = 3"
    )
    rollback = desk.say("rollback", "--migration")
    after = state_of(desk.settings)
    doctor_again = desk.say("doctor")
    deploy_again = None
    if doctor_again.code == DONE:
        deploy_again = desk.say("deploy", "--execute", "--no-backup")
    yield Fresh(before, doctor, deploy, payments, rollback, after, doctor_again, deploy_again)


def test_where_nothing_older_is_doctor_agrees_and_the_deploy_ends_green(fresh: Fresh) -> None:
    assert fresh.doctor.code == DONE, fresh.doctor.all
    assert fresh.deploy.code == DONE, fresh.deploy.all
    for view in FOUR:
        assert re.search(rf"{view}: does not exist yet", fresh.deploy.out)
    assert set(violations(fresh.deploy).values()) == {0}


def test_a_connection_rule_of_the_newer_kind_is_payable(fresh: Fresh) -> None:
    """The older deployment's rules have no milestone_type: one project for both."""
    payable = [row for row in fresh.payments if row[2]]
    assert payable, fresh.payments
    for origin_tag, _, _, _, term in payable:
        assert (origin_tag, term) == ("fleet_migration", 30)


def test_where_nothing_older_is_a_rollback_leaves_the_catalogue_as_it_was(fresh: Fresh) -> None:
    assert fresh.rollback.code == DONE, fresh.rollback.all
    assert differences(fresh.before.catalogue, fresh.after.catalogue) == []
    changed = {n for n, found in fresh.before.contents.items() if fresh.after.contents[n] != found}
    assert changed == {LINKS}, "the links of the fix stay"


def test_what_doctor_says_of_a_deploy_after_a_rollback_is_true(fresh: Fresh) -> None:
    """The links of the first fix are still there, and its ledger is not."""
    if fresh.deploy_again is None:
        assert any(how == "LATER" for how, _ in findings(fresh.doctor_again))
    else:
        assert fresh.deploy_again.code == DONE, fresh.deploy_again.all


# --- Doctor ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByRole:
    """A role that may do nothing asks doctor, gets what doctor named, and deploys."""

    deployer: str
    first: Said
    refused: Said
    was_changed: bool
    second: Said
    deploy: Said
    rollback: Said
    changed_by_rollback: list[str]


STATEMENT = re.compile(r"Its owner says:  (.*;)$", re.M)

# Rows as an older system leaves them: every status, linked or not, with a lead or without.
ODD_ROWS = f"""
insert into canon.identity_registry (person_key)
select ('00000000-0000-4000-8000-0000000001' || lpad(n::text, 2, '0'))::uuid
from generate_series(1, 12) as n;

insert into {LINKS} (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level
)
select
    ('00000000-0000-4000-8000-0000000001' || lpad(n::text, 2, '0'))::uuid,
    sources.source_table,
    case sources.source_table when 'drivers' then 'odd ' else 'lead ' end || n,
    '2025-01-01', 'ODD', 1, 'LOW'
from generate_series(1, 12) as n
inner join (values
    ('drivers', 0), ('drivers', 1), ('module_ct_cabinet_leads', 1), ('module_ct_referrals', 0)
) as sources (source_table, kind) on n % 3 = sources.kind;

insert into {QUARANTINE} (driver_id, person_key, detected_reason, status, resolved_at)
select
    'odd ' || n,
    case when n % 2 = 0 then
        ('00000000-0000-4000-8000-0000000001' || lpad(n::text, 2, '0'))::uuid
    end,
    'no_lead_no_events',
    (enum_range(null::public.orphan_status))[(n - 1) / 3 + 1],
    case when n > 3 then now() end
from generate_series(1, 12) as n;
"""


@pytest.fixture(scope="module")
def by_role(
    story: Story, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ByRole]:
    deployer = f"test_deployer_{uuid.uuid4().hex}"
    execute(office.server, f"create role {deployer} login")
    desk = Desk(office, office.database(story.older), tmp_path_factory.mktemp("role") / "output")
    desk.do(ODD_ROWS)
    before = catalogue(desk.settings)
    role = desk.acting_as(deployer)
    first = role.say("doctor", "--no-backup")
    refused = role.say("deploy", "--execute", "--no-backup")
    was_changed = catalogue(desk.settings) != before
    for statement in dict.fromkeys(STATEMENT.findall(first.out)):
        desk.do(statement)
    second = role.say("doctor", "--no-backup")
    deploy = role.say("deploy", "--execute", "--no-backup")
    deployed = catalogue(desk.settings)
    rollback = role.say("rollback")
    changed = differences(deployed, catalogue(desk.settings))
    yield ByRole(deployer, first, refused, was_changed, second, deploy, rollback, changed)
    execute(office.server, f"drop database if exists {office.name} with (force)")
    execute(office.server, f"drop role {deployer}")


def test_doctor_names_all_that_a_role_without_privileges_lacks_at_once(by_role: ByRole) -> None:
    assert by_role.first.code == RED, by_role.first.all
    stops = [what for how, what in findings(by_role.first) if how == "STOPS"]
    for wanted in (
        *("schema canon", "schema ops", "schema observational", "schema reporting", "database "),
        *("public.summary_daily", "public.drivers", LINKS, f"{LINKS}_id_seq", QUARANTINE),
        *("ops.scout_payment_rules", "observational.lead_events", *FOUR),
        *("reporting.quarantine_export", "reporting.quarantine_desk"),
    ):
        assert any(what.startswith(wanted) for what in stops), f"{wanted}:\n{by_role.first.out}"
    for what in stops:
        assert STATEMENT.search(what), f"no statement to paste: {what}"
        assert by_role.deployer in what


def test_a_deploy_that_doctor_advises_against_stops_in_doctor(by_role: ByRole) -> None:
    assert by_role.refused.code == NO_DATABASE, by_role.refused.all
    assert "phase doctor" in line_of(by_role.refused)
    assert not by_role.was_changed


def test_pasting_what_doctor_says_is_enough_for_doctor(by_role: ByRole) -> None:
    assert [what for how, what in findings(by_role.second) if how == "STOPS"] == []
    assert "this user may not" not in by_role.second.out


def test_pasting_what_doctor_says_is_enough_for_the_whole_deploy(by_role: ByRole) -> None:
    assert "phase verify" in line_of(by_role.deploy), by_role.deploy.all
    assert by_role.deploy.code == RED


def test_doctor_names_beforehand_every_driver_that_will_be_red_and_no_other(
    by_role: ByRole,
) -> None:
    """Purged but linked is red afterwards; what the fix puts right is a note."""
    found = finds(by_role.second, "LATER", QUARANTINE, "Purged, but still linked")
    named = re.findall(r"odd \d+|\b\d{32}\b", found)
    assert sorted(named) == sorted([PURGED_BUT_LINKED, "odd 12"])
    verification = by_role.deploy.out.partition("[9/9]")[2]
    assert {name: n for name, n in violations(Said(0, verification, "")).items() if n} == {
        "criterion_1_drivers_without_lead_outside_quarantine": len(named)
    }
    for name in named:
        assert name in verification
    finds(by_role.second, "note", "Let out without a lead", "odd 6", "odd 9", driver(7))


def test_a_rollback_by_that_role_is_whole_or_nothing(story: Story, by_role: ByRole) -> None:
    """Making a view anew for its owner asks for more than replacing it in place."""
    if by_role.rollback.code == DONE:
        assert by_role.changed_by_rollback != []
    else:
        line_of(by_role.rollback)
        assert by_role.changed_by_rollback == []


def test_doctor_names_everything_on_a_strange_database_at_once_and_only_reads(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.older)
    here.do(
        """
        drop view ops.v_yango_payments_ledger_latest_enriched cascade;
        alter table canon.drivers_index alter column license_norm type text;
        alter table canon.identity_registry rename column primary_phone to phone;
        alter view ops.v_driver_orphans rename column creation_rule to rule;
        create type public.something as enum ('a');
        insert into public.summary_daily values
        ('x', '31-02-2025', 1, 1), ('x', '2025-02-01', 1, 1), (null, '01-02-2025', 1, 1);
        """
    )
    with nothing_changed(here.settings):
        said = here.say("doctor")
    assert said.code == RED, said.all
    finds(said, "STOPS", "ops.v_yango_payments_ledger_latest_enriched", "missing")
    finds(said, "STOPS", "canon.drivers_index.license_norm", "text", "varchar")
    finds(said, "STOPS", "canon.identity_registry.primary_phone", "missing")
    renamed = finds(said, "STOPS", "ops.v_driver_orphans", "creation_rule", "found rule")
    for dependant in ("reporting.driver_matrix", "reporting.quarantine_and_matrix", 'View: "x" 1'):
        assert dependant in renamed, "at any height"
    finds(said, "LATER", PURGED_BUT_LINKED)
    finds(said, "note", "public.summary_daily", "3")
    finds(said, "note", QUARANTINE, "older deployment")
    finds(said, "note", driver(7), "orphans fix")
    assert str(len([1 for how, _ in findings(said) if how != "note"])) in line_of(said)


def test_doctor_names_what_has_become_of_a_deployed_database(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    here.do(
        f"""
        alter table {LEDGER} disable trigger driver_orphan_quarantine_ledger_is_append_only;
        update {QUARANTINE} set status = 'purged' where driver_id = '{driver(4)}';
        insert into public.summary_daily values ('x', '31-02-2025', 1, 1);
        insert into observational.lead_events (source_table, source_pk, event_date, payload_json,
        created_at) values ('module_ct_cabinet_leads', 'odd', '2025-01-01', '7', now());
        """
    )
    with nothing_changed(here.settings):
        said = here.say("doctor", "--no-backup")
    assert said.code == RED, said.all
    finds(said, "STOPS", LEDGER, "append_only", "disabled", "enable always trigger")
    finds(said, "LATER", driver(4), "orphans resolve DRIVER_ID --status purged")
    finds(said, "note", "public.summary_daily", "1")
    finds(said, "note", "observational.lead_events", "no object: 2")
    here.do(
        f"drop trigger driver_orphan_quarantine_append on {QUARANTINE};"
        "update canon.ct4_orphans_alembic_version set version_num = '0042'"
    )
    said = here.say("doctor", "--no-backup")
    finds(said, "STOPS", QUARANTINE, "driver_orphan_quarantine_append", "missing")
    finds(said, "STOPS", "canon.ct4_orphans_alembic_version", "0042")


def advised(said: Said) -> list[tuple[str, str]]:
    """The notes about an index, and the statements to paste in them."""
    notes = [what for how, what in findings(said) if how == "note" and "no index on" in what]
    return [(what, what.partition(" say:  ")[2]) for what in notes]


def test_doctor_recommends_the_indexes_that_large_tables_lack_until_they_are_there(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    assert advised(here.must("doctor")) == [], "small tables need none"
    make_large(here.settings)
    with nothing_changed(here.settings):
        said = here.must("doctor")
    assert "would succeed" in said.out, "advice is no problem in the way"
    (links, make_links), (days, make_days) = advised(said)
    for note, index in ((links, LINKS_OF_A_PERSON), (days, DAYS_OF_A_DRIVER)):
        assert note.startswith(f"{index.table}: no index on {index.column}")
        assert "5,000,000 rows" in note
        assert index.gain in note
    here.do(make_links)
    make_large(here.settings)
    assert [note for note, _ in advised(here.must("doctor"))] == [days]
    here.do(make_days)
    make_large(here.settings)
    assert advised(here.must("doctor")) == []


def test_doctor_says_that_a_database_is_set_to_read_only(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    here.do(f"alter database {here.settings.dbname} set default_transaction_read_only = on")
    finds(here.say("doctor"), "STOPS", "read only")


def forget(desk: Desk, condition: str) -> None:
    """Take rows out of the ledger, as nobody should."""
    trigger = "driver_orphan_quarantine_ledger_is_append_only"
    desk.do(
        f"""
        alter table {LEDGER} disable trigger {trigger};
        delete from {LEDGER} where {condition};
        alter table {LEDGER} enable always trigger {trigger};
        """
    )


@pytest.mark.parametrize("what", ["empty", "history"])
def test_doctor_does_not_say_that_a_deploy_would_succeed_whose_verification_is_red(
    story: Story, desk: Callable[[str], Desk], what: str
) -> None:
    """On an empty CT4 database, which is no verification; where history is lost."""
    here = desk("template_ct4" if what == "empty" else story.green)
    if what == "history":
        forget(here, f"driver_id = '{driver(6)}' and revision = 1")
    said = here.say("doctor")
    assert said.code != DONE, said.all
    assert "would succeed" not in said.out


@pytest.mark.parametrize("command", ["doctor", "deploy", "verify", "rollback"])
def test_a_server_that_cannot_be_reached_ends_with_3_and_one_line(
    office: Office, tmp_path: Path, command: str
) -> None:
    nowhere = replace(
        office.server, dbname=office.name, host=str(tmp_path), password=PASSWORD, port=1
    )
    said = office.say(nowhere, tmp_path / "output", command)
    assert said.code == NO_DATABASE, said.all
    assert "DB_HOST" in line_of(said)
    assert PASSWORD not in said.all
    assert not (tmp_path / "output").exists()


def test_a_database_that_is_no_ct4_is_called_so(desk: Callable[[str], Desk]) -> None:
    here = desk("template1")
    with pytest.raises(AssertionError, match="no CT4 database"):
        catalogue(here.settings)
    said = here.say("doctor", "--no-backup")
    assert said.code == RED, said.all
    for schema in ("canon", "ops", "observational"):
        finds(said, "STOPS", f"schema {schema}", "no CT4 database", "DB_NAME")
    said = here.say("deploy", "--no-backup")
    stopped(said, "doctor", NO_DATABASE, "Nothing was changed", here.output)
    assert here.say("verify").code == NO_DATABASE
    assert here.say("rollback", "--migration").code == DONE
    assert here.ask("select count(*) from pg_namespace where nspname like 'ct4%'") == [(0,)]


# --- Verify ---------------------------------------------------------------------------------------

# What somebody does, the criteria that must turn red, and the drivers that must be named.
BREAKS: dict[str, tuple[str, dict[str, int], list[str]]] = {
    "a driver with a lead is quarantined by the old name": (
        f"insert into {QUARANTINE} (driver_id, person_key, detected_reason) values"
        f" ('{driver(2)}', '{person(2)}', 'manual_detection');",
        {"criterion_5_quarantined_drivers_with_a_lead": 1},
        [driver(2)],
    ),
    "history is removed": (
        f"alter table {LEDGER} disable trigger all;"
        f" delete from {LEDGER} where driver_id = '{driver(6)}' and revision = 1;",
        {"criterion_5_ledger_history_has_gaps": 1},
        [driver(6)],
    ),
    "a lead, a link of the fix, and a quarantine are gone": (
        f"""
        delete from {LINKS} where source_pk in ('cab-1', 'mig-11');
        update {QUARANTINE} set status = 'resolved_created_lead' where driver_id = '{driver(4)}';
        """,
        {
            "criterion_1_drivers_without_lead_outside_quarantine": 3,
            "criterion_3_drivers_without_lead_without_record": 1,
            "criterion_5_released_drivers_without_lead": 2,
            "criterion_5_relinks_and_ledger_disagree": 1,
        },
        [driver(1), driver(4), driver(11)],
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_verify_turns_red_and_names_the_driver_when(
    story: Story, desk: Callable[[str], Desk], what: str
) -> None:
    statements, red, named = BREAKS[what]
    here = desk(story.green)
    here.do(statements)
    said = here.say("verify")
    assert said.code == RED, said.all
    line_of(said)
    assert {name: n for name, n in violations(said).items() if n} == red
    for driver_id in named:
        assert driver_id in said.out


def test_verify_turns_red_and_names_the_driver_when_somebody_who_is_shut_out_is_shown(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    for view in FOUR:
        if view != "ops.v_driver_orphans":
            show_driver(here, view)
    said = here.say("verify")
    assert said.code == RED, said.all
    assert {name: n for name, n in violations(said).items() if n} == {
        "criterion_2_excluded_drivers_in_eligible": 1,
        "criterion_2_excluded_drivers_in_funnel": 1,
        "criterion_2_excluded_drivers_in_payments": 1,
    }
    assert said.out.count(driver(4)) >= 3


def is_no_verification(said: Said) -> str:
    assert said.code == NO_DATABASE, said.all
    assert "All criteria hold" not in said.out
    return line_of(said)


def test_verify_fails_where_it_looked_at_nothing(desk: Callable[[str], Desk]) -> None:
    is_no_verification(desk("template_built").say("verify"))


def test_verify_fails_where_nothing_is_deployed(story: Story, desk: Callable[[str], Desk]) -> None:
    is_no_verification(desk(story.older).say("verify"))


@pytest.mark.parametrize("name", ["ops.v_cabinet_funnel_status", PLAN, QUARANTINE])
def test_verify_fails_where_something_is_missing(
    story: Story, desk: Callable[[str], Desk], name: str
) -> None:
    here = desk(story.green)
    here.do(f"drop view {name} cascade")
    assert name in is_no_verification(here.say("verify"))


def test_verify_fails_where_the_funnel_shows_nobody(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    """Nobody who is shut out is shown, because nobody is; but drivers are linked."""
    here = desk(story.green)
    here.do(
        """
        create table ops.nobody as select * from ops.v_cabinet_funnel_status where false;
        grant select on ops.nobody to public;
        create or replace view ops.v_cabinet_funnel_status as select * from ops.nobody;
        """
    )
    said = here.say("verify")
    assert said.code not in (DONE, USAGE), said.all
    assert "All criteria hold" not in said.out


def test_verify_fails_where_an_acceptance_test_did_not_run(
    story: Story, desk: Callable[[str], Desk], office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "criterion_5_released_drivers_without_lead"
    here = desk(story.green)
    monkeypatch.setattr(office, "skipped", [name])
    assert name in is_no_verification(here.say("verify"))


def test_verify_does_not_take_an_earlier_result_for_its_own(
    story: Story, desk: Callable[[str], Desk], office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = desk(story.green)
    earlier = office.target(here.settings) / "run_results.json"
    if not earlier.exists():
        here.must("verify")
    assert earlier.exists()
    monkeypatch.setattr(project, "run", lambda *_, **__: (2, "Error: dbt is ill"))
    assert "dbt is ill" in is_no_verification(here.say("verify"))


def test_verify_is_not_green_where_a_test_could_not_be_carried_out(
    story: Story, desk: Callable[[str], Desk]
) -> None:
    here = desk(story.green)
    show_driver(here, "ops.v_payment_calculation", "(1 / 0)::varchar")
    said = here.say("verify")
    assert said.code not in (DONE, USAGE), said.all
    assert violations(said)["criterion_2_excluded_drivers_in_payments"] == -1
