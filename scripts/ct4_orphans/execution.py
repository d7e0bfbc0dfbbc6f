"""One run of the fix: planned, applied, reported. What is said of it is its listener's matter.

Used by the command (run.py) and by the console (console/runs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psycopg

from ct4_orphans import fix as fixing
from ct4_orphans import seals
from ct4_orphans.database import Connection, Row, Settings, what_happened
from ct4_orphans.errors import DatabaseError, IncompleteError, OrphansError, OutputError, some
from ct4_orphans.report import Report


@dataclass
class Outcome:
    """What came of a run; the report has the same, and all drivers.

    `drivers` are those it was to be applied to, `at` is the database's time that the report has.
    Without `stats` it is unknown what was committed.
    """

    at: datetime
    stats: fixing.Stats | None
    sample: list[Row]
    paths: tuple[Path, Path]
    seal: seals.Seal | None
    result: Literal["complete", "stopped", "unknown"]
    drivers: int
    run: seals.Run | None = None
    failure: OrphansError | None = None


class Listener:
    """Is told how a run goes, in this order, and may call it off; by default it does neither."""

    sample_size = 0  # of the first drivers, for the outcome

    def admitted(self) -> None:
        """No other execute is on. May raise: nothing was changed."""

    def planned(self, drivers: int) -> None:
        """The plan is made, and will be applied to so many drivers. May raise, as before."""

    def started(self, run: seals.Run, at: datetime) -> None:
        """The beginning is sealed, at the database's time; from here on only `shall_stop` asks."""

    def applying(self, drivers: int) -> AbstractContextManager[Callable[[int], None]]:
        """Return what is told the number of drivers done after each transaction."""
        return nullcontext(lambda _: None)

    def shall_stop(self) -> bool:
        """Tell whether to stop before the next transaction."""
        return False

    def lost(self, message: str) -> None:
        """The connection is lost; the ledger will be read on another one."""

    def written(self, drivers: int) -> None:
        """So many drivers are in the report. In a dry-run it may raise."""

    def reported(self, outcome: Outcome) -> None:
        """The report is whole. What failed may not be in the outcome yet."""


def dry_run(
    connection: Connection,
    options: fixing.Options,
    report: Report,
    settings: Settings,
    listener: Listener,
) -> Outcome:
    """Report what an execute would do."""
    at = fixing.database_time(connection)
    report.start(_head("dry-run", None, at, settings, options))
    with fixing.planned_rows(connection, options) as rows:
        stats, sample = _write_rows(report, rows, listener)
    seal = seals.newest(connection)
    paths = report.finish(stats.as_dict(), at, "complete", seal)
    outcome = Outcome(at, stats, sample, paths, seal, "complete", stats.processed)
    listener.reported(outcome)
    return outcome


def execute(
    connection: Connection,
    options: fixing.Options,
    report: Report,
    settings: Settings,
    listener: Listener,
    actor: str | None = None,
) -> Outcome:
    """Apply the plan and report what was applied, also when it could not be all of it.

    `actor` is the person for whom it is done, if that is not the user of the database. Raises
    OrphansError where there is no report.
    """
    run = seals.Run(
        "fix",
        {
            "limit": options.limit,
            "reprocess_quarantined": options.reprocess_quarantined,
            "plan": options.reviewed is not None,
            **({"actor": actor} if actor else {}),
        },
    )
    with fixing.only_one_execute(connection):
        listener.admitted()
        drivers = fixing.prepare(connection, options)
        listener.planned(drivers)
        at = fixing.database_time(connection)
        _seal(connection, run, "started", {"drivers": drivers})
        head = _head("execute", str(run.run_id), at, settings, options)
        listener.started(run, at)
        try:
            outcome = _Execution(run, report, head, drivers, settings, listener).go(connection)
        except KeyboardInterrupt:
            raise IncompleteError(
                f"Interrupted twice: there is no whole report. {_where(run)}"
            ) from None
    if outcome.stats and not outcome.failure:
        outcome.failure = _left(connection, outcome.stats)
    return outcome


@dataclass(frozen=True)
class _Execution:
    """An execute whose plan is made."""

    run: seals.Run
    report: Report
    head: dict[str, Any]
    drivers: int
    settings: Settings
    listener: Listener

    def go(self, connection: Connection) -> Outcome:
        """Apply and report; the outcome has what stopped it, if anything did."""
        try:
            failure = self._apply(connection)
            rows = fixing.applied_rows(connection)
            outcome = self._finish(connection, rows, "stopped" if failure else "complete")
        except psycopg.Error as error:
            connection.close()  # lost, or of no use any more
            return self._look_up(error)
        outcome.failure = failure
        return outcome

    def _apply(self, connection: Connection) -> OrphansError | None:
        """Return what stopped it, if this session can still report."""
        stopped = "Whole transactions are kept, nothing is half done; run the same command again."
        try:
            with self.listener.applying(self.drivers) as progress:
                fixing.apply(connection, self.run, progress, self.listener.shall_stop)
        except psycopg.Error as error:
            if connection.closed:
                raise
            return IncompleteError(f"Stopped: {what_happened(error)}. {stopped}")
        return IncompleteError(f"Interrupted. {stopped}") if self.listener.shall_stop() else None

    def _finish(
        self,
        connection: Connection,
        rows: AbstractContextManager[Iterator[Row]],
        result: Literal["complete", "stopped"],
        *,
        only_applied: bool = False,
    ) -> Outcome:
        """Write the report and record the end of the run.

        `only_applied`: the rows are only those of the plan that were applied.
        """
        at = fixing.database_time(connection)
        try:
            self.report.start({**self.head, "at": at.isoformat()})
            with rows as applied:
                stats, sample = _write_rows(self.report, applied, self.listener)
            if only_applied:
                stats.not_reached = self.drivers - stats.processed
                stats.processed = self.drivers
            seal = _record_end(connection, self.run, {**stats.as_dict(), "result": result})
            paths = self.report.finish(stats.as_dict(), at, result, seal)
        except OutputError as error:
            _record_end(connection, self.run, {"result": "no report"})
            raise OutputError(f"{error.message} {_where(self.run)}") from error
        outcome = Outcome(at, stats, sample, paths, seal, result, self.drivers, self.run)
        self.listener.reported(outcome)
        return outcome

    def _look_up(self, error: psycopg.Error) -> Outcome:
        """Report what the ledger says of a run whose session is gone, or that it is unknown."""
        lost = f"The connection was lost ({what_happened(error)})"
        self.listener.lost(f"{lost}. Connecting again, to read in the ledger what was committed …")
        try:
            with fixing.after_lost_connection(self.settings) as connection:
                rows = fixing.applied_by_run(connection, self.run)
                outcome = self._finish(connection, rows, "stopped", only_applied=True)
        except DatabaseError as error_again:
            return self._unknown(lost, error_again)
        applied = outcome.stats.applied if outcome.stats else 0
        outcome.failure = IncompleteError(
            f"{lost}. According to the ledger {applied:,} of {self.drivers:,} drivers are applied. "
            "Nothing is half done; run the same command again."
        )
        return outcome

    def _unknown(self, lost: str, error: DatabaseError) -> Outcome:
        self.report.start(self.head)
        at = datetime.fromisoformat(self.head["at"])
        paths = self.report.finish(None, at, "unknown", None)
        failure = DatabaseError(
            f"{lost}, and again: {error.message} Whether the last transaction of run "
            f"{self.run.run_id} was committed is unknown ({paths[0]} says so too). Nothing was "
            "repeated. When the database is back, 'orphans audit' shows the run; then run the same "
            "command again: what is done is not done twice."
        )
        return Outcome(at, None, [], paths, None, "unknown", self.drivers, self.run, failure)


def _left(connection: Connection, stats: fixing.Stats) -> OrphansError | None:
    """Say what a whole run could not apply."""
    if stats.errors:
        return IncompleteError(
            f"{stats.errors} drivers could not be applied; the report says why for each "
            "(outcome failed). The others are done. Mend the cause, then run the same again."
        )
    if stats.refused:
        refused = fixing.refused_drivers(connection)
        return IncompleteError(
            f"Refused, because their situation is no longer the reviewed one: {some(refused, 20)}. "
            f"{'The others are done' if stats.applied else 'Nothing was changed'}. "
            "Make a new plan for them:  orphans fix --dry-run"
        )
    return None


def _record_end(
    connection: Connection, run: seals.Run, counts: dict[str, Any]
) -> seals.Seal | None:
    """Seal the end of the run. The report must not fail because of it: the disk may be full."""
    try:
        return _seal(connection, run, "ended", counts)
    except psycopg.Error:
        if connection.closed:
            raise
        return seals.newest(connection)


def _seal(connection: Connection, run: seals.Run, step: str, counts: dict[str, Any]) -> seals.Seal:
    """Seal in a transaction of its own, which waits for other writers 30 s at most."""
    with connection.transaction():
        connection.execute("set local lock_timeout = '30s'")
        return seals.seal(connection, run, step, counts)


def _where(run: seals.Run) -> str:
    return (
        "The changes ARE in the database: "
        f"canon.driver_orphan_quarantine_ledger, run_id {run.run_id}."
    )


def _write_rows(
    report: Report, rows: Iterable[Row], listener: Listener
) -> tuple[fixing.Stats, list[Row]]:
    stats = fixing.Stats()
    sample: list[Row] = []
    for row in rows:
        stats.add(row)
        report.add(row)
        if len(sample) < listener.sample_size:
            sample.append(row)
        listener.written(stats.processed)
    return stats, sample


def _head(
    mode: str, run_id: str | None, at: datetime, settings: Settings, options: fixing.Options
) -> dict[str, Any]:
    return {
        "mode": mode,
        "run_id": run_id,
        "at": at.isoformat(),
        "database": settings.dbname,
        "host": settings.host,
        "user": settings.user,
        "limit": options.limit,
        "reprocess_quarantined": options.reprocess_quarantined,
        "plan": options.reviewed is not None,
    }
