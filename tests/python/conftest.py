"""One server for the session, templates with everything built, a database for each test.

ORPHANS_TEST_HOST names the socket directory of another server to test on (user postgres), for
example of an older major version; without it the embedded PostgreSQL 18 is started and stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from ct4_orphans import embedded
from ct4_orphans.database import Connection, Settings
from psycopg import sql
from psycopg.rows import dict_row

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".embedded"
CT4_SCHEMA = ROOT / "scripts/ct4_orphans/demo/ct4_schema.sql"
BIN = Path(sys.executable).parent

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def server_settings() -> Settings:
    host = os.environ.get("ORPHANS_TEST_HOST")
    if not host:
        raise RuntimeError("pytest_configure has not started the server")
    return Settings(host, 5432, "postgres", "postgres", "", "prefer")


def open_connection(settings: Settings) -> Connection:
    return psycopg.connect(**settings.connection_parameters(), row_factory=dict_row)  # type: ignore[arg-type]


def run_command(
    *arguments: str, settings: Settings | None = None, input: str | None = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the virtual environment in the project's root, as an operator would."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("DB_", "DBT_"))
    }
    variables |= {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "DBT_PROFILES_DIR": str(profiles_directory()),
        "DBT_TARGET_PATH": str(WORK / f"target-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"),
        "DBT_LOG_PATH": str(WORK / "logs"),
        "NO_COLOR": "1",
    }
    variables |= (settings.environment() if settings else {}) | environment
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env=variables,
        input=input,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def must_run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    done = run_command(*arguments, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done


def profiles_directory() -> Path:
    directory = WORK / "profiles"
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "profiles.yml"
    text = (ROOT / "profiles.example.yml").read_text()
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
    return directory


def build_templates(server: Settings) -> None:
    """template_ct4: CT4 as it exists before us. template_built: migrated, seeded, views built."""
    ct4 = embedded.recreate_database(server, "template_ct4")
    with open_connection(ct4) as connection:
        connection.execute(CT4_SCHEMA.read_text())  # type: ignore[arg-type]
    built = embedded.recreate_database(server, "template_built", template="template_ct4")
    must_run("alembic", "upgrade", "head", settings=built)
    must_run("dbt", "seed", settings=built)
    must_run("dbt", "run", settings=built)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if "ORPHANS_TEST_HOST" not in os.environ:
        os.environ["ORPHANS_TEST_HOST"] = embedded.start_server(WORK / "test").host
        config.add_cleanup(lambda: embedded.stop_server(WORK / "test"))
    if "ORPHANS_TEST_KEEP_TEMPLATES" not in os.environ:  # mutations.py has just made them
        build_templates(server_settings())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many faults test_faults.py has injected: the README quotes it."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    injected = sum(
        value
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, value in report.user_properties
        if name == "faults_injected"
    )
    if injected:
        terminalreporter.write_line(f"{injected} faults injected")


@pytest.fixture(scope="session")
def server() -> Settings:
    """The maintenance database of the test server."""
    return server_settings()


@pytest.fixture
def make_database(server: Settings) -> Iterator[Callable[[str], Settings]]:
    """Make a database of this test's own from a template, dropped when the test ends."""
    made: list[str] = []

    def make(template: str) -> Settings:
        made.append(f"test_{uuid.uuid4().hex}")
        return embedded.recreate_database(server, made[-1], template=template)

    yield make
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for name in made:
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            )


@pytest.fixture
def ct4_database(make_database: Callable[[str], Settings]) -> Settings:
    """An empty CT4 database as it exists before this project."""
    return make_database("template_ct4")


@pytest.fixture
def built_database(make_database: Callable[[str], Settings]) -> Settings:
    """An empty CT4 database with the ledger, the seeds and all views."""
    return make_database("template_built")


@pytest.fixture
def connection(built_database: Settings) -> Iterator[Connection]:
    """An open connection (rows as dicts, not autocommit) to `built_database`."""
    with open_connection(built_database) as connection:
        yield connection


@pytest.fixture(scope="session")
def built_connection(server: Settings) -> Iterator[Connection]:
    """For tests that roll back: one built database and connection for the whole session."""
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    with psycopg.connect(**settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        yield connection  # type: ignore[misc]


@pytest.fixture
def run() -> Run:
    """Run a command in the project's root: run("alembic", "current", settings=..., DB_PORT="1")."""
    return run_command
