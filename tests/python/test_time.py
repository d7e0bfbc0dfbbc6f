"""The same database gives the same plan, byte for byte, under any clock, time zone and locale.

The town of the fix, with leads and links around jumps of the clock: hours and days that exist
twice, or not at all, in some time zone.
"""

from __future__ import annotations

import ast
import os
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import ROOT, run_command
from ct4_orphans import embedded
from ct4_orphans.database import Settings
from older import execute, query
from reading import CABINET_LEADS, MIGRATIONS, Person, SummaryRow, World
from test_fix import (
    EXPECTED,
    ID,
    driver_of,
    end_state,
    event,
    fill,
    in_this_process,
    lead_link,
    linked,
    town,
)

# The instant at which a clock jumps, and the day that it is there.
JUMPS = {
    "America/New_York forward": (datetime(2025, 3, 9, 7), date(2025, 3, 9)),
    "America/New_York back": (datetime(2025, 11, 2, 6), date(2025, 11, 2)),
    "Europe/Madrid forward": (datetime(2025, 3, 30, 1), date(2025, 3, 30)),
    "America/Santiago, no midnight": (datetime(2025, 9, 7, 4), date(2025, 9, 7)),
    "America/Santiago, midnight twice": (datetime(2025, 4, 6, 3), date(2025, 4, 5)),
    "Pacific/Apia, a day that never was": (datetime(2011, 12, 30, 10), date(2011, 12, 30)),
}
ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Madrid",
    "America/Santiago",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "America/Lima",
    "<+07:30>-07:30",
]
VIEWS = [
    "ops.v_orphan_fix_plan",
    "ops.v_driver_orphans",
    "ops.v_cabinet_funnel_status",
    "ops.v_payment_calculation",
    "ops.v_ct4_eligible_drivers",
]


def town_of_jumps() -> World:
    """At each jump an orphan whose lead can be proven, and a person with a lead and two drivers."""
    world = town()
    for index, (name, (instant, day)) in enumerate(JUMPS.items()):
        at = instant.replace(tzinfo=timezone.utc)
        orphan, person = (uuid.UUID(int=1000 * kind + index) for kind in (1, 2))
        drivers = [driver_of(f"{name} {number}") for number in range(3)]
        world.persons += [Person(orphan), Person(person)]
        number = 100 + 10 * index
        second = timedelta(seconds=1)
        world.links += [
            linked(number, orphan, drivers[0], snapshot_date=at, linked_at=at, match_rule="ñ É"),
            linked(number + 1, person, drivers[1], snapshot_date=at, linked_at=at),
            linked(
                number + 2, person, drivers[2], snapshot_date=at - second, linked_at=at - second
            ),
            lead_link(number + 3, person, CABINET_LEADS, f"J{number}"),
        ]
        world.lead_events += [
            event(number, MIGRATIONS, {"driver_id": drivers[0]}, event_date=day),
            event(number + 1, CABINET_LEADS, {}, source_pk=f"J{number}", event_date=day),
        ]
        world.summary_daily += [
            SummaryRow(driver, (day + timedelta(days=after)).strftime("%d-%m-%Y"), 5, 3600)
            for driver in drivers
            for after in (-1, 0, 1, 29, 30)
        ]
    for rules in (world.scout_rules, world.partner_rules):
        rules[:] = [type(rule)(**(vars(rule) | {"valid_from": date(2011, 1, 1)})) for rule in rules]
    return world


@pytest.fixture(scope="module")
def jumps(server: Settings) -> Iterator[Callable[[], Settings]]:
    """Copies of the town of jumps; the first one is only read."""
    names = [f"test_jumps_{os.getpid()}"]
    template = embedded.recreate_database(server, names[0], template="template_built")
    fill(template, town_of_jumps())

    def copy() -> Settings:
        names.append(f"{names[0]}_{len(names)}")
        return embedded.recreate_database(server, names[-1], template=names[0])

    yield copy
    for name in names[::-1]:
        execute(server, f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def read_only(jumps: Callable[[], Settings]) -> Settings:
    return jumps()


@pytest.fixture(scope="module")
def fixed(jumps: Callable[[], Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Fixed, so that every view has something to show."""
    settings = jumps()
    outcome = in_this_process(settings, tmp_path_factory.mktemp("fixed"), "--execute")
    assert outcome.code == 0, outcome.err
    return settings


def read(settings: Settings, statement: str, **session: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        for name, value in session.items():
            connection.execute("select set_config(%s, %s, false)", [name, value])
        rows = connection.execute(statement).fetchall()  # type: ignore[call-overload]
        return [tuple(v.decode() if isinstance(v, bytes) else v for v in row) for row in rows]


# --- Whoever reads the views ----------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_same_rows_in_every_time_zone(
    fixed: Settings, read_only: Settings, view: str, zone: str
) -> None:
    settings = read_only if view == "ops.v_orphan_fix_plan" else fixed
    statement = f'select * from {view} order by driver_id collate "C", {view.split(".")[1]}::text'
    here, there = (
        read(settings, statement, timezone="UTC"),
        read(settings, statement, timezone=zone),
    )
    assert len(here) >= len(JUMPS)
    assert sorted(map(as_instants, here)) == sorted(map(as_instants, there))


def as_instants(row: tuple[Any, ...]) -> str:
    return repr([v.astimezone(timezone.utc) if isinstance(v, datetime) else v for v in row])


def test_the_town_has_what_a_time_zone_could_move(fixed: Settings) -> None:
    # Seen from the zone itself some of these days would be others.
    moved = query(
        fixed,
        "select count(*) from ops.v_ct4_eligible_drivers where first_seen_at"
        " <> (latest_snapshot_at at time zone 'Pacific/Apia')::date",
    )
    assert moved[0][0] >= 3
    days = query(
        fixed,
        "select count(distinct lead_date), count(*) filter (where is_payable)"
        " from ops.v_payment_calculation",
    )
    assert days[0][0] > len(JUMPS)
    assert days[0][1] > len(JUMPS)


CLIENTS = [
    *({"timezone": zone} for zone in ZONES),
    *({"datestyle": style} for style in ("German", "SQL, DMY", "Postgres, MDY", "ISO, YMD")),
    *({"intervalstyle": style} for style in ("iso_8601", "sql_standard")),
    *({"client_encoding": encoding} for encoding in ("LATIN1", "SQL_ASCII", "WIN1252")),
    *({"default_transaction_isolation": level} for level in ("serializable", "repeatable read")),
    {"search_path": "pg_temp, ops, canon"},
    {"search_path": ""},
    {"standard_conforming_strings": "off"},
    {"bytea_output": "escape"},
    {"extra_float_digits": "-15"},
    {"quote_all_identifiers": "on"},
    {"lc_messages": "C"},
    {"lc_numeric": "C.utf8"},
    {"lc_time": "C.utf8"},
    {"xmloption": "document"},
    {"enable_hashjoin": "off"},
    {"enable_hashagg": "off", "enable_sort": "off"},
]


@pytest.mark.parametrize("session", CLIENTS, ids=lambda session: str(session)[1:-1])
def test_any_client_reads_the_same_bytes_from_the_plan(
    read_only: Settings, session: dict[str, str]
) -> None:
    statement = (
        'select plan::text from ops.v_orphan_fix_plan as plan order by driver_id collate "C"'
    )
    assert read(read_only, statement, **session) == read(read_only, statement)


# --- Wherever the command runs --------------------------------------------------------------------


def reports(directory: Path) -> tuple[str, str]:
    """The drivers of the JSON report, and the CSV, as they are on the disk."""
    (as_json,) = directory.glob("orphans_report_*.json")
    (as_csv,) = directory.glob("orphans_report_*.csv")
    text = as_json.read_bytes().decode()
    drivers = re.search(r'^  "drivers": \[.*?^  \],$', text, re.MULTILINE | re.DOTALL)
    assert drivers
    return drivers[0], as_csv.read_bytes().decode()


@pytest.fixture(scope="module")
def usual(read_only: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    directory = tmp_path_factory.mktemp("usual")
    assert in_this_process(read_only, directory).code == 0
    drivers, table = reports(directory)
    assert len(table.splitlines()) > len(EXPECTED) + len(JUMPS)
    assert "ñ É" in drivers
    return drivers, table


ENVIRONMENTS = [
    {"PGTZ": "America/Santiago"},
    {"PGTZ": "Pacific/Apia", "PGDATESTYLE": "German"},
    {"PGDATESTYLE": "SQL, DMY"},
    {"PGDATESTYLE": "Postgres"},
    {"PGCLIENTENCODING": "LATIN1"},
    {"PGCLIENTENCODING": "SQL_ASCII"},
    {"PGOPTIONS": "-c timezone=Asia/Tokyo -c intervalstyle=iso_8601 -c extra_float_digits=-5"},
    {"PGGEQO": "off"},
    {"PGAPPNAME": "ñ"},
]


@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=lambda variables: str(variables)[1:-1])
def test_the_reports_are_the_same_whatever_libpq_is_told(
    read_only: Settings,
    usual: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert in_this_process(read_only, tmp_path).code == 0
    assert reports(tmp_path) == usual


SET_IN_THE_DATABASE = [
    {"timezone": "Pacific/Apia"},
    {"timezone": "America/Santiago", "datestyle": "German"},
    {"datestyle": "SQL, DMY"},
    {"intervalstyle": "sql_standard"},
    {"client_encoding": "LATIN1"},
    {"client_encoding": "SQL_ASCII"},
    {"standard_conforming_strings": "off"},
    {"bytea_output": "escape"},
    {"extra_float_digits": "-15"},
    {"search_path": "public, pg_temp"},
    {"default_transaction_isolation": "serializable"},
    {"lc_messages": "C", "lc_time": "C.utf8"},
    {"escape_string_warning": "off", "quote_all_identifiers": "on"},
]


@pytest.mark.parametrize("which", SET_IN_THE_DATABASE, ids=lambda which: str(which)[1:-1])
def test_the_reports_are_the_same_whatever_the_database_is_set_to(
    jumps: Callable[[], Settings],
    read_only: Settings,
    usual: tuple[str, str],
    tmp_path: Path,
    which: dict[str, str],
) -> None:
    for name, value in which.items():
        listed = value if name in ("search_path", "datestyle") else f"'{value}'"
        execute(read_only, f"alter database {read_only.dbname} set {name} = {listed}")
    try:
        assert in_this_process(read_only, tmp_path).code == 0
    finally:
        execute(read_only, f"alter database {read_only.dbname} reset all")
    assert reports(tmp_path) == usual


# A Python whose clock is wrong by decades, and runs backwards.
WRONG_CLOCK = """
import datetime, time
real = datetime.datetime
class Wrong(real):
    @classmethod
    def now(cls, tz=None):
        return real.fromtimestamp(next(times), tz)
    utcnow = today = now
times = iter(range(915148800, 0, -1))
datetime.datetime = Wrong
time.time = lambda: float(next(times))
time.localtime = time.gmtime = lambda *_: time.struct_time((1999, 1, 1, 0, 0, 0, 4, 1, 0))
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"TZ": "Pacific/Apia", "LC_ALL": "C"},
        {"TZ": "America/New_York", "LC_ALL": "C.UTF-8", "LANG": "es_PE.UTF-8", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LANG": "tr_TR"},
        {"PYTHONHASHSEED": "1"},
        {"WRONG": "clock"},
    ],
    ids=lambda variables: str(variables)[1:-1],
)
def test_the_reports_are_the_same_under_any_clock_and_locale_of_the_client(
    read_only: Settings, usual: tuple[str, str], tmp_path: Path, variables: dict[str, str]
) -> None:
    if "WRONG" in variables:
        (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
        variables = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    output = tmp_path / "out"
    done = run_command(
        "orphans", "fix", "--output-dir", str(output), settings=read_only, **variables
    )
    assert done.returncode == 0, done.stderr
    assert reports(output) == usual
    # The name is the server's time: that of this machine, here, and not 1999.
    (path,) = output.glob("*.json")
    stamp = datetime.strptime(path.stem, "orphans_report_%Y%m%d_%H%M%S_%f").replace(
        tzinfo=timezone.utc
    )
    assert abs(datetime.now(timezone.utc) - stamp) < timedelta(minutes=10)


def test_no_command_reads_the_clock_of_the_client() -> None:
    readers = {"now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime"}
    found = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "scripts/ct4_orphans").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in readers
    ]
    assert found == []


@pytest.mark.parametrize("zone", ["Pacific/Apia", "America/Santiago"])
def test_explain_tells_utc_whatever_the_client_and_the_database_are_set_to(
    fixed: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    from click.testing import CliRunner
    from ct4_orphans import cli

    def explain() -> list[str]:
        runner = CliRunner(env=fixed.environment())
        return [
            runner.invoke(cli.main, ["explain", *more, ID["ana"]]).output
            for more in ([], ["--json"])
        ]

    usual = explain()
    assert "times in UTC" in usual[0]
    execute(fixed, f"alter database {fixed.dbname} set timezone = '{zone}'")
    monkeypatch.setenv("PGTZ", zone)
    monkeypatch.setenv("PGDATESTYLE", "German")
    assert explain() == usual
    execute(fixed, f"alter database {fixed.dbname} reset all")


# --- What is written ------------------------------------------------------------------------------


def test_executes_in_different_time_zones_write_the_same(
    jumps: Callable[[], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for number, zone in enumerate(["UTC", "Pacific/Apia", "America/Santiago", "America/New_York"]):
        settings = jumps()
        execute(settings, f"alter database {settings.dbname} set timezone = '{zone}'")
        if number % 2:
            monkeypatch.setenv("PGTZ", zone)
        assert in_this_process(settings, tmp_path / str(number), "--execute").code == 0
        monkeypatch.delenv("PGTZ", raising=False)
        ends.append(end_state(settings))
        on_the_day = query(
            settings,
            "select count(*), count(*) filter (where snapshot_date at time zone 'UTC' = event_date)"
            " from canon.identity_links inner join observational.lead_events"
            " using (source_table, source_pk) where match_rule = 'LEAD_EVENT_RECONSTRUCTION'",
        )
        assert on_the_day[0][0] == on_the_day[0][1] >= len(JUMPS)
    assert [end == ends[0] for end in ends] == [True] * len(ends)


def test_dbt_builds_the_same_views_whatever_the_database_is_set_to(
    jumps: Callable[[], Settings], read_only: Settings
) -> None:
    definitions = (
        "select schemaname, viewname, definition from pg_views"
        " where schemaname in ('ops', 'ct4_orphans') order by 1, 2"
    )
    settings = jumps()
    for setting in (
        "timezone = 'Pacific/Apia'",
        "datestyle = German",
        "intervalstyle = iso_8601",
        "standard_conforming_strings = off",
        "extra_float_digits = -15",
        "search_path = ops, canon",
        "lc_messages = 'C'",
    ):
        execute(settings, f"alter database {settings.dbname} set {setting}")
    done = run_command("dbt", "run", settings=settings)
    assert done.returncode == 0, done.stdout
    execute(settings, f"alter database {settings.dbname} reset all")
    assert read(settings, definitions) == read(read_only, definitions)
