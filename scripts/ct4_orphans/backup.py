"""A backup by pg_dump, where one is to be had that understands the server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

from ct4_orphans.database import Settings
from ct4_orphans.errors import DatabaseError, masked
from ct4_orphans.report import private_file


def find_pg_dump(server_version: int) -> str:
    """Return the path of a pg_dump that is at least as new as the server (150004 is 15.4).

    Looks on PATH, where Debian keeps its versions, and in the embedded server's wheel. Raises
    DatabaseError if there is none.
    """
    candidates = [shutil.which("pg_dump")]
    candidates += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_dump")), reverse=True)
    try:
        from ct4_orphans import embedded

        candidates.append(str(Path(embedded.binaries()) / "pg_dump"))
    except ImportError:
        pass
    server, found = server_version // 10_000, []
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        version = re.search(r"(\d+)(\.\d+|devel|beta|rc)", done.stdout)
        if version and int(version[1]) >= server:
            return candidate
        found.append(f"{candidate} ({version[0] if version else 'does not run'})")
    raise DatabaseError(
        f"The backup needs a pg_dump of PostgreSQL {server} or newer; found "
        f"{', '.join(found) or 'none'}. Install postgresql-client-{server}, or make a backup of "
        "your own and say --no-backup."
    )


def make_backup(settings: Settings, pg_dump: str, directory: Path, at: datetime) -> Path:
    """Dump the whole database in custom format to a file of mode 0600, named after `at`.

    The file has its name only when it is whole. Raises DatabaseError with pg_dump's words,
    OutputError if the directory cannot be written.
    """
    name = f"backup_pre_orphans_{at:%Y%m%d_%H%M%S}.dump"
    partial = private_file(directory, f".{name}.partial")
    try:
        done = subprocess.run(
            [pg_dump, "--no-password", "--format=custom", f"--file={partial}"],
            env={**os.environ, **libpq_environment(settings)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            words = done.stderr.strip().splitlines() or ["no reason given"]
            raise DatabaseError(f"pg_dump failed: {masked(words[0])}. Nothing was changed.")
        return partial.replace(directory / name)
    finally:
        partial.unlink(missing_ok=True)


def libpq_environment(settings: Settings) -> dict[str, str]:
    """Return the connection as libpq's variables: no password in a process list."""
    variables = {
        "PGHOST": settings.host,
        "PGPORT": str(settings.port),
        "PGDATABASE": settings.dbname,
        "PGUSER": settings.user,
        "PGSSLMODE": settings.sslmode,
        "PGCONNECT_TIMEOUT": "10",
    }
    return variables | ({"PGPASSWORD": settings.password} if settings.password else {})
