"""The phases of a deploy in their order, each one announced, repeatable, and run from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import click
import psycopg

from ct4_orphans import adoption, backup, doctor, fix, project, rollback, verify, views
from ct4_orphans.database import Connection, Settings, connect, rows
from ct4_orphans.errors import (
    DatabaseError,
    IncompleteError,
    OrphansError,
    OutputError,
    RefusedError,
    printable,
)
from ct4_orphans.report import private_file

# Beside the fix's lock: one deploy at a time per database.
LOCK_KEY = fix.LOCK_KEY + 1


@dataclass(frozen=True)
class Phase:
    """A step of the deploy, and what the database is like when it fails."""

    name: str
    title: str
    on_failure: str
    can_roll_back: bool = False


PHASES = (
    Phase("backup", "Back the database up with pg_dump", "Nothing was changed."),
    Phase("doctor", "Look for everything that stands in the way", "Nothing was changed."),
    Phase(
        "migrate",
        "Migrate: the append-only ledger, an older table adopted",
        "The migration is one transaction: the database is as it was before this phase.",
    ),
    Phase(
        "save",
        "Keep the views that will be replaced, as they are",
        "No view and no row of CT4's was changed in this phase.",
        can_roll_back=True,
    ),
    Phase(
        "build",
        "Build the views, in place (dbt seed, dbt run)",
        "Each view is either the earlier one or the new one, whole; no row of CT4's was changed.",
        can_roll_back=True,
    ),
    Phase(
        "exclusion",
        "Check that nobody who is shut out is shown (dbt test, criterion 2)",
        "Nothing was changed in this phase.",
        can_roll_back=True,
    ),
    Phase(
        "dry-run", "Dry-run of the fix", "Nothing was changed in this phase.", can_roll_back=True
    ),
    Phase(
        "fix",
        "Execute the fix",
        "Of the fix whole transactions are kept, nothing is half done.",
        can_roll_back=True,
    ),
    Phase(
        "verify",
        "Verify all criteria",
        "Nothing was changed in this phase; what is red is named above.",
        can_roll_back=True,
    ),
)
NAMES = tuple(phase.name for phase in PHASES)
ONLY_TO_EXECUTE = ("fix", "verify")


@dataclass(frozen=True)
class Options:
    """What to do: all phases, from one on, or a single one."""

    execute: bool = False
    dry_run: bool = False
    with_backup: bool = True
    start: str | None = None
    only: str | None = None
    output_dir: Path = Path("output")

    def phases(self) -> Iterator[Phase]:
        """Give the phases that were asked for."""
        for phase in PHASES:
            if self.only and phase.name != self.only:
                continue
            if self.start and NAMES.index(phase.name) < NAMES.index(self.start):
                continue
            yield phase


class Deploy:
    """One deploy: says what it does on the terminal, and everything in its log."""

    def __init__(self, settings: Settings, options: Options, at: datetime, log: IO[str]) -> None:
        self.settings = settings
        self.options = options
        self.at = at
        self._log = log

    def run(self) -> None:
        """Run the phases in their order; stop at the first failure and say how to go on or back."""
        for phase in self.options.phases():
            number = f"[{NAMES.index(phase.name) + 1}/{len(PHASES)}]"
            if phase.name in ONLY_TO_EXECUTE and not (
                self.options.execute or self.options.only == phase.name
            ):
                self.say(f"{number} {phase.name}: left out without --execute")
                continue
            self.say(f"{number} {phase.name}: {phase.title}")
            step: Callable[[], None] = getattr(self, f"_{phase.name.replace('-', '_')}")
            try:
                step()
            except OrphansError as error:
                self.note(f"Error: {error.format_message()}")
                words = f"{error.format_message()} {self._way_out(phase)}"
                raise type(error)(words) from error
            except KeyboardInterrupt:
                raise IncompleteError(f"Interrupted. {self._way_out(phase)}") from None

    def say(self, line: str) -> None:
        """Print a line, and log it."""
        click.echo(printable(line))
        self.note(line)

    def note(self, line: str) -> None:
        """Log a line."""
        self._log.write(f"{printable(line)}\n")
        self._log.flush()

    def _way_out(self, phase: Phase) -> str:
        if self.options.dry_run:
            return f"A deploy would stop in phase {phase.name}. Nothing was changed."
        execute = " --execute" if self.options.execute else ""
        no_backup = "" if self.options.with_backup else " --no-backup"  # or doctor asks for pg_dump
        back = ". Or back:  orphans rollback" if phase.can_roll_back else ""
        words = (
            f"The deploy stopped in phase {phase.name}. {phase.on_failure} "
            f"Go on:  orphans deploy{execute}{no_backup} --from {phase.name}{back}"
        )
        self.note(words)
        return words

    def _tool(self, *words: str, show: str = "") -> str:
        """Run dbt, alembic or orphans; log all lines, print those with one of `show` in them."""
        self.say(f"    $ {' '.join(words)}")

        def each(line: str) -> None:
            self.note(f"      {line}")
            if not show or any(word in line for word in show.split("|")):
                click.echo(f"      {printable(line)}")

        code, output = project.run(*words, settings=self.settings, line_by_line=each)
        if code:
            kinds = {3: DatabaseError, 4: RefusedError, 5: OutputError}
            kind = kinds.get(code, IncompleteError) if words[0] != "dbt" else IncompleteError
            raise kind(
                f"'{' '.join(words)}' ended with exit code {code}: {project.last_words(output)}"
            )
        return output

    def _connect(self) -> AbstractContextManager[Connection]:
        return connect(self.settings, read_only=self.options.dry_run)

    def _backup(self) -> None:
        if not self.options.with_backup:
            self.say("    No backup, as you said (--no-backup).")
            return
        with self._connect() as connection:
            pg_dump = backup.find_pg_dump(connection.info.server_version)
        if self.options.dry_run:
            self.say(f"    would dump the whole database to {self.options.output_dir} ({pg_dump})")
            return
        path = backup.make_backup(self.settings, pg_dump, self.options.output_dir, self.at)
        megabytes = path.stat().st_size / 1e6
        self.say(f"    {path} ({megabytes:,.1f} MB). It holds personal data: keep it safe.")

    def _doctor(self) -> None:
        with connect(self.settings, read_only=True) as connection:
            findings = doctor.examine(
                connection, self.settings, with_backup=self.options.with_backup
            )
        for line in doctor.in_words(findings):
            self.say(f"  {line}")
        stops = doctor.stops(findings)
        if stops:
            raise DatabaseError(f"Problems in the way: {len(stops)}; see above.")

    def _migrate(self) -> None:
        with self._connect() as connection:
            current, newest = doctor.current_revision(connection), doctor.revisions()[0]
            older = adoption.is_older_table(connection)
            rows_found = adoption.count(connection, adoption.NAME) if older else 0
        if current == newest:
            self.say(f"    at {newest} already: nothing to do")
        elif self.options.dry_run:
            self.say(f"    is at {current or 'nothing'}; would go to {newest}")
            if older:
                self.say(
                    f"    would turn the {rows_found:,} rows of the older table into ledger "
                    f"entries, and keep it as {adoption.KEPT}"
                )
        else:
            self._tool("alembic", "upgrade", "head")

    def _save(self) -> None:
        names = rollback.public_views()
        with self._connect() as connection:
            if self.options.dry_run:
                found = rollback.to_save(connection, names)
            else:
                found = rollback.save(connection, names)
            kept = rollback.saved(connection)
        would_be = "would be " if self.options.dry_run else ""
        for name, facts in found.items():
            if "." not in name:
                continue
            if facts:
                self.say(f"    {name}: {would_be}saved (owner {facts['owner']})")
            else:
                self.say(f"    {name}: does not exist yet")
        for name, facts in kept.items():
            if facts and "." in name and name not in found:
                self.say(f"    {name}: saved before")

    def _build(self) -> None:
        if self.options.dry_run:
            with self._connect() as connection:
                existing = views.facts_of(connection, *rollback.public_views())
            for name in rollback.public_views():
                how = "replaced in place" if name in existing else "created"
                self.say(f"    {name}: would be {how}")
            return
        with self._connect() as connection:
            not_saved = rollback.to_save(connection, rollback.public_views())
        if any(facts and "." in name for name, facts in not_saved.items()):
            self.say("    not saved yet; there must be a way back:")
            self._save()
        self._tool("dbt", "seed", show="Done.|ERROR|Error")
        self._tool("dbt", "run", show="Done.|ERROR|Error")

    def _exclusion(self) -> None:
        if self.options.dry_run:
            self.say("    would run: dbt test --select criterion_2*")
            return
        checks = verify.verify(self.settings, "criterion_2*", self.note)
        for line in verify.in_words(checks, is_whole=False):
            self.say(f"  {line}")
        if not verify.is_green(checks):
            raise IncompleteError("A driver that is shut out is still shown; see above.")

    def _dry_run(self) -> None:
        with self._connect() as connection:
            is_built = views.facts_of(connection, "ops.v_orphan_fix_plan")
        if not is_built and not self.options.dry_run:
            raise DatabaseError("There is no plan yet: ops.v_orphan_fix_plan is missing. Build it.")
        if not is_built:
            self.say("    would run: orphans fix --dry-run (there is no plan before the build)")
            return
        self._tool("orphans", "fix", "--dry-run", "--output-dir", str(self._absolute_output()))

    def _fix(self) -> None:
        if self.options.dry_run:
            self.say("    would run: orphans fix --execute")
            return
        self._tool("orphans", "fix", "--execute", "--output-dir", str(self._absolute_output()))

    def _verify(self) -> None:
        if self.options.dry_run:
            self.say("    would run: orphans verify")
            return
        checks = verify.verify(self.settings, None, self.note)
        for line in verify.in_words(checks):
            self.say(f"  {line}")
        if not verify.is_green(checks):
            with connect(self.settings, read_only=True) as connection:
                for line in verify.violators(connection, checks):
                    self.say(f"  {line}")
            raise IncompleteError("The verification found violations; see above.")

    def _absolute_output(self) -> Path:
        return self.options.output_dir.absolute()


def deploy(settings: Settings, options: Options) -> Path:
    """Deploy, and return the path of the log. Raises OrphansError at the first failure.

    One deploy at a time: RefusedError if another one is running on this database.
    """
    with (
        connect(settings, read_only=options.dry_run) as connection,
        only_one_deploy(connection),
    ):
        at = fix.database_time(connection)
        with open_log(options.output_dir, at) as log:
            run = Deploy(settings, options, at, log)
            mode = "DRY RUN of a deploy" if options.dry_run else "DEPLOY"
            run.say(f"{mode} on {settings}, {at:%Y-%m-%d %H:%M:%S} UTC")
            run.say(f"Log: {log.name}")
            run.run()
            if options.dry_run:
                run.say("Nothing was changed.")
            elif options.execute and not options.only:
                run.say("Deployed, fixed and verified.")
            elif not options.only:
                run.say(
                    "Deployed; the fix has not run. Read the report, then:  "
                    "orphans deploy --execute --from fix"
                )
            return Path(log.name)


@contextmanager
def only_one_deploy(connection: Connection) -> Iterator[None]:
    """Hold the advisory lock of deploys and rollbacks. Raises RefusedError if it is held."""
    if not rows(connection, "select pg_try_advisory_lock(%s) as locked", [LOCK_KEY])[0]["locked"]:
        raise RefusedError("Another deploy or rollback is running on this database. Wait for it.")
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # an idle connection may be gone by now, and the lock with it
            connection.execute("select pg_advisory_unlock(%s)", [LOCK_KEY])


@contextmanager
def open_log(directory: Path, at: datetime) -> Iterator[IO[str]]:
    """Open the deploy's log in the reports' directory (mode 0600). Raises OutputError."""
    path = private_file(directory, f"orphans_deploy_{at:%Y%m%d_%H%M%S_%f}.log")
    with path.open("w", encoding="utf-8") as log:
        yield log
