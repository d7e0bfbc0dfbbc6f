"""What the console reads, on connections that the server lets nothing write with.

Every number is a view's. What takes long is counted once for all who ask at the same time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from ct4_orphans import audit, explain, indexes, report, verify
from ct4_orphans import fix as fixing
from ct4_orphans.console import schemas
from ct4_orphans.console.kept import Kept
from ct4_orphans.console.schemas import Reason, Sort, Status
from ct4_orphans.database import (
    SESSION,
    Connection,
    Row,
    Settings,
    connect,
    explained_errors,
    rows,
    statement,
)
from ct4_orphans.errors import DatabaseError, OrphansError
from ct4_orphans.roles import PREFIX, Roles

CONNECTIONS = 8
WAIT_SECONDS = 5  # for a connection
RECONNECT_SECONDS = 4
TIMEOUT = "15s"
TIMEOUT_OF_THE_HEAVY = "60s"
LISTS_KEPT = 64  # less than a megabyte each, with 100,000 orphans
# A commit can come with a lower entry_id than the newest: then list and counts are this behind.
LIST_SECONDS = METRICS_SECONDS = 30.0
HEAVY_SECONDS = 60.0

MASKED = sql.Identifier("ct4_orphans", "int_masked_orphans")
CLEAR = sql.Identifier("ops", "v_driver_orphans")
# As v_cabinet_funnel_status names them, in the order a driver passes them.
STAGES = (
    "registered_incomplete",
    "registered_complete",
    "connected_no_trips",
    "reached_m1",
    "reached_m5",
    "reached_m25",
)

T = TypeVar("T")


class NotGrantedError(OrphansError):
    """The database does not let this user see what was asked for."""

    exit_code = 3


@dataclass(frozen=True)
class Find:
    """What the list asks for. `driver_id` is the beginning of an id."""

    status: Status | None = None
    detected_reason: Reason | None = None
    driver_id: str | None = None
    sort: Sort = "-detected_at"
    page: int = 1
    page_size: int = 50


class Entry(NamedTuple):
    """What the list is found and sorted by."""

    driver_id: str
    status: str
    detected_reason: str
    detected_at: datetime
    last_updated_at: datetime


@dataclass(frozen=True, eq=False)
class Quarantine:
    """All entries at one moment, in the order of their ids: any list is found in it at once."""

    entries: list[Entry]
    lists: Kept = field(default_factory=lambda: Kept(LISTS_KEPT))

    def found(self, find: Find) -> list[str]:
        """Return the ids of the list that is asked for, ties in the order of ids."""

        status = find.status and find.status.value
        reason = find.detected_reason and find.detected_reason.value

        def filtered() -> list[str]:
            return [
                entry.driver_id
                for entry in self._sorted(find.sort)
                if (status is None or entry.status == status)
                and (reason is None or entry.detected_reason == reason)
            ]

        key = (find.status, find.detected_reason, find.sort)
        driver_ids = self.lists.get(key, None, math.inf, filtered)
        if find.driver_id:
            return [driver_id for driver_id in driver_ids if driver_id.startswith(find.driver_id)]
        return driver_ids

    def _sorted(self, sort: Sort) -> list[Entry]:
        column, is_descending = attrgetter(sort.removeprefix("-")), sort.startswith("-")
        return self.lists.get(
            sort, None, math.inf, lambda: sorted(self.entries, key=column, reverse=is_descending)
        )


class Reads:
    """Everything that is shown. Raises DatabaseError, in one line, when it cannot be read."""

    def __init__(self, settings: Settings, *, fix_enabled: bool = False) -> None:
        self._settings = settings
        self._fix_enabled = fix_enabled
        self._pool = self._new_pool(as_reader=True)
        self._clear_pool = self._new_pool(as_reader=False)
        self._kept = Kept(LISTS_KEPT)
        self._last: Quarantine | None = None

    def close(self) -> None:
        """Close all connections."""
        self._pool.close(timeout=1)
        self._clear_pool.close(timeout=1)

    def page(self, find: Find, *, personal: bool = False) -> schemas.OrphansPage:
        """Return a page of the list; one after the last is empty."""
        driver_ids = self._quarantine().found(find)
        first = (find.page - 1) * find.page_size
        return schemas.OrphansPage(
            orphans=self._orphans(driver_ids[first : first + find.page_size], personal),
            total=len(driver_ids),
            page=find.page,
            page_size=find.page_size,
            total_pages=-(-len(driver_ids) // find.page_size),
        )

    def metrics(self) -> schemas.OrphansMetrics:
        """Return the counts of the card."""
        return self._kept.get(
            "metrics", self._newest_entry(), METRICS_SECONDS, lambda: self._read(_metrics)
        )

    def explanation(self, driver_id: str) -> schemas.Explanation | None:
        """Say why a driver is or is not an orphan; None if the database does not know it."""
        with self._connection() as connection, connection.transaction():
            connection.execute(f"set local statement_timeout = '{TIMEOUT_OF_THE_HEAVY}'")
            found = explain.explanation(connection, driver_id)
        if not explain.is_known(found):
            return None
        return schemas.Explanation(**found, sentences=list(explain.in_words(found)))

    def plan(
        self, *, limit: int | None = None, reprocess_quarantined: bool = False, at_most: int = 500
    ) -> schemas.PlanPage:
        """Return what an execute would do now: how many drivers, and the first of them."""
        drivers: list[schemas.PlannedDriver] = []
        total = 0
        with self._planned(limit, reprocess_quarantined) as (planned, at):
            for row in planned:
                total += 1
                if len(drivers) < at_most:
                    drivers.append(schemas.PlannedDriver(**row))
        return schemas.PlanPage(drivers=drivers, total=total, at=at)

    def plan_csv(
        self, *, limit: int | None = None, reprocess_quarantined: bool = False
    ) -> Generator[str, None, None]:
        """Give the plan line by line, as the fix's CSV report has it."""
        with self._planned(limit, reprocess_quarantined) as (planned, _):
            yield report.csv_line(report.COLUMNS)
            for row in planned:
                yield report.csv_line([row[name] for name in report.COLUMNS])

    def criteria(self) -> schemas.Criteria:
        """Count the violations of each criterion, live, and the rows it looks at.

        As the user of the connection: `dbt test` makes the views of violations anew each time, and
        with them a grant to the reader would be gone.
        """
        return self._kept.get(
            "criteria", None, HEAVY_SECONDS, lambda: self._read(_criteria, as_reader=False)
        )

    def funnel(self) -> schemas.Funnel:
        """Count the drivers in each stage of the funnel."""
        return self._kept.get("funnel", None, HEAVY_SECONDS, lambda: self._read(_funnel))

    def last_runs(self) -> list[schemas.LedgerRun]:
        """Return the last runs that the ledger's seals tell of."""
        with self._connection() as connection:
            return [schemas.LedgerRun(**run) for run in audit.last_runs(connection)]

    def health(self) -> schemas.Health:
        """Say whether the database answers, and as whom it is read."""
        reads_as, message = None, None
        try:
            with self._connection() as connection:
                fixing.check_database(connection, fixing.Options())
                reads_as = rows(connection, "select current_user::text as name")[0]["name"]
        except OrphansError as error:
            message = error.format_message()
        return schemas.Health(
            status="unavailable" if message else "ok",
            database=self._settings.dbname,
            message=message,
            reads_as=reads_as,
            fix_enabled=self._fix_enabled,
            version=version("ct4-orphans"),
        )

    def _orphans(self, driver_ids: list[str], personal: bool) -> list[schemas.Orphan]:
        if not driver_ids:
            return []
        with self._connection(as_reader=not personal) as connection:
            is_indexed = self._kept.get(
                "index",
                None,
                HEAVY_SECONDS,
                lambda: bool(indexes.LINKS_OF_A_PERSON.existing(connection)),
            )
            query = statement("console_orphans_by_index" if is_indexed else "console_orphans")
            try:
                found = rows(
                    connection,
                    query.format(orphans=CLEAR if personal else MASKED),
                    {"driver_ids": driver_ids},
                )
            except psycopg.errors.InsufficientPrivilege as error:
                if not personal:
                    raise
                raise NotGrantedError(
                    f"The database user {self._settings.user} may not see personal data:  "
                    f"grant select on ops.v_driver_orphans to {self._settings.user}"
                ) from error
        return [schemas.Orphan(**row) for row in found]

    @contextmanager
    def _planned(
        self, limit: int | None, reprocess_quarantined: bool
    ) -> Iterator[tuple[Iterator[Row], datetime]]:
        options = fixing.Options(limit=limit, reprocess_quarantined=reprocess_quarantined)
        with self._connection() as connection:
            fixing.check_database(connection, options)
            connection.execute(f"set statement_timeout = '{TIMEOUT_OF_THE_HEAVY}'")
            try:
                at = fixing.database_time(connection)
                with fixing.planned_rows(connection, options) as planned:
                    yield planned, at
            finally:
                if not connection.closed:
                    connection.execute(f"set statement_timeout = '{TIMEOUT}'")

    def _quarantine(self) -> Quarantine:
        return self._kept.get(
            "quarantine", self._newest_entry(), LIST_SECONDS, self._quarantine_now
        )

    def _quarantine_now(self) -> Quarantine:
        """Return what was read before if nothing has changed: its lists are found already."""
        entries = self._read(_entries)
        if self._last is None or self._last.entries != entries:
            self._last = Quarantine(entries)
        return self._last

    def _newest_entry(self) -> int | None:
        """Return the newest entry of the ledger: while it is the same, so is the quarantine."""
        query = "select max(entry_id) as newest from canon.driver_orphan_quarantine_ledger"
        newest: int | None = self._read(lambda connection: rows(connection, query)[0]["newest"])
        return newest

    def _read(self, query: Callable[[Connection], T], *, as_reader: bool = True) -> T:
        """Read on a connection that only who computes an answer has, not who waits for it."""
        with self._connection(as_reader=as_reader) as connection:
            return query(connection)

    @contextmanager
    def _connection(self, *, as_reader: bool = True) -> Iterator[Connection]:
        pool = self._pool if as_reader else self._clear_pool
        with explained_errors(self._settings), ExitStack() as stack:
            pool.open()
            try:
                connection = stack.enter_context(pool.connection(WAIT_SECONDS))
            except PoolTimeout as error:
                with connect(self._settings, read_only=True):  # or it says why not
                    raise DatabaseError(
                        f"All {CONNECTIONS} connections of the console are busy "
                        f"({self._settings}). Try again in a moment."
                    ) from error
            yield connection

    def _new_pool(self, *, as_reader: bool) -> ConnectionPool[Connection]:
        return ConnectionPool(
            kwargs={
                **self._settings.connection_parameters(),
                # jit: compiling a page's query takes longer than the query.
                "options": "-c default_transaction_read_only=on -c jit=off"
                f" -c statement_timeout={TIMEOUT}",
                "row_factory": dict_row,
                "autocommit": True,
            },
            configure=_configure_reader if as_reader else _configure,
            check=ConnectionPool.check_connection,
            min_size=1 if as_reader else 0,
            max_size=CONNECTIONS,
            # Its waits double up to this: so long after the database it is there again at most.
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
        )


def _configure(connection: Connection) -> None:
    connection.read_only = True
    connection.execute(SESSION)


def _configure_reader(connection: Connection) -> None:
    """Take on the role that sees no personal data, where `orphans roles install` has made it."""
    _configure(connection)
    reader = Roles.named(PREFIX).reader
    if rows(connection, statement("console_role"), {"reader": reader}):
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(reader)))


def _entries(connection: Connection) -> list[Entry]:
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(statement("console_entries")).fetchall()


def _heavy(connection: Connection, query: Any, parameters: Any = None) -> list[Row]:
    """Run a query that may take long, with joins that stand many rows."""
    with connection.transaction():
        fixing.plan_for_many(connection)
        connection.execute(f"set local statement_timeout = '{TIMEOUT_OF_THE_HEAVY}'")
        return rows(connection, query, parameters)


def _metrics(connection: Connection) -> schemas.OrphansMetrics:
    found = _heavy(connection, statement("console_metrics"))
    by_status: Counter[str] = Counter()
    by_reason: Counter[str] = Counter()
    by_events: Counter[bool] = Counter()
    for row in found:
        by_status[row["status"]] += row["orphans"]
        by_reason[row["detected_reason"]] += row["orphans"]
        by_events[row["has_lead_events"]] += row["orphans"]
    return schemas.OrphansMetrics(
        total_orphans=sum(by_status.values()),
        by_status={status: by_status[status.value] for status in Status},
        by_reason={reason: by_reason[reason.value] for reason in Reason},
        **{status.value: by_status[status.value] for status in Status},
        with_lead_events=by_events[True],
        without_lead_events=by_events[False],
        last_updated_at=max((row["last_updated_at"] for row in found), default=None),
    )


def _criteria(connection: Connection) -> schemas.Criteria:
    """Count the rows of the views in which `dbt test` keeps violations; they are live."""
    there = rows(
        connection,
        "select relname::text as name from pg_class"
        " where relnamespace = to_regnamespace(%(audit)s) and relname = any(%(names)s)"
        " and has_schema_privilege(relnamespace, 'usage') and has_table_privilege(oid, 'select')",
        {"audit": verify.AUDIT, "names": list(verify.SAYS)},
    )
    counts = [
        sql.SQL("select {} as name, count(*) as violations from {}").format(
            row["name"], sql.Identifier(verify.AUDIT, row["name"])
        )
        for row in there
    ]
    query = sql.SQL(" union all ").join(counts)
    violations = (
        {row["name"]: row["violations"] for row in _heavy(connection, query)} if counts else {}
    )
    checked = _heavy(connection, statement("checked"))[0]
    return schemas.Criteria(
        checks=[_check(name, checked[name], violations.get(name)) for name in verify.SAYS],
        at=datetime.now(timezone.utc),
    )


def _check(name: str, checked: int, violations: int | None) -> schemas.Check:
    criterion = int(name.split("_")[1])
    looked_at_something = checked > 0 or criterion == 5  # as `orphans verify` has it
    return schemas.Check(
        name=name,
        criterion=criterion,
        checked=checked,
        violations=violations,
        is_green=None if violations is None else violations == 0 and looked_at_something,
    )


def _funnel(connection: Connection) -> schemas.Funnel:
    query = (
        "select funnel_status, count(*) as drivers from ops.v_cabinet_funnel_status"
        " group by funnel_status"
    )
    found = {row["funnel_status"]: row["drivers"] for row in _heavy(connection, query)}
    names = [*STAGES, *sorted(set(found) - set(STAGES))]
    return schemas.Funnel(
        stages=[schemas.Stage(funnel_status=name, drivers=found.get(name, 0)) for name in names],
        at=datetime.now(timezone.utc),
    )
