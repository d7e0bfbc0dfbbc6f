"""The clock: seconds of a full read, of one driver's rows, of a command with its memory."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
from ct4_orphans import project
from ct4_orphans.database import Connection, Settings
from ct4_orphans.demo import job
from ct4_orphans.errors import DatabaseError
from psycopg import errors as pg_errors
from psycopg import sql

from bench import towns

DRIVERS_TO_ASK_FOR = 20
SECONDS_TO_ASK = 60.0  # a slow view is asked for fewer drivers, but for three at least


@dataclass
class Times:
    """Seconds by town ('full', 'half') and what was measured; each several times."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, town: str, what: str, seconds: float) -> float:
        """Keep one measurement, and return it."""
        self.seconds.setdefault((town, what), []).append(seconds)
        return seconds

    def has(self, what: str, town: str = "full") -> bool:
        """Tell whether it was measured."""
        return (town, what) in self.seconds

    def best(self, what: str, town: str = "full") -> float:
        """Return the best: what else the machine does only adds, and so does a cold cache."""
        return min(self.seconds[town, what])


@dataclass(frozen=True)
class Ran:
    """What a command took: seconds on the wall, and the most memory it had."""

    seconds: float
    megabytes: float


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that it takes, infinity if the server's statement timeout ends it."""
    started = time.perf_counter()
    try:
        work()
    except pg_errors.QueryCanceled:
        return math.inf
    return time.perf_counter() - started


def read_all(connection: Connection, query: str) -> int:
    """Read every column of every row of a query on the server; return the number of rows.

    count() of whole rows: no column can be left out by the planner, as count(*) would let it, and
    nothing is converted or sent, so a floor with many rows gains nothing by their number.
    """
    row = connection.execute(
        sql.SQL("select count(shown) as rows_found from ({}) as shown").format(sql.SQL(query))
    ).fetchone()
    return int(row["rows_found"]) if row else 0


def seconds_to_read(connection: Connection, queries: Iterable[str]) -> float:
    """Return the seconds of reading these queries one after the other."""
    return sum(timed(partial(read_all, connection, query)) for query in queries)


def seconds_of_one_driver(
    settings: Settings, view: str, candidates: Iterable[str]
) -> tuple[float, int]:
    """Return the median seconds of `where driver_id = '…'`, and of how many drivers.

    In an open session, as a service has it. Candidates that the view does not show are passed over.
    """
    query = sql.SQL("select * from ops.{} where driver_id = {}")
    seconds: list[float] = []
    started = time.perf_counter()
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        cursor = connection.cursor()
        for number, driver_id in enumerate(candidates):
            one = query.format(sql.Identifier(view), driver_id)
            took = timed(partial(cursor.execute, one))
            if math.isinf(took):
                return math.inf, 1
            if cursor.fetchall() and number:  # the first one makes the session warm
                seconds.append(took)
            is_slow = time.perf_counter() - started > SECONDS_TO_ASK and len(seconds) >= 3
            if is_slow or len(seconds) == DRIVERS_TO_ASK_FOR:
                break
    if not seconds:
        raise DatabaseError(f"ops.{view} shows none of the drivers that it should show.")
    return statistics.median(seconds), len(seconds)


def run_command(settings: Settings, *words: str) -> Ran:
    """Run dbt, alembic or orphans as an operator does, without a terminal.

    The memory is the command's own peak, or that of this process when it was started if that was
    more (Linux counts it in). Raises DatabaseError with its last words when it fails.
    """
    no_log = project.NO_LOG if words[0] == "dbt" else ()
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", project.MODULES[words[0]], *no_log, *words[1:]],
            cwd=towns.ROOT,
            env={
                **job.environment(settings),
                "DBT_TARGET_PATH": str(target(settings)),
                "PYTHONWARNINGS": "ignore",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = project.last_words(output.read().decode("utf-8", "replace"))
            raise DatabaseError(f"'{' '.join(words)}' on {settings} failed: {said}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return Ran(seconds, usage.ru_maxrss * unit / 1024**2)


def target(settings: Settings) -> Path:
    """Return where dbt keeps what it knows: per database, or it would parse all anew each time."""
    return towns.WORK / "bench-target" / settings.dbname
