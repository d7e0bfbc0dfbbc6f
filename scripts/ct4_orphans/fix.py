"""The fix: read the plan that ops.v_orphan_fix_plan shows and, if asked to, apply exactly that.

The rules are in the views. What is here connects, applies in bounded transactions, and counts.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import psycopg
from psycopg import errors as pg_errors
from psycopg import sql

from ct4_orphans import seals
from ct4_orphans.database import Connection, Row, Settings, connect, statement, what_happened
from ct4_orphans.errors import DatabaseError, RefusedError

# Any constant of our own: the advisory lock that lets one execute run at a time per database.
LOCK_KEY = 0x6F727068616E73  # "orphans"
DRIVERS_PER_TRANSACTION = 50_000
TRIES_PER_TRANSACTION = 3
ROWS_PER_FETCH = 1_000
WORK_MEMORY = "64MB"  # a hash of a million persons without files; PostgreSQL's default is 4 MB
PAUSES_BEFORE_CONNECTING_AGAIN = (1, 2, 4, 8)  # seconds

# Someone else was in the way: the same batch can work a moment later.
TRANSIENT = (
    pg_errors.SerializationFailure,
    pg_errors.DeadlockDetected,
    pg_errors.UniqueViolation,
)
# The data of one person is refused (a constraint or a trigger of CT4): the others must go on.
OF_ONE_PERSON = (psycopg.IntegrityError, psycopg.DataError, pg_errors.RaiseException)


class BrokenPromiseError(Exception):
    """A postcondition did not hold: the batch is rolled back."""


@dataclass(frozen=True)
class Options:
    """What to do: `limit` counts drivers, None is all of them.

    `reviewed` is the plan to keep to, a fingerprint for each driver; None is whatever there is.
    """

    execute: bool = False
    limit: int | None = None
    reprocess_quarantined: bool = False
    reviewed: Mapping[str, str] | None = None


@dataclass
class Stats:
    """Counts of drivers, but `links_*`: lead rows. In a dry-run: what an execute would do.

    The drivers of a person come one after the other.
    """

    processed: int = 0
    with_events: int = 0
    without_events: int = 0
    links_created: int = 0
    links_skipped: int = 0
    quarantined: int = 0
    resolved_relinked: int = 0
    released: int = 0
    changed: int = 0
    refused: int = 0
    already_applied: int = 0
    not_reached: int = 0
    errors: int = 0
    by_strategy: Counter[str] = field(default_factory=Counter)
    by_reason: Counter[str] = field(default_factory=Counter)
    _person_counted: uuid.UUID | None = field(default=None, repr=False)

    def add(self, row: Row) -> None:
        """Count one row of the plan with its outcome."""
        self.processed += 1
        if row["outcome"] == "already applied":
            self.already_applied += 1
            return
        if row["outcome"] == "refused":
            self.refused += 1
            return
        if row["has_events"]:
            self.with_events += 1
        else:
            self.without_events += 1
        lead_rows = 0
        if row["lead_rows_count"] and row["person_key"] != self._person_counted:
            lead_rows, self._person_counted = row["lead_rows_count"], row["person_key"]
        if row["outcome"] == "failed":
            self.errors += 1
        elif row["outcome"] == "changed":
            self.changed += 1
        elif row["outcome"] is None:
            self.not_reached += 1
        elif row["action"] == "relink":
            self.resolved_relinked += 1
            self.by_strategy[row["strategy"]] += 1
        elif row["action"] == "release":
            self.released += 1
        else:
            self.quarantined += 1
            self.by_reason[row["detected_reason"]] += 1
        if row["outcome"] in ("planned", "applied"):
            self.links_created += lead_rows
        else:
            self.links_skipped += lead_rows

    @property
    def applied(self) -> int:
        """Drivers whose new state is in the database (in a dry-run: would be)."""
        return self.quarantined + self.resolved_relinked + self.released

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for the report, in the order operators know."""
        return {
            "processed": self.processed,
            "with_events": self.with_events,
            "without_events": self.without_events,
            "links_created": self.links_created,
            "links_skipped": self.links_skipped,
            "quarantined": self.quarantined,
            "resolved_relinked": self.resolved_relinked,
            "released": self.released,
            "changed": self.changed,
            "refused": self.refused,
            "already_applied": self.already_applied,
            "not_reached": self.not_reached,
            "errors": self.errors,
            "resolved_relinked_by_strategy": dict(sorted(self.by_strategy.items())),
            "quarantined_by_reason": dict(sorted(self.by_reason.items())),
        }


def check_database(connection: Connection, options: Options) -> None:
    """Raise DatabaseError for what is missing, RefusedError if no lead sources are known."""
    problems = connection.execute(statement("preflight"), {"execute": options.execute}).fetchall()
    if problems:
        by_advice: dict[str, list[str]] = {}
        for row in problems:
            by_advice.setdefault(row["advice"].rstrip(";."), []).append(row["problem"])
        raise DatabaseError(
            " ".join(f"{', '.join(what)}. {advice}." for advice, what in by_advice.items())
        )
    sources = connection.execute("select 1 from ct4_orphans.lead_sources limit 1").fetchone()
    if sources is None:
        raise RefusedError(
            "ct4_orphans.lead_sources is empty, so every driver would count as an orphan. "
            "Run 'dbt seed' first."
        )


def database_time(connection: Connection) -> datetime:
    """Return the server's clock in UTC: reports never depend on the client's."""
    row = connection.execute("select now() as now").fetchone()
    if row is None:
        raise DatabaseError("The server gave no time. Run the same command again.")
    now: datetime = row["now"]
    return now


@contextmanager
def planned_rows(connection: Connection, options: Options) -> Iterator[Iterator[Row]]:
    """Give the rows of the plan in a transaction that the server lets nothing write in.

    The rows stream, ordered by person and driver: the client never has all of them. Not from a
    server-side cursor, whose queries PostgreSQL gives no parallel workers.
    """
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        plan_for_many(connection)
        rows = connection.cursor().stream(
            statement("plan") + sql.SQL(" order by person_no, driver_id"),
            _plan_parameters(options),
        )
        # Closed, because who has read enough ends the query.
        with closing(cast("Generator[Row, None, None]", rows)):
            yield ({**row, "outcome": "planned", "error": None} for row in rows)


@contextmanager
def only_one_execute(connection: Connection) -> Iterator[None]:
    """Hold the advisory lock of the fix. Raises RefusedError that names the holder."""
    row = connection.execute("select pg_try_advisory_lock(%s) as locked", [LOCK_KEY]).fetchone()
    if not row or not row["locked"]:
        holder = connection.execute(statement("lock_holder"), {"key": LOCK_KEY}).fetchone()
        who = (
            "{user_name} from {client} (server process {pid}, connected since {since} UTC)".format(
                **holder
            )
            if holder
            else "another session"
        )
        raise RefusedError(
            f"Another execute is running: {who} holds the lock. Nothing was changed; wait for its "
            "end, then run again."
        )
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # the end of the session unlocks as well
            connection.execute("select pg_advisory_unlock(%s)", [LOCK_KEY])


def prepare(connection: Connection, options: Options) -> int:
    """Keep the plan in a temporary table of this session; return the drivers to apply it to.

    With a reviewed plan the table has just its drivers: those whose situation has changed since
    are marked as refused, those that have it already as applied.
    """
    with connection.transaction():
        plan_for_many(connection)
        connection.execute(
            "create temporary table reviewed (driver_id varchar primary key, fingerprint text)"
        )
        with connection.cursor().copy("copy pg_temp.reviewed from stdin") as copy:
            for driver in (options.reviewed or {}).items():
                copy.write_row(driver)
        connection.execute(
            sql.SQL(
                "create temporary table planned as with plan_now as materialized ({})"
                " select *, null::text as outcome, null::text as error from plan_now"
                " where %(all)s or person_key in (select person_key from plan_now"
                " inner join pg_temp.reviewed on plan_now.driver_id = reviewed.driver_id)"
            ).format(statement("plan")),
            {**_plan_parameters(options), "all": options.reviewed is None},
        )
        if options.reviewed is not None:
            for name in ("compare_with_review", "insert_missing_reviewed", "refuse_whole_persons"):
                connection.execute(statement(name))
            connection.execute("delete from pg_temp.planned where outcome = 'not reviewed'")
        connection.execute("create index on pg_temp.planned (person_no)")
        connection.execute("analyze pg_temp.planned")
        row = connection.execute(
            "select count(*) as drivers from pg_temp.planned where outcome is null"
        ).fetchone()
    return int(row["drivers"]) if row else 0


def apply(
    connection: Connection,
    run: seals.Run,
    progress: Callable[[int], None] = lambda _: None,
    shall_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Apply the prepared plan in transactions of bounded size, each all or nothing, and sealed.

    `progress` is told the number of drivers done after each transaction, and `shall_stop` is asked
    before each. A person whose data is
    refused by the database is left out and marked; the others go on. Raises psycopg.Error when
    nothing more can be done (connection lost, privilege missing, disk full).
    """
    for first, last in _batches(connection):
        if shall_stop():
            break
        _apply_persons(connection, run, first, last)
        done = connection.execute(
            "select count(*) as drivers from pg_temp.planned where person_no between %s and %s"
            " and coalesce(outcome, 'applied') not in ('refused', 'already applied')",
            [first, last],
        ).fetchone()
        progress(done["drivers"] if done else 0)
    # The views are planned by these numbers at once, not after the next autovacuum. Only a warning
    # of the server, nothing more, when this user may not.
    connection.execute("analyze canon.driver_orphan_quarantine_ledger")


@contextmanager
def applied_rows(connection: Connection) -> Iterator[Iterator[Row]]:
    """Give the rows of the prepared plan with their outcome: applied, changed, failed or null."""
    with connection.transaction(), connection.cursor(name="applied") as cursor:
        cursor.itersize = ROWS_PER_FETCH
        cursor.execute("select * from pg_temp.planned order by person_no, driver_id")
        yield iter(cursor)


@contextmanager
def after_lost_connection(settings: Settings) -> Iterator[Connection]:
    """Connect again once the lost session has ended, so that the ledger says what it has done.

    What was asked for last may have been committed without an answer: it is never repeated, only
    looked up. The lost session holds the fix's lock until the server has finished with it.
    Raises DatabaseError after about half a minute.
    """
    with ExitStack() as stack:
        for seconds in (*PAUSES_BEFORE_CONNECTING_AGAIN, None):
            try:
                connection = stack.enter_context(_once_nobody_executes(settings))
                break
            except DatabaseError:
                if seconds is None:
                    raise
                time.sleep(seconds)
        yield connection


@contextmanager
def _once_nobody_executes(settings: Settings) -> Iterator[Connection]:
    with connect(settings) as connection:
        connection.execute("set lock_timeout = '5s'")
        connection.execute("select pg_advisory_lock(%s)", [LOCK_KEY])  # until the session ends
        yield connection


@contextmanager
def applied_by_run(connection: Connection, run: seals.Run) -> Iterator[Iterator[Row]]:
    """Give the drivers to which the run has appended an entry, as the ledger has them."""
    with connection.transaction(), connection.cursor(name="applied_by_run") as cursor:
        cursor.itersize = ROWS_PER_FETCH
        cursor.execute(statement("applied_by_run"), {"run_id": run.run_id})
        yield iter(cursor)


def refused_drivers(connection: Connection) -> list[str]:
    """Return the drivers of a reviewed plan that were not applied, because it no longer holds."""
    query = "select driver_id from pg_temp.planned where outcome = 'refused' order by driver_id"
    return [row["driver_id"] for row in connection.execute(query)]


def waiting_for_reprocess(connection: Connection) -> int:
    """Count the quarantined drivers that a fix with --reprocess-quarantined would touch."""
    row = connection.execute(
        "select count(*) as drivers from ops.v_orphan_fix_plan where requires_reprocess"
    ).fetchone()
    return int(row["drivers"]) if row else 0


def plan_for_many(connection: Connection) -> None:
    """Hash and merge joins for this transaction.

    On computed columns PostgreSQL's estimates can be one row where there are thousands, and a
    nested loop then takes hours; the worst a hash join can do is to read a table once more.
    """
    connection.execute("set local enable_nestloop = off")
    connection.execute("set local jit = off")  # seconds of compiling, for a query that runs once
    connection.execute(f"set local work_mem = '{WORK_MEMORY}'")


def _plan_parameters(options: Options) -> dict[str, Any]:
    # A reviewed plan says itself whom to look at again.
    reprocess = options.reprocess_quarantined or options.reviewed is not None
    return {"reprocess": reprocess, "limit": options.limit}


def _batches(connection: Connection) -> list[tuple[int, int]]:
    """Return ranges of person numbers of about DRIVERS_PER_TRANSACTION drivers each."""
    rows = connection.execute(
        "select min(person_no) as first, max(person_no) as last from pg_temp.planned"
        " where outcome is null group by drivers_before / %s order by first",
        [DRIVERS_PER_TRANSACTION],
    )
    return [(row["first"], row["last"]) for row in rows]


def _apply_persons(connection: Connection, run: seals.Run, first: int, last: int) -> None:
    """Apply a range of persons; halve it until those whose data is refused stand alone."""
    try:
        _apply_with_retries(connection, run, first, last)
    except (psycopg.DatabaseError, BrokenPromiseError) as error:
        if not _is_of_one_person(error):
            raise
        if first < last:
            middle = (first + last) // 2
            _apply_persons(connection, run, first, middle)
            _apply_persons(connection, run, middle + 1, last)
            return
        reason = what_happened(error) if isinstance(error, psycopg.Error) else str(error)
        connection.execute(
            "update pg_temp.planned set outcome = 'failed', error = %s"
            " where person_no = %s and outcome is null",
            [reason, first],
        )


def _is_of_one_person(error: Exception) -> bool:
    """Tell a refusal of this data from a failure that would meet everyone.

    A trigger of CT4 can raise a code of its own: psycopg has no class for it but the base.
    """
    return (
        isinstance(error, (*OF_ONE_PERSON, BrokenPromiseError))
        or type(error) is psycopg.DatabaseError
    )


def _apply_with_retries(connection: Connection, run: seals.Run, first: int, last: int) -> None:
    for attempt in range(1, TRIES_PER_TRANSACTION + 1):
        try:
            _apply_transaction(connection, run, first, last)
        except (*TRANSIENT, BrokenPromiseError):
            # What changed meanwhile is found by the next try, and left for the next run.
            if attempt == TRIES_PER_TRANSACTION:
                raise
        else:
            return


def _apply_transaction(connection: Connection, run: seals.Run, first: int, last: int) -> None:
    parameters = {"first": first, "last": last, "run_id": run.run_id}
    with connection.transaction():
        connection.execute(f"set local lock_timeout = '30s'; set local work_mem = '{WORK_MEMORY}'")
        for name in ("find_changed", "insert_links", "insert_entries"):
            connection.execute(statement(name), parameters)
        broken = connection.execute(statement("postconditions"), parameters).fetchone()
        if broken:
            raise BrokenPromiseError(f"{broken['broken_promise']} ({broken['driver_id']})")
        applied = connection.execute(
            "update pg_temp.planned set outcome = 'applied'"
            " where outcome is null and person_no between %s and %s",
            [first, last],
        )
        if applied.rowcount:
            seals.seal(connection, run, "applied", {"drivers": applied.rowcount})
