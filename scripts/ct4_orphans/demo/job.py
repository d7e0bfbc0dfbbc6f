"""`make demo`: make a CT4 database, then do what an operator does, and check every number."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click

from ct4_orphans import embedded
from ct4_orphans.database import Connection, Settings, connect
from ct4_orphans.errors import DatabaseError, IncompleteError

ROOT = Path(__file__).parents[3]
WORK = ROOT / ".embedded"
DATA_DIRECTORY = WORK / "demo"
REPORTS = ROOT / "output" / "demo"
DATABASE = "ct4_demo"
FIX = ("python", "scripts/fix_drivers_without_leads.py", "--output-dir", str(REPORTS))

# What ct4_data.sql promises in its head. The demo fails if the job finds anything else.
EXPECTED: dict[str, Any] = {
    "processed": 886,
    "with_events": 120,
    "without_events": 766,
    "links_created": 60,
    "links_skipped": 0,
    "quarantined": 826,
    "resolved_relinked": 60,
    "released": 0,
    "changed": 0,
    "refused": 0,
    "already_applied": 0,
    "not_reached": 0,
    "errors": 0,
    "resolved_relinked_by_strategy": {
        "both_exact": 12,
        "driver_id_exact": 20,
        "license_exact": 14,
        "phone_exact": 14,
    },
    "quarantined_by_reason": {
        "no_lead_has_events_repair_failed": 60,
        "no_lead_no_events": 766,
    },
}
LEADS_OF_THE_NEXT_DAY = 3


@dataclass
class Demo:
    """One run of the demo: where it runs, and what is off so far."""

    settings: Settings
    started: float
    problems: list[str]

    def step(self, title: str) -> None:
        """Announce a step with the seconds since the start."""
        click.secho(f"\n[{time.monotonic() - self.started:5.1f} s] {title}", bold=True)

    def run(self, *command: str, show: str = r".") -> str:
        """Run a command as an operator would, show the lines that match, return all of them.

        Raises IncompleteError with the whole output when it fails.
        """
        shown = " ".join(command).replace(f"{ROOT}{os.sep}", "")
        click.secho(f"$ {shown}", fg="cyan")
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(self.settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            click.echo(done.stdout)
            raise IncompleteError(f"'{shown}' ended with exit code {done.returncode}; see above.")
        for line in done.stdout.splitlines():
            if re.search(show, line):
                click.echo(f"  {line}")
        return done.stdout

    def expect(self, what: str, found: object, expected: object) -> None:
        """Note what is off; the demo goes on and fails at its end."""
        if found != expected:
            self.problems.append(f"{what}: expected {expected}, found {found}")


def run_demo() -> None:
    """Do the whole job and print a summary. Raises OrphansError if anything is off."""
    started = time.monotonic()
    shutil.rmtree(REPORTS, ignore_errors=True)
    with demo_server() as server:
        demo = Demo(embedded.recreate_database(server, DATABASE), started, [])
        demo.step("A CT4 database as it exists before this project")
        with connect(demo.settings) as connection:
            create_ct4(connection)
            show_ct4(connection)

        demo.step("Migrate: the append-only ledger, and the view of that name")
        demo.run("alembic", "upgrade", "head", show="Creating|Upgraded|Error")

        demo.step("Build the views")
        demo.run("dbt", "seed", show="Done|ERROR")
        demo.run("dbt", "run", show="Done|ERROR")
        before = violations(demo.settings)

        demo.step("Dry-run: what would the fix do?")
        demo.run(*FIX)
        demo.expect("dry-run", newest_report()["stats"], EXPECTED)

        demo.step("Execute")
        demo.run(*FIX, "--execute")
        stats = newest_report()["stats"]
        demo.expect("execute", stats, EXPECTED)

        demo.step("The next day: three quarantined drivers get a lead from CT4; the fix runs again")
        with connect(demo.settings) as connection:
            add_leads(connection, LEADS_OF_THE_NEXT_DAY)
        demo.run(*FIX, "--execute", show="EXECUTE|processed|released|Released|Report|Next")
        released = newest_report()["stats"]
        demo.expect("released", released["released"], LEADS_OF_THE_NEXT_DAY)
        demo.expect("processed the next day", released["processed"], LEADS_OF_THE_NEXT_DAY)

        demo.step("Verify: no violations, each with its rows in ct4_orphans_audit")
        tests = demo.run(
            "dbt",
            "test",
            "--exclude-resource-type",
            "unit_test",
            show="PASS criterion|WARN|Done|ERROR",
        )
        after = violations(demo.settings)
        demo.expect("violations after", after, dict.fromkeys(after, 0))
        demo.expect("violations before the fix", any(before.values()), True)
        summary(demo, stats, released, before, after, tests)
    if demo.problems:
        raise IncompleteError("The demo is off: " + "; ".join(demo.problems))


def open_console(port: int) -> None:
    """Serve the console on the demo's database, with the token of an operator, new each time."""
    from ct4_orphans.console import app, security, serve

    token, line = security.new_token("demo", security.PERMISSIONS)
    with demo_database() as settings:
        click.echo(f"Sign in with this token:  {token}")
        options = app.ConsoleOptions(
            output_dir=REPORTS, tokens=security.Tokens.from_lines([line], "demo"), fix_enabled=True
        )
        serve.serve(settings, options, "127.0.0.1", port, None)


def open_shell() -> int:
    """Start the demo's server, run the user's shell with the DB_ variables, stop the server."""
    with demo_database() as settings:
        click.echo(f"{settings}. Try: psql, dbt test, orphans fix. 'exit' stops the server.")
        shell = os.environ.get("SHELL", "/bin/sh")
        return subprocess.run([shell], cwd=ROOT, env=environment(settings), check=False).returncode


@contextmanager
def demo_database() -> Iterator[Settings]:
    """Give the demo's database on its server. Raises DatabaseError before the first demo."""
    with demo_server() as server:
        if not embedded.has_database(server, DATABASE):
            raise DatabaseError(f"There is no database {DATABASE} yet. Run 'make demo' first.")
        yield Settings(server.host, server.port, DATABASE, server.user, "", server.sslmode)


@contextmanager
def demo_server() -> Iterator[Settings]:
    """Run the embedded server of the demo for as long as the block lasts."""
    server = embedded.start_server(DATA_DIRECTORY)
    try:
        yield server
    finally:
        embedded.stop_server(DATA_DIRECTORY)


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of an operator: the DB_ variables, and this virtual environment."""
    profiles = WORK / "profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "profiles.example.yml", profiles / "profiles.yml")
    path = [str(Path(sys.executable).parent), embedded.binaries(), os.environ.get("PATH", "")]
    return {
        **os.environ,
        **settings.environment(),
        "DBT_PROFILES_DIR": str(profiles),
        "PATH": os.pathsep.join(path),
        "PGHOST": settings.host,
        "PGDATABASE": settings.dbname,
        "PGUSER": settings.user,
        "NO_COLOR": "1",
    }


def create_ct4(connection: Connection) -> None:
    """Fill an empty database with CT4's schema and the demo's data."""
    for name in ("ct4_schema.sql", "ct4_data.sql"):
        script = resources.files("ct4_orphans.demo").joinpath(name).read_text("utf-8")
        connection.execute(script)
    connection.execute("analyze")


def show_ct4(connection: Connection) -> None:
    """Print how large the database is."""
    counts = (
        ("drivers linked to a person", "canon.identity_links where source_table = 'drivers'"),
        ("lead events", "observational.lead_events"),
        ("daily summary rows", "public.summary_daily"),
    )
    for label, relation in counts:
        row = connection.execute(f"select count(*) as n from {relation}").fetchone()  # noqa: S608
        click.echo(f"  {label:<30}{row['n'] if row else 0:>12,}")


def add_leads(connection: Connection, count: int) -> None:
    """Link a new lead to some quarantined drivers, as CT4's ingestion does."""
    connection.execute(
        """
        insert into canon.identity_links (
            person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
            confidence_level
        )
        select
            person_key, 'module_ct_scouting_daily', 'next-day-' || driver_id,
            '2025-10-01 00:00+00', 'SCOUTING_EXACT', 95, 'HIGH'
        from canon.driver_orphan_quarantine
        where status = 'quarantined' and detected_reason = 'no_lead_no_events'
        order by driver_id
        limit %s
        """,
        [count],
    )


def violations(settings: Settings) -> dict[str, int]:
    """Run the acceptance SQL of instrucciones-deploy.md, word for word: count by name."""
    script = (ROOT / "scripts/verify_no_orphans_outside_quarantine.sql").read_text("utf-8")
    found: dict[str, int] = {}
    with connect(settings, read_only=True) as connection:
        for statement in script.split(";"):
            if "SELECT" in statement:
                row = connection.execute(statement).fetchone()
                found.update(row or {})
    return found


def newest_report() -> dict[str, Any]:
    """Return the newest JSON report."""
    report: dict[str, Any] = json.loads(max(REPORTS.glob("*.json")).read_text("utf-8"))
    return report


def summary(
    demo: Demo,
    stats: dict[str, Any],
    released: dict[str, Any],
    before: dict[str, int],
    after: dict[str, int],
    tests: str,
) -> None:
    """Print what an operator wants to know at the end."""
    demo.step("Summary")
    lines: list[tuple[str, object]] = [("orphan drivers found", stats["processed"])]
    lines.append(("relinked", stats["resolved_relinked"]))
    lines += [(f"  by {k}", v) for k, v in stats["resolved_relinked_by_strategy"].items()]
    lines.append(("quarantined", stats["quarantined"]))
    lines += [(f"  {k}", v) for k, v in stats["quarantined_by_reason"].items()]
    lines.append(("released the next day", released["released"]))
    for label, value in lines:
        click.echo(f"  {label:<44}{value:>10,}")
    click.echo(f"  {'acceptance SQL, violations':<44}{'before':>10}{'after':>10}")
    for name, count in after.items():
        click.echo(f"    {name:<42}{before[name]:>10,}{count:>10,}")
    click.echo("    (in the three views 0 before: nobody was in quarantine yet)")
    done = re.search(r"Done\. .*", tests)
    click.echo(f"  dbt test: {done.group(0) if done else 'no result'}")
    click.echo("    (the warnings count malformed rows, which this data has on purpose: skipped)")
    click.echo(f"  Reports: {REPORTS.relative_to(ROOT)}/")
    seconds = time.monotonic() - demo.started
    click.secho(
        f"\n{'OFF' if demo.problems else 'All good'} after {seconds:.0f} s.",
        fg="red" if demo.problems else "green",
        bold=True,
    )
    click.echo(
        "Next: look at it in a browser:  make demo-console   (or in a shell: make demo-shell)"
    )
