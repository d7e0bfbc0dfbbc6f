"""The `orphans` command: thin functions over plain ones."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ct4_orphans import audit as auditing
from ct4_orphans import decisions
from ct4_orphans import deploy as deploying
from ct4_orphans import doctor as doctors
from ct4_orphans import explain as explaining
from ct4_orphans import fix as fixing
from ct4_orphans import guard as guarding
from ct4_orphans import roles as role_making
from ct4_orphans import rollback as rolling_back
from ct4_orphans import verify as verifying
from ct4_orphans.database import Settings, connect
from ct4_orphans.errors import DatabaseError, IncompleteError, printable, some
from ct4_orphans.report import open_report, read_digest, read_plan
from ct4_orphans.run import Interrupts, run_dry_run, run_execute

EXIT_CODES = """
\b
Exit codes:
  0  done
  1  ended, but something is left: the output says what
  2  wrong usage
  3  the database cannot be reached, or lacks something
  4  refused: another run is on, or a rule says no
  5  a report, log or backup cannot be written, a plan cannot be read, no port to listen
"""


@contextmanager
def printable_usage_errors() -> Iterator[None]:
    """Click quotes an argument as it is; a terminal must not see its control characters."""
    try:
        yield
    except click.UsageError as error:
        if error.message.isprintable():
            raise
        raise click.UsageError(printable(error.format_message()), error.ctx) from error


def lenient_streams() -> None:
    """Let a terminal that cannot encode a character show its escape, and never end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Command(click.Command):
    """A command that can print whatever comes in."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run it, as click does."""
        lenient_streams()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments, as click does."""
        with printable_usage_errors():
            return super().make_context(*args, **extra)


class Commands(click.Group):
    """A group of commands that can print whatever comes in."""

    command_class = Command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run it, as click does."""
        lenient_streams()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments before the command, as click does."""
        with printable_usage_errors():
            return super().make_context(*args, **extra)

    def resolve_command(self, *args: Any) -> Any:
        """Find the command, as click does."""
        with printable_usage_errors():
            return super().resolve_command(*args)


def as_json_text(found: Any) -> str:
    """Return JSON for a terminal: control and direction characters are escaped, letters are not."""
    text = json.dumps(found, ensure_ascii=False, indent=2, default=str)
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )


def as_directory(context: click.Context, option: click.Parameter, value: Path) -> Path:
    """Return a directory whose name can be said afterwards. Raises click.BadParameter."""
    if not str(value).isprintable():
        raise click.BadParameter("the name of a directory is text, without control characters.")
    return value


def as_text(value: str) -> str:
    """Return an argument that the database can store. Raises click.UsageError if it cannot."""
    if not value.strip():
        raise click.UsageError("An id or a note cannot be empty.")
    if not value.isprintable():
        raise click.UsageError("An id or a note is text on one line, without control characters.")
    return value


@contextmanager
def console_installed() -> Iterator[None]:
    """Say what to install where the console's extra is missing. Raises DatabaseError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"The console is not installed ({error.name} is missing). Run: pip install '.[console]'"
        ) from error


output_dir_option = click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("output"),
    show_default=True,
    callback=as_directory,
    help="Where the reports go.",
)


no_backup_option = click.option(
    "--no-backup", is_flag=True, help="Without a backup by pg_dump: you have one of your own."
)


@click.group(cls=Commands, epilog=EXIT_CODES)
@click.version_option(package_name="ct4-orphans")
def main() -> None:
    """Get ghost drivers out of a CT4 Identity database, without losing history.

    The database is named by DB_HOST (a host or a socket directory), DB_PORT, DB_NAME, DB_USER,
    DB_PASSWORD and DB_SSLMODE.
    """


@main.command(
    short_help="Relink, quarantine, release: dry-run or execute.",
    epilog="Example: orphans fix --limit 100, then orphans fix --execute --limit 100\n"
    + EXIT_CODES,
)
@click.option("--execute", is_flag=True, help="Apply the plan. Without it nothing can be written.")
@click.option("--dry-run", is_flag=True, help="Only report; this is the default, said aloud.")
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=2**31 - 1),
    metavar="N",
    help="At most N drivers; the drivers of one person are never split.",
)
@click.option(
    "--reprocess-quarantined",
    is_flag=True,
    help="Look again for a lead of the drivers that are in quarantine already.",
)
@click.option(
    "--plan",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="REPORT",
    help="With --execute: apply exactly the drivers of this JSON report of a dry-run.",
)
@output_dir_option
def fix(
    execute: bool,
    dry_run: bool,
    limit: int | None,
    reprocess_quarantined: bool,
    plan: Path | None,
    output_dir: Path,
) -> None:
    """Relink the drivers whose lead can be proven, quarantine the others, release who has one.

    It applies the rows of ops.v_orphan_fix_plan, as they are. The default is a dry-run.
    """
    if execute and dry_run:
        raise click.UsageError("--execute and --dry-run exclude each other.")
    if plan and not execute:
        raise click.UsageError("--plan needs --execute: the report is the dry-run.")
    if plan and (limit or reprocess_quarantined):
        raise click.UsageError("--plan says itself whom to fix: no --limit, no --reprocess-….")
    settings = Settings.from_environment()
    reviewed = read_plan(plan, settings.dbname) if plan else None
    options = fixing.Options(execute, limit, reprocess_quarantined, reviewed)
    click.echo(f"{'EXECUTE' if execute else 'DRY RUN'} on {settings}")
    interrupts = Interrupts()
    try:
        with (
            interrupts,
            open_report(output_dir) as report,
            connect(settings, read_only=not execute) as connection,
        ):
            fixing.check_database(connection, options)
            if execute:
                run_execute(connection, options, report, settings, interrupts)
            else:
                run_dry_run(connection, options, report, settings)
    except (KeyboardInterrupt, DatabaseError):  # cut off amid a statement, that fails
        if not interrupts.asked or interrupts.patient:
            raise
        raise IncompleteError("Interrupted. Nothing was changed.") from None


@main.command(
    short_help="Why a driver is or is not an orphan.",
    epilog="Example: orphans explain 0123456789abcdef0123456789abcdef\n" + EXIT_CODES,
)
@click.argument("driver_id")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(driver_id: str, as_json: bool) -> None:
    """Say why a driver is or is not an orphan.

    With the evidence and its rivals, the ledger's history, and which views show or hide it.
    """
    settings = Settings.from_environment()
    with connect(settings, read_only=True) as connection:
        fixing.check_database(connection, fixing.Options())
        # No driver has an id that no terminal can show.
        is_text = driver_id.isprintable()
        found = explaining.explanation(connection, driver_id) if is_text else {}
    if not found or not explaining.is_known(found):
        raise IncompleteError(f"{settings} knows no driver of this id. Check it.")
    if as_json:
        click.echo(as_json_text(found))
    else:
        for line in explaining.in_words(found):
            click.echo(printable(line))


@main.command(
    short_help="Record what a person decided about a driver.",
    epilog="Example: orphans resolve 0123456789abcdef0123456789abcdef --status purged"
    ' --note "Confirmed ghost, ticket 4711"\n' + EXIT_CODES,
)
@click.argument("driver_id")
@click.option(
    "--status",
    type=click.Choice(decisions.STATUSES),
    required=True,
    help="quarantined: shut out. purged: shut out for good; its driver link goes, kept in "
    "the ledger. resolved_created_lead: release, because its person has a lead.",
)
@click.option("--note", required=True, help="Why: a sentence for the ledger.")
@click.option(
    "--reason",
    type=click.Choice(decisions.REASONS),
    help="Reason of a quarantine by hand; manual_detection if it has none.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def resolve(driver_id: str, status: str, note: str, reason: str | None, dry_run: bool) -> None:
    """Record what a person decided about a driver, as its next ledger entry."""
    if reason and status != "quarantined":
        raise click.UsageError("--reason goes with --status quarantined.")
    decision = decisions.Decision(as_text(driver_id), status, as_text(note), reason)
    settings = Settings.from_environment()
    click.echo(f"{'DRY RUN' if dry_run else 'RESOLVE'} on {settings}")
    with connect(settings, read_only=dry_run) as connection:
        fixing.check_database(connection, fixing.Options(execute=not dry_run))
        now, is_done = decisions.look_at(connection, decision)
        run_id = None if dry_run or is_done else decisions.resolve(connection, decision)
    was = now or "in no quarantine"
    if run_id:
        link = " No driver link of it is left." if status == "purged" else ""
        click.echo(f"Driver {driver_id}: was {was}, is {status}.{link} Run {run_id}.")
        click.echo(f"Next: look at it:  orphans explain {driver_id}")
    elif is_done or not dry_run:
        click.echo(f"Driver {driver_id} is {status} already. Nothing was changed.")
    else:
        click.echo(f"Driver {driver_id}: is {was}, would be {status}. Nothing was changed.")


@main.command(
    short_help="Reverse a run.",
    epilog="Example: orphans undo 6f9619ff-8b86-4d11-b42d-00c04fc964ff --dry-run\n" + EXIT_CODES,
)
@click.argument("run_id", type=click.UUID)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def undo(run_id: uuid.UUID, dry_run: bool) -> None:
    """Reverse a run: remove its links, and append the state before it for every driver.

    RUN_ID is in the report and in the last lines of an execute, and of a resolve.
    """
    settings = Settings.from_environment()
    click.echo(f"{'DRY RUN' if dry_run else 'UNDO'} of run {run_id} on {settings}")
    with connect(settings, read_only=dry_run) as connection:
        fixing.check_database(connection, fixing.Options(execute=not dry_run))
        plan, undo_run_id = decisions.look_at_run(connection, run_id), None
        if not dry_run and plan.drivers:
            undo_run_id, plan = decisions.undo(connection, run_id)
    would_be = "would be " if dry_run else ""
    for label, count in (
        (f"drivers {would_be}undone", plan.drivers),
        (f"lead links {would_be}removed", plan.links),
        ("undone before", plan.undone_before),
        ("left as they are", len(plan.refused)),
    ):
        click.echo(f"  {label:<44}{count:>9,}")
    if undo_run_id:
        click.echo(f"Run {undo_run_id}: the changes are in the database.")
        click.echo("Next: see what a fix would do now:  orphans fix --dry-run")
    else:
        click.echo("Nothing was changed.")
    if plan.refused:
        raise IncompleteError(
            "Left as they are: "
            + some([f"{driver_id} ({why})" for driver_id, why in plan.refused], 20)
            + ". For one of them:  orphans explain, then orphans resolve"
        )


@main.command(
    short_help="Whether the ledger is what was sealed.",
    epilog="Example: orphans audit --report output/orphans_report_….json\n" + EXIT_CODES,
)
@click.option(
    "--digest",
    "digests",
    multiple=True,
    metavar="HEX",
    help="A digest of earlier: is the history up to there still as it was?",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="REPORT",
    help="The digest of this JSON report.",
)
def audit(digests: tuple[str, ...], reports: tuple[Path, ...]) -> None:
    """Say whether the ledger still is what was sealed: nothing edited, removed or put in.

    It computes every digest again. A tail that was cut off, or a ledger rewritten as a whole, only
    shows beside a digest of earlier: keep the reports where the database's owner cannot write.
    """
    for digest in digests:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise click.UsageError("A digest is 64 hexadecimal characters, in lower case.")
    settings = Settings.from_environment()
    remembered = {digest: f"digest {digest[:12]}…" for digest in digests}
    remembered |= {read_digest(path): str(path) for path in reports}
    click.echo(f"AUDIT of {settings}")
    with connect(settings, read_only=True) as connection:
        found = auditing.audit(connection, remembered)
    for line in auditing.in_words(found):
        click.echo(printable(line))
    if found.problems:
        raise IncompleteError(
            f"Problems found: {len(found.problems)}; see above. Ask who may write as the ledger's "
            "owner; the backups and the reports say what was there."
        )
    click.echo("The ledger is what was sealed.")


@main.command(
    short_help="What stands in the way of a deploy.",
    epilog="Example: orphans doctor\n" + EXIT_CODES,
)
@no_backup_option
def doctor(no_backup: bool) -> None:
    """Name everything that stands in the way of a deploy, at once. It only reads.

    Ends with 0 only if a deploy would succeed. STOPS: a deploy would stop there. LATER: it would go
    through, and its verification would be red. note: good to know.
    """
    settings = Settings.from_environment()
    click.echo(f"DOCTOR on {settings}")
    with connect(settings, read_only=True) as connection:
        findings = doctors.examine(connection, settings, with_backup=not no_backup)
    for line in doctors.in_words(findings):
        click.echo(printable(line))
    problems = [finding for finding in findings if finding.severity != doctors.NOTE]
    if problems:
        raise IncompleteError(f"Problems in the way: {len(problems)}; see above.")
    click.echo("A deploy would succeed. Next:  orphans deploy --dry-run")


@main.command(
    short_help="Go into a live CT4 database.",
    epilog="Example: orphans deploy --dry-run, then orphans deploy, then orphans deploy --execute "
    "--from fix\n" + EXIT_CODES,
)
@click.option("--execute", is_flag=True, help="Run the fix as well, and verify.")
@click.option("--dry-run", is_flag=True, help="Only say what each phase would do.")
@no_backup_option
@click.option("--from", "start", type=click.Choice(deploying.NAMES), help="Begin with this phase.")
@click.option("--only", type=click.Choice(deploying.NAMES), help="Run this phase alone.")
@output_dir_option
def deploy(
    execute: bool,
    dry_run: bool,
    no_backup: bool,
    start: str | None,
    only: str | None,
    output_dir: Path,
) -> None:
    """Go into a live CT4 database: all phases in order, each safe to repeat.

    backup, doctor, migrate, save, build, exclusion, dry-run and, only with --execute, fix and
    verify. It stops at the first failure, and says how to go on or back.
    """
    if start and only:
        raise click.UsageError("--from and --only exclude each other.")
    if not (execute or dry_run) and (only == "fix" or start in deploying.ONLY_TO_EXECUTE):
        raise click.UsageError("The fix, and what comes after it, needs --execute.")
    settings = Settings.from_environment()
    asks = execute and not dry_run and sys.stdin.isatty()
    if asks and not click.confirm(f"Deploy to {settings}, and execute the fix?"):
        raise IncompleteError("Not confirmed. Nothing was changed.")
    options = deploying.Options(execute, dry_run, not no_backup, start, only, output_dir)
    deploying.deploy(settings, options)


@main.command(
    short_help="Whether all criteria hold.", epilog="Example: orphans verify\n" + EXIT_CODES
)
def verify() -> None:
    """Say whether all criteria hold: rows checked, violations, and where the rows are.

    Runs dbt's data tests. Ends with 0 only if there is no violation, and something was looked at.
    """
    settings = Settings.from_environment()
    click.echo(f"VERIFY {settings}")
    with connect(settings, read_only=True) as connection:
        fixing.check_database(connection, fixing.Options())
        verifying.refuse_without_rights(connection)
        checks = verifying.verify(settings, line_by_line=lambda _: None)
        for line in verifying.in_words(checks):
            click.echo(line)
        if not verifying.is_green(checks):
            for line in verifying.violators(connection, checks):
                click.echo(printable(line))
            raise IncompleteError(f"Not all is green. {' '.join(verifying.remedies(checks))}")
    click.echo("All criteria hold.")


@main.command(
    short_help="Put back what a deploy replaced.",
    epilog="Example: orphans rollback --dry-run, then orphans rollback\n" + EXIT_CODES,
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--migration",
    is_flag=True,
    help="Take the ledger out too, once it is exported; an older table gets its name back.",
)
@output_dir_option
def rollback(dry_run: bool, migration: bool, output_dir: Path) -> None:
    """Put the views back that a deploy replaced, exactly as they were.

    Definitions, owners, options, comments and grants; what others built on them survives. The
    links of the fix stay: they are proven ('orphans undo' takes them back, before a rollback).
    """
    settings = Settings.from_environment()
    click.echo(f"{'DRY RUN of a rollback' if dry_run else 'ROLLBACK'} on {settings}")
    with (
        connect(settings, read_only=dry_run) as connection,
        deploying.only_one_deploy(connection),
    ):
        migration = migration and doctors.current_revision(connection) is not None
        todo = rolling_back.plan(connection, with_migration=migration)
        asks = not dry_run and (migration or not todo.is_empty) and sys.stdin.isatty()
        if asks and not click.confirm(f"Roll back {settings}?"):
            raise IncompleteError("Not confirmed. Nothing was changed.")
        exported = 0
        if migration and todo.entries and not dry_run:
            at = fixing.database_time(connection)
            paths, exported = rolling_back.export_ledger(connection, output_dir, at)
            files = " and ".join(map(str, paths))
            click.echo(
                f"  {exported:,} ledger entries are in {files}. Keep them: they are history."
            )
            click.echo("  What a purge removed is whole in it, with any personal data of CT4's.")
        if not dry_run and not todo.is_empty:
            todo = rolling_back.roll_back(connection, with_migration=migration)
        for line in todo.in_words("would be " if dry_run else ""):
            click.echo(printable(line))
        if todo.is_empty:
            click.echo("  no view of this project is there")
        if migration and dry_run:
            click.echo(f"  the ledger: {todo.entries:,} entries would be exported and dropped")
        elif migration:
            click.echo(rolling_back.migrate_back(settings, exported).rstrip())
        elif not dry_run and not todo.is_empty:
            click.echo("The ledger stays, and the name canon.driver_orphan_quarantine with it.")
    done = not dry_run and (migration or not todo.is_empty)
    click.echo("Rolled back." if done else "Nothing was changed.")


@main.group(
    short_help="Least-privilege roles: reader, fixer, migrator.",
    epilog="Example: orphans roles install, then in psql: grant ct4_orphans_fixer to maria;\n"
    + EXIT_CODES,
)
def roles() -> None:
    """Three roles without a login that people and services are made members of.

    reader may see reports, fixer may run the fix and record decisions, migrator owns what this
    project makes, and deploys.
    """


prefix_option = click.option(
    "--prefix",
    default=role_making.PREFIX,
    show_default=True,
    metavar="NAME",
    help="Roles belong to the server: another prefix for another database on it.",
)


@roles.command(
    "install",
    short_help="Make the roles; again after each deploy.",
    epilog="Example: orphans roles install --dry-run\n" + EXIT_CODES,
)
@prefix_option
@click.option("--dry-run", is_flag=True, help="Only print the statements.")
def roles_install(prefix: str, dry_run: bool) -> None:
    """Make the roles that are missing, and grant each what it may. Can be run again."""
    settings = Settings.from_environment()
    click.echo(f"{'DRY RUN: ' if dry_run else ''}INSTALL ROLES on {settings}")
    names = role_making.Roles.named(as_text(prefix))
    with connect(settings, read_only=dry_run) as connection:
        fixing.check_database(connection, fixing.Options())
        contract = doctors.read_contract(settings)
        sources = [source["name"] for source in contract.sources if source["is_required"]]
        if dry_run:
            for statement in role_making.todo(connection, names, sources):
                click.echo(statement.as_string(connection).strip())
            click.echo("-- Nothing was changed.")
            return
        role_making.install(connection, names, sources)
    click.echo(f"{', '.join(names.names)} are there; what this project made is {names.migrator}'s.")
    click.echo("Next, in psql, for whoever reads, or fixes and decides:")
    click.echo(f"  grant {names.reader} to …;")
    click.echo(f"  grant {names.fixer} to …;")
    click.echo("And for the user that deploys, so that it owns nothing itself:")
    click.echo(f"  grant {names.migrator} to …;")
    click.echo(f"  alter role … in database {settings.dbname} set role to {names.migrator};")


@roles.command(
    "remove",
    short_help="Take the roles out again.",
    epilog="Example: orphans roles remove\n" + EXIT_CODES,
)
@prefix_option
def roles_remove(prefix: str) -> None:
    """Take the roles out: what they own goes to this user, their rights go."""
    settings = Settings.from_environment()
    click.echo(f"REMOVE ROLES on {settings}")
    names = role_making.Roles.named(as_text(prefix))
    with connect(settings) as connection:
        there = role_making.existing(connection, names)
        left = role_making.remove(connection, names)
    if not there:
        click.echo("None of them is there. Nothing was changed.")
        return
    click.echo(f"Removed: {', '.join(set(there) - set(left)) or 'none'}.")
    if left:
        raise IncompleteError(
            f"{', '.join(left)} have no rights in this database any more, but in another one of "
            "the server: remove them there too."
        )


@roles.command(
    "status",
    short_help="Who may do what to the ledger.",
    epilog="Example: orphans roles status\n" + EXIT_CODES,
)
@prefix_option
def roles_status(prefix: str) -> None:
    """Say who may read, append to, or change the ledger. It only reads."""
    settings = Settings.from_environment()
    click.echo(f"ROLES on {settings}")
    names = role_making.Roles.named(as_text(prefix))
    with connect(settings, read_only=True) as connection:
        fixing.check_database(connection, fixing.Options())
        missing = role_making.without_rights(connection, names)
        for line in role_making.in_words(role_making.who_may(connection)):
            click.echo(printable(line))
    if missing:
        click.echo(f"Not installed in this database: {', '.join(missing)} (orphans roles install)")
    else:
        click.echo("All three are installed.")


@main.group(
    short_help="Keep new orphans out.",
    epilog="Example: orphans guard install --mode warn, then orphans guard status\n" + EXIT_CODES,
)
def guard() -> None:
    """Keep new orphans out: the database itself records or refuses them. Off by default.

    For every service that writes: a driver may not be linked, lose its lead, or be let out of the
    quarantine, if it would operate without a lead when the transaction commits.
    """


@guard.command(
    "install",
    short_help="Switch it on, or to another mode.",
    epilog="Example: orphans guard install --mode warn\n" + EXIT_CODES,
)
@click.option(
    "--mode",
    type=click.Choice(guarding.MODES),
    default="warn",
    show_default=True,
    help="warn: a violation is recorded. enforce: the transaction is refused.",
)
@click.option("--index", is_flag=True, help="Make an index on person_key, if there is none.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def guard_install(mode: str, index: bool, dry_run: bool) -> None:
    """Install the guard, switch its mode, or mend it: the same command does all of it."""
    settings = Settings.from_environment()
    click.echo(f"{'DRY RUN' if dry_run else 'GUARD INSTALL'} on {settings}")
    with connect(settings, read_only=dry_run) as connection:
        if dry_run:
            before = guarding.check_install(connection)
        else:
            before = guarding.install(connection, mode, with_index=index)
        lines = [] if dry_run else [printable(line) for line in guarding.in_words(connection)]
    would = "would be" if dry_run else "is"
    click.echo(f"The guard was {before.mode}, {would} in mode {mode}.")
    if index and dry_run and not before.usable_index:
        click.echo(f"An index would be made:  {guarding.CREATE_INDEX}")
    for line in lines:
        click.echo(line)
    if dry_run:
        click.echo("Nothing was changed.")


@guard.command(
    "remove",
    short_help="Take it out again.",
    epilog="Example: orphans guard remove --dry-run, then orphans guard remove\n" + EXIT_CODES,
)
@click.option(
    "--keep-violations", is_flag=True, help="Leave the table of the violations that it recorded."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def guard_remove(keep_violations: bool, dry_run: bool) -> None:
    """Take the guard out without a trace, with its index and the violations that it recorded."""
    settings = Settings.from_environment()
    click.echo(f"{'DRY RUN' if dry_run else 'GUARD REMOVE'} on {settings}")
    with connect(settings, read_only=dry_run) as connection:
        recorded = guarding.violations(connection)
        if dry_run:
            before = guarding.check_remove(connection)
        else:
            before = guarding.remove(connection, keep_violations=keep_violations)
    would = "would be" if dry_run else "is"
    click.echo(f"The guard was {before.mode}, {would} off.")
    if before.usable_index == guarding.INDEX:
        click.echo(f"The index {guarding.INDEX} {would} dropped.")
    kept = f"kept in {guarding.VIOLATIONS}" if keep_violations else "dropped"
    click.echo(f"Violations recorded: {recorded:,}; {'would be ' if dry_run else ''}{kept}.")
    if dry_run:
        click.echo("Nothing was changed.")


@guard.command(
    "status",
    short_help="Its mode, and what it recorded.",
    epilog="Example: orphans guard status\n" + EXIT_CODES,
)
def guard_status() -> None:
    """Say whether the guard is off, warns or enforces, what it recorded, and what is open."""
    settings = Settings.from_environment()
    click.echo(f"GUARD on {settings}")
    with connect(settings, read_only=True) as connection:
        for line in guarding.in_words(connection):
            click.echo(f"  {printable(line)}")
        damage = guarding.state(connection).damage
    if damage:
        raise IncompleteError(
            f"The guard is damaged: {some(damage)}. Mend it:  orphans guard install --mode …"
        )


@main.command(
    short_help="The operators' console, in a browser.",
    epilog="Example: orphans serve --tokens ~/.orphans_tokens\n" + EXIT_CODES,
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--unix-socket",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Listen on a socket of this name instead, for a reverse proxy.",
)
@click.option(
    "--tokens",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Who may do what: lines of `orphans token`. Without it: this machine only, reads only.",
)
@click.option(
    "--behind-https",
    is_flag=True,
    help="Behind a reverse proxy that speaks HTTPS: cookies are for HTTPS only.",
)
@output_dir_option
def serve(
    host: str,
    port: int,
    unix_socket: Path | None,
    tokens: Path | None,
    behind_https: bool,
    output_dir: Path,
) -> None:
    """Show the orphans in a browser, and run the fix from there; the same as an API.

    To execute, the server's environment must have ENABLE_ORPHANS_FIX=true, and a person a token.
    """
    try:
        from ct4_orphans.console import app, security
        from ct4_orphans.console import serve as serving
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"The console is not installed ({error.name} is missing). Run: pip install '.[console]'"
        ) from error
    settings = Settings.from_environment()
    options = app.ConsoleOptions(
        output_dir=output_dir,
        tokens=security.Tokens.from_file(tokens) if tokens else None,
        fix_enabled=os.environ.get("ENABLE_ORPHANS_FIX", "").lower() == "true",
        is_behind_https=behind_https,
    )
    serving.serve(settings, options, host, port, unix_socket)


@main.command(
    short_help="A new token for the console.",
    epilog="Example: orphans token ana --fix\n" + EXIT_CODES,
)
@click.argument("name")
@click.option("--fix", "may_fix", is_flag=True, help="May run the fix.")
@click.option("--personal-data", is_flag=True, help="May see phones, licences and names.")
def token(name: str, may_fix: bool, personal_data: bool) -> None:
    """Make a token for a person, and the line for the tokens file. Nothing is written anywhere."""
    try:
        from ct4_orphans.console import security
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"The console is not installed ({error.name} is missing). Run: pip install '.[console]'"
        ) from error
    if not security.is_name(name):
        raise click.UsageError("A name is letters, digits and . @ + - _, 64 at most.")
    permissions = ["read", *["fix"] * may_fix, *["personal-data"] * personal_data]
    secret, line = security.new_token(name, tuple(permissions))
    click.echo(f"The token of {name}, shown this once:  {secret}")
    click.echo("Its line for the tokens file (chmod 600; read when the console starts):")
    click.echo(line)


@main.command(short_help="The whole job, on an embedded server.", epilog="Example: make demo")
def demo() -> None:
    """Do the whole job on an embedded server with data of production's size and shape."""
    from ct4_orphans.demo.job import run_demo

    run_demo()


@main.command(
    "demo-shell", short_help="A shell on the demo's database.", epilog="Example: make demo-shell"
)
def demo_shell() -> None:
    """Open a shell on the demo's database, with psql, dbt and orphans ready to use."""
    from ct4_orphans.demo.job import open_shell

    sys.exit(open_shell())


@main.command(
    "demo-console",
    short_help="The console on the demo's database.",
    epilog="Example: make demo-console",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def demo_console(port: int) -> None:
    """Serve the console on the demo's database, with a token that may do everything."""
    from ct4_orphans.demo.job import open_console

    with console_installed():
        open_console(port)
