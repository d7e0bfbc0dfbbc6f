"""One run of the fix, told to a person: what it would do, what it did, what is next."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ct4_orphans import execution, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Row, Settings
from ct4_orphans.errors import IncompleteError, printable
from ct4_orphans.report import Report


def run_dry_run(
    connection: Connection, options: fixing.Options, report: Report, settings: Settings
) -> None:
    """Report what an execute would do."""
    outcome = execution.dry_run(connection, options, report, settings, _ToAPerson("would be "))
    click.echo("Nothing was changed.")
    if outcome.drivers:
        reviewed = _command(options, "--execute", outcome.paths[0])
        click.echo(f"To apply exactly this report:  {reviewed}")
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
    listener = _ToAPersonWhoExecutes(settings, interrupts)
    outcome = execution.execute(connection, options, report, settings, listener)
    if outcome.failure:
        raise outcome.failure
    if outcome.drivers == 0 and options.reviewed is None:
        _say_nothing_to_do(connection)
    elif (outcome.stats and outcome.stats.changed) or options.limit:
        click.echo(f"Next: go on with the drivers that are left:  {_command(options, '--dry-run')}")
    else:
        click.echo("Next: verify:  orphans verify")


class _ToAPerson(execution.Listener):
    """Says on the terminal what came of a run."""

    sample_size = 10

    def __init__(self, would_be: str = "") -> None:
        self._would_be = would_be

    def reported(self, outcome: execution.Outcome) -> None:
        """Show the counts, the first drivers, and where the rest is."""
        if outcome.stats:
            _show(outcome.stats, outcome.sample, outcome.paths, outcome.seal, self._would_be)


class _ToAPersonWhoExecutes(_ToAPerson):
    """Asks first, shows a progress bar, and hears Ctrl-C."""

    def __init__(self, settings: Settings, interrupts: Interrupts) -> None:
        super().__init__()
        self._settings = settings
        self._interrupts = interrupts

    def planned(self, drivers: int) -> None:
        """Ask, at a terminal."""
        _confirm(drivers, self._settings)

    def started(self, run: seals.Run, at: datetime) -> None:
        """From now on Ctrl-C only asks to stop."""
        self._interrupts.patient = True

    def applying(self, drivers: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show a progress bar."""
        return _progress_bar(drivers)

    def shall_stop(self) -> bool:
        """Tell whether there was a Ctrl-C."""
        return self._interrupts.asked

    def lost(self, message: str) -> None:
        """Say why it takes longer."""
        click.echo(message)

    def reported(self, outcome: execution.Outcome) -> None:
        """Show the counts, and whether anything is in the database."""
        super().reported(outcome)
        if outcome.run and outcome.stats and outcome.stats.applied:
            click.echo(f"Run {outcome.run.run_id}: the changes are in the database.")
        else:
            click.echo("Nothing was changed.")


@contextmanager
def _progress_bar(drivers: int) -> Iterator[Callable[[int], None]]:
    with click.progressbar(length=drivers, label="Applying") as bar:
        yield bar.update


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
