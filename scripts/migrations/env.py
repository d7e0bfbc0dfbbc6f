"""Alembic's entry: the DB_ variables say where, and the version table is this project's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click
import sqlalchemy
from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from ct4_orphans.database import Settings, explained_errors
from ct4_orphans.errors import DatabaseError, OrphansError

# CT4 has an alembic_version of its own: this one must never be mistaken for it.
VERSION_TABLE = "ct4_orphans_alembic_version"
VERSION_TABLE_SCHEMA = "canon"

done: list[str] = []


def run_online(settings: Settings) -> None:
    """Migrate in one transaction: a failed migration leaves the database as it was."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        connect_args=settings.connection_parameters(),
        poolclass=sqlalchemy.NullPool,
        isolation_level="READ COMMITTED",  # a seal must see what others have committed
    )
    with explained_errors(settings):
        try:
            with engine.connect() as connection:
                require_ct4(connection, settings)
                context.configure(
                    connection=connection,
                    version_table=VERSION_TABLE,
                    version_table_schema=VERSION_TABLE_SCHEMA,
                    on_version_apply=say_what_was_done,
                )
                with context.begin_transaction():
                    # Whoever holds a table is waited for, but not while everyone queues behind us.
                    connection.execute(sqlalchemy.text("set local lock_timeout = '15s'"))
                    context.run_migrations()
            for line in done:
                click.echo(line)
        except sqlalchemy.exc.DBAPIError as error:
            raise (error.orig or error) from error


def say_what_was_done(
    ctx: MigrationContext,
    step: MigrationInfo,
    heads: Collection[Any],
    run_args: Mapping[str, Any],
) -> None:
    """Name every migration that was applied, once all are committed."""
    if not context.is_offline_mode():
        direction = "Upgraded to" if step.is_upgrade else "Downgraded from"
        done.append(f"{direction} {step.up_revision_id}: {Settings.from_environment()}")


def require_ct4(connection: sqlalchemy.Connection, settings: Settings) -> None:
    """Refuse a database that has none of CT4's schemas: most likely DB_NAME is wrong."""
    found = connection.execute(sqlalchemy.text("select to_regclass('canon.identity_links')"))
    if found.scalar() is None:
        raise DatabaseError(
            f"canon.identity_links is not in {settings}: this is no CT4 database. Check DB_NAME."
        )
    connection.rollback()


def run_offline() -> None:
    """Print the SQL instead of running it (alembic upgrade head --sql)."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # or every % comes out doubled
        literal_binds=True,
        version_table=VERSION_TABLE,
        version_table_schema=VERSION_TABLE_SCHEMA,
    )
    with context.begin_transaction():
        context.run_migrations()


try:
    if context.is_offline_mode():
        run_offline()
    else:
        run_online(Settings.from_environment())
except OrphansError as error:
    click.echo(f"Error: {error.format_message()}", err=True)
    raise SystemExit(error.exit_code) from error
