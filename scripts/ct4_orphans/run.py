"""One run of the fix, told to a person: what it would do, what it did, what is next."""

from __future__ import annotations

import shlex
import sys
import uuid
from pathlib import Path
from typing import Any

import click
import psycopg

from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Row, Settings, what_happened
from ct4_orphans.errors import IncompleteError, OrphansError, OutputError, printable, some
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
    paths = report.finish(stats.as_dict(), at)
    _show(stats, sample, paths, "would be ")
    click.echo("Nothing was changed.")
    if stats.processed:
        click.echo(f"To apply exactly this report:  {_command(options, '--execute', paths[0])}")
        click.echo(f"Next: read the report, then run:  {_command(options, '--execute')}")
    else:
        _say_nothing_to_do(connection)


def run_execute(
    connection: Connection, options: fixing.Options, report: Report, settings: Settings
) -> None:
    """Apply the plan and report what was applied, also when it could not be all of it."""
    run_id = uuid.uuid4()
    with fixing.only_one_execute(connection):
        drivers = fixing.prepare(connection, options)
        _confirm(drivers, settings)
        failure = _apply(connection, run_id, drivers)
        at = fixing.database_time(connection)
        try:
            report.start(_head("execute", str(run_id), at, settings, options))
            with fixing.applied_rows(connection) as rows:
                stats, sample = _write_rows(report, rows)
            paths = report.finish(stats.as_dict(), at)
        except OutputError as error:
            raise OutputError(
                f"{error.message} The changes ARE in the database: "
                f"canon.driver_orphan_quarantine_ledger, run_id {run_id}."
            ) from error
    _show(stats, sample, paths, "")
    if stats.applied:
        click.echo(f"Run {run_id}: the changes are in the database.")
    else:
        click.echo("Nothing was changed.")
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


def _apply(connection: Connection, run_id: uuid.UUID, drivers: int) -> OrphansError | None:
    """Apply with a progress bar; return what stopped it, if the report can still be written."""
    stopped = "Whole transactions are kept, nothing is half done; run the same command again."
    try:
        with click.progressbar(length=drivers, label="Applying") as bar:
            fixing.apply(connection, run_id, bar.update)
    except KeyboardInterrupt:
        return IncompleteError(f"Interrupted. {stopped}")
    except psycopg.Error as error:
        if connection.closed or connection.broken:
            raise
        return IncompleteError(f"Stopped: {what_happened(error)}. {stopped}")
    return None


def _confirm(drivers: int, settings: Settings) -> None:
    if drivers and sys.stdin.isatty():
        question = f"Apply this to {drivers} drivers in {settings}?"
        if not click.confirm(question):
            raise IncompleteError("Not confirmed. Nothing was changed.")


def _write_rows(report: Report, rows: Any) -> tuple[fixing.Stats, list[Row]]:
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


def _show(stats: fixing.Stats, sample: list[Row], paths: tuple[Path, Path], would_be: str) -> None:
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
