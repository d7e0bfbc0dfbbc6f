"""The fix end to end on a real server: what issue 2 promises of it, promise by promise.

A small town in which every action occurs is fixed once, and most tests only look at what came of
it. The others make a town of their own from a template and disturb the fix: a trigger of CT4, a
second connection, a kill.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import reading
from click.testing import CliRunner
from ct4_orphans import cli, embedded, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings, connect
from ct4_orphans.report import csv_cell
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import tuple_row
from reading import (
    CABINET_LEADS,
    DRIVERS,
    LEAD_SOURCES,
    MIGRATIONS,
    NO_EVENTS,
    REPAIR_FAILED,
    SCOUTING,
    IndexedDriver,
    LeadEvent,
    Link,
    Person,
    PublicDriver,
    Quarantined,
    Rule,
    SummaryRow,
    World,
)
from test_rules_properties import VIEWS, differences
from worlds import insert_world, worlds

ROOT = Path(__file__).parents[2]
SCRIPT = "scripts/fix_drivers_without_leads.py"
ACCEPTANCE = ROOT / "scripts/verify_no_orphans_outside_quarantine.sql"
DAY = date(2025, 3, 10)
NOON = datetime(2025, 3, 1, 12, tzinfo=timezone.utc)

Run = Callable[..., "subprocess.CompletedProcess[str]"]
MakeTown = Callable[..., Settings]


# --- A town in which everything occurs ------------------------------------------------------------


def person_key(number: int) -> uuid.UUID:
    return uuid.UUID(f"00000000-0000-4000-8000-{number:012d}")


def driver_of(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()


PEOPLE = ["ana", "beto", "carla", "dora", "eva", "fito", "gina", "hugo", "ivan"]
PEOPLE += ["julia", "kiko", "lola", "mario", "nora", "otto"]
KEY = {name: person_key(number) for number, name in enumerate(PEOPLE, start=1)}
ID = {name: driver_of(name) for name in [*PEOPLE, "carla2"]}
NAME = {driver: name for name, driver in ID.items()}

LICENCES = {
    "ana": "Q10000001",
    "beto": "q-1000 0002",
    "carla": "Q10000003",
    "ivan": "Q10000009",
    "kiko": "Q10000011",
}
PHONES = {
    "beto": "+51 987 000 002",
    "dora": "987000004",
    "eva": "987000005",
    "fito": "51987000005",
    "gina": "987000007",
    "julia": "987000010",
}


def linked(number: int, person: uuid.UUID, driver: str, **changes: Any) -> Link:
    values: dict[str, Any] = {"snapshot_date": NOON, "linked_at": NOON + timedelta(hours=number)}
    return Link(number, person, DRIVERS, driver, **(values | changes))


def lead_link(number: int, person: uuid.UUID, table: str, key: str) -> Link:
    return Link(number, person, table, key, NOON, NOON)


def event(number: int, table: str, payload: Any, **changes: Any) -> LeadEvent:
    """An event on DAY; its lead row is named after its number."""
    values: dict[str, Any] = {"source_pk": f"L{number}", "event_date": DAY}
    return LeadEvent(
        id=number, source_table=table, payload=json.dumps(payload), **(values | changes)
    )


def trips(name: str) -> list[SummaryRow]:
    """25 trips within three days of DAY."""
    days = [(DAY + timedelta(days=after)).strftime("%d-%m-%Y") for after in (0, 1, 2)]
    numbers = (5, 5, 15)
    return [
        SummaryRow(ID[name], day, number, 3600) for day, number in zip(days, numbers, strict=True)
    ]


def rule(number: int, tag: str, needed: int) -> Rule:
    return Rule(number, tag, 30, needed, Decimal("100.00"), date(2025, 1, 1))


def town() -> World:
    """Fifteen persons; `EXPECTED` says what the fix must make of each driver."""
    people = [Person(KEY["beto"], PHONES["beto"])]
    people += [Person(KEY[name]) for name in PEOPLE if name != "beto"]
    links = [linked(number, KEY[name], ID[name]) for number, name in enumerate(PEOPLE, start=1)]
    links.append(linked(30, KEY["carla"], ID["carla2"]))
    links += [
        lead_link(40, KEY["hugo"], CABINET_LEADS, "L7"),
        lead_link(41, KEY["lola"], CABINET_LEADS, "L12"),
        lead_link(42, KEY["mario"], CABINET_LEADS, "L13"),
    ]
    return World(
        persons=people,
        links=links,
        drivers_index=[
            IndexedDriver(ID[name], license_norm=licence) for name, licence in LICENCES.items()
        ],
        drivers=[
            PublicDriver(ID[name], phone=phone) for name, phone in PHONES.items() if name != "beto"
        ],
        lead_events=[
            event(1, MIGRATIONS, {"driver_id": ID["ana"], "origin_tag": "fleet_migration"}),
            event(21, SCOUTING, {"driver_license": LICENCES["ana"]}),  # weaker: no second link
            event(2, SCOUTING, {"driver_license": "Q10000002", "driver_phone": "987000002"}),
            event(3, SCOUTING, {"driver_license": "q10000003"}, event_date=date(2025, 3, 9)),
            event(4, CABINET_LEADS, {"park_phone": "+51987000004"}),
            event(24, SCOUTING, {"driver_phone": "987000004"}),
            event(5, SCOUTING, {"driver_phone": "987000005"}),  # Eva's and Fito's
            event(7, CABINET_LEADS, {"park_phone": PHONES["gina"]}),  # Hugo's lead
            event(10, CABINET_LEADS, {"first_name": "Julia"}, person_key=KEY["julia"]),
            event(11, SCOUTING, {"driver_license": LICENCES["kiko"]}),
            event(12, CABINET_LEADS, {"first_name": "Lola"}),
        ],
        scout_rules=[rule(1, "cabinet", 5), rule(2, "fleet_migration", 25)],
        partner_rules=[rule(1, "cabinet", 25)],
        summary_daily=[
            row for name in ("ana", "dora", "ivan", "julia", "hugo") for row in trips(name)
        ],
        quarantine=[
            Quarantined(ID["kiko"], "quarantined", NO_EVENTS, person_key=KEY["kiko"]),
            Quarantined(ID["lola"], "quarantined", NO_EVENTS, 2, KEY["lola"]),
            Quarantined(ID["mario"], "purged", "manual_detection", 1, KEY["mario"]),
            Quarantined(ID["nora"], "quarantined", "manual_detection", 1, KEY["nora"]),
            Quarantined(ID["otto"], "quarantined", REPAIR_FAILED, 1, KEY["otto"]),
        ],
    )


# Action, status and reason of each driver that a plain fix touches.
EXPECTED = {
    "ana": ("relink", "resolved_relinked", REPAIR_FAILED),
    "beto": ("relink", "resolved_relinked", REPAIR_FAILED),
    "carla": ("relink", "resolved_relinked", REPAIR_FAILED),
    "carla2": ("relink", "resolved_relinked", REPAIR_FAILED),
    "dora": ("relink", "resolved_relinked", REPAIR_FAILED),
    "eva": ("quarantine", "quarantined", REPAIR_FAILED),
    "fito": ("quarantine", "quarantined", REPAIR_FAILED),
    "gina": ("quarantine", "quarantined", REPAIR_FAILED),
    "ivan": ("quarantine", "quarantined", NO_EVENTS),
    "julia": ("quarantine", "quarantined", NO_EVENTS),
    "lola": ("release", "resolved_created_lead", NO_EVENTS),
}
# Person, table, lead row, day, score, confidence, event, strategy, level.
EXPECTED_LINKS = {
    ("ana", MIGRATIONS, "L1", DAY, 100, "HIGH", 1, "driver_id_exact", 1),
    ("beto", SCOUTING, "L2", DAY, 80, "MEDIUM", 2, "both_exact", 2),
    ("carla", SCOUTING, "L3", date(2025, 3, 9), 80, "MEDIUM", 3, "license_exact", 2),
    ("dora", CABINET_LEADS, "L4", DAY, 80, "MEDIUM", 4, "phone_exact", 2),
    ("dora", SCOUTING, "L24", DAY, 80, "MEDIUM", 24, "phone_exact", 2),
}


def crowd() -> World:
    """Twelve persons with one to six drivers each; every other one has a lead to be found."""
    sizes = [1, 3, 2, 1, 6, 1, 2, 2, 1, 4, 1, 1]
    people = [person_key(number) for number in range(101, 101 + len(sizes))]
    owned = [
        (person, driver_of(f"{index} {driver}"))
        for index, (person, size) in enumerate(zip(people, sizes, strict=True))
        for driver in range(size)
    ]
    return World(
        persons=[Person(person) for person in people],
        links=[linked(number, *pair) for number, pair in enumerate(owned, start=1)],
        lead_events=[
            event(index + 1, SCOUTING, {"driverId": driver_of(f"{index} 0")})
            for index in range(0, len(sizes), 2)
        ],
    )


CROWD_DRIVERS = 25


# --- Databases ------------------------------------------------------------------------------------


def fill(settings: Settings, world: World) -> None:
    """Write a world; CT4's own sequences go on after its ids."""
    with connect(settings) as connection, connection.transaction():
        insert_world(connection.cursor(), world)  # type: ignore[arg-type]
        for table in ("canon.identity_links", "observational.lead_events"):
            connection.execute("select setval(pg_get_serial_sequence(%s, 'id'), 1000)", [table])


@pytest.fixture
def make_town(make_database: Callable[[str], Settings]) -> MakeTown:
    """Make a database with a world in it, the town if none is given."""

    def make(world: World | None = None) -> Settings:
        settings = make_database("template_built")
        fill(settings, world or town())
        return settings

    return make


@pytest.fixture(scope="module")
def module_database(server: Settings) -> Iterator[Callable[[], Settings]]:
    """Like make_database, for the whole module."""
    made: list[str] = []

    def make() -> Settings:
        made.append(f"test_{uuid.uuid4().hex}")
        return embedded.recreate_database(server, made[-1], template="template_built")

    yield make
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for name in made:
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            )


def query(settings: Settings, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connect(settings) as connection, connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement, parameters or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def contents(settings: Settings) -> tuple[list[Any], list[Any]]:
    """Every column of every row of the two tables that the fix writes."""
    links = query(settings, "select * from canon.identity_links order by id")
    ledger = query(
        settings, "select * from canon.driver_orphan_quarantine_ledger order by entry_id"
    )
    return links, ledger


def end_state(settings: Settings) -> tuple[set[Any], set[Any]]:
    """What the fix comes to, without what differs from run to run (ids, clocks, run_id)."""
    links = query(
        settings,
        "select person_key, source_table, source_pk, snapshot_date, match_rule, match_score,"
        " confidence_level::text, (evidence - 'run_id')::text from canon.identity_links",
    )
    states = query(
        settings,
        "select driver_id, person_key, detected_reason::text, creation_rule, status::text,"
        " (evidence_json - 'run_id')::text, resolution_notes, resolved_at is null"
        " from canon.driver_orphan_quarantine",
    )
    return set(links), set(states)


def plan(settings: Settings, reprocess: bool = False) -> list[str]:
    """The drivers that a fix would still touch."""
    rows = query(
        settings,
        "select driver_id from ops.v_orphan_fix_plan where not requires_reprocess or %s",
        reprocess,
    )
    return [driver for (driver,) in rows]


def violations(settings: Settings) -> dict[str, int]:
    """The five acceptance statements of instrucciones-deploy.md, word for word."""
    with connect(settings) as connection:
        return acceptance(connection)


def acceptance(connection: Connection) -> dict[str, int]:
    text = re.sub(r"^--.*$", "", ACCEPTANCE.read_text(), flags=re.MULTILINE)
    statements = [part for part in text.split(";") if part.strip()]
    assert len(statements) == 5
    counts: dict[str, int] = {}
    for statement in statements:
        rows = connection.execute(statement).fetchall()  # type: ignore[call-overload]
        assert len(rows) == 1
        counts |= rows[0]
    assert len(counts) == 5
    return counts


def status_of(settings: Settings, name: str) -> str | None:
    rows = query(
        settings,
        "select status::text from canon.driver_orphan_quarantine where driver_id = %s",
        ID[name],
    )
    return rows[0][0] if rows else None


def where_is(settings: Settings, name: str) -> set[str]:
    """In which of the operational views the driver is; payable: with a payment that is due."""
    found = query(
        settings,
        "select 'funnel' from ops.v_cabinet_funnel_status where driver_id = %(driver)s"
        " union select 'eligible' from ops.v_ct4_eligible_drivers where driver_id = %(driver)s"
        " union select 'payable' from ops.v_payment_calculation"
        " where driver_id = %(driver)s and is_payable".replace("%(driver)s", "%s"),
        ID[name],
        ID[name],
        ID[name],
    )
    return {place for (place,) in found}


EVERYWHERE = {"funnel", "eligible", "payable"}


# --- Running it -----------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run of the script left behind."""

    code: int
    out: str
    err: str
    directory: Path

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def report(self) -> dict[str, Any]:
        (path,) = self.directory.glob("orphans_report_*.json")
        loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return loaded

    @property
    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.report["stats"]
        return stats

    @property
    def drivers(self) -> dict[str, dict[str, Any]]:
        return {row["driver_id"]: row for row in self.report["drivers"]}

    @property
    def csv_rows(self) -> list[dict[str, str]]:
        (path,) = self.directory.glob("orphans_report_*.csv")
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def fix(tmp_path: Path) -> Callable[..., Outcome]:
    """Run the command, each time with an output directory of its own."""
    numbers = iter(range(1000))

    def run_fix(settings: Settings, *arguments: str) -> Outcome:
        return in_this_process(settings, tmp_path / f"reports{next(numbers)}", *arguments)

    return run_fix


def in_this_process(settings: Settings, directory: Path, *arguments: str) -> Outcome:
    """The command without the start of a new Python, which takes longer than the rest."""
    result = CliRunner(env=settings.environment()).invoke(
        cli.fix, ["--output-dir", str(directory), *arguments], prog_name=Path(SCRIPT).name
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise AssertionError("this would be a traceback") from result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr, directory)


def run_script(run: Run, settings: Settings, directory: Path, *arguments: str) -> Outcome:
    """The script as an operator runs it."""
    done = run("python", SCRIPT, "--output-dir", str(directory), *arguments, settings=settings)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr, directory)


@pytest.fixture
def small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions of five drivers, so that the crowd needs several."""
    monkeypatch.setattr(fixing, "DRIVERS_PER_TRANSACTION", 5)


def execute_here(
    settings: Settings,
    limit: int | None = None,
    reprocess: bool = False,
    meanwhile: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """Plan, let `meanwhile` happen, apply; return the planned rows with their outcome."""
    with connect(settings) as connection, fixing.only_one_execute(connection):
        fixing.prepare(connection, fixing.Options(True, limit, reprocess))
        meanwhile()
        fixing.apply(connection, seals.Run("fix", {}))
        with fixing.applied_rows(connection) as rows:
            return list(rows)


def one_error_line(outcome: Outcome, code: int) -> str:
    assert outcome.code == code, outcome.out + outcome.err
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("Error: ")
    return lines[0]


def on_link_insert(settings: Settings, body: str) -> None:
    """A trigger of CT4 on new identity links; `new` is the row, `body` is PL/pgSQL."""
    query(
        settings,
        f"create function canon.of_ct4() returns trigger language plpgsql as $$"
        f" begin {body} return new; end $$",
    )
    query(
        settings,
        "create trigger of_ct4 before insert on canon.identity_links"
        " for each row execute function canon.of_ct4()",
    )


def report_equals_database(outcome: Outcome, settings: Settings) -> None:
    """What a report says was done is what is in the database under its run_id."""
    run_id = outcome.report["run_id"]
    entries = query(
        settings,
        "select driver_id, status::text from canon.driver_orphan_quarantine_ledger"
        " where run_id = %s",
        uuid.UUID(run_id),
    )
    links = query(
        settings,
        "select count(*) from canon.identity_links where evidence ->> 'run_id' = %s",
        run_id,
    )
    applied = {key for key, row in outcome.drivers.items() if row["outcome"] == "applied"}
    assert applied == {driver for driver, _ in entries}
    statuses = Counter(status for _, status in entries)
    stats = outcome.stats
    assert stats["quarantined"] == statuses["quarantined"]
    assert stats["resolved_relinked"] == statuses["resolved_relinked"]
    assert stats["released"] == statuses["resolved_created_lead"]
    assert stats["links_created"] == links[0][0]


def adds_up(stats: dict[str, Any]) -> None:
    assert stats["processed"] == stats["with_events"] + stats["without_events"]
    done = stats["quarantined"] + stats["resolved_relinked"] + stats["released"]
    assert stats["processed"] == done + stats.get("changed", 0) + stats["errors"]


# --- The dry-run ----------------------------------------------------------------------------------


@dataclass
class Fixed:
    """A town and what a dry-run and an execute made of it."""

    settings: Settings
    before: tuple[list[Any], list[Any]]
    violations_before: dict[str, int]
    plan_before: list[dict[str, Any]]
    dry_run: Outcome
    after_dry_run: tuple[list[Any], list[Any]]
    execute: Outcome
    started: datetime
    ended: datetime


@pytest.fixture(scope="module")
def fixed(
    module_database: Callable[[], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Fixed:
    """A town after a dry-run and an execute. For tests that only look."""
    from conftest import run_command

    settings = module_database()
    fill(settings, town())
    directory = tmp_path_factory.mktemp("fixed")
    before = contents(settings)
    violations_before = violations(settings)
    with connect(settings) as connection:
        plan_before = connection.execute("select * from ops.v_orphan_fix_plan").fetchall()
    dry_run = run_script(run_command, settings, directory / "dry-run")
    after_dry_run = contents(settings)
    started = query(settings, "select now()")[0][0]
    execute = run_script(run_command, settings, directory / "execute", "--execute")
    ended = query(settings, "select now()")[0][0]
    return Fixed(
        settings,
        before,
        violations_before,
        plan_before,
        dry_run,
        after_dry_run,
        execute,
        started,
        ended,
    )


def test_a_dry_run_is_the_default_and_changes_nothing(fixed: Fixed) -> None:
    assert fixed.dry_run.code == 0, fixed.dry_run.err
    assert fixed.after_dry_run == fixed.before
    assert "Nothing was changed." in fixed.dry_run.lines


def test_dry_run_says_aloud_what_is_the_default(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    before = contents(settings)
    plain, aloud = fix(settings), fix(settings, "--dry-run")
    assert plain.code == aloud.code == 0
    # All but the lines that name the directory, which each run has of its own.
    assert [line for line in plain.lines if "reports" not in line] == [
        line for line in aloud.lines if "reports" not in line
    ]
    assert plain.drivers == aloud.drivers
    assert contents(settings) == before


def test_the_first_line_says_dry_run_or_execute_and_which_database(fixed: Fixed) -> None:
    for outcome, mode in ((fixed.dry_run, "DRY RUN"), (fixed.execute, "EXECUTE")):
        assert outcome.lines[0].startswith(f"{mode} on ")
        assert f"database {fixed.settings.dbname} " in outcome.lines[0]
        assert fixed.settings.host in outcome.lines[0]


def test_the_last_line_says_what_to_run_next(fixed: Fixed) -> None:
    assert fixed.dry_run.lines[-1].startswith("Next: ")
    assert "--execute" in fixed.dry_run.lines[-1]
    assert fixed.execute.lines[-1].startswith("Next: ")
    assert "orphans verify" in fixed.execute.lines[-1]


def test_a_dry_run_passes_its_limit_and_reprocess_on_to_the_next_command(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    last = fix(make_town(), "--limit", "3", "--reprocess-quarantined").lines[-1]
    assert "--execute" in last
    assert "--limit 3" in last
    assert "--reprocess-quarantined" in last


@pytest.mark.parametrize("arguments", [[], ["--limit", "5"]], ids=["all", "limit"])
@pytest.mark.parametrize("mode", ["--dry-run", "--execute"])
def test_with_nothing_to_fix_the_last_line_says_to_verify(
    built_database: Settings, fix: Callable[..., Outcome], mode: str, arguments: list[str]
) -> None:
    outcome = fix(built_database, mode, *arguments)
    assert outcome.code == 0
    assert outcome.lines[-1].startswith("Next: ")
    assert "orphans verify" in outcome.lines[-1]
    assert outcome.stats["processed"] == 0
    assert outcome.report["drivers"] == []


def test_the_server_lets_nothing_write_in_the_transaction_of_a_dry_run(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    a_plan_that_writes(settings)
    outcome = fix(settings)
    assert "read-only" in one_error_line(outcome, 3)
    assert query(settings, "select count(*) from public.written") == [(0,)]
    assert list(outcome.directory.glob("*")) == []
    # Only the transaction of the dry-run was in the way: an execute may write.
    assert fix(settings, "--execute").code == 0
    assert query(settings, "select count(*) > 0 from public.written") == [(True,)]


def a_plan_that_writes(settings: Settings) -> None:
    """The plan view with an explanation that leaves a row behind when it is read."""
    rows = query(
        settings,
        "select column_name from information_schema.columns where table_schema = 'ops'"
        " and table_name = 'v_orphan_fix_plan' order by ordinal_position",
    )
    columns = ", ".join(
        "public.write() || explanation as explanation" if name == "explanation" else name
        for (name,) in rows
    )
    for statement in (
        "create table public.written (at timestamptz default now())",
        "create function public.write() returns text language sql volatile"
        " as $$ insert into public.written default values; select ''::text $$",
        "alter view ops.v_orphan_fix_plan rename to the_plan",
        f"create view ops.v_orphan_fix_plan as select {columns} from ops.the_plan",
    ):
        query(settings, statement)


def test_a_dry_run_is_one_snapshot_that_the_server_keeps_read_only(fixed: Fixed) -> None:
    with (
        connect(fixed.settings) as connection,  # not read_only: the transaction itself must be
        fixing.planned_rows(connection, fixing.Options()) as rows,
    ):
        assert list(rows) == []
        for setting, value in (
            ("transaction_read_only", "on"),
            ("transaction_isolation", "repeatable read"),
        ):
            found = connection.execute("select current_setting(%s) as value", [setting])
            assert found.fetchone() == {"value": value}


def test_who_has_read_enough_of_a_plan_has_ended_its_query(make_town: MakeTown) -> None:
    with connect(make_town(crowd()), read_only=True) as connection:
        with fixing.planned_rows(connection, fixing.Options()) as rows:
            assert next(rows)["outcome"] == "planned"
        assert connection.execute("select 1 as one").fetchone() == {"one": 1}


def test_a_dry_run_foretells_what_the_execute_does(fixed: Fixed) -> None:
    assert fixed.dry_run.stats == fixed.execute.stats
    planned, applied = fixed.dry_run.drivers, fixed.execute.drivers
    assert planned.keys() == applied.keys()
    for driver, row in planned.items():
        assert row["outcome"] == "planned"
        assert applied[driver] == row | {"outcome": "applied"}


# --- Execute applies exactly the plan -------------------------------------------------------------


def test_execute_does_to_each_driver_what_the_rules_say(fixed: Fixed) -> None:
    assert fixed.execute.code == 0, fixed.execute.err
    found = {
        NAME[driver]: (row["action"], row["status"], row["detected_reason"])
        for driver, row in fixed.execute.drivers.items()
    }
    assert found == EXPECTED


def test_execute_inserts_exactly_the_links_that_the_plan_shows(fixed: Fixed) -> None:
    before, after = fixed.before[0], contents(fixed.settings)[0]
    assert after[: len(before)] == before
    inserted = query(
        fixed.settings,
        "select person_key, source_table, source_pk, match_rule, match_score,"
        " confidence_level::text, evidence, snapshot_date, linked_at from canon.identity_links"
        " where id > 1000",
    )
    assert len(inserted) == len(after) - len(before)
    names = {key: name for name, key in KEY.items()}
    found = set()
    for person, table, key, match_rule, score, confidence, evidence, moment, linked_at in inserted:
        assert match_rule == "LEAD_EVENT_RECONSTRUCTION"
        assert evidence["run_id"] == fixed.execute.report["run_id"]
        assert fixed.started <= linked_at <= fixed.ended
        in_utc = moment.astimezone(timezone.utc)
        assert in_utc.time() == datetime.min.time()
        found.add(
            (
                names[person],
                table,
                key,
                in_utc.date(),
                score,
                confidence,
                evidence["event_id"],
                evidence["strategy"],
                evidence["evidence_level"],
            )
        )
    assert found == EXPECTED_LINKS
    planned = {
        (row["person_key"], lead["source_table"], lead["source_pk"])
        for row in fixed.plan_before
        if not row["requires_reprocess"]
        for lead in row["lead_rows"]
    }
    assert planned == {(row[0], row[1], row[2]) for row in inserted}


def test_snapshot_date_is_the_event_date_at_utc_whatever_the_session_and_server_say(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    name = sql.Identifier(settings.dbname).as_string(None)
    query(settings, f"alter database {name} set timezone = 'America/Lima'")
    query(settings, f"alter database {name} set datestyle = 'SQL, DMY'")
    assert fix(settings, "--execute").code == 0
    rows = query(
        settings,
        "select snapshot_date from canon.identity_links"
        " where source_table = %s and source_pk = 'L1'",
        MIGRATIONS,
    )
    assert rows == [(datetime(2025, 3, 10, tzinfo=timezone.utc),)]


def test_execute_appends_one_ledger_entry_per_driver_that_says_why(fixed: Fixed) -> None:
    before, after = fixed.before[1], contents(fixed.settings)[1]
    assert after[: len(before)] == before
    run_id = fixed.execute.report["run_id"]
    with connect(fixed.settings) as connection:
        rows = connection.execute(
            "select * from canon.driver_orphan_quarantine_ledger where run_id = %s", [run_id]
        ).fetchall()
    assert len(rows) == len(after) - len(before) == len(EXPECTED)
    planned = {row["driver_id"]: row for row in fixed.plan_before}
    for row in rows:
        name = NAME[row["driver_id"]]
        action, status, reason = EXPECTED[name]
        expected = planned[row["driver_id"]]
        assert (row["status"], row["detected_reason"]) == (status, reason)
        assert row["person_key"] == KEY[name.rstrip("2")]
        assert row["revision"] == expected["next_revision"] == (3 if name == "lola" else 1)
        assert row["creation_rule"] == "RULE"
        evidence = row["evidence_json"]
        assert evidence["action"] == action
        assert evidence["run_id"] == run_id
        for key in ("explanation", "lead_rows", "rivals", "weak_events", "strategy"):
            assert evidence[key] == expected[key]
        is_quarantined = status == "quarantined"
        assert (row["resolved_at"] is None) == is_quarantined
        assert (row["resolution_notes"] is None) == is_quarantined
        assert fixed.started <= row["recorded_at"] <= fixed.ended


def test_a_refused_repair_keeps_the_rivals_in_the_ledger(fixed: Fixed) -> None:
    with connect(fixed.settings) as connection:
        rows = connection.execute(
            "select driver_id, evidence_json from canon.driver_orphan_quarantine"
            " where driver_id = any(%s)",
            [[ID["eva"], ID["gina"], ID["ivan"], ID["julia"]]],
        ).fetchall()
    evidence = {NAME[row["driver_id"]]: row["evidence_json"] for row in rows}
    (rival,) = evidence["eva"]["rivals"]
    assert set(rival["persons"]) == {str(KEY["eva"]), str(KEY["fito"])}
    (rival,) = evidence["gina"]["rivals"]
    assert rival["lead_row_linked_to"] == str(KEY["hugo"])
    assert evidence["ivan"]["rivals"] == []
    assert [weak["event_id"] for weak in evidence["julia"]["weak_events"]] == [10]


def test_the_untouched_stay_untouched(fixed: Fixed) -> None:
    touched = {row["driver_id"] for row in fixed.execute.report["drivers"]}
    assert touched.isdisjoint(ID[name] for name in ("hugo", "kiko", "mario", "nora", "otto"))
    assert status_of(fixed.settings, "hugo") is None
    assert status_of(fixed.settings, "kiko") == "quarantined"
    assert status_of(fixed.settings, "mario") == "purged"


def test_after_an_execute_the_plan_is_empty(fixed: Fixed) -> None:
    assert plan(fixed.settings) == []


def test_before_the_execute_the_acceptance_sql_finds_violations(fixed: Fixed) -> None:
    assert fixed.violations_before["violation_count"] > 0
    assert fixed.violations_before["missing_quarantine_records"] > 0


def test_after_the_execute_the_verbatim_acceptance_sql_returns_0(fixed: Fixed) -> None:
    assert set(violations(fixed.settings).values()) == {0}


def test_a_second_execute_finds_nothing_to_do_and_appends_nothing(
    fixed: Fixed, fix: Callable[..., Outcome]
) -> None:
    before = contents(fixed.settings)
    again = fix(fixed.settings, "--execute")
    assert again.code == 0
    assert again.stats["processed"] == again.stats["links_created"] == 0
    assert contents(fixed.settings) == before
    assert again.lines[-1].startswith("Next: ")


def test_the_last_line_tells_of_quarantined_drivers_with_new_evidence(
    fixed: Fixed, fix: Callable[..., Outcome]
) -> None:
    last = fix(fixed.settings).lines[-1]
    assert last.startswith("Next: 2 quarantined drivers")  # Kiko and Otto
    assert "--reprocess-quarantined" in last


# --- In the same moment, without dbt --------------------------------------------------------------


def test_relinked_is_payable_and_quarantined_is_gone_the_moment_the_fix_commits(
    make_town: MakeTown,
) -> None:
    settings = make_town()
    assert where_is(settings, "ana") == {"funnel"}
    assert where_is(settings, "dora") == {"funnel"}
    assert where_is(settings, "julia") == EVERYWHERE
    with connect(settings) as connection, connection.transaction():
        fixing.prepare(connection, fixing.Options(True))
        fixing.apply(connection, seals.Run("fix", {}))
        # Not committed yet: everyone else still sees the old state.
        assert where_is(settings, "julia") == EVERYWHERE
        assert where_is(settings, "ana") == {"funnel"}
    assert where_is(settings, "ana") == EVERYWHERE
    assert where_is(settings, "dora") == EVERYWHERE
    assert where_is(settings, "julia") == set()
    assert where_is(settings, "ivan") == set()


def test_a_purged_driver_stays_out_although_its_person_has_a_lead(fixed: Fixed) -> None:
    assert where_is(fixed.settings, "mario") == set()


def test_v_driver_orphans_shows_everyone_who_ever_was_in_quarantine(fixed: Fixed) -> None:
    rows = query(fixed.settings, "select driver_id, status::text from ops.v_driver_orphans")
    assert {NAME[driver]: status for driver, status in rows} == {
        **{name: status for name, (_, status, _) in EXPECTED.items()},
        "kiko": "quarantined",
        "mario": "purged",
        "nora": "quarantined",
        "otto": "quarantined",
    }


# --- Later: reprocess, release --------------------------------------------------------------------


def test_reprocess_quarantined_relinks_who_has_evidence_by_now(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    detected = query(
        settings,
        "select detected_at from canon.driver_orphan_quarantine where driver_id = %s",
        ID["kiko"],
    )
    assert fix(settings, "--execute").code == 0
    assert status_of(settings, "kiko") == "quarantined"
    again = fix(settings, "--execute", "--reprocess-quarantined")
    assert again.code == 0
    assert {NAME[driver]: row["action"] for driver, row in again.drivers.items()} == {
        "kiko": "relink",
        "otto": "quarantine",  # its events are gone: another reason
    }
    row = query(
        settings,
        "select status::text, detected_reason::text, detected_at"
        " from canon.driver_orphan_quarantine where driver_id = %s",
        ID["kiko"],
    )
    assert row == [("resolved_relinked", NO_EVENTS, detected[0][0])]
    assert plan(settings, reprocess=True) == []
    third = fix(settings, "--execute", "--reprocess-quarantined")
    assert third.stats["processed"] == 0
    assert set(violations(settings).values()) == {0}


def test_reprocess_quarantined_leaves_a_reason_given_by_hand_alone(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    assert fix(settings, "--execute", "--reprocess-quarantined").code == 0
    assert query(
        settings,
        "select count(*) from canon.driver_orphan_quarantine_ledger where driver_id = %s",
        ID["nora"],
    ) == [(1,)]


def test_a_quarantined_driver_is_relinked_when_its_event_arrives_later(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    assert fix(settings, "--execute").code == 0
    assert where_is(settings, "ivan") == set()
    query(
        settings,
        "insert into observational.lead_events (source_table, source_pk, event_date, payload_json)"
        " values (%s, 'late', %s, %s)",
        CABINET_LEADS,
        DAY,
        json.dumps({"driver": {"id": ID["ivan"]}}),
    )
    assert fix(settings, "--execute").stats["processed"] == 0
    again = fix(settings, "--execute", "--reprocess-quarantined")
    assert again.drivers[ID["ivan"]]["status"] == "resolved_relinked"
    assert where_is(settings, "ivan") == EVERYWHERE


def test_a_quarantined_driver_is_released_after_another_service_adds_a_lead_link(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    assert fix(settings, "--execute").code == 0
    add_link(settings, KEY["julia"], CABINET_LEADS, "L10")
    assert where_is(settings, "julia") == set()
    again = fix(settings, "--execute")
    assert again.code == 0
    assert again.stats["released"] == again.stats["processed"] == 1
    assert again.stats["links_created"] == 0
    assert status_of(settings, "julia") == "resolved_created_lead"
    assert where_is(settings, "julia") == EVERYWHERE


def test_a_relinked_driver_whose_link_is_lost_is_found_again(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    assert fix(settings, "--execute").code == 0
    query(settings, "delete from canon.identity_links where source_pk = 'L2'")
    again = fix(settings, "--execute")
    assert again.drivers[ID["beto"]]["status"] == "resolved_relinked"
    assert again.stats["processed"] == 1
    assert plan(settings) == []


def add_link(settings: Settings, person: uuid.UUID, table: str, key: str) -> None:
    """A link by another service of CT4."""
    query(settings, LINK_BY_ANOTHER, person, table, key)


LINK_BY_ANOTHER = (
    "insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date,"
    " match_rule, match_score, confidence_level) values (%s, %s, %s, now(), 'OTHER', 90, 'HIGH')"
)


# --- Limits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_crowd(module_database: Callable[[], Settings]) -> tuple[set[Any], set[Any]]:
    """The end state of the crowd after one full run."""
    settings = module_database()
    fill(settings, crowd())
    execute_here(settings)
    assert plan(settings) == []
    return end_state(settings)


@pytest.mark.parametrize("limit", [1, 3, 7, 24])
def test_limited_runs_never_split_a_person_and_end_where_one_full_run_ends(
    make_town: MakeTown, whole_crowd: tuple[set[Any], set[Any]], limit: int
) -> None:
    settings = make_town(crowd())
    sizes = Counter(link.person_key for link in crowd().links)
    processed = 0
    for _ in range(CROWD_DRIVERS + 1):
        rows = execute_here(settings, limit)
        persons = Counter(row["person_key"] for row in rows)
        assert all(count == sizes[person] for person, count in persons.items())
        assert len(rows) <= limit or len(persons) == 1
        assert all(row["outcome"] == "applied" for row in rows)
        processed += len(rows)
        if not rows:
            break
    assert processed == CROWD_DRIVERS
    assert end_state(settings) == whole_crowd


def test_a_person_with_more_drivers_than_the_limit_is_taken_alone(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    person = person_key(1)
    settings = make_town(
        World(
            persons=[Person(person)],
            links=[linked(number, person, driver_of(str(number))) for number in range(1, 6)],
        )
    )
    outcome = fix(settings, "--execute", "--limit", "2")
    assert outcome.code == 0
    assert outcome.stats["processed"] == outcome.stats["quarantined"] == 5
    assert plan(settings) == []


def test_limit_holds_in_a_dry_run_and_in_an_execute_alike(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town(crowd())
    dry_run = fix(settings, "--limit", "7")
    executed = fix(settings, "--execute", "--limit", "7")
    assert 1 <= dry_run.stats["processed"] <= 7
    assert dry_run.drivers.keys() == executed.drivers.keys()
    assert executed.lines[-1].startswith("Next: ")
    assert "--limit 7" in executed.lines[-1]
    assert len(plan(settings)) == CROWD_DRIVERS - executed.stats["processed"]


# --- Refused by the database ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "errcode", ["raise_exception", "check_violation", "foreign_key_violation", "22003", "CT409"]
)
def test_a_person_that_ct4_refuses_leaves_the_others_applied(
    make_town: MakeTown, fix: Callable[..., Outcome], errcode: str
) -> None:
    settings = make_town()
    on_link_insert(
        settings,
        "if new.source_pk = 'L3' then raise exception 'closed lead'"
        f" using errcode = '{errcode}'; end if;",
    )
    outcome = fix(settings, "--execute")
    assert "2 drivers" in one_error_line(outcome, 1)
    assert outcome.stats["errors"] == 2
    assert outcome.stats["links_skipped"] == 1
    adds_up(outcome.stats)
    for name in EXPECTED:
        row = outcome.drivers[ID[name]]
        if name in ("carla", "carla2"):
            assert row["outcome"] == "failed"
            assert "closed lead" in row["error"]
            assert status_of(settings, name) is None
        else:
            assert row["outcome"] == "applied"
            assert status_of(settings, name) == EXPECTED[name][1]
    report_equals_database(outcome, settings)
    # Once the cause is mended the same command finishes the work.
    query(settings, "drop trigger of_ct4 on canon.identity_links")
    again = fix(settings, "--execute")
    assert again.code == 0
    assert again.stats["resolved_relinked"] == again.stats["processed"] == 2
    assert set(violations(settings).values()) == {0}


def test_a_person_refused_at_commit_leaves_the_others_applied(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    for statement in (
        "create function canon.late() returns trigger language plpgsql as"
        " $$ begin if new.source_pk = 'L3' then raise exception 'too late'; end if;"
        " return null; end $$",
        "create constraint trigger late after insert on canon.identity_links"
        " deferrable initially deferred for each row execute function canon.late()",
    ):
        query(settings, statement)
    outcome = fix(settings, "--execute")
    one_error_line(outcome, 1)
    assert outcome.stats["errors"] == 2
    report_equals_database(outcome, settings)
    assert status_of(settings, "dora") == "resolved_relinked"


def test_limited_runs_get_past_a_person_that_ct4_refuses(make_town: MakeTown) -> None:
    """The refused one is tried again, and counts, each time; the others of the limit go on."""
    settings = make_town(crowd())
    on_link_insert(settings, "if new.source_pk = 'L1' then raise exception 'closed'; end if;")
    for _ in range(8):
        execute_here(settings, 8)
    refused = driver_of("0 0")
    assert plan(settings) == [refused]


@pytest.mark.parametrize("errcode", ["raise_exception", "disk_full"])
def test_a_licence_or_phone_that_ct4_quotes_in_its_refusal_is_not_passed_on(
    make_town: MakeTown, fix: Callable[..., Outcome], errcode: str
) -> None:
    settings = make_town()
    on_link_insert(
        settings,
        "if new.source_pk = 'L2' then"
        " raise exception 'licence Q10000002, phone 987000002 are known'"
        f" using errcode = '{errcode}'; end if;",
    )
    outcome = fix(settings, "--execute")
    assert outcome.code == 1
    text = all_text(outcome)
    assert "Q10000002" not in text
    assert "987000002" not in text


def test_the_console_says_which_drivers_of_the_sample_failed(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    on_link_insert(settings, "if new.source_pk = 'L3' then raise exception 'closed'; end if;")
    outcome = fix(settings, "--execute")
    marked = [line for line in outcome.lines if line.endswith("[failed]")]
    assert len(marked) == 2
    assert re.search(r"^  errors\s+2$", outcome.out, re.MULTILINE)


# --- Changed meanwhile ----------------------------------------------------------------------------

LEDGER_BY_ANOTHER = (
    "insert into canon.driver_orphan_quarantine (driver_id, detected_reason, status)"
    " values (%s, 'manual_detection', 'quarantined')"
)
CHANGES: dict[str, tuple[str, tuple[Any, ...], set[str]]] = {
    "a lead is linked to a person who was to be quarantined": (
        LINK_BY_ANOTHER,
        (KEY["ivan"], CABINET_LEADS, "new"),
        {"ivan"},
    ),
    "a lead is linked to a person who was to be relinked": (
        LINK_BY_ANOTHER,
        (KEY["carla"], CABINET_LEADS, "new"),
        {"carla", "carla2"},
    ),
    "the lead row is taken by another person": (
        LINK_BY_ANOTHER,
        (KEY["hugo"], SCOUTING, "L3"),
        {"carla", "carla2"},
    ),
    "one of two lead rows is taken by another person": (
        LINK_BY_ANOTHER,
        (KEY["hugo"], SCOUTING, "L24"),
        {"dora"},
    ),
    "one of two drivers is moved to another person": (
        "update canon.identity_links set person_key = %s where source_pk = %s",
        (KEY["hugo"], ID["carla2"]),
        {"carla", "carla2"},
    ),
    "the driver link is deleted": (
        "delete from canon.identity_links where source_pk = %s",
        (ID["ivan"],),
        {"ivan"},
    ),
    "someone quarantines the driver by hand": (LEDGER_BY_ANOTHER, (ID["ivan"],), {"ivan"}),
    "a reviewer purges the driver": (
        "update canon.driver_orphan_quarantine set status = 'purged' where driver_id = %s",
        (ID["lola"],),
        {"lola"},
    ),
    "the lead link of a driver to be released is deleted": (
        "delete from canon.identity_links where source_pk = %s",
        ("L12",),
        {"lola"},
    ),
    "the event is given to another person": (
        "update observational.lead_events set person_key = %s where id = %s",
        (KEY["hugo"], 2),
        {"beto"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_plan_and_apply_is_left_for_the_next_run(
    make_town: MakeTown, change: str
) -> None:
    statement, parameters, left = CHANGES[change]
    settings = make_town()
    meanwhile: list[Any] = []

    def happen() -> None:
        query(settings, statement, *parameters)
        meanwhile.extend(contents(settings))

    rows = execute_here(settings, meanwhile=happen)
    outcomes = {NAME[row["driver_id"]]: row["outcome"] for row in rows}
    assert outcomes == {name: "changed" if name in left else "applied" for name in EXPECTED}
    left_ids = {ID[name] for name in left}
    left_keys = {KEY[name.rstrip("2")] for name in left}
    new_links = [row for row in contents(settings)[0] if row not in meanwhile[0]]
    new_entries = [row for row in contents(settings)[1] if row not in meanwhile[1]]
    assert left_keys.isdisjoint(row[1] for row in new_links)
    assert left_ids.isdisjoint(row[1] for row in new_entries)
    # The next run finds the new situation and finishes.
    assert all(row["outcome"] == "applied" for row in execute_here(settings))
    assert plan(settings) == []
    assert set(violations(settings).values()) == {0}


def test_a_lead_row_that_another_service_takes_in_the_middle_of_the_apply_stays_with_it(
    make_town: MakeTown,
) -> None:
    settings = make_town()
    rows: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: rows.extend(execute_here(settings)))
    with connect(settings) as other, other.transaction():
        other.execute(LINK_BY_ANOTHER, [KEY["hugo"], SCOUTING, "L3"])
        thread.start()
        wait_until_blocked(settings)
    thread.join(30)
    outcomes = {NAME[row["driver_id"]]: row["outcome"] for row in rows}
    left = {"carla", "carla2"}
    assert outcomes == {name: "changed" if name in left else "applied" for name in EXPECTED}
    owner = "select person_key from canon.identity_links where source_pk = 'L3'"
    assert query(settings, owner) == [(KEY["hugo"],)]
    execute_here(settings)
    assert set(violations(settings).values()) == {0}


def wait_until_blocked(settings: Settings) -> None:
    """Wait until a session of this database waits for another one."""
    for _ in range(200):
        blocked = query(
            settings,
            "select 1 from pg_stat_activity where datname = current_database()"
            " and cardinality(pg_blocking_pids(pid)) > 0",
        )
        if blocked:
            return
        time.sleep(0.02)
    raise AssertionError("nobody waits")


def test_the_report_counts_the_changed_and_the_last_line_says_to_go_on(
    make_town: MakeTown, fix: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_town()
    prepare = fixing.prepare

    def prepare_and_wait_too_long(connection: Connection, options: fixing.Options) -> int:
        drivers = prepare(connection, options)
        add_link(settings, KEY["hugo"], SCOUTING, "L3")
        return drivers

    monkeypatch.setattr(fixing, "prepare", prepare_and_wait_too_long)
    outcome = fix(settings, "--execute")
    assert outcome.code == 0
    assert outcome.stats["changed"] == 2
    assert outcome.stats["links_skipped"] == 1
    adds_up(outcome.stats)
    report_equals_database(outcome, settings)
    assert outcome.drivers[ID["carla"]]["outcome"] == "changed"
    assert "left" in outcome.lines[-1]
    assert outcome.lines[-1].startswith("Next: ")
    assert "orphans verify" not in outcome.lines[-1]


# --- Two at once ----------------------------------------------------------------------------------


def start_script(settings: Settings, directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """The script in the background."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("DB_")}
    return subprocess.Popen(
        [sys.executable, SCRIPT, "--output-dir", str(directory), *arguments],
        cwd=ROOT,
        env=variables | settings.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_the_slow_execute(settings: Settings) -> int:
    """Wait until the execute is in its trigger; return the pid of its server process."""
    for _ in range(400):
        rows = query(
            settings,
            "select pid from pg_stat_activity where datname = current_database()"
            " and wait_event = 'PgSleep'",
        )
        if rows:
            return int(rows[0][0])
        time.sleep(0.02)
    raise AssertionError("the execute has not started to write")


def slow(settings: Settings, key: str, seconds: float) -> None:
    on_link_insert(
        settings, f"if new.source_pk = '{key}' then perform pg_sleep({seconds}); end if;"
    )


def test_a_second_execute_is_refused_and_told_who_holds_the_lock(
    make_town: MakeTown, fix: Callable[..., Outcome], tmp_path: Path
) -> None:
    settings = make_town()
    slow(settings, "L2", 1.0)
    first = start_script(settings, tmp_path / "first", "--execute")
    pid = wait_for_the_slow_execute(settings)
    second = fix(settings, "--execute")
    dry_run = fix(settings)
    out, err = first.communicate(timeout=60)
    line = one_error_line(second, 4)
    assert re.search(rf"\b{pid}\b", line)
    assert settings.user in line
    assert list(second.directory.glob("*")) == []
    assert dry_run.code == 0  # only reads: nobody is in its way
    assert first.returncode == 0, err
    assert out.splitlines()[-1].startswith("Next: ")
    assert Outcome(0, out, err, tmp_path / "first").stats["processed"] == len(EXPECTED)
    assert fix(settings, "--execute").stats["processed"] == 0
    assert set(violations(settings).values()) == {0}


def test_an_execute_in_another_database_is_not_in_the_way(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    one, other = make_town(), make_town()
    with connect(one) as connection, fixing.only_one_execute(connection):
        assert fix(other, "--execute").code == 0


# --- On a terminal --------------------------------------------------------------------------------


def on_a_terminal(settings: Settings, directory: Path, answer: str) -> tuple[int, str]:
    """Run an execute on a pseudo-terminal and answer the first question."""
    controller, terminal = pty.openpty()
    variables = {key: value for key, value in os.environ.items() if not key.startswith("DB_")}
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--output-dir", str(directory), "--execute"],
        cwd=ROOT,
        env=variables | settings.environment() | {"TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown, answered, deadline = b"", False, time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([controller], [], [], 0.1)[0]:
            try:
                part = os.read(controller, 65536)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                break
            shown += part
        if not answered and b"[y/N]" in shown:
            os.write(controller, answer.encode())
            answered = True
    os.close(controller)
    return process.wait(timeout=30), shown.decode("utf-8", "replace")


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"], ids=["n", "enter", "end of input"])
def test_on_a_terminal_execute_asks_and_a_no_changes_nothing(
    make_town: MakeTown, tmp_path: Path, answer: str
) -> None:
    settings = make_town()
    before = contents(settings)
    code, shown = on_a_terminal(settings, tmp_path / "out", answer)
    assert "[y/N]" in shown
    assert "11 drivers" in shown
    assert settings.dbname in shown
    assert code != 0
    assert "Traceback" not in shown
    assert contents(settings) == before
    assert list((tmp_path / "out").glob("*")) == []


def test_on_a_terminal_a_yes_applies_and_shows_a_progress_bar(
    make_town: MakeTown, tmp_path: Path
) -> None:
    settings = make_town()
    code, shown = on_a_terminal(settings, tmp_path / "out", "y\n")
    assert code == 0, shown
    assert "100%" in shown
    assert plan(settings) == []


def test_no_confirmation_is_asked_when_standard_input_is_no_terminal(fixed: Fixed) -> None:
    assert "[y/N]" not in fixed.execute.out + fixed.execute.err
    assert "%" not in fixed.execute.out  # and no progress bar is drawn into a file


# --- The reports ----------------------------------------------------------------------------------

STATS = {
    "processed": 11,
    "with_events": 9,
    "without_events": 2,
    "links_created": 5,
    "links_skipped": 0,
    "quarantined": 5,
    "resolved_relinked": 5,
    "released": 1,
    "errors": 0,
}


def test_stats_have_all_promised_counts_and_add_up(fixed: Fixed) -> None:
    for outcome in (fixed.dry_run, fixed.execute):
        assert {name: outcome.stats[name] for name in STATS} == STATS
        adds_up(outcome.stats)
    report_equals_database(fixed.execute, fixed.settings)


def test_reports_have_one_entry_per_processed_driver(fixed: Fixed) -> None:
    for outcome in (fixed.dry_run, fixed.execute):
        expected = {ID[name] for name in EXPECTED}
        assert len(outcome.report["drivers"]) == outcome.stats["processed"] == len(expected)
        assert outcome.drivers.keys() == expected
        assert len(outcome.csv_rows) == len(expected)
        assert {row["driver_id"] for row in outcome.csv_rows} == expected
        for row in outcome.csv_rows:
            assert row["status"] == outcome.drivers[row["driver_id"]]["status"]


def test_report_files_are_named_after_the_moment_and_nobody_else_may_read_them(
    fixed: Fixed,
) -> None:
    for outcome in (fixed.dry_run, fixed.execute):
        assert stat.S_IMODE(outcome.directory.stat().st_mode) == 0o700
        files = sorted(outcome.directory.iterdir())
        assert [file.suffix for file in files] == [".csv", ".json"]
        assert files[0].stem == files[1].stem
        for file in files:
            assert re.fullmatch(r"orphans_report_\d{8}_\d{6}\w*\.(json|csv)", file.name)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert f"Report: {file}" in outcome.lines


def test_an_existing_output_directory_keeps_its_mode_and_its_files(
    fixed: Fixed, run: Run, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("mine")
    outcome = run_script(run, fixed.settings, tmp_path)
    assert outcome.code == 0
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_missing_parents_of_the_output_directory_are_made(
    fixed: Fixed, run: Run, tmp_path: Path
) -> None:
    outcome = run_script(run, fixed.settings, tmp_path / "a" / "b")
    assert outcome.code == 0
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2


def test_runs_within_a_second_do_not_overwrite_each_other(fixed: Fixed, tmp_path: Path) -> None:
    runs = [start_script(fixed.settings, tmp_path) for _ in range(3)]
    for process in runs:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(list(tmp_path.glob("orphans_report_*.json"))) == 3
    assert len(list(tmp_path.glob("orphans_report_*.csv"))) == 3
    assert len(list(tmp_path.iterdir())) == 6


def all_text(outcome: Outcome) -> str:
    files = [file.read_text("utf-8") for file in outcome.directory.iterdir()]
    return "\n".join([outcome.out, outcome.err, *files])


def test_no_unmasked_licence_or_phone_is_in_reports_or_on_the_console(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    known = set(LICENCES.values()) | set(PHONES.values()) | {"Q10000002", "987000002"}
    known |= {value[:-1] for value in known} | {value[1:] for value in known}
    for arguments in ([], ["--execute"], ["--execute", "--reprocess-quarantined"]):
        outcome = fix(settings, *arguments)
        text = all_text(outcome).upper()
        assert [value for value in known if value.upper() in text] == []
        for row in outcome.report["drivers"]:
            for column in ("license_masked", "phone_masked"):
                assert row[column] is None or "***" in row[column]


def test_masked_licence_and_phone_are_there_for_a_reviewer(fixed: Fixed) -> None:
    row = fixed.execute.drivers[ID["beto"]]
    assert row["license_masked"] == "******002"
    assert row["phone_masked"] == "******002"


def test_the_console_shows_totals_and_a_sample_of_10(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    outcome = fix(make_town(crowd()))
    assert re.search(rf"^  drivers processed\s+{CROWD_DRIVERS}$", outcome.out, re.MULTILINE)
    shown = [line for line in outcome.lines if re.match(r"  [0-9a-f]{32}  ", line)]
    assert len(shown) == 10
    assert [line.split()[0] for line in shown] == [
        row["driver_id"] for row in outcome.report["drivers"][:10]
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_csv_cell_that_starts_like_a_formula_is_neutralised(start: str) -> None:
    cell = csv_cell(f"{start}cmd|' /C calc'!A1")
    assert not cell.startswith(start)
    assert cell.endswith(f"{start}cmd|' /C calc'!A1")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        ("abc", "abc"),
        ("a=b", "a=b"),
        (7, "7"),
        (-7, "'-7"),
        ([], "[]"),
        ([{"=": "+"}], '[{"=": "+"}]'),
        ("", ""),
    ],
)
def test_other_csv_cells_are_left_alone(value: Any, cell: str) -> None:
    assert csv_cell(value) == cell


@pytest.mark.parametrize("formula", ["=cmd()", "+1+1", "-1", "@SUM(A1)"])
def test_a_match_rule_that_is_a_formula_reaches_the_csv_neutralised(
    make_town: MakeTown, fix: Callable[..., Outcome], formula: str
) -> None:
    world = town()
    changed = [
        replace(link, match_rule=formula) if link.source_pk == ID["ivan"] else link
        for link in world.links
    ]
    outcome = fix(make_town(replace(world, links=changed)))
    (row,) = [row for row in outcome.csv_rows if row["driver_id"] == ID["ivan"]]
    assert row["creation_rule"] == f"'{formula}"
    assert outcome.drivers[ID["ivan"]]["creation_rule"] == formula  # JSON has it as it is
    for row in outcome.csv_rows:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())


# --- Interrupted ----------------------------------------------------------------------------------


def first_batch(settings: Settings, drivers: int) -> set[str]:
    """The drivers of the first transaction, in the order of the plan."""
    with connect(settings) as connection:
        fixing.prepare(connection, fixing.Options(True))
        rows = connection.execute(
            "select driver_id from pg_temp.planned where drivers_before < %s", [drivers]
        ).fetchall()
    return {row["driver_id"] for row in rows}


@pytest.mark.usefixtures("small_transactions")
@pytest.mark.parametrize("errcode", ["disk_full", "query_canceled", "lock_not_available"])
def test_a_failure_in_the_second_transaction_keeps_the_first_whole_and_says_so(
    make_town: MakeTown,
    whole_crowd: tuple[set[Any], set[Any]],
    fix: Callable[..., Outcome],
    errcode: str,
) -> None:
    settings = make_town(crowd())
    first = first_batch(settings, 5)
    fail_in_the_second_transaction(settings, errcode)
    outcome = fix(settings, "--execute")
    line = one_error_line(outcome, 1)
    assert "no more" in line
    assert "again" in line
    only_the_first_batch(settings, first)
    outcomes = {row["driver_id"]: row["outcome"] for row in outcome.report["drivers"]}
    assert {driver for driver, value in outcomes.items() if value == "applied"} == first
    query(settings, "drop trigger of_ct4 on canon.identity_links")
    assert fix(settings, "--execute").code == 0
    assert end_state(settings) == whole_crowd


def fail_in_the_second_transaction(settings: Settings, errcode: str) -> None:
    """Whatever links the lead of the crowd's fifth person fails, as if the server could not."""
    on_link_insert(
        settings,
        f"if new.source_pk = 'L5' then raise exception 'no more' using errcode = '{errcode}';"
        " end if;",
    )


def only_the_first_batch(settings: Settings, first: set[str]) -> None:
    entries = query(settings, "select driver_id from canon.driver_orphan_quarantine")
    assert {driver for (driver,) in entries} == first
    links = query(settings, "select source_pk from canon.identity_links where id > 1000")
    assert set(links) == {("L1",), ("L3",)}


@pytest.mark.usefixtures("small_transactions")
def test_the_report_of_a_stopped_execute_counts_only_what_was_applied(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town(crowd())
    fail_in_the_second_transaction(settings, "disk_full")
    outcome = fix(settings, "--execute")
    assert outcome.code == 1
    report_equals_database(outcome, settings)


def test_an_execute_that_could_change_nothing_does_not_say_that_it_did(
    make_town: MakeTown, fix: Callable[..., Outcome]
) -> None:
    settings = make_town()
    before = contents(settings)
    on_link_insert(settings, "raise exception 'no more' using errcode = 'disk_full';")
    outcome = fix(settings, "--execute")
    assert outcome.code == 1
    assert contents(settings) == before
    assert "the changes are in the database" not in outcome.out


def test_many_small_transactions_end_where_one_large_one_ends(
    make_town: MakeTown,
    whole_crowd: tuple[set[Any], set[Any]],
    fix: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fixing, "DRIVERS_PER_TRANSACTION", 1)
    settings = make_town(crowd())
    assert fix(settings, "--execute").code == 0
    assert end_state(settings) == whole_crowd
    # One transaction per person: the drivers of a person have one moment, the persons have not.
    moments = query(
        settings,
        "select count(distinct recorded_at), count(distinct person_key)"
        " from canon.driver_orphan_quarantine_ledger",
    )
    assert moments == [(12, 12)]


@pytest.mark.usefixtures("small_transactions")
def test_a_lost_connection_is_one_clear_line_and_whole_transactions_are_kept(
    make_town: MakeTown,
    whole_crowd: tuple[set[Any], set[Any]],
    fix: Callable[..., Outcome],
) -> None:
    settings = make_town(crowd())
    first = first_batch(settings, 5)
    on_link_insert(
        settings,
        "if new.source_pk = 'L5' then perform pg_terminate_backend(pg_backend_pid()); end if;",
    )
    outcome = fix(settings, "--execute")
    line = one_error_line(outcome, 1)
    assert f"According to the ledger {len(first)} of 25 drivers are applied" in line
    assert {row["driver_id"] for row in outcome.report["drivers"]} == first
    assert outcome.report["result"] == "stopped"
    only_the_first_batch(settings, first)
    query(settings, "drop trigger of_ct4 on canon.identity_links")
    assert fix(settings, "--execute").code == 0
    assert end_state(settings) == whole_crowd


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_execute_leaves_no_half_state_and_running_it_again_finishes(
    make_town: MakeTown, fix: Callable[..., Outcome], tmp_path: Path, how: signal.Signals
) -> None:
    settings = make_town()
    before = contents(settings)
    slow(settings, "L4", 0.7)
    process = start_script(settings, tmp_path / "killed", "--execute")
    pid = wait_for_the_slow_execute(settings)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in err
    for _ in range(200):  # the server notices when the statement ends
        if not query(settings, "select 1 from pg_stat_activity where pid = %s", pid):
            break
        time.sleep(0.02)
    # A signal lets the transaction that is on come to its end, and here there is only one.
    is_killed = how == signal.SIGKILL
    assert (contents(settings) == before) == is_killed
    query(settings, "drop trigger of_ct4 on canon.identity_links")
    again = fix(settings, "--execute")
    assert again.code == 0, again.err
    assert again.stats["processed"] == (len(EXPECTED) if is_killed else 0)
    assert set(violations(settings).values()) == {0}


def test_an_interrupted_execute_says_so_in_one_line_and_in_its_report(
    make_town: MakeTown, tmp_path: Path
) -> None:
    settings = make_town()
    slow(settings, "L4", 1.0)
    process = start_script(settings, tmp_path / "out", "--execute")
    wait_for_the_slow_execute(settings)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    outcome = Outcome(process.returncode, out, err, tmp_path / "out")
    assert "Interrupted" in one_error_line(outcome, 1)
    assert {row["outcome"] for row in outcome.report["drivers"]} == {"applied"}
    assert outcome.report["result"] == "stopped"
    report_equals_database(outcome, settings)


def test_a_second_interrupt_stops_at_once_and_says_where_to_look(
    make_town: MakeTown, tmp_path: Path
) -> None:
    settings = make_town()
    before = contents(settings)
    slow(settings, "L4", 30)
    process = start_script(settings, tmp_path / "out", "--execute")
    wait_for_the_slow_execute(settings)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    out, err = process.communicate(timeout=20)
    outcome = Outcome(process.returncode, out, err, tmp_path / "out")
    line = one_error_line(outcome, 1)
    assert "Interrupted twice" in line
    assert "run_id" in line
    assert contents(settings) == before
    assert list(outcome.directory.glob("*")) == []


# --- Any database of the described shape ----------------------------------------------------------


@pytest.fixture(scope="module")
def world_connection(module_database: Callable[[], Settings]) -> Iterator[Connection]:
    with connect(module_database()) as connection:
        yield connection


class Undo(Exception):
    """Ends a transaction without keeping it."""


@hypothesis_settings(
    max_examples=25,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(world=worlds(), reprocess=st.booleans())
def test_on_random_databases_the_fix_ends_where_the_plain_reading_ends(
    world_connection: Connection, world: World, reprocess: bool
) -> None:
    world = with_days_of_a_timestamp(world)
    try:
        with world_connection.transaction():
            insert_world(world_connection.cursor(), world)  # type: ignore[arg-type]
            world_connection.execute(
                "select setval(pg_get_serial_sequence('canon.identity_links', 'id'), 1000)"
            )
            fix_and_compare(world_connection, world, reprocess)
            raise Undo
    except Undo:
        pass


def with_days_of_a_timestamp(world: World) -> World:
    """Move events of days that only PostgreSQL's date has: a link's snapshot is a timestamp."""
    return replace(
        world,
        lead_events=[
            replace(event, event_date=date(2025, 1, 1))
            if isinstance(event.event_date, reading.FarDay)
            else event
            for event in world.lead_events
        ],
    )


def fix_and_compare(connection: Connection, world: World, reprocess: bool) -> None:
    """Execute, and hold everything that is there then against the reading."""
    expected, links = after_the_fix(world, reprocess)
    fixing.prepare(connection, fixing.Options(True, None, reprocess))
    fixing.apply(connection, seals.Run("fix", {}))
    with fixing.applied_rows(connection) as applied:
        rows = list(applied)
    assert all(row["outcome"] == "applied" for row in rows), [row["error"] for row in rows]
    remaining = connection.execute(
        "select driver_id from ops.v_orphan_fix_plan where not requires_reprocess or %s",
        [reprocess],
    ).fetchall()
    assert remaining == []
    assert inserted_links(connection, world) == links
    with connection.cursor(row_factory=tuple_row) as cursor:
        lines = [
            line
            for view, (read, expect) in VIEWS.items()
            for line in differences(view, read(cursor), expect(expected))
        ]
    assert not lines, "\n" + "\n".join(lines)
    purged = sum(
        reading.is_orphan(expected, link.person_key)
        and reading.status_of(expected, link.source_pk) == "purged"
        for link in reading.driver_links(expected)
    )
    counts = acceptance(connection)
    assert counts.pop("violation_count") == purged
    assert set(counts.values()) == {0}


def inserted_links(connection: Connection, world: World) -> set[tuple[Any, ...]]:
    """The links that were not in the world."""
    known = {(link.source_table, link.source_pk) for link in world.links}
    rows = connection.execute(
        "select person_key, source_table, source_pk, snapshot_date, match_rule, match_score,"
        " confidence_level::text as confidence, evidence from canon.identity_links"
    ).fetchall()
    return {
        (
            row["person_key"],
            row["source_table"],
            row["source_pk"],
            row["snapshot_date"],
            row["match_rule"],
            row["match_score"] == 100,
            row["confidence"],
            row["evidence"]["event_id"],
            row["evidence"]["strategy"],
        )
        for row in rows
        if (row["source_table"], row["source_pk"]) not in known
    }


def after_the_fix(world: World, reprocess: bool) -> tuple[World, set[tuple[Any, ...]]]:
    """The world as the rules want it after a fix, and the links that were added."""
    rows = [row for row in reading.plan(world) if reprocess or not row.requires_reprocess]
    dates = {event.id: event.event_date for event in world.lead_events}
    leads = {(row.person_key, lead) for row in rows for lead in row.lead_rows}
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    links = {
        (
            person,
            lead.source_table,
            lead.source_pk,
            datetime.combine(dates[lead.event_id], datetime.min.time(), timezone.utc),
            "LEAD_EVENT_RECONSTRUCTION",
            lead.evidence_level == 1,
            "HIGH" if lead.evidence_level == 1 else "MEDIUM",
            lead.event_id,
            lead.strategy,
        )
        for person, lead in leads
    }
    states = {state.driver_id: state for state in world.quarantine}
    states |= {
        row.driver_id: Quarantined(
            row.driver_id, row.status, row.detected_reason, row.next_revision, row.person_key
        )
        for row in rows
    }
    added = [
        Link(2000 + len(world.links) + number, link[0], link[1], link[2], link[3], moment)
        for number, link in enumerate(sorted(links, key=str))
    ]
    assert all(link.source_table in LEAD_SOURCES for link in added)
    return (
        replace(world, links=[*world.links, *added], quarantine=list(states.values())),
        links,
    )
