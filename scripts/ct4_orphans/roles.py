"""Least privilege: three roles without a login, which people and services are made members of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ct4_orphans.adoption import LEDGER
from ct4_orphans.database import Connection, Row, rows, statement, what_happened
from ct4_orphans.errors import RefusedError
from ct4_orphans.rollback import public_views

PREFIX = "ct4_orphans"


@dataclass(frozen=True)
class Roles:
    """The names of the three roles. They belong to the server, not to one database."""

    reader: str
    fixer: str
    migrator: str

    @classmethod
    def named(cls, prefix: str) -> Roles:
        """Return the roles of a prefix."""
        return cls(f"{prefix}_reader", f"{prefix}_fixer", f"{prefix}_migrator")

    @property
    def names(self) -> list[str]:
        """Return all three, the one with the least rights first."""
        return [self.reader, self.fixer, self.migrator]


def existing(connection: Connection, roles: Roles) -> list[str]:
    """Return those of the three that the server has."""
    query = "select rolname as name from pg_roles where rolname = any(%s) order by name"
    return [row["name"] for row in rows(connection, query, [roles.names])]


def without_rights(connection: Connection, roles: Roles) -> list[str]:
    """Return those of the three that may not even read this database's ledger, or are not there."""
    query = (
        "select name from unnest(%s::text[]) with ordinality as names (name, position)"
        " where not exists (select 1 from pg_roles where rolname = name"
        " and has_table_privilege(rolname, %s, 'select')) order by position"
    )
    return [row["name"] for row in rows(connection, query, [roles.names, LEDGER])]


def todo(connection: Connection, roles: Roles, sources: list[str]) -> list[sql.Composed]:
    """Return the statements that make the roles that are missing, and give each what it may.

    `sources` are CT4's relations that the views read. What this project has made goes to the
    migrator. They can be run again.
    """
    there = existing(connection, roles)
    link_ids = rows(
        connection, "select pg_get_serial_sequence('canon.identity_links', 'id') as ids"
    )
    return [
        *(
            sql.SQL("create role {};").format(sql.Identifier(name))
            for name in roles.names
            if name not in there
        ),
        statement("roles_grant").format(
            reader=sql.Identifier(roles.reader),
            fixer=sql.Identifier(roles.fixer),
            migrator=sql.Identifier(roles.migrator),
            database=sql.Identifier(connection.info.dbname),
            link_ids=sql.SQL(link_ids[0]["ids"]),  # quoted by the server
            sources=sql.SQL(", ").join(sql.Identifier(*name.split(".", 1)) for name in sources),
        ),
        *_to_give(connection, roles.migrator),
    ]


def install(connection: Connection, roles: Roles, sources: list[str]) -> None:
    """Run the statements of `todo` in one transaction. Raises RefusedError if this user may not."""
    with _all_or_nothing(connection):
        for statement_ in todo(connection, roles, sources):
            connection.execute(statement_)


def remove(connection: Connection, roles: Roles) -> list[str]:
    """Take everything back: what the migrator owns goes to this user, rights and roles go.

    A role that has rights in another database of the server stays; those are returned.
    """
    left = []
    with _all_or_nothing(connection):
        for name in existing(connection, roles):
            role = sql.Identifier(name)
            connection.execute(sql.SQL("reassign owned by {} to current_user").format(role))
            connection.execute(sql.SQL("drop owned by {}").format(role))
        for name in reversed(existing(connection, roles)):
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
            except psycopg.errors.DependentObjectsStillExist:
                left.append(name)
    return left


def who_may(connection: Connection) -> list[Row]:
    """Return every role that may read the ledger, with the most that it may do."""
    return rows(connection, statement("roles_status"), {})


def in_words(found: list[Row]) -> Iterator[str]:
    """Say who may do what to the ledger, the mightiest first."""
    says = {
        "superuser": "may do anything (superuser): audit shows it afterwards",
        "owner": "may change or drop the ledger (its owner): audit shows it afterwards",
        "change": "may try to change or delete, and is refused by the ledger",
        "append": "may append",
        "read": "may read",
    }
    for may, words in says.items():
        for row in found:
            if row["may"] == may:
                yield f"  {row['name']:<30}{words}{'' if row['can_login'] else '  (no login)'}"


def _to_give(connection: Connection, owner: str) -> list[sql.Composed]:
    """Return the statements that make a role the owner of what this project has made."""
    views = [name for name in public_views() if _exists(connection, name)]
    return [
        sql.SQL("alter {} {} owner to {};").format(
            sql.SQL(row["kind"]), sql.SQL(row["name"]), sql.Identifier(owner)
        )  # names quoted by the server
        for row in rows(connection, statement("roles_owned"), {"views": views})
        if row["owner"] != owner
    ]


def _exists(connection: Connection, name: str) -> bool:
    return bool(rows(connection, "select 1 where to_regclass(%s) is not null", [name]))


@contextmanager
def _all_or_nothing(connection: Connection) -> Iterator[None]:
    try:
        with connection.transaction():
            connection.execute("set local lock_timeout = '15s'")
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"{what_happened(error)}. Roles are made, and owners changed, by a superuser, or by "
            f"the owner of {LEDGER} with CREATEROLE. Nothing was changed."
        ) from error
