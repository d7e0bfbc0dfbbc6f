"""The benchmark measures what it says, and each of its targets can be missed. Tiny sizes."""

from __future__ import annotations

import json
import math
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import psycopg
import pytest
from bench import __main__ as command
from bench import clock, floors, measure, plot, results, towns
from click.testing import CliRunner
from conftest import ROOT
from ct4_orphans import embedded, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings, connect
from ct4_orphans.errors import DatabaseError

SIZES = towns.Sizes(drivers=1000, orphans=200, events=3000, days=5)
TINY = towns.Sizes(drivers=100, orphans=20, events=150, days=2)


@pytest.fixture(scope="module")
def town(server: Settings) -> Iterator[Settings]:
    """A town with everything deployed; nobody writes to it."""
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    with connect(settings) as connection:
        towns.fill(connection, SIZES)
    yield settings
    towns.drop(server, name)


@pytest.fixture
def town_connection(town: Settings) -> Iterator[Connection]:
    with connect(town, read_only=True) as connection:
        yield connection


def rows_of_the_daily_summary(sizes: towns.Sizes) -> Iterator[tuple[int, int]]:
    for number in range(1, sizes.drivers + 1):
        for day in range(sizes.days):
            for _ in range(2 if number % 20 == 0 else 1):
                yield number, day


def bench_of(server: Settings, **sizes: towns.Sizes) -> measure.Bench:
    return measure.Bench(server, sizes or {"half": SIZES.half(), "full": SIZES}, 1, lambda _: None)


def test_a_town_has_the_orphans_that_its_head_promises(town_connection: Connection) -> None:
    with fixing.planned_rows(town_connection, fixing.Options()) as rows:
        found = Counter(row["action"] for row in rows)
    orphans = range(1, SIZES.orphans + 1)
    named = [number for number in orphans if number % 10 in (0, 1)]
    # one in fifty has an event with the phone that many share: no proof
    alike = [number for number in orphans if number % 10 in (2, 3) and number % 50 != 3]
    assert found["relink"] == len(named) + len(alike)
    assert found.total() == SIZES.orphans


def test_a_town_has_the_events_and_the_days_that_its_head_promises(
    town_connection: Connection,
) -> None:
    days = list(rows_of_the_daily_summary(SIZES))
    found = town_connection.execute(
        "select count(*) as days,"
        " count(*) filter (where date_file = '31-02-2025') as malformed,"
        " (select count(*) from observational.lead_events) as events"
        " from public.summary_daily"
    ).fetchone()
    malformed = sum((number + day) % 1000 == 0 for number, day in days)
    assert malformed > 0
    assert found == {"days": len(days), "malformed": malformed, "events": SIZES.events}


def test_the_floors_read_what_the_views_are_made_of(town_connection: Connection) -> None:
    groups = {
        (number, None if (number + day) % 1000 == 0 else day)
        for number, day in rows_of_the_daily_summary(SIZES)
    }
    found = {
        name: clock.read_all(town_connection, getattr(floors, name))
        for name in (
            "TRIPS_PER_DRIVER_AND_DAY",
            "DRIVERS_WITHOUT_A_LEAD",
            "DRIVERS_NAMED_BY_EVENTS",
            "EVENTS",
            "LINKS",
        )
    }
    assert found == {
        "TRIPS_PER_DRIVER_AND_DAY": len(groups),
        "DRIVERS_WITHOUT_A_LEAD": SIZES.orphans,
        "DRIVERS_NAMED_BY_EVENTS": SIZES.events,
        "EVENTS": SIZES.events,
        "LINKS": 2 * SIZES.drivers - SIZES.orphans,
    }


def test_a_full_read_computes_every_column(town_connection: Connection) -> None:
    """count(*) would let the planner leave the second column out."""
    query = "select number, 1 / (number - 2) as broken from generate_series(1, 3) as number"
    town_connection.execute(f"select count(*) from ({query} offset 0) as shown")  # type: ignore[arg-type]
    with pytest.raises(psycopg.errors.DivisionByZero):
        clock.read_all(town_connection, query)


def test_what_the_timeout_ends_is_a_missed_target(town_connection: Connection) -> None:
    town_connection.execute("set statement_timeout = '20ms'")
    seconds = clock.timed(lambda: town_connection.execute("select pg_sleep(5)"))
    assert math.isinf(seconds)
    assert not results.Target("", "plan", seconds, 4, floor=1.0).is_met
    assert not results.Target("", "plan", 1.0, 4, floor=seconds).is_met


def test_one_driver_is_asked_for_where_the_view_shows_him(town: Settings) -> None:
    drivers = [*measure.some_drivers(SIZES, of_orphans=False)]
    nobody = "0" * 32
    seconds, asked = clock.seconds_of_one_driver(
        town, "v_cabinet_funnel_status", [nobody, *drivers[:4], nobody]
    )
    assert asked == 4
    assert 0 < seconds < 10
    with pytest.raises(DatabaseError, match="shows none of the drivers"):
        clock.seconds_of_one_driver(town, "v_cabinet_funnel_status", [drivers[0], nobody])


def test_the_drivers_who_are_asked_for_are_of_the_town(town_connection: Connection) -> None:
    orphans = [*measure.some_drivers(SIZES, of_orphans=True)]
    others = [*measure.some_drivers(SIZES, of_orphans=False)]
    assert len(orphans) > clock.DRIVERS_TO_ASK_FOR < len(others)
    query = f"select count(*) as n from ({floors.DRIVERS_WITHOUT_A_LEAD}) as o"
    query += " where driver_id = any(%s)"
    found = [town_connection.execute(query, [ids]).fetchone() for ids in (orphans, others)]  # type: ignore[arg-type]
    assert found == [{"n": len(orphans)}, {"n": 0}]


def test_the_plan_must_have_every_orphan_of_the_town(town_connection: Connection) -> None:
    measure.drain(town_connection, SIZES.orphans)
    with pytest.raises(DatabaseError, match="The plan has 200 rows"):
        measure.drain(town_connection, SIZES.orphans + 1)


def test_the_bare_inserts_are_those_of_the_fix(built_database: Settings) -> None:
    with connect(built_database) as connection:
        towns.fill(connection, TINY)
        with pytest.raises(DatabaseError, match="has written 0 entries"):
            measure.bare_inserts(connection, TINY.orphans)
        connection.execute("drop table public.bare, pg_temp.written")
        fixing.prepare(connection, fixing.Options())
        fixing.apply(connection, seals.Run("fix", {}))
        assert measure.bare_inserts(connection, TINY.orphans) > 0
        left = connection.execute("select to_regclass('public.bare') as bare").fetchone()
    assert left == {"bare": None}


def test_a_town_is_made_once_and_only_a_whole_one_is_kept(
    server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: Connection, sizes: towns.Sizes) -> None:
        raise KeyboardInterrupt

    name = towns.town_name(TINY)
    assert name not in {towns.town_name(SIZES), towns.town_name(TINY.half())}
    towns.drop(server, name)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(towns, "fill", fail)
            with pytest.raises(KeyboardInterrupt):
                towns.town(server, TINY)
            assert not embedded.has_database(server, name)
        made = towns.town(server, TINY)
        monkeypatch.setattr(towns, "fill", fail)  # a second making would be noticed
        assert towns.town(server, TINY) == made
        copied = towns.copy(server, made, "bench_test_copy")
        with connect(copied, read_only=True) as connection:
            assert clock.read_all(connection, floors.EVENTS) == TINY.events
        outdated = name.rpartition("_")[0] + "_00000000"
        towns.copy(server, made, outdated)
        command.clean_up(server, {"full": TINY}, keep=True)
        assert not embedded.has_database(server, outdated)
        command.clean_up(server, {"full": TINY.half()}, keep=False)
        assert embedded.has_database(server, name)
        assert not embedded.has_database(server, "bench_test_copy")
    finally:
        command.clean_up(server, {"full": TINY}, keep=False)
    assert not embedded.has_database(server, name)


def test_a_command_is_timed_with_its_memory_and_its_failure_is_told(
    town: Settings,
) -> None:
    ran = clock.run_command(town, "orphans", "--version")
    assert 0 < ran.seconds < 30
    assert 10 < ran.megabytes < 1000
    with pytest.raises(DatabaseError, match=r"'orphans fix --limit 0' .* failed: .*limit"):
        clock.run_command(town, "orphans", "fix", "--limit", "0")


def test_the_floor_of_a_test_is_the_ops_views_that_it_reads_or_else_everything() -> None:
    def node(schema: str, name: str, *parents: str) -> dict:
        return {
            "schema": schema,
            "name": name,
            "alias": name,
            "depends_on": {"nodes": list(parents)},
        }

    manifest = {
        "sources": {"source.q": {"schema": "canon", "name": "q", "identifier": "quarantine"}},
        "nodes": {
            "model.v": node("ops", "v_payment_calculation"),
            "model.i": node("ct4_orphans", "int_lead_links"),
            "test.a": node("audit", "a", "model.v", "model.i", "source.q"),
            "test.b": node("audit", "b", "model.i", "source.q"),
            "test.c": node("audit", "looked_at_something", "model.i"),
        },
    }
    assert measure.read_by(manifest, "test.a") == ['"ops"."v_payment_calculation"']
    assert measure.read_by(manifest, "test.b") == [
        '"canon"."quarantine"',
        '"ct4_orphans"."int_lead_links"',
    ]
    assert measure.read_by(manifest, "test.c") == []


def measured(server: Settings) -> measure.Bench:
    """Everything measured, each at nine tenths of its limit."""
    bench = bench_of(server)
    one_driver = {
        measure.one_driver(view, setup): 0.018 if view == "v_driver_orphans" else 0.243
        for view in measure.VIEWS
        for setup in (measure.AS_CT4_IS, measure.WITH_INDEXES)
    }
    seconds = {
        "plan's floor": 0.5,
        "plan": 1.8,
        "bare inserts": 0.7,
        "execute": 4.5,
        **{f"{view}'s floor": 0.5 for view in measure.VIEWS},
        **dict.fromkeys(measure.VIEWS, 1.35),
        "acceptance tests' floor": 1.0,
        "acceptance tests": 1.8,
        "dbt parse": 1.0,
        "dbt run": 1.8,
        **one_driver,
    }
    for what, value in seconds.items():
        bench.times.add("full", what, value)
        bench.times.add("half", what, value / 2)
    bench.memory = dict.fromkeys(("fix --execute", "fix --dry-run", "fix --execute --plan"), 180.0)
    return bench


def test_what_keeps_its_limits_is_met(server: Settings) -> None:
    rows = results.targets(measured(server))
    assert [row.what for row in rows if not row.is_met] == []
    assert Counter(row.section for row in rows) == {
        results.AGAINST_FLOOR: 8,
        results.ONE_DRIVER: 14,
        results.MEMORY: 3,
        results.TWICE: 11,
    }
    assert "MISSED" not in results.table(rows)


NAMES = [
    (row.section, row.what, row.must_reach)
    for row in results.targets(measured(Settings("", 1, "", "", "", "")))
]


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_each_target_is_missed_when_it_takes_a_quarter_more(
    server: Settings, name: tuple[str, str, str]
) -> None:
    bench = measured(server)
    section, what, _ = name
    if section == results.MEMORY:
        bench.memory[what.removeprefix("orphans ")] *= 1.25
    elif section == results.TWICE:
        bench.times.seconds["half", what][:] = [bench.times.best(what) / 2.5]
    elif section == results.ONE_DRIVER:
        view, setup = what.split(", ")
        slow = 1.25 if "1 s" in name[2] else 0.3
        bench.times.seconds["full", measure.one_driver(view, setup)][:] = [slow]
    else:
        bench.times.seconds["full", what][:] = [1.25 * bench.times.best(what)]
    rows = results.targets(bench)
    missed = [(row.section, row.what, row.must_reach) for row in rows if not row.is_met]
    assert name in missed
    table = results.table(rows)
    assert table.count("MISSED") == len(missed)


def test_the_best_of_the_rounds_counts_and_a_limit_in_seconds_ends_at_100_000_drivers(
    server: Settings,
) -> None:
    bench = measured(server)
    bench.times.add("full", "plan", 100.0)
    assert results.targets(bench)[0].measured == 1.8
    bench.sizes["full"] = towns.Sizes(100_001, 10_000, 500_000, 30)
    rows = results.of_one_driver(bench)
    assert len(rows) == 8
    assert not any(row.limit == 1.0 for row in rows)


def test_the_json_has_sizes_machine_and_verdicts_and_no_path_of_this_machine(
    server: Settings, tmp_path: Path
) -> None:
    bench = measured(server)
    bench.times.seconds["full", "plan"] = [math.inf]
    rows = results.targets(bench)
    at = datetime(2025, 7, 1, tzinfo=timezone.utc)
    results.write(results.as_json(bench, rows, at, measure.PARTS), tmp_path / "made" / "b.json")
    text = (tmp_path / "made" / "b.json").read_text()
    found = json.loads(text)
    assert found["sizes"]["half"]["drivers"] == 500
    assert found["all_met"] is False
    assert found["targets"][0] | {"floor_is": ""} == {
        "section": "against its floor",
        "what": "plan",
        "measured": None,
        "limit": 4,
        "floor": 0.5,
        "floor_is": "",
        "unit": "s",
        "value": None,
        "is_met": False,
    }
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gb"] > 0
    assert found["postgres"]["server_version"]
    assert str(ROOT) not in text
    assert server.host not in text


def test_a_plot_is_drawn_even_of_what_took_too_long(server: Settings, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install '.[bench]' for the plot")
    bench = measured(server)
    bench.times.seconds["full", "plan"] = [math.inf]
    plot.draw(results.targets(bench), "A town", "A machine", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("factor", "exit_code"), [(1, 0), (10, 1)])
def test_a_missed_target_ends_the_command_with_1_after_everything_is_written(
    server: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    exit_code: int,
) -> None:
    @contextmanager
    def bench_server(timeout: int) -> Iterator[Settings]:
        yield server

    def run(bench: measure.Bench, parts: tuple[str, ...]) -> None:
        found = measured(server)
        bench.times, bench.memory = found.times, found.memory
        bench.times.seconds["full", "plan"] = [1.8 * factor]

    def draw(rows: list[results.Target], title: str, subtitle: str, path: Path) -> None:
        raise ImportError

    monkeypatch.setattr(towns, "bench_server", bench_server)
    monkeypatch.setattr(measure, "run", run)
    monkeypatch.setattr(plot, "draw", draw)
    arguments = ["--drivers", "1000", "--output-dir", str(tmp_path)]
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == exit_code
    assert "1,000 drivers, 100 of them orphans, 5,000 lead events, 30 days" in done.output
    assert ("MISSED" in done.output) == bool(exit_code)
    assert "No plot: matplotlib is not installed" in done.output
    (written,) = tmp_path.glob("bench_1000_*.json")
    assert json.loads(written.read_text())["all_met"] is not bool(exit_code)


@pytest.mark.parametrize("arguments", [["--orphans", "1000"], ["--events", "999"]])
def test_sizes_that_make_no_town_are_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(command.main, ["--drivers", "1000", *arguments])
    assert done.exit_code == 2
