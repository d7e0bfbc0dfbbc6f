"""An older deployment's canon.driver_orphan_quarantine: a table whose rows were updated in place.

The migration turns its rows into ledger entries and keeps it under another name; its downgrade
gives it the name back, with the state of that day.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from ct4_orphans import views
from ct4_orphans.database import AnyConnection, rows, statement
from ct4_orphans.errors import RefusedError, some

NAME = "canon.driver_orphan_quarantine"
LEDGER = "canon.driver_orphan_quarantine_ledger"
KEPT = "canon.driver_orphan_quarantine_before_ledger"
DESTROY_VARIABLE = "ORPHANS_DOWNGRADE_DESTROYS_LEDGER"

ENUMS = {
    "orphan_detected_reason": (
        "no_lead_no_events",
        "no_lead_has_events_repair_failed",
        "legacy_driver_without_origin",
        "manual_detection",
    ),
    "orphan_status": ("quarantined", "resolved_relinked", "resolved_created_lead", "purged"),
}


@dataclass(frozen=True)
class OlderTable:
    """The older table as it was found: facts, the views that read it, the enums of its columns."""

    facts: views.Facts
    readers: list[views.Facts]
    enums: dict[str, tuple[str, str]]


def is_older_table(connection: AnyConnection) -> bool:
    """Tell whether the name belongs to something that is not this project's view."""
    found = views.facts_of(connection, NAME, LEDGER)
    return NAME in found and not (found[NAME]["kind"] == "v" and LEDGER in found)


def refuse_names_that_are_taken(connection: AnyConnection) -> None:
    """Raise RefusedError if a name that the migration needs is somebody else's."""
    taken = views.facts_of(connection, LEDGER, KEPT)
    if taken:
        raise RefusedError(
            f"{' and '.join(sorted(taken))} exists already, and is not of this migration. "
            "Nothing was changed. Rename it, if it is no ledger of this project."
        )


def examine(connection: AnyConnection) -> OlderTable:
    """Return what adopting the older table needs. Raises RefusedError naming all obstacles."""
    facts = views.facts_of(connection, NAME)[NAME]
    problems = _structure(connection, facts)
    columns = rows(connection, statement("older_quarantine"), {"oid": facts["oid"]})
    readers, others = views.dependants_of(connection, NAME)
    if facts["kind"] == "r":
        problems = _differences(columns) + problems
        problems += [f"{other} depends on it and cannot follow to a view" for other in others]
    # Without the privilege to read it the table cannot be adopted anyway: `doctor` says so.
    if not problems and rows(
        connection, "select 1 where has_table_privilege(%s::oid, 'select')", [facts["oid"]]
    ):
        problems = _rows_without_a_state(connection)
    if problems:
        raise RefusedError(
            f"{NAME} of an older deployment cannot be adopted: {'; '.join(problems)}. "
            "Nothing was changed. Do not rename or drop the table by hand: its rows are history."
        )
    enums = {
        row["enum_of"]: (row["type_schema"], row["type_name"]) for row in columns if row["enum_of"]
    }
    return OlderTable(facts, readers, enums)


def set_aside(connection: AnyConnection) -> None:
    """Give the older table another name; it is not touched otherwise."""
    connection.execute(f"alter table {NAME} rename to {KEPT.split('.')[1]}")


def move_in(connection: AnyConnection, older: OlderTable) -> tuple[int, int]:
    """Fill the ledger from the older table, and let the new view take its place.

    The view gets the table's defaults and grants, and the views that read the table read the view.
    Returns the number of rows and of entries.
    """
    entries = connection.execute(statement("adopt_entries")).rowcount
    for column in older.facts["columns"]:
        if column["default"]:
            connection.execute(
                sql.SQL("alter view {} alter column {} set default {}").format(
                    sql.Identifier(*NAME.split(".")),
                    sql.Identifier(column["name"]),
                    sql.SQL(column["default"]),
                )
            )
    views.take_grants(connection, NAME, *_grants(older.facts))
    views.read_again(connection, older.readers)
    return count(connection, KEPT), entries


def was_adopted(connection: AnyConnection) -> bool:
    """Tell whether an older table is kept under its other name."""
    return bool(views.facts_of(connection, KEPT))


def give_back(connection: AnyConnection) -> int:
    """Give the older table its name and the state of now; views that read ours read it again.

    This project's view goes. Returns the number of rows that differ from before the adoption.
    Raises RefusedError naming what depends on the view and is no view.
    """
    readers, others = views.dependants_of(connection, NAME)
    if others:
        raise RefusedError(
            f"These read {NAME} and cannot follow to the older table: {', '.join(others)}. "
            "Drop them first, and make them again afterwards. Nothing was changed."
        )
    ours, table = (views.facts_of(connection, name)[name] for name in (NAME, KEPT))
    changed = connection.execute(statement("restore_older_table")).rowcount
    changed += connection.execute(statement("remove_withdrawn_from_older_table")).rowcount
    going = "driver_orphan_quarantine_going"
    connection.execute(f"alter view {NAME} rename to {going}")
    connection.execute(f"alter table {KEPT} rename to {NAME.split('.')[1]}")
    views.read_again(connection, readers)
    connection.execute(f"drop view canon.{going}")
    # Grants that were changed meanwhile hold for the table too, but for those of the view's owner.
    grants, columns = _grants(ours)
    grants = [grant for grant in grants if grant[0] != ours["owner"]]
    grants += [grant for grant in table["grants"] if grant[0] == ours["owner"]]
    views.take_grants(connection, NAME, grants, columns)
    return changed


def existing_enum(connection: AnyConnection, name: str) -> tuple[str, str] | None:
    """Return schema and name of the enum of that name: in public, else the only one elsewhere.

    Raises RefusedError if its labels differ, or if it is in several other schemas.
    """
    found = rows(
        connection,
        """
            select
                pg_namespace.nspname::text as schema_name,
                array_agg(pg_enum.enumlabel::text) as labels
            from pg_type
            inner join pg_namespace on pg_type.typnamespace = pg_namespace.oid
            inner join pg_enum on pg_type.oid = pg_enum.enumtypid
            where pg_type.typname = %s
            group by pg_namespace.nspname
            order by pg_namespace.nspname <> 'public', pg_namespace.nspname
            """,
        [name],
    )
    if not found:
        return None
    if len(found) > 1 and found[0]["schema_name"] != "public":
        schemas = ", ".join(row["schema_name"] for row in found)
        raise RefusedError(f"The type {name} exists in several schemas: {schemas}. Which is meant?")
    if set(found[0]["labels"]) != set(ENUMS[name]):
        raise RefusedError(
            f"The type {found[0]['schema_name']}.{name} exists with other labels "
            f"({', '.join(sorted(found[0]['labels']))}); expected {', '.join(ENUMS[name])}. "
            "Nothing was changed."
        )
    return found[0]["schema_name"], name


def refuse_to_destroy_history(connection: AnyConnection) -> None:
    """Raise RefusedError if the ledger has entries: losing history must be said aloud.

    The variable says yes, or how many entries are safe: one that came since would be lost.
    """
    entries = count(connection, LEDGER)
    if entries and os.environ.get(DESTROY_VARIABLE) not in ("yes", str(entries)):
        raise RefusedError(
            f"The ledger holds {entries} entries, and the downgrade would destroy them. Back it up "
            f"(pg_dump -t {LEDGER} -t {LEDGER.removesuffix('ledger')}seals), then set "
            f"{DESTROY_VARIABLE}=yes."
        )


def count(connection: AnyConnection, name: str) -> int:
    """Return the number of rows of a relation (schema.relation)."""
    query = sql.SQL("select count(*) as n from {}").format(sql.Identifier(*name.split(".")))
    return int(rows(connection, query)[0]["n"])


def _grants(facts: views.Facts) -> tuple[views.Grants, dict[str, views.Grants]]:
    return facts["grants"], {column["name"]: column["grants"] for column in facts["columns"]}


def _differences(columns: list[dict[str, Any]]) -> list[str]:
    """Say column by column what is expected and what was found, where they differ."""
    differences = []
    for row in columns:
        name, expected, found = row["name"], row["expected_type"], row["found_type"]
        if found is None:
            differences.append(f"column {name}: expected {expected}, found no such column")
        elif expected is None:
            differences.append(f"column {name}: expected no such column, found {found}")
        elif row["enum_of"] and row["labels"] is None or not row["enum_of"] and expected != found:
            differences.append(f"column {name}: expected {expected}, found {found}")
        elif row["enum_of"] and set(row["labels"]) != set(ENUMS[row["enum_of"]]):
            differences.append(
                f"column {name}: expected the labels {', '.join(ENUMS[row['enum_of']])}, "
                f"found {', '.join(row['labels'])}"
            )
    if not differences:
        differences = [
            f"column {row['name']}: expected at position {row['expected_position']}, "
            f"found at {row['found_position']}"
            for row in columns
            if row["expected_position"] != row["found_position"]
        ]
    return differences


def _structure(connection: AnyConnection, facts: views.Facts) -> list[str]:
    """Say what else a view cannot stand in for."""
    if facts["kind"] != "r":
        return [f"expected an ordinary table, found relkind {facts['kind']}"]
    found = rows(
        connection,
        """
        select
            pg_class.relrowsecurity as row_security,
            coalesce(pg_get_constraintdef(pg_constraint.oid), 'none') as key
        from pg_class
        left join pg_constraint
            on pg_class.oid = pg_constraint.conrelid and pg_constraint.contype = 'p'
        where pg_class.oid = %s::oid
        """,
        [facts["oid"]],
    )[0]
    own = [*(trigger["definition"] for trigger in facts["triggers"]), *facts["rules"]]
    problems = [f"the view would not have this: {definition}" for definition in own]
    if found["key"] != "PRIMARY KEY (driver_id)":
        problems.append(f"expected PRIMARY KEY (driver_id), found {found['key']}")
    if found["row_security"]:
        problems.append("row level security is on, which the view could not keep up")
    return problems


def _rows_without_a_state(connection: AnyConnection) -> list[str]:
    """Name the rows that say neither why nor how: only a person can."""
    problems = []
    for column in ("detected_at", "detected_reason", "status"):
        query = sql.SQL("select driver_id from {} where {} is null order by driver_id")
        found = rows(
            connection, query.format(sql.Identifier(*NAME.split(".")), sql.Identifier(column))
        )
        if found:
            drivers = some([row["driver_id"] for row in found])
            problems.append(f"{column} is null for {drivers}: give it a value first")
    return problems
