"""Towns: CT4 databases of any size on an embedded server, made once and copied for each use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ct4_orphans import embedded
from ct4_orphans.database import Connection, Settings, connect
from psycopg import sql

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".embedded"
DATA_DIRECTORY = WORK / "bench"
SCHEMA = ROOT / "scripts/ct4_orphans/demo/ct4_schema.sql"
TOWN = Path(__file__).with_name("town.sql")
BUILDING = "town_in_building"


@dataclass(frozen=True)
class Sizes:
    """How large a town is; `events` has at least one for everybody with a lead."""

    drivers: int
    orphans: int
    events: int
    days: int

    def half(self) -> Sizes:
        """Return a town of half the people and events, over as many days."""
        return Sizes(self.drivers // 2, self.orphans // 2, self.events // 2, self.days)

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"{self.drivers:,} drivers, {self.orphans:,} of them orphans, "
            f"{self.events:,} lead events, {self.days} days"
        )


@contextmanager
def bench_server(timeout_seconds: int) -> Iterator[Settings]:
    """Run the benchmark's own server for as long as the block lasts.

    Without autovacuum, which would come amid a measurement; what it would have done is done
    between them. No statement takes longer than the timeout.
    """
    server = embedded.start_server(DATA_DIRECTORY)
    try:
        with connect(server) as connection:
            connection.execute("alter system set autovacuum = off")
            connection.execute(
                sql.SQL("alter system set statement_timeout = {}").format(f"{timeout_seconds}s")
            )
            connection.execute("select pg_reload_conf()")
        yield server
    finally:
        embedded.stop_server(DATA_DIRECTORY)


def town(server: Settings, sizes: Sizes) -> Settings:
    """Return the town of these sizes as CT4 has it; it is made if it is not there yet."""
    name = town_name(sizes)
    if not embedded.has_database(server, name):
        building = embedded.recreate_database(server, BUILDING)
        with connect(building) as connection:
            connection.execute("set statement_timeout = 0")
            connection.execute(SCHEMA.read_text("utf-8"))
            fill(connection, sizes)
        with connect(server) as connection:  # only what is whole gets the name
            connection.execute(
                sql.SQL("alter database {} rename to {}").format(
                    sql.Identifier(BUILDING), sql.Identifier(name)
                )
            )
    return _named(server, name)


def fill(connection: Connection, sizes: Sizes) -> None:
    """Fill an empty CT4 database. `connection` is in autocommit."""
    for name, size in vars(sizes).items():
        connection.execute("select set_config(%s, %s, false)", [f"bench.{name}", str(size)])
    connection.execute(TOWN.read_text("utf-8"))
    connection.execute("vacuum (analyze)")


def town_name(sizes: Sizes) -> str:
    """Return a name that other sizes, or another town.sql, do not have."""
    made_of = SCHEMA.read_bytes() + TOWN.read_bytes()
    return "_".join(
        ["town", *map(str, vars(sizes).values()), hashlib.sha256(made_of).hexdigest()[:8]]
    )


def copy(server: Settings, original: Settings, name: str) -> Settings:
    """Make a copy of a database to which nobody is connected, in place of one of that name."""
    drop(server, name)
    with connect(server) as connection:
        connection.execute("set statement_timeout = 0")
        connection.execute(
            # Page by page through the log, as is the default, takes several times as long.
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(original.dbname)
            )
        )
    return _named(server, name)


def drop(server: Settings, name: str) -> None:
    """Drop a database, if it is there."""
    with connect(server) as connection:
        connection.execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )


def _named(server: Settings, name: str) -> Settings:
    return Settings(server.host, server.port, name, server.user, server.password, server.sslmode)
