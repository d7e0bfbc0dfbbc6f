"""Where the database is: the DB_ variables, the same for dbt, Alembic and the scripts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as pg_errors
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from ct4_orphans.errors import DatabaseError, OrphansError, masked, masked_message, printable

if TYPE_CHECKING:
    from typing_extensions import LiteralString

# What goes wrong is said in one line, here; psycopg's own warnings would come between.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

Connection = psycopg.Connection[DictRow]
AnyConnection = psycopg.Connection[Any]  # Alembic's gives tuples
Row = dict[str, Any]

CONNECT_TIMEOUT_SECONDS = 10
VARIABLES = ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_SSLMODE")
# What is read and told is the same whatever PGTZ, PGDATESTYLE, the role or the database say.
SESSION = (
    "set timezone = 'UTC'; set datestyle = 'ISO, MDY'; set intervalstyle = 'postgres';"
    " set standard_conforming_strings = on; set bytea_output = 'hex'; set extra_float_digits = 1"
)


@dataclass(frozen=True)
class Settings:
    """Connection parameters. `host` is a host name or the directory of a Unix socket."""

    host: str
    port: int
    dbname: str
    user: str
    password: str
    sslmode: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD and DB_SSLMODE.

        Raises DatabaseError when DB_NAME or DB_USER is not set, DB_PORT is no number, or one of
        them is no text.
        """
        odd = [name for name in VARIABLES if re.search("[\ud800-\udfff]", environ.get(name, ""))]
        if odd:
            raise DatabaseError(f"{' and '.join(odd)} is no valid UTF-8. Set it anew.")
        missing = [name for name in ("DB_NAME", "DB_USER") if not environ.get(name)]
        if missing:
            raise DatabaseError(
                f"{' and '.join(missing)} not set. Set DB_HOST, DB_PORT, DB_NAME, DB_USER and "
                "DB_PASSWORD to say which database is meant."
            )
        port = environ.get("DB_PORT") or "5432"
        if not port.isdecimal():
            raise DatabaseError(f"DB_PORT is {port!r}, which is no port number. Try DB_PORT=5432.")
        return cls(
            host=environ.get("DB_HOST") or "localhost",
            port=int(port),
            dbname=environ["DB_NAME"],
            user=environ["DB_USER"],
            password=environ.get("DB_PASSWORD") or "",
            sslmode=environ.get("DB_SSLMODE") or "prefer",
        )

    def __str__(self) -> str:
        """Name the database without the password, for first lines and messages."""
        return printable(f"database {self.dbname} on {self.host}:{self.port} as {self.user}")

    def environment(self) -> dict[str, str]:
        """Return the same settings as DB_ variables, for a subprocess."""
        return {
            "DB_HOST": self.host,
            "DB_PORT": str(self.port),
            "DB_NAME": self.dbname,
            "DB_USER": self.user,
            "DB_PASSWORD": self.password,
            "DB_SSLMODE": self.sslmode,
        }

    def connection_parameters(self) -> dict[str, str | int]:
        """Return libpq parameters; an empty password is left to libpq (~/.pgpass, trust)."""
        parameters: dict[str, str | int] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.dbname,
            "user": self.user,
            "sslmode": self.sslmode,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": "ct4-orphans",
            "client_encoding": "UTF8",
        }
        if self.password:
            parameters["password"] = self.password
        return parameters


@contextmanager
def connect(settings: Settings, *, read_only: bool = False) -> Iterator[Connection]:
    """Open a connection in UTC, close it at the end, and put every database error in one line.

    With `read_only` the server itself refuses to write, whatever the statements say.
    Raises DatabaseError.
    """
    with explained_errors(settings):
        options = "-c default_transaction_read_only=on" if read_only else ""
        with psycopg.connect(
            **settings.connection_parameters(),  # type: ignore[arg-type]
            options=options,
            row_factory=dict_row,
            autocommit=True,
        ) as connection:
            connection.read_only = True if read_only else None
            # The checks before a commit, and the seals, must see what others have committed.
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.execute(SESSION)
            yield connection


@contextmanager
def explained_errors(settings: Settings) -> Iterator[None]:
    """Turn psycopg's exceptions into one DatabaseError that says what to do next."""
    try:
        yield
    except OrphansError:
        raise
    except psycopg.Error as error:
        raise DatabaseError(f"{what_happened(error)} ({settings}). {_advice(error)}") from error


def statement(name: str) -> sql.SQL:
    """Return a statement of the package's sql folder."""
    text = resources.files("ct4_orphans").joinpath("sql", f"{name}.sql").read_text("utf-8")
    return sql.SQL(text)  # the text is the package's own


def rows(
    connection: AnyConnection, query: LiteralString | sql.SQL | sql.Composed, parameters: Any = None
) -> list[Row]:
    """Run a query and return its rows as dicts, whatever the connection's rows are."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def what_happened(error: psycopg.Error) -> str:
    """Return the server's primary message only: details and contexts can quote personal data."""
    message = " ".join((error.diag.message_primary or str(error)).split())
    if error.sqlstate is None:  # libpq's own words: host, port and user
        return masked(message).rstrip(".") or type(error).__name__
    of_a_trigger = error.diag.source_function == "exec_stmt_raise"  # PL/pgSQL's RAISE
    return masked_message(message, of_a_trigger=of_a_trigger).rstrip(".") or type(error).__name__


def _advice(error: psycopg.Error) -> str:
    for types, advice in _ADVICE:
        if isinstance(error, types):
            return advice
    return "Nothing of the current transaction was kept; look at the server's log."


_ADVICE: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (pg_errors.UndefinedTable, pg_errors.InvalidSchemaName, pg_errors.UndefinedColumn),
        "Something is missing: run 'orphans deploy' (by hand: 'alembic upgrade head', 'dbt seed', "
        "'dbt run').",
    ),
    (
        (pg_errors.InsufficientPrivilege,),
        "Ask the owner for a GRANT to this user, or use a user that has it.",
    ),
    (
        (pg_errors.ReadOnlySqlTransaction,),
        "This server or user only reads (a standby?): use the primary, with a user that may write.",
    ),
    (
        (pg_errors.LockNotAvailable, pg_errors.QueryCanceled, pg_errors.DeadlockDetected),
        "Someone else was in the way or it took too long: run the same command again.",
    ),
    (
        (pg_errors.AdminShutdown, pg_errors.CrashShutdown),
        "The server went away: look at it, then run the same command again.",
    ),
    (
        (psycopg.OperationalError,),
        "Check DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD and that the server is up.",
    ),
)
