"""What is measured, part by part: floors and things in turn, half and full town in turn."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings, connect
from ct4_orphans.errors import DatabaseError
from psycopg import sql

from bench import clock, console, floors, towns

PARTS = ("fix", "views", "drivers", "tests", "dbt", "console")
VIEWS = {
    "v_payment_calculation": floors.OF_PAYMENT_AND_FUNNEL,
    "v_cabinet_funnel_status": floors.OF_PAYMENT_AND_FUNNEL,
    "v_ct4_eligible_drivers": floors.OF_ELIGIBLE_AND_ORPHANS,
    "v_driver_orphans": floors.OF_ELIGIBLE_AND_ORPHANS,
}
# What `orphans doctor` recommends, and CT4 does not have.
INDEXES = (
    "create index on canon.identity_links (person_key)",
    "create index on public.summary_daily (driver_id)",
)
AS_CT4_IS = "no index added"
WITH_INDEXES = "two indexes added"
# Asks only whether there is a row: reading everything would be no floor of it.
HAS_NO_FLOOR = ("looked_at_something",)


@dataclass
class Bench:
    """One run: the databases, what was measured, and how to tell of the progress."""

    server: Settings
    sizes: dict[str, towns.Sizes]  # 'full', and 'half' for the growth
    rounds: int
    tell: Callable[[str], None]
    times: clock.Times = field(default_factory=clock.Times)
    memory: dict[str, float] = field(default_factory=dict)  # megabytes, the most there was
    asked: dict[str, int] = field(default_factory=dict)  # drivers per view
    tests: list[dict[str, Any]] = field(default_factory=list)

    def in_turn(self, rounds: int | None = None) -> Iterator[str]:
        """Give each town in each round."""
        for number in range(rounds or self.rounds):
            for town in self.sizes:
                self.tell(f"  round {number + 1}, {town} size")
                yield town

    def keep(self, town: str, what: str, seconds: float) -> None:
        """Keep one measurement, and tell of it."""
        self.tell(f"    {what:<56}{self.times.add(town, what, seconds):>10.3f} s")

    def keep_memory(self, what: str, ran: clock.Ran) -> None:
        """Keep the most memory that a command of the full size has had."""
        self.memory[what] = max(self.memory.get(what, 0), ran.megabytes)

    def deployed(self, town: str) -> Settings:
        """Return the database before the fix."""
        return self._named(f"bench_{town}")

    def fixed(self, town: str) -> Settings:
        """Return the database after it."""
        return self._named(f"bench_{town}_fixed")

    def _named(self, name: str) -> Settings:
        server = self.server
        return Settings(
            server.host, server.port, name, server.user, server.password, server.sslmode
        )


def run(bench: Bench, parts: tuple[str, ...]) -> None:
    """Measure these parts. The fix runs in any case, once: the others look at what it leaves."""
    for town, sizes in bench.sizes.items():
        bench.tell(f"Town of {town} size: {sizes}")
        deploy(towns.copy(bench.server, towns.town(bench.server, sizes), f"bench_{town}"))
    bench.tell("The fix")
    fix(bench, bench.rounds if "fix" in parts else 1)
    if "fix" in parts:
        reviewed_fix(bench)
    for town in bench.sizes:
        with connect(bench.fixed(town)) as connection:  # as autovacuum would do it
            connection.execute("vacuum canon.identity_links, canon.driver_orphan_quarantine_ledger")
    if "views" in parts or "drivers" in parts:
        bench.tell("The views")
        views(bench)
    if "drivers" in parts:
        bench.tell("One driver")
        drivers(bench, AS_CT4_IS)
    if "tests" in parts:
        bench.tell("dbt's acceptance tests")
        acceptance_tests(bench)
    if "dbt" in parts:
        bench.tell("dbt run")
        dbt_run(bench)
    if "console" in parts:
        bench.tell("The console")
        console_under_load(bench, AS_CT4_IS)
    if "drivers" in parts or "console" in parts:  # last, since it leaves the database another
        bench.tell("With the indexes that orphans doctor recommends")
        for town in bench.sizes:
            with connect(bench.fixed(town)) as connection:
                connection.execute("set statement_timeout = 0")
                for index in INDEXES:
                    connection.execute(index)
    if "drivers" in parts:
        drivers(bench, WITH_INDEXES)
    if "console" in parts:
        console_under_load(bench, WITH_INDEXES)


def deploy(settings: Settings) -> None:
    """Migrate, seed and build, as the demo does."""
    shutil.rmtree(clock.target(settings), ignore_errors=True)
    for words in (("alembic", "upgrade", "head"), ("dbt", "seed"), ("dbt", "run")):
        clock.run_command(settings, *words)


def fix(bench: Bench, rounds: int) -> None:
    """Measure plan and execute; leave the last round's database."""
    for town in bench.in_turn(rounds):
        orphans = bench.sizes[town].orphans
        with connect(bench.deployed(town), read_only=True) as connection:
            with connection.transaction():
                fixing.plan_for_many(connection)  # the floor has what the plan has
                bench.keep(
                    town, "plan's floor", clock.seconds_to_read(connection, floors.OF_THE_PLAN)
                )
            bench.keep(town, "plan", clock.timed(partial(drain, connection, orphans)))
        fixed = towns.copy(bench.server, bench.deployed(town), bench.fixed(town).dbname)
        with tempfile.TemporaryDirectory() as reports:
            ran = clock.run_command(fixed, "orphans", "fix", "--execute", "--output-dir", reports)
        bench.keep(town, "execute", ran.seconds)
        if town == "full":
            bench.keep_memory("fix --execute", ran)
        with connect(fixed) as connection:
            bench.keep(town, "bare inserts", bare_inserts(connection, orphans))


def drain(connection: Connection, orphans: int) -> None:
    """Read the whole plan, row by row, as a dry-run does."""
    with fixing.planned_rows(connection, fixing.Options()) as rows:
        found = sum(1 for _ in rows)
    if found != orphans:
        raise DatabaseError(f"The plan has {found} rows; the town has {orphans} orphans.")


def bare_inserts(connection: Connection, orphans: int) -> float:
    """Insert what the fix has written into copies without indexes; return the seconds."""
    seconds = 0.0
    for table, written in (
        ("driver_orphan_quarantine_ledger", "true"),
        ("identity_links", "match_rule = 'LEAD_EVENT_RECONSTRUCTION'"),
    ):
        connection.execute(
            sql.SQL(
                "create temporary table written as select * from canon.{0} where {1};"
                " create table public.bare (like canon.{0})"
            ).format(sql.Identifier(table), sql.SQL(written))
        )
        rows = 0

        def insert() -> None:
            nonlocal rows
            rows = connection.execute("insert into public.bare table pg_temp.written").rowcount

        seconds += clock.timed(insert)
        if table.endswith("ledger") and rows != orphans:
            raise DatabaseError(f"The fix has written {rows} entries for {orphans} orphans.")
        connection.execute("drop table public.bare; drop table pg_temp.written")
    return seconds


def reviewed_fix(bench: Bench) -> None:
    """Measure the memory of a dry-run, and of an execute of what it reported."""
    name = f"{bench.deployed('full').dbname}_reviewed"
    reviewed = towns.copy(bench.server, bench.deployed("full"), name)
    with tempfile.TemporaryDirectory() as reports:
        words = ("orphans", "fix", "--output-dir", reports)
        bench.keep_memory("fix --dry-run", clock.run_command(reviewed, *words))
        report = str(next(Path(reports).glob("*.json")))
        ran = clock.run_command(reviewed, *words, "--execute", "--plan", report)
        bench.keep_memory("fix --execute --plan", ran)
        bench.keep("full", "execute of a reviewed plan", ran.seconds)
    towns.drop(bench.server, name)


def views(bench: Bench) -> None:
    """Measure the full read of each view and of its floor, as a session of CT4 has it."""
    for town in bench.in_turn():
        with connect(bench.fixed(town), read_only=True) as connection:
            for view, floor in VIEWS.items():
                bench.keep(town, f"{view}'s floor", clock.seconds_to_read(connection, floor))
                query = f"select * from ops.{view}"  # noqa: S608
                bench.keep(town, view, clock.seconds_to_read(connection, [query]))


def drivers(bench: Bench, setup: str) -> None:
    """Measure one driver's rows of each view."""
    for town in bench.in_turn(1):
        for view in VIEWS:
            candidates = some_drivers(bench.sizes[town], of_orphans=view == "v_driver_orphans")
            seconds, asked = clock.seconds_of_one_driver(bench.fixed(town), view, candidates)
            what = one_driver(view, setup)
            bench.keep(town, what, seconds)
            if town == "full":
                bench.asked[what] = asked


def console_under_load(bench: Bench, setup: str) -> None:
    """Measure how long 95 of 100 requests for pages of the list take, of the full size only."""
    with tempfile.TemporaryDirectory() as directory:
        seconds = console.latencies(
            bench.fixed("full"), bench.sizes["full"].orphans, Path(directory)
        )
    bench.keep("full", pages_of_the_list(setup), console.p95(seconds))


def pages_of_the_list(setup: str) -> str:
    """Return what the measurement of the console is called."""
    return f"p95 of {console.REQUESTS_A_SECOND} pages a second, {setup}"


def one_driver(view: str, setup: str) -> str:
    """Return what the measurement of one driver's rows is called."""
    return f"{view} of one driver, {setup}"


def some_drivers(sizes: towns.Sizes, *, of_orphans: bool) -> Iterator[str]:
    """Give drivers of town.sql, spread over all of them: orphans, or those who have a lead."""
    first, last = (1, sizes.orphans) if of_orphans else (sizes.orphans + 1, sizes.drivers)
    step = max(1, (last - first) // 100)
    for number in range(first, last + 1, step):
        yield hashlib.md5(f"driver {number}".encode(), usedforsecurity=False).hexdigest()


def acceptance_tests(bench: Bench) -> None:
    """Measure dbt's acceptance tests, and the full reads of what they read."""
    for town in bench.in_turn():
        settings = bench.fixed(town)
        clock.run_command(
            *(settings, "dbt", "test"),
            *("--select", "path:tests/acceptance", "--threads", "1"),
        )
        manifest, results = (
            json.loads((clock.target(settings) / name).read_text("utf-8"))
            for name in ("manifest.json", "run_results.json")
        )
        tests = {
            result["unique_id"]: float(result["execution_time"]) for result in results["results"]
        }
        bench.keep(town, "acceptance tests", sum(tests.values()))
        relations = {test: read_by(manifest, test) for test in tests}
        read: dict[str, float] = {}
        with connect(settings, read_only=True) as connection:
            for relation in sorted({name for names in relations.values() for name in names}):
                read[relation] = clock.seconds_to_read(connection, [f"select * from {relation}"])  # noqa: S608
        floor = {test: sum(read[name] for name in names) for test, names in relations.items()}
        bench.keep(town, "acceptance tests' floor", sum(floor.values()))
        if town == "full":
            bench.tests += [
                {
                    "test": test.split(".")[2],
                    "seconds": seconds,
                    "reads": relations[test],
                    "floor": floor[test],
                }
                for test, seconds in tests.items()
            ]


def read_by(manifest: dict[str, Any], test: str) -> list[str]:
    """Return the relations whose full read is the floor of a test.

    The ops views that it reads; if it reads none, every relation that it names. Each once.
    """
    node = manifest["nodes"][test]
    if node["name"] in HAS_NO_FLOOR:
        return []
    parents = [
        manifest["sources"].get(name) or manifest["nodes"][name]
        for name in node["depends_on"]["nodes"]
    ]
    ours = [parent for parent in parents if parent["name"] in VIEWS]
    names = {
        f'"{parent["schema"]}"."{parent.get("alias") or parent["identifier"]}"'
        for parent in ours or parents
    }
    return sorted(names)


def dbt_run(bench: Bench) -> None:
    """Measure `dbt run` against `dbt parse`, both with what dbt has kept from before.

    dbt run only makes views, so it takes no longer on a large database than on the demo's.
    """
    settings = bench.fixed("full")
    clock.run_command(settings, "dbt", "run")
    clock.run_command(settings, "dbt", "parse")
    for number in range(bench.rounds):
        bench.tell(f"  round {number + 1}")
        bench.keep("full", "dbt parse", clock.run_command(settings, "dbt", "parse").seconds)
        bench.keep("full", "dbt run", clock.run_command(settings, "dbt", "run").seconds)
