"""A database on which the older deployment has been running, and what to compare of it.

Comparisons are by name and text, never by OID or order: `catalogue` is the whole schema as pg_dump
writes it, so it holds owners, grants, comments, definitions, defaults and options of everything.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ct4_orphans import embedded
from ct4_orphans.database import Settings

OLDER_DEPLOYMENT = Path(__file__).with_name("older_deployment.sql")
VERSION_TABLE = "ct4_orphans_alembic_version"

# How pg_dump announces an object: its kind, name, schema and owner, then the statements.
HEADER = re.compile(r"^--\n(-- Name: .*)\n--\n", re.MULTILINE)
GRANTED_BY = re.compile(r"^(SET SESSION AUTHORIZATION .*)\n(.*)\n(RESET SESSION .*)$", re.MULTILINE)

GRANTS = """
    with granted as (
        select oid, null::name as column_name, acl.*
        from pg_class, aclexplode(
            coalesce(
                relacl, acldefault((case relkind when 'S' then 's' else 'r' end)::"char", relowner)
            )
        ) as acl
        where relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        union all
        select attrelid, attname, acl.*
        from pg_attribute, aclexplode(attacl) as acl
        where attacl is not null and not attisdropped
    )
    select
        quote_ident(nspname) || '.' || quote_ident(relname),
        coalesce(granted.column_name, ''),
        pg_get_userbyid(granted.grantor),
        case granted.grantee when 0 then 'PUBLIC' else pg_get_userbyid(granted.grantee) end,
        granted.privilege_type,
        granted.is_grantable
    from granted
    inner join pg_class on pg_class.oid = granted.oid
    inner join pg_namespace on pg_namespace.oid = pg_class.relnamespace
    where nspname <> 'information_schema' and nspname !~ '^pg_'
    order by 1, 2, 3, 4, 5, 6
"""
# pg_dump says nothing of a foreign key's triggers, which ALTER TABLE can switch off too.
TRIGGERS = """
    select format(
        '-- Trigger %s on %s: %s',
        regexp_replace(tgname, '^(RI_ConstraintTrigger_[ac])_\\d+$', '\\1 ' || tgfoid::regproc),
        tgrelid::regclass, tgenabled
    )
    from pg_trigger
"""
VIEW_DEFINITIONS = """
    select quote_ident(nspname) || '.' || quote_ident(relname), pg_get_viewdef(pg_class.oid)
    from pg_class
    inner join pg_namespace on pg_namespace.oid = relnamespace
    where relkind in ('v', 'm') and nspname <> 'information_schema' and nspname !~ '^pg_'
    order by 1
"""


def driver(number: int) -> str:
    return f"{number:02}" * 16


def person(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def query(settings: Settings, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        return connection.execute(statement, values or None).fetchall()  # type: ignore[arg-type]


def execute(settings: Settings, statements: str) -> None:
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(statements)  # type: ignore[arg-type]


def make_older(settings: Settings, enum_schema: str = "public") -> Settings:
    """Make a database with CT4's schema look like one with an older deployment."""
    statements = OLDER_DEPLOYMENT.read_text()
    if enum_schema != "public":
        statements = re.sub(r"\bpublic\.(orphan_\w+)", rf"{enum_schema}.\1", statements)
    execute(settings, statements)
    return settings


@pytest.fixture
def older_database(make_database: Callable[[str], Settings]) -> Settings:
    """A CT4 database with an older deployment, before this project."""
    return make_older(make_database("template_ct4"))


def catalogue(settings: Settings) -> list[str]:
    """Return every object of the database as text; equal lists mean that nothing differs."""
    done = subprocess.run(
        [f"{embedded.binaries()}/pg_dump", "--schema-only", "--no-password"],
        env={
            "PGHOST": settings.host,
            "PGPORT": str(settings.port),
            "PGDATABASE": settings.dbname,
            "PGUSER": settings.user,
            "PGPASSWORD": settings.password,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _preamble, *parts = HEADER.split(done.stdout)
    blocks = [
        f"{header}\n{comparable(header, body)}"
        for header, body in zip(parts[::2], parts[1::2], strict=True)
    ]
    assert any("drivers_index" in block for block in blocks), "this is no CT4 database"
    return sorted(blocks + [trigger for (trigger,) in query(settings, TRIGGERS)])


def comparable(header: str, body: str) -> str:
    """Take out of pg_dump's statements what depends on order, or on the moment."""
    body = body.partition("\n--\n-- PostgreSQL database dump complete")[0]
    lines = [
        line
        for line in GRANTED_BY.sub(r"\1 \2 \3", body).splitlines()
        if line and not line.startswith(("SET default_", "\\restrict", "\\unrestrict"))
    ]
    return "\n".join(sorted(lines) if re.search(r"; Type: (DEFAULT )?ACL;", header) else lines)


def without_version_table(blocks: list[str]) -> list[str]:
    """Leave out what a downgrade leaves behind, as Alembic has it."""
    return [block for block in blocks if VERSION_TABLE not in block]


def view_definitions(settings: Settings) -> dict[str, str]:
    return dict(query(settings, VIEW_DEFINITIONS))


def grants(settings: Settings) -> list[tuple[Any, ...]]:
    """Return (relation, column or '', grantor, grantee, privilege, with grant option)."""
    return query(settings, GRANTS)


def rows(settings: Settings, relation: str) -> list[str]:
    """Return every row of the relation as text, sorted."""
    found = query(settings, f"select relation::text from {relation} as relation")
    return sorted(row for (row,) in found)
