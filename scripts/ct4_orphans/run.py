"""One run of the fix, told to a person: what it would do, what it did, what is next."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import psycopg

from ct4_orphans import fix as fixing
from ct4_orphans import seals
from ct4_orphans.database import Connection, Row, Settings, what_happened
from ct4_orphans.errors import (
    DatabaseError,
    IncompleteError,
    OrphansError,
    OutputError,
    printable,
    some,
)
from ct4_orphans.report import Report

SAMPLE_SIZE = 10


def run_dry_run(
    connection: Connection, options: fixing.Options, report: Report, settings: Settings
) -> None:
    """Report what an execute would do."""
    at = fixing.database_time(connection)
    report.start(_head("dry-run", None, at, settings, options))
    with fixing.planned_rows(connection, options) as rows:
        stats, sample = _write_rows(report, rows)
    seal = seals.newest(connection)
    paths = report.finish(stats.as_dict(), at, "complete", seal)
    _show(stats, sample, paths, seal, "would be ")
    click.echo("Nothing was changed.")
    if stats.processed:
        click.echo(f"To apply exactly this report:  {_command(options, '--execute', paths[0])}")
        click.echo(f"Next: read the report, then run:  {_command(options, '--execute')}")
    else:
        _say_nothing_to_do(connection)


def run_execute(
    connection: Connection,
    options: fixing.Options,
    report: Report,
    settings: Settings,
    interrupts: Interrupts,
) -> None:
    """Apply the plan and report what was applied, also when it could not be all of it."""
    run = seals.Run(
        "fix",
        {
            "limit": options.limit,
            "reprocess_quarantined": options.reprocess_quarantined,
            "plan": options.reviewed is not None,
        },
    )
    with fixing.only_one_execute(connection):
        drivers = fixing.prepare(connection, options)
        _confirm(drivers, settings)
        at = fixing.database_time(connection)
        _seal(connection, run, "started", {"drivers": drivers})
        head = _head("execute", str(run.run_id), at, settings, options)
        interrupts.patient = True
        try:
            failure, stats = _apply_and_report(
                connection, run, report, head, drivers, settings, interrupts
            )
        except KeyboardInterrupt:
            raise IncompleteError(
                f"Interrupted twice: there is no whole report. {_where(run)}"
            ) from None
    if failure:
        raise failure
    if stats.errors:
        raise IncompleteError(
            f"{stats.errors} drivers could not be applied; the report says why for each "
            "(outcome failed). The others are done. Mend the cause, then run the same again."
        )
    if stats.refused:
        refused = fixing.refused_drivers(connection)
        raise IncompleteError(
            f"Refused, because their situation is no longer the reviewed one: {some(refused, 20)}. "
            f"{'The others are done' if stats.applied else 'Nothing was changed'}. "
            "Make a new plan for them:  orphans fix --dry-run"
        )
    if drivers == 0 and options.reviewed is None:
        _say_nothing_to_do(connection)
    elif stats.changed or options.limit:
        click.echo(f"Next: go on with the drivers that are left:  {_command(options, '--dry-run')}")
    else:
        click.echo("Next: verify:  orphans verify")


def _apply_and_report(
    connection: Connection,
    run: seals.Run,
    report: Report,
    head: dict[str, Any],
    drivers: int,
    settings: Settings,
    interrupts: Interrupts,
) -> tuple[OrphansError | None, fixing.Stats]:
    """Return what stopped the run, if anything did, and its counts."""
    try:
        failure = _apply(connection, run, drivers, interrupts)
        rows = fixing.applied_rows(connection)
        result = "stopped" if failure else "complete"
        return failure, _finish(connection, run, report, head, rows, result)
    except psycopg.Error as error:
        connection.close()  # lost, or of no use any more
        return _look_up(settings, run, report, head, drivers, error)


def _apply(
    connection: Connection, run: seals.Run, drivers: int, interrupts: Interrupts
) -> OrphansError | None:
    """Apply with a progress bar; return what stopped it, if this session can still report."""
    stopped = "Whole transactions are kept, nothing is half done; run the same command again."
    try:
        with click.progressbar(length=drivers, label="Applying") as bar:
            fixing.apply(connection, run, bar.update, lambda: interrupts.asked)
    except psycopg.Error as error:
        if connection.closed:
            raise
        return IncompleteError(f"Stopped: {what_happened(error)}. {stopped}")
    return IncompleteError(f"Interrupted. {stopped}") if interrupts.asked else None


def _finish(
    connection: Connection,
    run: seals.Run,
    report: Report,
    head: dict[str, Any],
    rows: AbstractContextManager[Iterator[Row]],
    result: str,
    planned: int | None = None,
) -> fixing.Stats:
    """Write the report, record the end of the run, and show what came of it.

    `planned` is the number of drivers where `rows` has only those that were applied.
    """
    at = fixing.database_time(connection)
    try:
        report.start({**head, "at": at.isoformat()})
        with rows as applied:
            stats, sample = _write_rows(report, applied)
        if planned is not None:
            stats.not_reached, stats.processed = planned - stats.processed, planned
        seal = _record_end(connection, run, {**stats.as_dict(), "result": result})
        paths = report.finish(stats.as_dict(), at, result, seal)
    except OutputError as error:
        _record_end(connection, run, {"result": "no report"})
        raise OutputError(f"{error.message} {_where(run)}") from error
    _show(stats, sample, paths, seal, "")
    if stats.applied:
        click.echo(f"Run {run.run_id}: the changes are in the database.")
    else:
        click.echo("Nothing was changed.")
    return stats


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


def _look_up(
    settings: Settings,
    run: seals.Run,
    report: Report,
    head: dict[str, Any],
    drivers: int,
    error: psycopg.Error,
) -> tuple[OrphansError, fixing.Stats]:
    """Report what the ledger says of a run whose session is gone.

    Returns what to tell the user, and the counts. Raises DatabaseError when that is unknown.
    """
    lost = f"The connection was lost ({what_happened(error)})"
    click.echo(f"{lost}. Connecting again, to read in the ledger what was committed …")
    try:
        with fixing.after_lost_connection(settings) as connection:
            rows = fixing.applied_by_run(connection, run)
            stats = _finish(connection, run, report, head, rows, "stopped", drivers)
    except DatabaseError as error_again:
        report.start(head)
        path, _ = report.finish(None, datetime.fromisoformat(head["at"]), "unknown", None)
        raise DatabaseError(
            f"{lost}, and again: {error_again.message} Whether the last transaction of run "
            f"{run.run_id} was committed is unknown ({path} says so too). Nothing was repeated. "
            "When the database is back, 'orphans audit' shows the run; then run the same command "
            "again: what is done is not done twice."
        ) from error_again
    failure = IncompleteError(
        f"{lost}. According to the ledger {stats.applied:,} of {drivers:,} drivers are applied. "
        "Nothing is half done; run the same command again."
    )
    return failure, stats


def _where(run: seals.Run) -> str:
    return (
        "The changes ARE in the database: "
        f"canon.driver_orphan_quarantine_ledger, run_id {run.run_id}."
    )


class Interrupts:
    """Ctrl-C, and SIGTERM of a service manager: at once, or after the transaction that is on.

    While nothing is written they interrupt. While the plan is applied and reported the first one
    only asks to stop: an exception amid a COMMIT would leave open what became of it. A second one
    interrupts.
    """

    def __init__(self) -> None:
        self.asked = False
        self.patient = False

    def __enter__(self) -> Interrupts:
        """Take the signals; in the main thread only, as Python has it."""
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: Any) -> None:
        is_second, self.asked = self.asked, True
        if not self.patient or is_second:
            raise KeyboardInterrupt
        if sys.stderr.isatty():
            os.write(2, b"\nStopping after the transaction that is on (again: at once) ...\n")


def _confirm(drivers: int, settings: Settings) -> None:
    if drivers and sys.stdin.isatty():
        question = f"Apply this to {drivers} drivers in {settings}?"
        if not click.confirm(question):
            raise IncompleteError("Not confirmed. Nothing was changed.")


def _write_rows(report: Report, rows: Iterable[Row]) -> tuple[fixing.Stats, list[Row]]:
    stats = fixing.Stats()
    sample: list[Row] = []
    for row in rows:
        stats.add(row)
        report.add(row)
        if len(sample) < SAMPLE_SIZE:
            sample.append(row)
    return stats, sample


def _head(
    mode: str, run_id: str | None, at: Any, settings: Settings, options: fixing.Options
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


def _show(
    stats: fixing.Stats,
    sample: list[Row],
    paths: tuple[Path, Path],
    seal: seals.Seal | None,
    would_be: str,
) -> None:
    lines: list[tuple[str, int]] = [
        ("drivers processed", stats.processed),
        ("  with lead events", stats.with_events),
        ("  without lead events", stats.without_events),
        (f"{would_be}relinked", stats.resolved_relinked),
        *((f"  by {name}", count) for name, count in sorted(stats.by_strategy.items())),
        (f"lead links {would_be}created", stats.links_created),
        ("lead links skipped", stats.links_skipped),
        (f"{would_be}quarantined", stats.quarantined),
        *((f"  {name}", count) for name, count in sorted(stats.by_reason.items())),
        (f"{would_be}released", stats.released),
        ("changed meanwhile, left for the next run", stats.changed),
        *([("refused: changed since the review", stats.refused)] if stats.refused else []),
        *([("applied already", stats.already_applied)] if stats.already_applied else []),
        *([("not reached", stats.not_reached)] if stats.not_reached else []),
        ("errors", stats.errors),
    ]
    for label, count in lines:
        click.echo(f"  {label:<44}{count:>9,}")
    if sample:
        click.echo(f"First {len(sample)} of {stats.processed:,} drivers:")
    for row in sample:
        done = row["outcome"] in ("planned", "applied")
        outcome = "" if done else f" [{row['outcome'] or 'not reached'}]"
        click.echo(
            f"  {printable(row['driver_id'])}  {row['action'] or '-':<10} "
            f"{printable(row['explanation'] or row['error'] or '')}{outcome}"
        )
    for path in paths:
        click.echo(f"Report: {path}")
    click.echo(f"Ledger: {seal or 'not sealed yet'}")


def _say_nothing_to_do(connection: Connection) -> None:
    waiting = fixing.waiting_for_reprocess(connection)
    if waiting:
        click.echo(
            f"Next: {waiting:,} quarantined drivers have other evidence by now:  "
            f"{_command(fixing.Options(reprocess_quarantined=True), '--dry-run')}"
        )
    else:
        click.echo("Next: nothing to fix. Verify:  orphans verify")


def _command(options: fixing.Options, mode: str, plan: Path | None = None) -> str:
    """Return the command that goes on from here, called as this one was."""
    called = sys.argv[0]
    script = called.endswith("fix_drivers_without_leads.py")
    words = [f"python {called}" if script else "orphans fix", mode]
    output_dir = click.get_current_context().params.get("output_dir")
    if output_dir and output_dir != Path("output"):
        words.append(f"--output-dir {shlex.quote(str(output_dir))}")
    if plan:
        return " ".join([*words, f"--plan {shlex.quote(str(plan))}"])
    if options.limit:
        words.append(f"--limit {options.limit}")
    if options.reprocess_quarantined:
        words.append("--reprocess-quarantined")
    return " ".join(words)
