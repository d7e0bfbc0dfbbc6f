"""Keeping the views that a deploy replaces as they were, and putting them back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from psycopg import sql

from ct4_orphans import guard, project, views
from ct4_orphans.adoption import DESTROY_VARIABLE, LEDGER, NAME, count, was_adopted
from ct4_orphans.database import Connection, Settings, connect, rows, statement
from ct4_orphans.errors import DatabaseError, OutputError, RefusedError
from ct4_orphans.fix import only_one_execute
from ct4_orphans.report import private_file
from ct4_orphans.seals import RUNS, SEALS

SAVED = "canon.ct4_orphans_saved_views"
OUR_SCHEMA, AUDIT_SCHEMA = "ct4_orphans", "ct4_orphans_audit"

Saved = dict[str, views.Facts | None]


def to_save(connection: Connection, names: list[str]) -> Saved:
    """Return what a deploy is about to replace: the facts of each, None where there is nothing.

    Left out is what this project has replaced already: the older definition is saved, or lost.
    What is no view is left out too: it cannot be replaced, as doctor and dbt say.
    """
    before = saved(connection)
    existing = views.facts_of(connection, *names)
    ours = _ours(connection, names)
    found: Saved = {
        name: existing.get(name)
        for name in names
        if name not in ours and (name not in existing or existing[name]["kind"] == "v")
    }
    for schema in (OUR_SCHEMA, AUDIT_SCHEMA):
        if schema not in before and not _relations(connection, schema):
            exists = rows(connection, "select 1 where to_regnamespace(%s) is not null", [schema])
            found[schema] = {"schema": schema} if exists else None
    return {
        name: facts for name, facts in found.items() if name not in before or before[name] != facts
    }


def save(connection: Connection, names: list[str]) -> Saved:
    """Keep in the database what a deploy is about to replace, and return it."""
    with connection.transaction():
        connection.execute("set local lock_timeout = '15s'")
        found = to_save(connection, names)
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into canon.ct4_orphans_saved_views (relation, facts)"
                " values (%s, %s::jsonb)",
                [(name, json.dumps(facts) if facts else None) for name, facts in found.items()],
            )
    return found


def saved(connection: Connection) -> Saved:
    """Return what is kept, the newest by name; empty before the migration."""
    if not views.facts_of(connection, SAVED):
        return {}
    return {
        row["relation"]: row["facts"]
        for row in rows(
            connection,
            "select distinct on (relation) relation, facts from canon.ct4_orphans_saved_views"
            " order by relation, save_id desc",
        )
    }


@dataclass
class Plan:
    """What a rollback does, in its order; all of it in one transaction."""

    audit_views: list[str]
    put_back: list[views.Facts]
    drop: list[str]
    seeds: list[str]
    schemas: list[str]
    entries: int
    kept: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing of this project is there to take out."""
        return not (self.audit_views or self.put_back or self.drop or self.seeds or self.schemas)

    def in_words(self, would_be: str) -> Iterator[str]:
        """Give the plan line by line."""
        for facts in self.put_back:
            yield f"  {views.qualified(facts)}: {would_be}put back as {facts['owner']} had it"
        for name in self.drop:
            if not name.startswith(f"{OUR_SCHEMA}."):
                yield f"  {name}: {would_be}dropped (there was none before)"
        inner = [name for name in self.drop if name.startswith(f"{OUR_SCHEMA}.")]
        if inner or self.audit_views or self.seeds:
            yield (
                f"  {len(inner)} inner views, {len(self.audit_views)} views of violations and "
                f"{len(self.seeds)} seeds: {would_be}dropped"
            )
        for schema in self.schemas:
            yield f"  schema {schema}: {would_be}dropped"
        for name in self.kept:
            yield f"  {name}: left as it is"


def plan(connection: Connection, *, with_migration: bool = False) -> Plan:
    """Return what a rollback would do.

    Raises RefusedError naming a view whose earlier definition was never saved, and whatever else
    reads what would be dropped; with the migration, the guard too.
    """
    if with_migration:
        guard.refuse_while_installed(connection)
    kept = saved(connection)
    ops = _ours(connection, [name for name in public_views() if name not in kept])
    if ops:
        raise RefusedError(
            f"No earlier definition is kept of {', '.join(sorted(ops))}: they were replaced by "
            "hand ('dbt run' before the first 'orphans deploy'). Restore them from your backup; "
            "'dbt run-operation drop_project_views' takes this project's views out."
        )
    inner = _relations(connection, OUR_SCHEMA)
    audit = [name for name, kind in _relations(connection, AUDIT_SCHEMA).items() if kind == "v"]
    seeds = {f"{OUR_SCHEMA}.{path.stem}" for path in (project.ROOT / "seeds").glob("*.csv")}
    saved_views = {name: facts for name, facts in kept.items() if "." in name}
    existing = views.facts_of(connection, *saved_views)
    ours = _ours(connection, list(existing))
    result = Plan(
        audit_views=audit,
        put_back=[
            facts
            for name, facts in saved_views.items()
            if facts and (name in ours or name not in existing)
        ],
        drop=[name for name in ours if not saved_views[name]]
        + [name for name, kind in inner.items() if kind == "v"],
        seeds=sorted(seeds & set(inner)),
        schemas=[name for name, facts in kept.items() if facts is None and "." not in name],
        kept=sorted(set(existing) - ours),  # somebody has replaced them since: theirs to keep
        entries=count(connection, LEDGER) if views.facts_of(connection, LEDGER) else 0,
    )
    others = sorted(set(inner) - set(result.drop) - set(result.seeds))
    if others:
        result.kept += [*others, f"schema {OUR_SCHEMA}"]
        result.schemas = [name for name in result.schemas if name != OUR_SCHEMA]
    _refuse_to_break_others(connection, result)
    if with_migration:
        _refuse_to_break_readers_of_the_quarantine(connection, result)
    return result


def roll_back(connection: Connection, *, with_migration: bool = False) -> Plan:
    """Put everything back that a deploy replaced, in one transaction.

    Definitions, owners, options, comments and grants are those saved; views of others on top
    survive. Raises RefusedError, and changes nothing, if something stands in the way.
    """
    with only_one_execute(connection), connection.transaction():
        connection.execute("set local lock_timeout = '15s'")
        todo = plan(connection, with_migration=with_migration)
        views.lock(connection, *map(views.qualified, todo.put_back), *todo.drop)
        _drop(connection, "view", todo.audit_views)
        for facts in todo.put_back:
            views.put_back(connection, facts)
        _drop(connection, "view", todo.drop)
        _drop(connection, "table", todo.seeds)
        for schema in todo.schemas:
            connection.execute(sql.SQL("drop schema if exists {}").format(sql.Identifier(schema)))
        if views.facts_of(connection, SAVED):
            # What is back is in the catalogue again; the next deploy saves it anew. Of a view that
            # is left as it is the earlier definition is kept, as long as the ledger is.
            connection.execute(
                "delete from canon.ct4_orphans_saved_views where %s or relation <> all(%s::text[])",
                [with_migration, todo.kept],
            )
    return todo


def export_ledger(connection: Connection, directory: Path, at: datetime) -> tuple[list[Path], int]:
    """Write the whole ledger and its seals to CSV files of mode 0600, named after `at`.

    Returns their paths, the ledger's first, and its number of entries. Raises OutputError.
    """
    exports = [(LEDGER, "ledger", "entry_id")]
    if views.facts_of(connection, SEALS):
        exports.append((SEALS, "seals", "seal_no"))
    paths, counts = [], []
    for relation, name, key in exports:
        path = private_file(directory, f"orphans_{name}_{at:%Y%m%d_%H%M%S_%f}.csv")
        query = sql.SQL("copy (select * from {} order by {}) to stdout with (format csv, header)")
        try:
            with path.open("wb") as file, connection.cursor() as cursor:
                with cursor.copy(
                    query.format(sql.Identifier(*relation.split(".")), sql.Identifier(key))
                ) as copy:
                    for block in copy:
                        file.write(block)
                paths.append(path)
                counts.append(cursor.rowcount)
        except OSError as error:
            raise OutputError(
                f"{relation} cannot be written to {path}: {error.strerror}."
            ) from error
    return paths, counts[0]


def migrate_back(settings: Settings, exported: int) -> str:
    """Take the ledger out: alembic downgrade base, and its version table. Return what it said.

    `exported` is the number of entries that are safe: with more of them the downgrade refuses.
    Raises RefusedError or DatabaseError with Alembic's words.
    """
    code, output = project.run(
        "alembic",
        "downgrade",
        "base",
        settings=settings,
        environment={DESTROY_VARIABLE: str(exported)},
    )
    if code:
        kind = RefusedError if code == RefusedError.exit_code else DatabaseError
        words = project.last_words(output).removeprefix("Error: ")
        raise kind(f"{words} The views are put back; the ledger is as it was. Run the same again.")
    with connect(settings) as connection:
        connection.execute("drop table if exists canon.ct4_orphans_alembic_version")
    return output


def _ours(connection: Connection, names: list[str]) -> set[str]:
    """Return those of the names that are views of this project: they read its schema."""
    return {row["name"] for row in rows(connection, statement("our_views"), {"names": names})}


def public_views() -> list[str]:
    """Return the names of the views that the project puts in place of others, or beside them."""
    return sorted(f"ops.{path.stem}" for path in (project.ROOT / "models/ops").glob("*.sql"))


def _relations(connection: Connection, schema: str) -> dict[str, str]:
    """Return the kinds of the relations in a schema, by name."""
    return {
        row["name"]: row["kind"]
        for row in rows(
            connection,
            "select nspname || '.' || relname as name, relkind::text as kind from pg_class"
            " inner join pg_namespace on relnamespace = pg_namespace.oid"
            " where nspname = %s and relkind in ('r', 'p', 'v', 'm', 'f') order by relname",
            [schema],
        )
    }


def _refuse_to_break_others(connection: Connection, todo: Plan) -> None:
    """Views on top of one that is put back read that; those on what is dropped stand in the way."""
    going = [*todo.audit_views, *todo.drop, *todo.seeds]
    put_back = [views.qualified(facts) for facts in todo.put_back]
    readers, others = views.dependants_of(connection, *going)
    names = {views.qualified(view) for view in readers} - {*going, *put_back} | set(others)
    for facts in todo.put_back:
        views.refuse_what_cannot_be_made_anew(connection, facts)
    if names:
        raise RefusedError(
            f"These read what would be dropped: {', '.join(sorted(names))}. Drop them first; "
            "nothing was changed."
        )


def _refuse_to_break_readers_of_the_quarantine(connection: Connection, todo: Plan) -> None:
    """The downgrade refuses them too, but then the views would be back already."""
    adopted = was_adopted(connection)
    mine = {NAME, RUNS, *todo.drop, *todo.audit_views}
    readers, others = views.dependants_of(connection, LEDGER, *([] if adopted else [NAME]))
    names = {views.qualified(view) for view in readers} - mine | set(others)
    if adopted:  # views follow to the older table, nothing else does
        names |= set(views.dependants_of(connection, NAME)[1])
    if names:
        raise RefusedError(
            f"These read the quarantine: {', '.join(sorted(names))}. Drop them first, and make "
            "them again afterwards; or roll back without --migration. Nothing was changed."
        )


def _drop(connection: Connection, kind: str, names: list[str]) -> None:
    if names:
        targets = sql.SQL(", ").join(sql.Identifier(*name.split(".", 1)) for name in names)
        connection.execute(sql.SQL("drop {} {}").format(sql.SQL(kind), targets))
