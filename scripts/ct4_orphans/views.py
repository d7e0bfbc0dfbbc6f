"""What makes up a view (definition, owner, options, comments, grants), and how to put it back.

No tool at hand does this for a live database: pg_dump gives one script for an empty one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ct4_orphans.database import AnyConnection, rows, statement
from ct4_orphans.errors import RefusedError

Facts = dict[str, Any]
Grants = list[list[Any]]  # grantee (None: public), privilege, grantable, grantor


def facts_of(connection: AnyConnection, *names: str) -> dict[str, Facts]:
    """Return the facts of the relations of these names that exist, by name (schema.relation)."""
    with _full_names(connection) as cursor:
        return {qualified(facts): facts for facts in _facts(cursor, _oids(cursor, names))}


def dependants_of(connection: AnyConnection, *names: str) -> tuple[list[Facts], list[str]]:
    """Return the views that read these relations directly, and what else depends on them."""
    with _full_names(connection) as cursor:
        views, others = _dependants(cursor, _oids(cursor, names))
        return _facts(cursor, views), others


def all_dependants_of(connection: AnyConnection, *names: str) -> tuple[list[Facts], list[str]]:
    """Return every view above these relations, lower ones first, and what else depends on them."""
    height: dict[int, int] = {}
    others: dict[str, None] = {}
    with _full_names(connection) as cursor:
        level = _oids(cursor, names)
        while level:
            level, more = _dependants(cursor, level)
            others |= dict.fromkeys(more)
            # A view that reads two levels stands above both of them.
            height |= dict.fromkeys(level, max(height.values(), default=0) + 1)
        facts = _facts(cursor, list(height))
    facts.sort(key=lambda view: (height[view["oid"]], qualified(view)))
    return facts, list(others)


def qualified(facts: Facts) -> str:
    """Return schema.relation, for messages and keys."""
    return f"{facts['schema_name']}.{facts['name']}"


def identifier(facts: Facts) -> sql.Identifier:
    """Return the quoted name."""
    return sql.Identifier(facts["schema_name"], facts["name"])


def read_again(connection: AnyConnection, views: Iterable[Facts]) -> None:
    """Run the definitions of existing views again: names in them mean what they mean now.

    Owner, grants, comments and whatever reads these views stay. Raises RefusedError naming a view
    that can no longer be defined so.
    """
    with _full_names(connection) as cursor:
        for view in views:
            _create(cursor, view)


def put_back(connection: AnyConnection, wanted: Facts) -> None:
    """Make a view what it was: definition, owner, options, defaults, comments and grants.

    In place where its columns are the same; otherwise it and all views above it are dropped and
    made again with all they had, since a view cannot lose a column in place.
    Raises RefusedError naming what stands in the way.
    """
    name = qualified(wanted)
    now = facts_of(connection, name).get(name)
    if now is None or _shape(now) == _shape(wanted):
        with _full_names(connection) as cursor:
            _create(cursor, wanted)
            _complete(cursor, wanted)
        return
    refuse_what_cannot_be_made_anew(connection, wanted)
    above, _ = all_dependants_of(connection, name)
    with _full_names(connection) as cursor:
        cursor.execute(drop_views([now, *above]))
        for view in [wanted, *above]:
            _create(cursor, view)
            _complete(cursor, view)


def refuse_what_cannot_be_made_anew(connection: AnyConnection, wanted: Facts) -> None:
    """Raise RefusedError if `put_back` would have to drop what is no view."""
    name = qualified(wanted)
    now = facts_of(connection, name).get(name)
    if now is None or _shape(now) == _shape(wanted):
        return
    above, others = all_dependants_of(connection, name)
    if others:
        raise RefusedError(
            f"{name} must lose a column again, so it cannot be replaced in place, and these depend "
            f"on it: {', '.join(others)}. Drop them first, and make them again afterwards. "
            "Nothing was changed."
        )
    missing = rows(connection, statement("missing_to_make_anew"), {"views": _owners(wanted, above)})
    if missing:
        raise RefusedError(
            f"{name} must lose a column again, so it and the views above it are made anew, and "
            "their owners may not create in their schemas. A superuser can roll back, or says:  "
            + " ".join(row["remedy"] for row in missing)
            + " Nothing was changed."
        )


def _owners(*views: Facts | list[Facts]) -> Jsonb:
    flat = [view for one in views for view in (one if isinstance(one, list) else [one])]
    return Jsonb([[view["schema_name"], view["owner"]] for view in flat])


def drop_views(views: Iterable[Facts]) -> sql.Composed:
    """Return the statement that drops these views, and fails if anything else reads one."""
    return sql.SQL("drop view {}").format(sql.SQL(", ").join(map(identifier, views)))


def lock(connection: AnyConnection, *names: str) -> None:
    """Lock relations and every view above them, the topmost first, until the transaction ends.

    A reader locks from the top down too: in another order one of the two would be a deadlock.
    LOCK TABLE on a view would lock the tables below it as well, so it is an ALTER without effect.
    Views that this user does not own are left out.
    """
    above, _ = all_dependants_of(connection, *names)
    with _full_names(connection) as cursor:
        relations = [*reversed(above), *_facts(cursor, _oids(cursor, names))]
        for relation in relations:
            cursor.execute("select pg_has_role(%s, 'usage') as may", [relation["owner"]])
            kind = {"v": "view", "r": "table", "m": "materialized view"}.get(relation["kind"])
            if kind and cursor.fetchall()[0]["may"]:
                cursor.execute(
                    sql.SQL("alter {} {} owner to {}").format(
                        sql.SQL(kind), identifier(relation), sql.Identifier(relation["owner"])
                    )
                )


def take_grants(
    connection: AnyConnection, target: str, grants: Grants, columns: dict[str, Grants]
) -> None:
    """Give a relation these grants, and those of its columns, and no others.

    What its owner has of its own stays as it is.
    """
    with _full_names(connection) as cursor:
        now = _facts(cursor, _oids(cursor, [target]))[0]
        # The owner grants them now, whoever did before.
        own = [grant[:3] for grant in now["grants"] if grant[0] == now["owner"]]
        given = [grant[:3] for grant in grants if grant[0] != now["owner"]]
        _set_grants(cursor, now, None, [grant[:3] for grant in now["grants"]], own + given)
        for column in now["columns"]:
            had = [grant[:3] for grant in column["grants"]]
            wanted = [grant[:3] for grant in columns.get(column["name"], [])]
            _set_grants(cursor, now, column["name"], had, wanted)


@contextmanager
def _full_names(connection: AnyConnection) -> Iterator[psycopg.Cursor[Any]]:
    """Give a cursor in a transaction with an empty search_path."""
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        before = cursor.execute("select current_setting('search_path') as path").fetchall()
        cursor.execute("set local search_path = pg_catalog")
        yield cursor
        cursor.execute("select set_config('search_path', %s, true)", [before[0]["path"]])


def _facts(cursor: psycopg.Cursor[Any], oids: list[int]) -> list[Facts]:
    cursor.execute(statement("view_facts"), {"oids": oids})
    return sorted(cursor.fetchall(), key=lambda facts: oids.index(facts["oid"]))


def _dependants(cursor: psycopg.Cursor[Any], oids: list[int]) -> tuple[list[int], list[str]]:
    cursor.execute(statement("dependants"), {"oids": oids})
    rows = cursor.fetchall()
    views = list(dict.fromkeys(row["view"] for row in rows if row["view"]))
    return views, list(dict.fromkeys(row["description"] for row in rows if not row["view"]))


def _create(cursor: psycopg.Cursor[Any], view: Facts) -> None:
    options = sql.SQL(", ").join(sql.SQL(option) for option in view["options"])  # name=value
    statement = sql.SQL("create or replace view {} {} as {}").format(
        identifier(view),
        sql.SQL("with ({})").format(options) if view["options"] else sql.SQL(""),
        sql.SQL(view["definition"]),  # the server's own words
    )
    try:
        with cursor.connection.transaction():
            cursor.execute(statement)
    except psycopg.ProgrammingError as error:
        raise RefusedError(
            f"The view {qualified(view)} cannot be defined again: {error.diag.message_primary}."
        ) from error


def _complete(cursor: psycopg.Cursor[Any], wanted: Facts) -> None:
    """Give a view that was just defined the rest of its facts, where they differ."""
    relation = identifier(wanted)
    now = _facts(cursor, _oids(cursor, [qualified(wanted)]))[0]
    if now["owner"] != wanted["owner"]:
        cursor.execute(
            sql.SQL("alter view {} owner to {}").format(relation, sql.Identifier(wanted["owner"]))
        )
    if now["comment"] != wanted["comment"]:
        cursor.execute(
            sql.SQL("comment on view {} is {}").format(relation, sql.Literal(wanted["comment"]))
        )
    for had, column in zip(now["columns"], wanted["columns"], strict=True):
        name = sql.Identifier(column["name"])
        if had["default"] != column["default"]:
            change = "drop default" if column["default"] is None else "set default "
            cursor.execute(
                sql.SQL("alter view {} alter column {} {}").format(
                    relation, name, sql.SQL(change + (column["default"] or ""))
                )
            )
        if had["comment"] != column["comment"]:
            cursor.execute(
                sql.SQL("comment on column {}.{} is {}").format(
                    relation, name, sql.Literal(column["comment"])
                )
            )
    for trigger in wanted["triggers"]:
        if trigger not in now["triggers"]:
            cursor.execute(sql.SQL(trigger["definition"]))
            cursor.execute(
                sql.SQL("comment on trigger {} on {} is {}").format(
                    sql.Identifier(trigger["name"]), relation, sql.Literal(trigger["comment"])
                )
            )
    for rule in wanted["rules"]:
        if rule not in now["rules"]:
            cursor.execute(sql.SQL(rule))
    now = _facts(cursor, [now["oid"]])[0]  # a new owner has changed the grants
    _set_grants(cursor, wanted, None, now["grants"], wanted["grants"])
    for had, column in zip(now["columns"], wanted["columns"], strict=True):
        _set_grants(cursor, wanted, column["name"], had["grants"], column["grants"])


def _set_grants(
    cursor: psycopg.Cursor[Any],
    relation: Facts,
    column: str | None,
    now: list[list[Any]],
    wanted: list[list[Any]],
) -> None:
    on = sql.SQL("({}) on {}" if column else "{}on {}").format(
        sql.Identifier(column) if column else sql.SQL(""), identifier(relation)
    )
    gone = [grant for grant in now if grant not in wanted]
    new = [grant for grant in wanted if grant not in now]
    # What somebody passed on goes first and comes last.
    for grant in sorted(gone, key=lambda grant: grant[3:] == [relation["owner"]]):
        _grant(cursor, relation, "revoke {} {} from {}", on, grant)
    for grant in sorted(new, key=lambda grant: grant[3:] != [relation["owner"]]):
        form = "grant {} {} to {}" + (" with grant option" if grant[2] else "")
        _grant(cursor, relation, form, on, grant)


def _grant(
    cursor: psycopg.Cursor[Any], relation: Facts, form: str, on: sql.Composed, grant: list[Any]
) -> None:
    """Grant or revoke, as the role that did it where that is not the owner."""
    grantee, privilege, _, *grantor = grant
    to = sql.Identifier(grantee) if grantee else sql.SQL("public")
    statement_ = sql.SQL(form).format(sql.SQL(privilege), on, to)
    if not grantor or grantor[0] == relation["owner"]:
        cursor.execute(statement_)
        return
    cursor.execute("select current_setting('role') as role")
    before = cursor.fetchall()[0]["role"]
    cursor.execute(sql.SQL("set local role {}").format(sql.Identifier(grantor[0])))
    cursor.execute(statement_)
    cursor.execute("select set_config('role', %s, true)", [before])


def _oids(cursor: psycopg.Cursor[Any], names: Iterable[str]) -> list[int]:
    """Return the oids of the names (schema.relation, unquoted) that exist, in their order.

    From the catalogue: to_regclass() raises where this user may not use the schema.
    """
    cursor.execute(
        """
        select pg_class.oid::int8 as oid
        from unnest(%s::text[]) with ordinality as names (name, position)
        inner join pg_namespace on split_part(names.name, '.', 1) = pg_namespace.nspname
        inner join pg_class
            on
                pg_namespace.oid = pg_class.relnamespace
                and substr(names.name, length(pg_namespace.nspname) + 2) = pg_class.relname
        order by names.position
        """,
        [list(names)],
    )
    return [row["oid"] for row in cursor.fetchall()]


def _shape(facts: Facts) -> list[tuple[str, str]]:
    return [(column["name"], column["type"]) for column in facts["columns"]]
