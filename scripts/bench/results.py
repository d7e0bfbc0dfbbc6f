"""What came of it: every row of the table with its verdict, as text and as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ct4_orphans.database import Connection, connect

from bench import floors, measure, towns

GROWTH = 2.2
LARGEST_FOR_A_SECOND = 100_000  # drivers; more have no limit in seconds
SETTINGS = (
    "server_version",
    "shared_buffers",
    "work_mem",
    "hash_mem_multiplier",
    "maintenance_work_mem",
    "effective_cache_size",
    "random_page_cost",
    "jit",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "max_worker_processes",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "autovacuum",
)


@dataclass(frozen=True)
class Target:
    """One row: what was measured against what, and what it must reach.

    Without a floor the limit is absolute, else it is the highest ratio.
    """

    section: str
    what: str
    measured: float
    limit: float
    floor: float | None = None
    floor_is: str = ""
    unit: str = "s"

    @property
    def value(self) -> float:
        """Return what the limit is for."""
        if self.floor is None:
            return self.measured
        is_ratio = self.floor > 0 and math.isfinite(self.floor)
        return self.measured / self.floor if is_ratio else math.nan

    @property
    def is_met(self) -> bool:
        """Tell whether the limit is kept; what the timeout has ended keeps none."""
        return math.isfinite(self.value) and self.value <= self.limit

    @property
    def must_reach(self) -> str:
        """Say the limit in words."""
        return f"<= {amount(self.limit, self.unit) if self.floor is None else f'{self.limit:g} x'}"

    @property
    def reached(self) -> str:
        """Say what was reached in the limit's own terms."""
        return amount(self.measured, self.unit) if self.floor is None else f"{self.value:.3g} x"


AGAINST_FLOOR, ONE_DRIVER, CONSOLE, MEMORY, TWICE = (
    "against its floor",
    "one driver",
    "the console",
    "client memory",
    "twice the data",
)


def targets(bench: measure.Bench) -> list[Target]:
    """Return a row for whatever was measured."""
    return [
        *against_floors(bench),
        *of_one_driver(bench),
        *of_console(bench),
        *of_memory(bench),
        *of_growth(bench),
    ]


def against_floors(bench: measure.Bench) -> list[Target]:
    """Return the rows that have a floor of their own."""
    times, found = bench.times, []

    def add(what: str, limit: float, floor_is: str, *floor: str) -> None:
        if times.has(what) and all(map(times.has, floor)):
            seconds = sum(map(times.best, floor))
            found.append(Target(AGAINST_FLOOR, what, times.best(what), limit, seconds, floor_is))

    add("plan", 4, "scan of lead_events + anti-join of links", "plan's floor")
    add("execute", 2, "plan + bare inserts of its rows", "plan", "bare inserts")
    for view, floor in measure.VIEWS.items():
        of_days = floor == floors.OF_PAYMENT_AND_FUNNEL
        floor_is = "days aggregated + events grouped" if of_days else "one pass, events and links"
        add(view, 3, floor_is, f"{view}'s floor")
    add("acceptance tests", 2, "full read of what they read", "acceptance tests' floor")
    add("dbt run", 2, "dbt parse", "dbt parse")
    return found


def of_one_driver(bench: measure.Bench) -> list[Target]:
    """Return the rows of `where driver_id = '…'`, with and without the indexes."""
    times, found = bench.times, []
    for setup in (measure.AS_CT4_IS, measure.WITH_INDEXES):
        for view in measure.VIEWS:
            what = measure.one_driver(view, setup)
            if not times.has(what):
                continue
            seconds, name = times.best(what), f"{view}, {setup}"
            if view == "v_driver_orphans":
                found.append(Target(ONE_DRIVER, name, seconds, 0.02))
                continue
            found.append(
                Target(ONE_DRIVER, name, seconds, 1 / 5, times.best(view), "the view's full read")
            )
            if bench.sizes["full"].drivers <= LARGEST_FOR_A_SECOND:
                found.append(Target(ONE_DRIVER, name, seconds, 1.0))
    return found


def of_console(bench: measure.Bench) -> list[Target]:
    """Return the rows of the list under load, with and without the indexes."""
    measured = map(measure.pages_of_the_list, (measure.AS_CT4_IS, measure.WITH_INDEXES))
    return [
        Target(CONSOLE, what, bench.times.best(what), 0.2)
        for what in measured
        if bench.times.has(what)
    ]


def of_memory(bench: measure.Bench) -> list[Target]:
    """Return the rows of the memory that the fix's client takes."""
    return [
        Target(MEMORY, f"orphans {what}", megabytes, 200, unit="MB")
        for what, megabytes in bench.memory.items()
    ]


def of_growth(bench: measure.Bench) -> list[Target]:
    """Return each time again, against that of half the size."""
    times = bench.times
    measured = (
        "plan",
        "execute",
        *measure.VIEWS,
        *(measure.one_driver(view, measure.AS_CT4_IS) for view in measure.VIEWS),
        "acceptance tests",
    )
    return [
        Target(TWICE, what, times.best(what), GROWTH, times.best(what, "half"), "half the size")
        for what in measured
        if times.has(what) and times.has(what, "half")
    ]


def amount(value: float, unit: str) -> str:
    """Say a measured amount with as many digits as mean something."""
    if not math.isfinite(value):
        return "too long"
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def table(rows: list[Target]) -> str:
    """Return the rows as a table for a terminal, by section."""
    head = ("", "measured", "floor", "reached", "must reach", "", "the floor is")
    lines = [
        (
            f"  {row.what}",
            amount(row.measured, row.unit),
            "" if row.floor is None else amount(row.floor, row.unit),
            row.reached,
            row.must_reach,
            "met" if row.is_met else "MISSED",
            row.floor_is,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]

    def shown(cells: tuple[str, ...]) -> str:
        is_text = (0, 5, 6)
        return "  ".join(
            cell.ljust(width) if number in is_text else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    text, section = [shown(head)], ""
    for row, cells in zip(rows, lines, strict=True):
        if row.section != section:
            text.append(row.section)
            section = row.section
        text.append(shown(cells))
    return "\n".join(text)


def as_json(
    bench: measure.Bench, rows: list[Target], at: datetime, parts: tuple[str, ...]
) -> dict[str, Any]:
    """Return everything that is worth keeping."""
    with connect(bench.server) as connection:
        postgres = settings_of(connection)
    return {
        "at": at.isoformat(timespec="seconds"),
        "commit": commit(),
        "parts": parts,
        "sizes": {town: vars(sizes) for town, sizes in bench.sizes.items()},
        "rounds": bench.rounds,
        "machine": machine(),
        "postgres": postgres,
        "all_met": all(row.is_met for row in rows),
        "targets": [
            {
                **{name: finite(value) for name, value in vars(row).items()},
                "value": finite(row.value),
                "is_met": row.is_met,
            }
            for row in rows
        ],
        "seconds": [
            {"town": town, "what": what, "seconds": [finite(value) for value in seconds]}
            for (town, what), seconds in bench.times.seconds.items()
        ],
        "drivers_asked_for": bench.asked,
        "acceptance_tests": bench.tests,
    }


def finite(value: Any) -> Any:
    """Return the value as JSON can hold it: no number for what the timeout has ended."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def commit() -> dict[str, Any]:
    """Return the commit that was measured, and whether files were changed since."""

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ["git", *words], cwd=towns.ROOT, capture_output=True, text=True, check=False
        )
        return None if done.returncode else done.stdout.strip()

    return {"id": git("rev-parse", "HEAD"), "is_changed": bool(git("status", "--porcelain"))}


def machine() -> dict[str, Any]:
    """Return what the times depend on; nothing that names the machine."""
    cpus = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", cpus.read_text()) if cpus.exists() else []
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "cpu": models[0] if models else platform.processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def settings_of(connection: Connection) -> dict[str, str]:
    """Return the server's settings that matter here."""
    rows = connection.execute(
        "select name, setting || coalesce(' x ' || nullif(unit, ''), '') as value"
        " from pg_settings where name = any(%s) order by name",
        [list(SETTINGS)],
    )
    return {row["name"]: row["value"] for row in rows}


def write(content: dict[str, Any], path: Path) -> None:
    """Write the JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")
