"""The way in and out again on an older major version of PostgreSQL, where Debian's is installed.

The embedded server is PostgreSQL 18; production has 13 or newer.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import CT4_SCHEMA, must_run, open_connection, run_command
from ct4_orphans import embedded
from ct4_orphans.database import Settings
from older import catalogue, driver, make_older

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="module")
def older_server() -> Iterator[Settings]:
    """A server of the oldest version that Debian has installed here, on a socket only."""
    if not SERVERS:
        pytest.skip("no PostgreSQL of Debian's is installed (apt install postgresql)")
    bin_directory = SERVERS[0].parent
    directory = Path(tempfile.mkdtemp(prefix="ct4"))  # short: a socket's path is bounded
    user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = ["runuser", "-u", "postgres", "--"]
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)

    def run(name: str, *arguments: str) -> None:
        subprocess.run(
            [*user, str(bin_directory / name), "-D", str(directory / "data"), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    run("initdb", "--username=postgres", "--auth=trust", "--no-sync")
    options = f"-h '' -k {directory} -c fsync=off -c full_page_writes=off"
    run("pg_ctl", "-w", "-l", str(directory / "log"), "-o", options, "start")
    try:
        yield Settings(str(directory), 5432, "postgres", "postgres", "", "prefer")
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(directory)


def test_an_older_server_is_deployed_to_verified_and_left_as_it_was(
    older_server: Settings, tmp_path: Path
) -> None:
    database = embedded.recreate_database(older_server, "ct4")
    with open_connection(database) as connection:
        connection.execute(CT4_SCHEMA.read_text())  # type: ignore[arg-type]
    make_older(database)
    before = catalogue(database)
    out = ("--output-dir", str(tmp_path))

    deployed = run_command("orphans", "deploy", "--execute", *out, settings=database)
    assert deployed.returncode == 1, deployed.stdout + deployed.stderr
    assert "phase verify" in deployed.stderr, "red for the purged driver that is still linked"
    must_run(
        *("orphans", "resolve", driver(10), "--status", "purged", "--note", "A ghost"),
        settings=database,
    )
    assert "All criteria hold." in must_run("orphans", "verify", settings=database).stdout

    must_run("orphans", "guard", "install", "--mode", "enforce", "--index", settings=database)
    with pytest.raises(psycopg.errors.CheckViolation), open_connection(database) as connection:
        connection.execute("delete from canon.identity_links where source_table like 'module_ct_%'")
    must_run("orphans", "guard", "remove", settings=database)

    must_run("orphans", "rollback", "--migration", *out, settings=database)
    assert catalogue(database) == before
