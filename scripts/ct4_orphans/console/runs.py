"""The runs of the fix that the console starts: one at a time, each in a thread of its own.

What another process does is kept apart by the lock of the fix itself.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg

from ct4_orphans import execution, seals
from ct4_orphans import fix as fixing
from ct4_orphans.console.schemas import FixRun, PlannedDriver, RunFixRequest, RunState
from ct4_orphans.database import Connection, Row, Settings, connect
from ct4_orphans.errors import DatabaseError, IncompleteError, OrphansError, RefusedError
from ct4_orphans.report import COLUMNS, open_report, read_plan

PLAN_IS_STALE_AFTER = timedelta(minutes=60)
RUNS_REMEMBERED = 50
DRIVERS_SHOWN = 200
DRIVERS_BETWEEN_TOLD = 500  # while the report is written
PLAN_NAME = re.compile(r"orphans_report_[0-9]{8}_[0-9]{6}_[0-9]{6}\.json")
STAMP = "orphans_report_%Y%m%d_%H%M%S_%f.json"  # of the database's clock, in UTC

log = logging.getLogger(__name__)


class Runs:
    """Starts, watches and stops runs; can be called by any thread."""

    def __init__(self, settings: Settings, output_dir: Path) -> None:
        self._settings = settings
        self._output_dir = output_dir
        self._changed = threading.Condition()  # guards all that follows, and what a job has
        self._jobs: dict[uuid.UUID, _Job] = {}
        self._on: _Job | None = None
        self._plan: FixRun | None = None
        self._executed_at: datetime | None = None  # by the database's clock
        self._is_closed = False

    def start(self, request: RunFixRequest, actor: str) -> FixRun:
        """Start a run; return it once nothing stands in its way, which takes a moment.

        Raises RefusedError if another run is on, of this console or elsewhere, or the plan is not
        one to be applied now; DatabaseError or OutputError if it cannot begin; IncompleteError if
        it is stopped in that moment. Nothing was changed.
        """
        with self._changed:
            if self._is_closed:
                raise RefusedError("The console is being shut down. Start it, then run again.")
            if self._on:
                on = self._on.run
                raise RefusedError(
                    f"Another run is on: the {on.mode} {on.id} of {on.actor}, since "
                    f"{on.started_at:%H:%M:%S} UTC. Wait for its end, or stop it, then run again."
                )
            job = _Job(request, actor, self._changed, self._executed)
            job.thread = threading.Thread(target=self._work, args=[job], name=f"run {job.run.id}")
            job.thread.start()  # it waits for this lock before it says anything
            self._on = self._jobs[job.run.id] = job
            if len(self._jobs) > RUNS_REMEMBERED:
                del self._jobs[next(iter(self._jobs))]
            self._changed.wait_for(lambda: job.is_admitted or job.has_ended)
            if job.refusal:
                refusal, job.refusal = job.refusal, None  # its traceback keeps the plan alive
                raise refusal
            return job.run

    def get(self, id: uuid.UUID) -> FixRun | None:
        """Return a run as it stands now, None if it is not one of the last ones."""
        with self._changed:
            job = self._jobs.get(id)
            return job.run if job else None

    def wait(self, id: uuid.UUID, seconds: float) -> FixRun:
        """Return a run when it has ended, or as it stands after so long. Raises KeyError."""
        with self._changed:
            job = self._jobs[id]
            self._changed.wait_for(lambda: job.has_ended, seconds)
            return job.run

    def current(self) -> FixRun | None:
        """Return the run that is on."""
        with self._changed:
            return self._on.run if self._on else None

    def stop(self, id: uuid.UUID) -> FixRun | None:
        """Ask a run to stop, as Ctrl-C does: at once, or after the transaction that is on.

        Return it as it stands; None if it is not one of the last ones.
        """
        with self._changed:
            job = self._jobs.get(id)
            if job and not job.has_ended:
                job.stop()
            return job.run if job else None

    def newest_plan(self) -> FixRun | None:
        """Return the last complete dry-run, if nothing was executed after it."""
        with self._changed:
            return self._plan

    def close(self) -> None:
        """Ask the run that is on to stop, wait for its end, and start no other."""
        with self._changed:
            self._is_closed = True
            job = self._on
            if job:
                job.stop()
        if job:
            job.thread.join()

    def _work(self, job: _Job) -> None:
        error: OrphansError | None
        try:
            error = self._fix(job)
        except OrphansError as raised:
            # A statement that is cut off fails; before anything is written that is no failure.
            is_cut = isinstance(raised, DatabaseError) and job.asked and not job.is_patient
            error = _interrupted() if is_cut else raised
        except Exception as raised:
            log.exception("run %s", job.run.id)
            error = OrphansError(
                f"{type(raised).__name__}: an error of the console. Its log has more; "
                "'orphans audit' shows what the run has done."
            )
        with self._changed:
            self._on = None
            job.end(error)
            if job.run.mode == "dry-run" and job.run.state == RunState.complete:
                self._plan = job.run

    def _fix(self, job: _Job) -> OrphansError | None:
        """Do what `orphans fix` does; return what is left of it, if anything."""
        request, settings = job.request, self._settings
        made_at, reviewed = self._read_plan(request)
        options = fixing.Options(
            request.execute, request.limit, request.reprocess_quarantined, reviewed
        )
        with (
            open_report(self._output_dir) as report,
            connect(settings, read_only=not request.execute) as connection,
            job.can_be_cut(connection),
        ):
            fixing.check_database(connection, options)
            if made_at:
                self._refuse_if_stale(made_at, fixing.database_time(connection))
            if not request.execute:
                job.admitted()
                return execution.dry_run(connection, options, report, settings, job).failure
            actor = job.run.actor
            outcome = execution.execute(connection, options, report, settings, job, actor)
            self._executed(outcome.at)
            if outcome.result == "unknown":  # no whole report, and yet there is one
                job.reported(outcome)
            return outcome.failure

    def _read_plan(self, request: RunFixRequest) -> tuple[datetime | None, dict[str, str] | None]:
        """Return when the plan was made, and its fingerprints."""
        name = request.plan
        if name is None:
            if request.expected_drivers is not None:
                raise RefusedError("expected_drivers goes with a plan: name the plan as well.")
            return None, None
        if not request.execute:
            raise RefusedError("A plan is there to be executed: the report is the dry-run.")
        if request.limit or request.reprocess_quarantined:
            raise RefusedError(
                "A plan says itself whom to fix: no limit, no reprocess_quarantined."
            )
        made_at, path = _time_in(name), self._output_dir / name
        if made_at is None or path.is_symlink() or not path.is_file():
            raise _stale("no dry-run of this console has this name")
        reviewed = read_plan(path, self._settings.dbname)
        expected = request.expected_drivers
        if expected is not None and expected != len(reviewed):
            raise RefusedError(
                f"The plan has {len(reviewed):,} drivers, not {expected:,}. Nothing was changed; "
                "read the plan again."
            )
        return made_at, reviewed

    def _refuse_if_stale(self, made_at: datetime, now: datetime) -> None:
        with self._changed:
            executed_at = self._executed_at
        if executed_at and made_at <= executed_at:
            raise _stale("something was executed after it")
        if abs(now - made_at) > PLAN_IS_STALE_AFTER:
            minutes = int(PLAN_IS_STALE_AFTER.total_seconds() // 60)
            raise _stale(f"it is more than {minutes} minutes old")

    def _executed(self, at: datetime) -> None:
        """Remember that every plan up to this time is stale."""
        with self._changed:
            self._executed_at, self._plan = at, None


class _Job(execution.Listener):
    """A run, and what it is told by the fix."""

    sample_size = DRIVERS_SHOWN
    thread: threading.Thread

    def __init__(
        self,
        request: RunFixRequest,
        actor: str,
        changed: threading.Condition,
        executed: Callable[[datetime], None],
    ) -> None:
        self.request = request
        self.refusal: OrphansError | None = None
        self.is_admitted = False
        self.has_ended = False
        self.asked = False  # to stop
        self.is_patient = False  # it is written: only between transactions
        self._changed = changed
        self._executed = executed
        self._connection: Connection | None = None
        self.run = FixRun(
            id=uuid.uuid4(),
            run_id=None,
            mode="execute" if request.execute else "dry-run",
            state=RunState.running,
            actor=actor,
            started_at=datetime.now(timezone.utc),
            ended_at=None,
            step="planning",
            drivers_total=None,
            drivers_done=0,
            stats=None,
            drivers=[],
            reports=[],
            digest=None,
            message=None,
            exit_code=None,
        )

    def stop(self) -> None:
        """Ask to stop; while nothing is written, at once. The lock must be held."""
        self.asked = True
        if self._connection and not self.is_patient:
            with suppress(psycopg.Error):  # it ends all the same, a little later
                self._connection.cancel_safe(timeout=5)

    def end(self, error: OrphansError | None) -> None:
        """Say what came of it."""
        state = RunState.failed if error else RunState.complete
        with self._changed:
            self.refusal, self.has_ended = None if self.is_admitted else error, True
            self._tell(
                state=RunState.incomplete if isinstance(error, IncompleteError) else state,
                step="ended",
                ended_at=datetime.now(timezone.utc),
                message=error.format_message() if error else None,
                exit_code=error.exit_code if error else 0,
            )

    @contextmanager
    def can_be_cut(self, connection: Connection) -> Iterator[None]:
        """Let `stop` cancel what this connection does."""
        with self._changed:
            self._connection = connection
        self._interrupt_if_asked()
        try:
            yield
        finally:
            with self._changed:
                self._connection = None

    def admitted(self) -> None:
        """Nothing stands in the way."""
        with self._changed:
            self._interrupt_if_asked()
            self.is_admitted = True
            self._changed.notify_all()

    def planned(self, drivers: int) -> None:
        """How many there are is known."""
        self._interrupt_if_asked()
        self._tell(drivers_total=drivers)

    def started(self, run: seals.Run, at: datetime) -> None:
        """From now on it is not cut off any more."""
        with self._changed:
            self._interrupt_if_asked()
            self.is_patient = True
            self._executed(at)
            self._tell(run_id=run.run_id, step="applying")

    @contextmanager
    def applying(self, drivers: int) -> Iterator[Callable[[int], None]]:
        """Tell the progress."""
        yield lambda more: self._tell(drivers_done=self.run.drivers_done + more)

    def shall_stop(self) -> bool:
        """Tell whether somebody asked to stop."""
        return self.asked

    def lost(self, message: str) -> None:
        """Say why it takes longer."""
        self._tell(message=message)

    def written(self, drivers: int) -> None:
        """Tell the progress of a dry-run; in an execute it is that of what is applied."""
        if drivers % DRIVERS_BETWEEN_TOLD != 1:
            return
        if self.request.execute:
            self._tell(step="reporting")
        else:
            self._interrupt_if_asked()
            self._tell(step="reporting", drivers_done=drivers)

    def reported(self, outcome: execution.Outcome) -> None:
        """Show the counts and the first drivers."""
        stats = outcome.stats
        self._tell(
            step="reporting",
            drivers_total=outcome.drivers,
            # A transaction whose answer was lost is known by now.
            drivers_done=max(self.run.drivers_done, stats.applied if stats else 0),
            stats=stats.as_dict() if stats else None,
            drivers=[_planned_driver(row) for row in outcome.sample],
            reports=[path.name for path in outcome.paths],
            digest=outcome.seal.digest if outcome.seal else None,
        )

    def _tell(self, **changes: Any) -> None:
        """Replace what is shown of the run: whoever has it already keeps what it was."""
        with self._changed:
            self.run = self.run.model_copy(update=changes)
            self._changed.notify_all()

    def _interrupt_if_asked(self) -> None:
        if self.asked:
            raise _interrupted()


def _interrupted() -> OrphansError:
    return IncompleteError("Interrupted. Nothing was changed.")


def _stale(why: str) -> OrphansError:
    return RefusedError(f"The plan is stale: make a new dry-run ({why}). Nothing was changed.")


def _time_in(name: str) -> datetime | None:
    """Return the time, by the database's clock, that the name of a report has; None if none."""
    if not PLAN_NAME.fullmatch(name):
        return None
    try:
        return datetime.strptime(name, STAMP).replace(tzinfo=timezone.utc)
    except ValueError:  # of digits, but no time
        return None


def _planned_driver(row: Row) -> PlannedDriver:
    return PlannedDriver(**{name: row[name] for name in COLUMNS})
