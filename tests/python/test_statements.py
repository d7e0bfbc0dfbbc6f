"""The fix's guards, statement by statement, on states that the right code never leaves by itself.

`find_changed` looks before a batch is written, `postconditions` before it is committed. Whatever
they miss is written; whatever they see too much of is left undone.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any, NamedTuple

import pytest
from conftest import open_connection
from ct4_orphans import decisions, embedded, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings, statement
from ct4_orphans.errors import RefusedError
from psycopg import sql
from psycopg.types.json import Jsonb
from test_acceptance import (
    DRIVER,
    PERSON,
    RECONSTRUCTED,
    SMALL_WORLD,
    entry,
    link,
    state,
)

RUN = uuid.UUID("00000000-0000-4000-8000-0000000000aa")
CABINET = "module_ct_cabinet_leads"
# Driver 1 is to be released, 2 relinked by lead row 2, 3 quarantined, 8 and 0 of one person too.
WORLD = SMALL_WORLD + entry(1, 1) + link(7, "drivers", DRIVER[8]) + link(7, "drivers", DRIVER[0])
EVERYONE = {0, 1, 2, 3, 8}


@pytest.fixture(scope="module")
def prepared(server: Settings) -> Iterator[Connection]:
    """A connection with the plan prepared."""
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    with open_connection(settings) as connection:
        connection.execute(WORLD)  # type: ignore[arg-type]
        fixing.prepare(connection, fixing.Options(True))
        connection.commit()
        yield connection
    with open_connection(server) as connection:
        connection.autocommit = True
        connection.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


@pytest.fixture
def connection(prepared: Connection) -> Iterator[Connection]:
    """The same, rolled back after each test."""
    yield prepared
    prepared.rollback()


def run(connection: Connection, name: str, drivers: set[int], run_id: uuid.UUID = RUN) -> Any:
    """Run a statement for the batch of these drivers."""
    numbers = person_numbers(connection)
    asked = [numbers[DRIVER[driver]] for driver in drivers]
    return connection.execute(
        statement(name), {"first": min(asked), "last": max(asked), "run_id": run_id}
    )


def person_numbers(connection: Connection) -> dict[str, int]:
    rows = connection.execute("select driver_id, person_no from pg_temp.planned").fetchall()
    return {row["driver_id"]: row["person_no"] for row in rows}


def outcomes(connection: Connection) -> dict[int, str]:
    rows = connection.execute(
        "select driver_id, outcome from pg_temp.planned where outcome is not null"
    ).fetchall()
    return {DRIVER.index(row["driver_id"]): row["outcome"] for row in rows}


def test_the_plan_is_as_described(connection: Connection) -> None:
    rows = connection.execute("select driver_id, action, lead_rows from pg_temp.planned").fetchall()
    actions = {DRIVER.index(row["driver_id"]): row["action"] for row in rows}
    quarantined = dict.fromkeys((3, 8, 0), "quarantine")
    assert actions == {1: "release", 2: "relink"} | quarantined
    (lead_row,) = next(row["lead_rows"] for row in rows if row["action"] == "relink")
    assert (lead_row["source_table"], lead_row["source_pk"]) == (CABINET, "2")


# --- Before the batch is written ------------------------------------------------------------------

CHANGES: dict[str, tuple[str, set[int]]] = {
    "nothing": ("select 1", set()),
    "a driver moved to another person": (
        f"update canon.identity_links set person_key = '{PERSON[8]}'"
        f" where source_table = 'drivers' and source_pk = '{DRIVER[3]}'",
        {3},
    ),
    "a driver unlinked": (
        f"delete from canon.identity_links where source_pk = '{DRIVER[2]}'",
        {2},
    ),
    "one of two drivers unlinked": (
        f"delete from canon.identity_links where source_pk = '{DRIVER[8]}'",
        {8, 0},
    ),
    "a first entry by somebody else": (entry(3, 1), {3}),
    "one of two drivers entered": (entry(0, 1), {8, 0}),
    "a newer entry by somebody else": (entry(1, 2, "purged"), {1}),
    "the entries of a driver gone": (
        "alter table canon.driver_orphan_quarantine_ledger disable trigger user;"
        f"delete from canon.driver_orphan_quarantine_ledger where driver_id = '{DRIVER[1]}'",
        {1},
    ),
    "an entry of a driver that is in no plan": (entry(5, 1), set()),
    "two newer entries of a driver that is in no plan": (entry(5, 1) + entry(5, 2), set()),
    "a lead for one to be quarantined": (link(3, "module_ct_migrations", "3"), {3}),
    "two leads for one to be relinked": (
        link(2, "module_ct_migrations", "77") + link(2, "module_ct_migrations", "78"),
        {2},
    ),
    "another lead for one to be released": (link(1, "module_ct_migrations", "1"), set()),
    "a lead of somebody else": (link(8, "module_ct_migrations", "88"), set()),
    "the lead of one to be released gone": (
        f"delete from canon.identity_links where person_key = '{PERSON[1]}'"
        " and source_table <> 'drivers'",
        {1},
    ),
    "the event gone": ("delete from observational.lead_events where source_pk = '2'", {2}),
    "the event given to another person": (
        f"update observational.lead_events set person_key = '{PERSON[8]}' where source_pk = '2'",
        {2},
    ),
    "the event given to the person itself": (
        f"update observational.lead_events set person_key = '{PERSON[2]}' where source_pk = '2'",
        set(),
    ),
    "the lead row linked to another person": (link(8, CABINET, "2"), {2}),
    "a row of that key of another table linked": (link(8, "module_ct_migrations", "2"), set()),
    "another row of that table linked": (link(8, CABINET, "22"), set()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whose_situation_changed_is_left_with_the_whole_person(
    connection: Connection, what: str
) -> None:
    statements, changed = CHANGES[what]
    connection.execute(statements)  # type: ignore[arg-type]
    run(connection, "find_changed", EVERYONE)
    assert outcomes(connection) == dict.fromkeys(changed, "changed")


def test_only_persons_of_the_batch_are_looked_at(connection: Connection) -> None:
    for driver in EVERYONE:
        connection.execute(entry(driver, 5))  # type: ignore[arg-type]
    run(connection, "find_changed", {2})
    assert outcomes(connection) == {2: "changed"}


def test_an_outcome_that_is_there_stays(connection: Connection) -> None:
    connection.execute(entry(8, 1) + entry(0, 1) + entry(3, 1))  # type: ignore[arg-type]
    connection.execute(
        "update pg_temp.planned set outcome = 'refused' where driver_id = any(%s)",
        [[DRIVER[8], DRIVER[3]]],
    )
    run(connection, "find_changed", EVERYONE)
    assert outcomes(connection) == {8: "refused", 0: "changed", 3: "refused"}


def test_a_driver_with_an_outcome_changes_nothing_for_its_person(connection: Connection) -> None:
    connection.execute(entry(8, 1))  # type: ignore[arg-type]
    connection.execute(
        "update pg_temp.planned set outcome = 'refused' where driver_id = %s", [DRIVER[8]]
    )
    run(connection, "find_changed", EVERYONE)
    assert outcomes(connection) == {8: "refused"}


# --- Before the batch is committed ----------------------------------------------------------------

NO_LEAD = "a driver that was let out has no lead"
HAS_LEAD = "a driver that was quarantined has a lead by now"
NOT_LINKED = "a lead row is not linked to the person"
NOT_SHOWN = "the quarantine does not show the new state"
ANOTHER_LEAD = link(2, "module_ct_migrations", "77")

BROKEN: dict[str, tuple[str, set[tuple[str, int]]]] = {
    "nothing": ("select 1", set()),
    "the link of the fix gone": (
        f"delete from canon.identity_links where {RECONSTRUCTED}",
        {(NO_LEAD, 2), (NOT_LINKED, 2)},
    ),
    "the link of the fix gone, another lead there": (
        f"delete from canon.identity_links where {RECONSTRUCTED};" + ANOTHER_LEAD,
        {(NOT_LINKED, 2)},
    ),
    "the link of the fix at another person": (
        f"update canon.identity_links set person_key = '{PERSON[8]}' where {RECONSTRUCTED};"
        + ANOTHER_LEAD,
        {(NOT_LINKED, 2)},
    ),
    "the link of the fix to a row of another table": (
        f"update canon.identity_links set source_table = 'module_ct_migrations'"
        f" where {RECONSTRUCTED}",
        {(NOT_LINKED, 2)},
    ),
    "the link of the fix to another row": (
        f"update canon.identity_links set source_pk = '22' where {RECONSTRUCTED}",
        {(NOT_LINKED, 2)},
    ),
    "the lead of the released gone": (
        f"delete from canon.identity_links where person_key = '{PERSON[1]}'"
        " and source_table <> 'drivers'",
        {(NO_LEAD, 1)},
    ),
    "a lead for the quarantined": (link(3, "module_ct_migrations", "3"), {(HAS_LEAD, 3)}),
    "a lead for two quarantined drivers": (
        link(7, "module_ct_migrations", "7"),
        {(HAS_LEAD, 8), (HAS_LEAD, 0)},
    ),
    "another state": (state(3, "purged"), {(NOT_SHOWN, 3)}),
    "the same state, but not this run's": (
        entry(3, 2, "quarantined", {"run_id": "another"}),
        {(NOT_SHOWN, 3)},
    ),
    "the same state, but of no run": (entry(3, 2), {(NOT_SHOWN, 3)}),
    "another state of this run": (
        entry(3, 2, "purged", {"run_id": str(RUN)}),
        {(NOT_SHOWN, 3)},
    ),
    "the entry gone": (
        "alter table canon.driver_orphan_quarantine_ledger disable trigger user;"
        f"delete from canon.driver_orphan_quarantine_ledger where driver_id = '{DRIVER[0]}'",
        {(NOT_SHOWN, 0)},
    ),
}


def write(connection: Connection) -> None:
    run(connection, "insert_links", EVERYONE)
    run(connection, "insert_entries", EVERYONE)


def promises(rows: Any) -> set[tuple[str, int]]:
    return {(row["broken_promise"], DRIVER.index(row["driver_id"])) for row in rows.fetchall()}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_promise_is_named(connection: Connection, what: str) -> None:
    statements, expected = BROKEN[what]
    write(connection)
    connection.execute(statements)  # type: ignore[arg-type]
    assert promises(run(connection, "postconditions", EVERYONE)) == expected


@pytest.mark.parametrize("driver", sorted(EVERYONE))
def test_nothing_is_promised_for_those_that_are_left_out(
    connection: Connection, driver: int
) -> None:
    """An outcome before the end is: not applied."""
    connection.execute(
        "update pg_temp.planned set outcome = 'changed' where driver_id <> %s", [DRIVER[driver]]
    )
    found = promises(run(connection, "postconditions", EVERYONE))
    assert {who for _, who in found} == {driver}
    connection.execute("update pg_temp.planned set outcome = 'changed'")
    assert promises(run(connection, "postconditions", EVERYONE)) == set()


def test_nothing_is_promised_for_other_batches(connection: Connection) -> None:
    found = promises(run(connection, "postconditions", {2}))
    assert {who for _, who in found} == {2}


def test_what_is_left_out_is_not_written(connection: Connection) -> None:
    connection.execute(
        "update pg_temp.planned set outcome = 'changed' where driver_id = any(%s)",
        [[DRIVER[2], DRIVER[3]]],
    )
    write(connection)
    assert promises(run(connection, "postconditions", EVERYONE)) == set()
    links = connection.execute(f"select 1 from canon.identity_links where {RECONSTRUCTED}")  # type: ignore[arg-type]
    assert links.fetchall() == []
    entries = connection.execute(
        "select driver_id from canon.driver_orphan_quarantine_ledger where run_id = %s"
        " order by entry_id",
        [RUN],
    ).fetchall()
    assert {DRIVER.index(row["driver_id"]) for row in entries} == {1, 8, 0}


def test_entries_are_written_by_person_and_driver(connection: Connection) -> None:
    write(connection)
    entries = connection.execute(
        "select driver_id from canon.driver_orphan_quarantine_ledger where run_id = %s"
        " order by entry_id",
        [RUN],
    ).fetchall()
    assert [DRIVER.index(row["driver_id"]) for row in entries] == [1, 2, 3, 0, 8]


def test_the_lead_rows_of_two_drivers_of_a_person_are_linked_once(connection: Connection) -> None:
    connection.execute(
        "update pg_temp.planned as other"
        " set person_key = one.person_key, person_no = one.person_no, action = one.action,"
        " lead_rows = one.lead_rows from pg_temp.planned as one"
        " where one.driver_id = %s and other.driver_id = %s",
        [DRIVER[2], DRIVER[3]],
    )
    run(connection, "insert_links", EVERYONE)
    links = connection.execute(f"select 1 from canon.identity_links where {RECONSTRUCTED}")  # type: ignore[arg-type]
    assert len(links.fetchall()) == 1


def test_only_the_batch_is_written(connection: Connection) -> None:
    run(connection, "insert_links", {3})
    run(connection, "insert_entries", {3})
    links = connection.execute(f"select 1 from canon.identity_links where {RECONSTRUCTED}")  # type: ignore[arg-type]
    assert links.fetchall() == []
    assert set(written(connection)) == {3}


def test_the_day_of_detection_is_kept_and_only_the_resolved_have_a_day_of_resolution(
    connection: Connection,
) -> None:
    write(connection)
    now = next(iter(connection.execute("select now() as now")))["now"]
    rows = written(connection)
    assert {who for who, row in rows.items() if row["detected_at"] < now} == {1}
    assert {who for who, row in rows.items() if row["resolved_at"] == now} == {1, 2}
    assert {who for who, row in rows.items() if row["resolution_notes"]} == {1, 2}


def written(connection: Connection) -> dict[int, dict[str, Any]]:
    """The entries of the run, by driver."""
    rows = connection.execute(
        "select * from canon.driver_orphan_quarantine_ledger where run_id = %s", [RUN]
    ).fetchall()
    return {DRIVER.index(row["driver_id"]): row for row in rows}


# --- What people decide ---------------------------------------------------------------------------


@pytest.mark.parametrize("source_table", [CABINET, "module_ct_referrals"])
def test_a_purge_removes_the_driver_link_and_no_other_row_of_that_key(
    connection: Connection, source_table: str
) -> None:
    connection.execute(link(8, source_table, DRIVER[3]))  # type: ignore[arg-type]
    decisions.resolve(connection, decisions.Decision(DRIVER[3], "purged", "A ghost"))
    rows = connection.execute(
        "select source_table from canon.identity_links where source_pk = %s", [DRIVER[3]]
    ).fetchall()
    assert [row["source_table"] for row in rows] == [source_table]


def test_a_row_of_that_key_that_is_no_driver_link_makes_nobody_known(
    connection: Connection,
) -> None:
    connection.execute(link(8, CABINET, "the key of a lead"))  # type: ignore[arg-type]
    decision = decisions.Decision("the key of a lead", "purged", "A ghost")
    with pytest.raises(RefusedError, match="knows no such driver"):
        decisions.look_at(connection, decision)


OTHER, THIRD, AN_UNDO = (
    uuid.UUID(f"00000000-0000-4000-8000-0000000000{end}") for end in ("bb", "cc", "dd")
)
LONG_AGO = datetime(2024, 2, 3, 4, 5, 6, tzinfo=timezone.utc)


def kept(source_pk: str, number: int = -7) -> dict[str, Any]:
    """The evidence of a purge by hand, with the driver link that it has removed."""
    link_row = {
        **{"id": number, "person_key": PERSON[8], "source_table": "drivers"},
        **{"source_pk": source_pk, "snapshot_date": "2025-01-01T00:00:00+00:00"},
        **{"match_rule": "KEPT", "match_score": 1, "confidence_level": "LOW"},
        "linked_at": "2025-01-01T00:00:00+00:00",
    }
    return {"action": "resolve", "driver_link": link_row}


def append(
    connection: Connection, driver: int | str, revision: int, run: uuid.UUID | None, **columns: Any
) -> None:
    """Append a ledger entry."""
    driver_id = driver if isinstance(driver, str) else DRIVER[driver]
    person = {8: 7, 0: 7}.get(driver, driver) if isinstance(driver, int) else 0  # as in WORLD
    row = {
        "driver_id": driver_id,
        "revision": revision,
        "run_id": run,
        "person_key": PERSON[person],
        "detected_reason": "manual_detection",
        "status": "quarantined",
        **columns,
    }
    if isinstance(row.get("evidence_json"), dict):
        row["evidence_json"] = Jsonb(row["evidence_json"])
    connection.execute(
        sql.SQL("insert into canon.driver_orphan_quarantine_ledger ({}) values ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Placeholder, row)),
        ),
        row,
    )


def newest_entry(connection: Connection, driver: int) -> dict[str, Any]:
    row = connection.execute(
        "select *, now() as now from canon.driver_orphan_quarantine_ledger where driver_id = %s"
        " order by revision desc limit 1",
        [DRIVER[driver]],
    ).fetchone()
    assert row
    return row


def links_now(connection: Connection) -> set[tuple[str, str]]:
    rows = connection.execute("select source_table, source_pk from canon.identity_links")
    return {(row["source_table"], row["source_pk"]) for row in rows}


# --- The person of a driver ---


def person_of(connection: Connection, driver: int) -> str | None:
    rows = connection.execute(
        statement("person_of_driver"), {"driver_id": DRIVER[driver]}
    ).fetchall()
    (row,) = rows
    return row["person_key"] and str(row["person_key"])


@pytest.mark.parametrize("persons", [(3, 8), (8, 3)])
def test_a_driver_without_a_link_is_of_the_person_of_its_newest_entry(
    connection: Connection, persons: tuple[int, int]
) -> None:
    for revision, person in enumerate(persons, 1):
        append(connection, 9, revision, None, person_key=PERSON[person])
    for way in ("indexscan", "bitmapscan"):  # the index has the newest one first anyway
        connection.execute(f"set local enable_{way} = off")  # type: ignore[arg-type]
    assert person_of(connection, 9) == PERSON[persons[-1]]


def test_a_driver_is_of_the_person_of_its_link_whatever_its_entries_say(
    connection: Connection,
) -> None:
    append(connection, 3, 1, None, person_key=PERSON[8])
    assert person_of(connection, 3) == PERSON[3]


def test_an_unknown_driver_is_of_nobody(connection: Connection) -> None:
    assert person_of(connection, 9) is None


# --- What can be undone ---


class Undoable(NamedTuple):
    refusal: str | None = None
    before: int | None = None
    was_in_no_state: bool = True
    was_without_link: bool = False
    is_undone: bool = False


NEWER = "it has a newer ledger entry"
NEWER_OF_PERSON = "another driver of its person has a newer ledger entry"
LEFT = "another driver of its person is left as it is"
UNDONE = "it is undone already"
AN_UNDO_ITSELF = "the run is an undo itself"
Entry = tuple[int, int, "uuid.UUID | None", dict[str, Any]]
PURGED = {"status": "purged", "evidence_json": kept(DRIVER[3])}
PUT_BACK = Undoable(before=1, was_in_no_state=False, was_without_link=True)
CHANGED = Undoable(before=1, was_in_no_state=False)

# Entries, the older first (driver, revision, run), and what is said of the drivers of RUN.
# Drivers 8 and 0 are of one person.
HISTORIES: dict[str, tuple[list[Entry], list[tuple[int, int, Undoable]]]] = {
    "a first entry": ([(3, 1, RUN, {})], [(3, 1, Undoable())]),
    "a state before it": ([(3, 1, None, {}), (3, 2, RUN, {})], [(3, 2, CHANGED)]),
    "a state that was withdrawn before it": (
        [(3, 1, None, {"is_withdrawn": True}), (3, 2, RUN, {})],
        [(3, 2, Undoable(before=1))],
    ),
    "drivers of other runs": (
        [(9, 1, OTHER, {}), (2, 1, None, {}), (3, 1, RUN, {})],
        [(3, 1, Undoable())],
    ),
    "a newer entry of no run": (
        [(3, 1, None, {}), (3, 2, RUN, {}), (3, 3, None, {})],
        [(3, 2, Undoable(NEWER, 1, was_in_no_state=False))],
    ),
    "a newer entry of another run, and a driver without": (
        [(3, 1, RUN, {}), (3, 2, OTHER, {}), (9, 1, RUN, {})],
        [(3, 1, Undoable(NEWER)), (9, 1, Undoable())],
    ),
    "a newer entry that was undone": (
        [(3, 1, RUN, {}), (3, 2, OTHER, {}), (3, 3, AN_UNDO, {"undoes_run_id": OTHER})],
        [(3, 1, Undoable())],
    ),
    "a newer entry, whose run was undone for another driver": (
        [(3, 1, RUN, {}), (3, 2, OTHER, {}), (9, 1, AN_UNDO, {"undoes_run_id": OTHER})],
        [(3, 1, Undoable(NEWER))],
    ),
    "a newer entry, and another run was undone": (
        [(3, 1, RUN, {}), (3, 2, OTHER, {}), (3, 3, AN_UNDO, {"undoes_run_id": THIRD})],
        [(3, 1, Undoable(NEWER))],
    ),
    "undone": (
        [(3, 1, RUN, {}), (3, 2, AN_UNDO, {"undoes_run_id": RUN})],
        [(3, 1, Undoable(UNDONE, is_undone=True))],
    ),
    "undone for one of two persons": (
        [(3, 1, RUN, {}), (9, 1, RUN, {}), (9, 2, AN_UNDO, {"undoes_run_id": RUN})],
        [(3, 1, Undoable()), (9, 1, Undoable(UNDONE, is_undone=True))],
    ),
    "undone for one of two drivers of a person": (
        [(8, 1, RUN, {}), (0, 1, RUN, {}), (0, 2, AN_UNDO, {"undoes_run_id": RUN})],
        [(0, 1, Undoable(UNDONE, is_undone=True)), (8, 1, Undoable())],
    ),
    "another run was undone before it": (
        [(3, 1, OTHER, {}), (3, 2, AN_UNDO, {"undoes_run_id": OTHER}), (3, 3, RUN, {})],
        [(3, 3, Undoable(before=2, was_in_no_state=False))],
    ),
    "an undo itself": (
        [(3, 1, OTHER, {}), (3, 2, RUN, {"undoes_run_id": OTHER}), (3, 3, THIRD, {})],
        [(3, 2, Undoable(AN_UNDO_ITSELF, 1, was_in_no_state=False))],
    ),
    "two drivers of a person": (
        [(8, 1, RUN, {}), (0, 1, RUN, {})],
        [(0, 1, Undoable()), (8, 1, Undoable())],
    ),
    "a newer entry of another driver of its person": (
        [(8, 1, RUN, {}), (0, 1, OTHER, {})],
        [(8, 1, Undoable(NEWER_OF_PERSON))],
    ),
    "an older entry of another driver of its person": (
        [(9, 1, RUN, {}), (0, 1, OTHER, {}), (8, 1, RUN, {})],
        [(8, 1, Undoable()), (9, 1, Undoable())],
    ),
    "an older entry of its own, while the run went on": (
        [(9, 1, RUN, {}), (3, 1, OTHER, {}), (3, 2, RUN, {})],
        [(3, 2, CHANGED), (9, 1, Undoable())],
    ),
    "another driver of its person is another's by now": (
        [(8, 1, RUN, {}), (0, 1, RUN, {}), (8, 2, OTHER, {"person_key": PERSON[9]})],
        [(0, 1, Undoable(LEFT)), (8, 1, Undoable(NEWER))],
    ),
    "a purge left": ([(3, 1, None, PURGED), (3, 2, RUN, {})], [(3, 2, PUT_BACK)]),
    "a purge repeated": (
        [(3, 1, None, PURGED), (3, 2, RUN, {"status": "purged"})],
        [(3, 2, CHANGED)],
    ),
    "a purge left that was undone": (
        [(3, 1, None, PURGED | {"is_withdrawn": True}), (3, 2, RUN, {})],
        [(3, 2, Undoable(before=1))],
    ),
    "a purge left that had no link": (
        [(3, 1, None, PURGED | {"evidence_json": {"action": "resolve"}}), (3, 2, RUN, {})],
        [(3, 2, CHANGED)],
    ),
    "a purge of another service left": (
        [(3, 1, None, PURGED | {"evidence_json": {"driver_link": {}}}), (3, 2, RUN, {})],
        [(3, 2, CHANGED)],
    ),
    "a purge without evidence left": (
        [(3, 1, None, PURGED | {"evidence_json": None}), (3, 2, RUN, {})],
        [(3, 2, CHANGED)],
    ),
    "a decision changed that was no purge": (
        [(3, 1, None, PURGED | {"status": "quarantined"}), (3, 2, RUN, {})],
        [(3, 2, CHANGED)],
    ),
}


@pytest.mark.parametrize("what", HISTORIES)
def test_of_a_run_that_is_undone(connection: Connection, what: str) -> None:
    entries, expected = HISTORIES[what]
    for driver, revision, run_id, columns in entries:
        append(connection, driver, revision, run_id, **columns)
    rows = connection.execute(statement("undo_drivers"), {"run_id": RUN}).fetchall()
    found = sorted(
        (
            DRIVER.index(row["driver_id"]),
            row["revision"],
            Undoable(
                row["refusal"],
                row["revision_before"],
                row["was_in_no_state"],
                row["was_without_link"],
                row["is_undone"],
            ),
        )
        for row in rows
    )
    assert found == expected


# --- The undo ---


@pytest.fixture
def undone(connection: Connection) -> Iterator[Callable[..., None]]:
    """The drivers of the run that is undone: what `undo_drivers` says of them."""
    connection.execute(
        sql.SQL("create temporary table undone on commit drop as {}").format(
            statement("undo_drivers")
        ),
        {"run_id": RUN},
    )
    connection.execute(
        "create temporary table removed_links (person_key uuid, links jsonb) on commit drop"
    )

    def say(
        driver: int,
        revision: int = 1,
        before: int | None = None,
        refusal: str | None = None,
        *,
        was_without_link: bool = False,
    ) -> None:
        connection.execute(
            "insert into pg_temp.undone (driver_id, person_key, revision, revision_before,"
            " was_in_no_state, was_without_link, is_undone, refusal)"
            " values (%s, %s, %s, %s, %s, %s, false, %s)",
            [
                *(DRIVER[driver], PERSON[{8: 7, 0: 7}.get(driver, driver)], revision, before),
                *(before is None, was_without_link, refusal),
            ],
        )

    yield say


def link_of_run(person: int, source_pk: str, run: uuid.UUID, rule: str) -> str:
    more = f"""'{rule}', '{{"run_id": "{run}"}}'"""
    return link(person, "module_ct_migrations", source_pk, more)


def test_the_links_of_the_run_are_removed_and_no_others(
    connection: Connection, undone: Callable[..., None]
) -> None:
    undone(3)
    undone(8, refusal=NEWER, was_without_link=True)
    undone(2, was_without_link=True)
    ours = "LEAD_EVENT_RECONSTRUCTION"
    connection.execute(
        link_of_run(3, "of the run", RUN, ours)
        + link_of_run(3, "of another run", OTHER, ours)
        + link_of_run(3, "of another rule", RUN, "PHONE_EXACT")
        + link_of_run(7, "of a person that is left", RUN, ours)
        + link_of_run(1, "of a person that is not asked for", RUN, ours)
        + link_of_run(3, "with a smaller id", RUN, ours)
        + "update canon.identity_links set id = -1 where source_pk = 'with a smaller id';"
        + link(8, "module_ct_migrations", DRIVER[2])  # type: ignore[arg-type]
    )
    before = links_now(connection)
    connection.execute(statement("undo_links"), {"run_id": RUN})
    assert before - links_now(connection) == {
        ("module_ct_migrations", "of the run"),
        ("module_ct_migrations", "with a smaller id"),
        ("drivers", DRIVER[2]),
    }
    kept_rows = connection.execute("select person_key, links from pg_temp.removed_links").fetchall()
    assert sorted(
        (str(row["person_key"]), [one["source_pk"] for one in row["links"]]) for row in kept_rows
    ) == [(PERSON[2], [DRIVER[2]]), (PERSON[3], ["with a smaller id", "of the run"])]


def test_only_the_driver_links_that_the_run_removed_are_put_back(
    connection: Connection, undone: Callable[..., None]
) -> None:
    undone(3, 2)
    append(connection, 3, 1, None, evidence_json=kept("of an older entry", -1))
    append(connection, 3, 2, RUN, evidence_json=kept("of the run", -2))
    append(connection, 3, 3, None, evidence_json=kept("of a newer entry", -3))
    append(connection, 9, 2, RUN, evidence_json=kept("of a driver not asked for", -4))
    undone(8, refusal=NEWER)
    append(connection, 8, 1, RUN, evidence_json=kept("of a driver that is left", -5))
    undone(6)
    of_a_service = kept("of no decision", -6) | {"action": "other"}
    append(connection, 6, 1, RUN, evidence_json=of_a_service)
    undone(5)
    append(connection, 5, 1, RUN, evidence_json={"action": "resolve"})
    before = links_now(connection)
    connection.execute(statement("undo_purges"))
    assert links_now(connection) - before == {("drivers", "of the run")}


def test_a_driver_that_was_linked_again_keeps_that_link(
    connection: Connection, undone: Callable[..., None]
) -> None:
    undone(3)
    append(connection, 3, 1, RUN, evidence_json=kept(DRIVER[3]))
    before = connection.execute("select * from canon.identity_links order by id").fetchall()
    connection.execute(statement("undo_purges"))
    after = connection.execute("select * from canon.identity_links order by id").fetchall()
    assert after == before


def test_an_undo_appends_the_state_before_or_none(
    connection: Connection, undone: Callable[..., None]
) -> None:
    earlier = {
        "status": "purged",
        "detected_at": LONG_AGO,
        "resolved_at": LONG_AGO,
        "detected_reason": "legacy_driver_without_origin",
        "creation_rule": "EARLIER",
        "resolution_notes": "earlier",
        "evidence_json": {"earlier": True},
    }
    undone(3, 2)  # in no state before: its first entry was withdrawn
    append(connection, 3, 1, None, is_withdrawn=True)
    append(connection, 3, 2, RUN, detected_reason="no_lead_no_events", creation_rule="BY THE RUN")
    append(connection, 3, 3, OTHER)
    append(connection, 3, 4, AN_UNDO, undoes_run_id=OTHER)
    undone(2, 2, before=1)
    append(connection, 2, 1, None, **earlier)
    append(connection, 2, 2, RUN)
    undone(8, refusal=NEWER)
    append(connection, 8, 1, RUN)
    append(connection, 9, 1, RUN)  # of nobody that is asked for
    connection.execute(
        "insert into pg_temp.removed_links values (%s, '[3]'), (%s, '[7]')",
        [PERSON[3], PERSON[7]],
    )
    asked = {"run_id": RUN, "undo_run_id": THIRD, "note": "as a test."}
    connection.execute(statement("undo_entries"), asked)
    rows = connection.execute(
        "select * from canon.driver_orphan_quarantine_ledger where run_id = %s order by entry_id",
        [THIRD],
    ).fetchall()
    assert [DRIVER.index(row["driver_id"]) for row in rows] == [2, 3]
    of_2, of_3 = rows
    assert {name: of_2[name] for name in earlier} == earlier
    assert (of_2["revision"], of_2["is_withdrawn"], of_2["removed_links"]) == (3, False, None)
    assert (of_3["revision"], of_3["is_withdrawn"], of_3["removed_links"]) == (5, True, [3])
    assert (of_3["detected_reason"], of_3["creation_rule"]) == ("no_lead_no_events", "BY THE RUN")
    assert of_3["evidence_json"] == {
        "action": "undo",
        "explanation": "Undone: as a test.",
        "run_id": str(THIRD),
    }
    assert [str(row["person_key"]) for row in rows] == [PERSON[2], PERSON[3]]
    assert {row["undoes_run_id"] for row in rows} == {RUN}


# --- A decision by hand ---


def decided(
    connection: Connection, driver: int, status: str, reason: str | None = None
) -> dict[str, Any]:
    """Write the decision; return the entry."""
    asked = {
        **{"driver_id": DRIVER[driver], "status": status, "reason": reason, "run_id": RUN},
        **{"note": "a note", "explanation": "an explanation"},
    }
    connection.execute(statement("resolve"), asked)
    return newest_entry(connection, driver)


def facts_of(entry_row: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "detected_reason", "creation_rule", "status", "resolution_notes")
    facts = {name: entry_row[name] for name in names}
    facts["person"] = PERSON.index(str(entry_row["person_key"]))
    facts["is_resolved_now"] = entry_row["resolved_at"] == entry_row["now"]
    facts["is_detected_now"] = entry_row["detected_at"] == entry_row["now"]
    assert entry_row["resolved_at"] in (None, entry_row["now"])
    assert entry_row["detected_at"] in (LONG_AGO, entry_row["now"])
    return facts


SAID_BY_HAND = {
    "action": "resolve",
    "explanation": "an explanation",
    "note": "a note",
    "run_id": str(RUN),
}
NEW = {
    "revision": 1,
    "detected_reason": "manual_detection",
    "creation_rule": "PHONE_EXACT",
    "status": "quarantined",
    "resolution_notes": None,
    "person": 3,
    "is_resolved_now": False,
    "is_detected_now": True,
}
RESOLVED = {"resolution_notes": "a note", "is_resolved_now": True}
EARLIER = {
    "detected_at": LONG_AGO,
    "detected_reason": "no_lead_no_events",
    "creation_rule": "EARLIER",
}


def test_a_first_purge_by_hand_keeps_the_link_it_removes(connection: Connection) -> None:
    for driver in (3, 8):
        connection.execute(link(8, f"module_of_{driver}", DRIVER[driver]))  # type: ignore[arg-type]
    append(connection, 8, 1, None, **EARLIER)
    before = links_now(connection)
    removed = connection.execute(
        "select to_jsonb(link) as row from canon.identity_links as link"
        " where source_table = 'drivers' and source_pk = %s",
        [DRIVER[3]],
    ).fetchone()
    assert removed
    found = decided(connection, 3, "purged")
    assert facts_of(found) == NEW | RESOLVED | {"status": "purged"}
    assert found["evidence_json"] == SAID_BY_HAND | {"driver_link": removed["row"]}
    assert before - links_now(connection) == {("drivers", DRIVER[3])}


@pytest.mark.parametrize("reason", [None, "no_lead_no_events"])
def test_a_first_quarantine_by_hand_changes_no_link(
    connection: Connection, reason: str | None
) -> None:
    connection.execute(link(8, "module_ct_migrations", DRIVER[3]))  # type: ignore[arg-type]
    before = links_now(connection)
    found = decided(connection, 3, "quarantined", reason)
    assert facts_of(found) == NEW | ({"detected_reason": reason} if reason else {})
    assert found["evidence_json"] == SAID_BY_HAND
    assert links_now(connection) == before


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        ("purged", None, RESOLVED | {"detected_reason": "no_lead_no_events"}),
        ("purged", "manual_detection", RESOLVED | {"detected_reason": "manual_detection"}),
        ("resolved_created_lead", None, RESOLVED | {"detected_reason": "no_lead_no_events"}),
        ("quarantined", None, {"detected_reason": "manual_detection"}),
    ],
)
def test_a_decision_goes_on_from_the_newest_entry(
    connection: Connection, status: str, reason: str | None, expected: dict[str, Any]
) -> None:
    append(connection, 3, 1, None)
    append(connection, 3, 2, None, **EARLIER, person_key=PERSON[8])
    append(connection, 9, 7, None)
    found = decided(connection, 3, status, reason)
    expected = expected | {"revision": 3, "status": status, "is_detected_now": False}
    assert facts_of(found) == NEW | expected


@pytest.mark.parametrize("status", ["purged", "quarantined"])
def test_a_driver_without_a_link_keeps_person_and_rule_of_its_entry(
    connection: Connection, status: str
) -> None:
    append(connection, 9, 1, None, **EARLIER)
    found = decided(connection, 9, status)
    assert (found["revision"], found["status"]) == (2, status)
    assert (str(found["person_key"]), found["creation_rule"]) == (PERSON[9], "EARLIER")
    assert found["evidence_json"] == SAID_BY_HAND


KEPT_BEFORE: dict[str, tuple[str, dict[str, Any] | None, bool]] = {
    "purged by hand": ("quarantined", kept(DRIVER[9]), True),
    "purged by hand, then released": ("resolved_created_lead", kept(DRIVER[9]), True),
    "purged twice": ("purged", kept(DRIVER[9]), False),
    "purged by another service": ("quarantined", kept(DRIVER[9]) | {"action": "other"}, False),
    "purged without a link": ("quarantined", {"action": "resolve"}, False),
    "purged without evidence": ("quarantined", None, False),
}


@pytest.mark.parametrize("what", KEPT_BEFORE)
def test_leaving_a_purge_puts_the_link_back_that_it_kept(connection: Connection, what: str) -> None:
    status, evidence, is_put_back = KEPT_BEFORE[what]
    append(connection, 9, 1, None, **EARLIER, status="purged", evidence_json=evidence)
    append(connection, 0, 1, None, status="purged", evidence_json=kept("of another driver", -8))
    before = links_now(connection)
    found = decided(connection, 9, status)
    assert links_now(connection) - before == ({("drivers", DRIVER[9])} if is_put_back else set())
    assert str(found["person_key"]) == PERSON[8 if is_put_back else 9]
    assert found["creation_rule"] == ("KEPT" if is_put_back else "EARLIER")
    assert found["evidence_json"] == SAID_BY_HAND


def test_leaving_a_purge_of_a_driver_that_was_linked_again_keeps_that_link(
    connection: Connection,
) -> None:
    append(connection, 3, 1, None, status="purged", evidence_json=kept(DRIVER[3]))
    before = connection.execute("select * from canon.identity_links order by id").fetchall()
    assert facts_of(decided(connection, 3, "quarantined"))["person"] == 3
    after = connection.execute("select * from canon.identity_links order by id").fetchall()
    assert after == before


# --- What stands in the way of a decision ---


class Situation(NamedTuple):
    refusal: str | None = None
    is_done: bool | None = None  # none: it is in no state
    status: str | None = None


UNKNOWN = "This database knows no such driver"
RELEASED_AGAIN = "Its person has a lead"
NOTHING_TO_KEEP_OUT = "It has no driver link"
NOTHING_TO_RELEASE = "It is in no quarantine"
NO_LEAD_TO_RELEASE = "Its person has no lead"
QUARANTINED, RELEASED = "quarantined", "resolved_created_lead"

# The newest entry of the driver, if there is one; the decision; and what is said of it. Driver 3 is
# linked to a person without a lead, 1 and 4 to one with a lead, 9 is not linked.
SITUATIONS: dict[str, tuple[int, dict[str, Any] | None, str, str | None, Situation]] = {
    "unknown, quarantined": (9, None, QUARANTINED, None, Situation(UNKNOWN)),
    "unknown, purged": (9, None, "purged", None, Situation(UNKNOWN)),
    "unknown, released": (9, None, RELEASED, None, Situation(UNKNOWN)),
    "linked, quarantined": (3, None, QUARANTINED, None, Situation()),
    "linked, purged": (3, None, "purged", None, Situation(None, False)),
    "linked, released": (3, None, RELEASED, None, Situation(NOTHING_TO_RELEASE)),
    "with a lead, quarantined": (5, None, QUARANTINED, None, Situation(RELEASED_AGAIN)),
    "with a lead, purged": (5, None, "purged", None, Situation(None, False)),
    "with a lead, released": (5, None, RELEASED, None, Situation(NOTHING_TO_RELEASE)),
    "entered, quarantined": (3, {}, QUARANTINED, None, Situation(None, True, QUARANTINED)),
    "entered, quarantined for the same reason": (
        *(3, {}, QUARANTINED, "manual_detection"),
        Situation(None, True, QUARANTINED),
    ),
    "entered, quarantined for another reason": (
        *(3, {}, QUARANTINED, "no_lead_no_events"),
        Situation(None, False, QUARANTINED),
    ),
    "entered, purged": (3, {}, "purged", None, Situation(None, False, QUARANTINED)),
    "entered, purged for the same reason": (
        *(3, {}, "purged", "manual_detection"),
        Situation(None, False, QUARANTINED),
    ),
    "entered, released": (
        *(3, {}, RELEASED, None),
        Situation(NO_LEAD_TO_RELEASE, False, QUARANTINED),
    ),
    "entered with a lead, quarantined": (
        *(5, {}, QUARANTINED, None),
        Situation(RELEASED_AGAIN, True, QUARANTINED),
    ),
    "entered with a lead, released": (
        *(5, {}, RELEASED, None),
        Situation(None, False, QUARANTINED),
    ),
    "released, released": (
        *(5, {"status": RELEASED}, RELEASED, None),
        Situation(None, True, RELEASED),
    ),
    "released, released for another reason": (
        *(5, {"status": RELEASED}, RELEASED, "no_lead_no_events"),
        Situation(None, True, RELEASED),
    ),
    "released, quarantined": (
        *(3, {"status": RELEASED}, QUARANTINED, None),
        Situation(None, False, RELEASED),
    ),
    "purged but linked, purged": (
        *(3, {"status": "purged"}, "purged", None),
        Situation(None, False, "purged"),
    ),
    "purged but linked, quarantined": (
        *(3, {"status": "purged"}, QUARANTINED, None),
        Situation(None, False, "purged"),
    ),
    "purged and not linked, purged": (
        *(9, {"status": "purged"}, "purged", None),
        Situation(None, True, "purged"),
    ),
    "purged and not linked, purged for another reason": (
        *(9, {"status": "purged"}, "purged", "no_lead_no_events"),
        Situation(None, True, "purged"),
    ),
    "not linked, quarantined": (
        *(9, {"evidence_json": {"action": "resolve"}}, QUARANTINED, None),
        Situation(NOTHING_TO_KEEP_OUT, True, QUARANTINED),
    ),
    "not linked and without evidence, quarantined": (
        *(9, {}, QUARANTINED, None),
        Situation(NOTHING_TO_KEEP_OUT, True, QUARANTINED),
    ),
    "not linked by another service, quarantined": (
        *(9, {"evidence_json": {"driver_link": {}}}, QUARANTINED, None),
        Situation(NOTHING_TO_KEEP_OUT, True, QUARANTINED),
    ),
    "not linked since a purge by hand, quarantined": (
        *(9, {"status": "purged", "evidence_json": kept(DRIVER[9])}, QUARANTINED, None),
        Situation(None, False, "purged"),
    ),
    "not linked, released": (
        *(9, {}, RELEASED, None),
        Situation(NO_LEAD_TO_RELEASE, False, QUARANTINED),
    ),
    "not linked, of a person with a lead, quarantined": (
        *(9, {"person_key": PERSON[8]}, QUARANTINED, None),
        Situation(RELEASED_AGAIN, True, QUARANTINED),
    ),
    "not linked, of a person with a lead, released": (
        *(9, {"person_key": PERSON[8]}, RELEASED, None),
        Situation(None, False, QUARANTINED),
    ),
    "linked to another person by now, who has no lead": (
        *(3, {"person_key": PERSON[8]}, RELEASED, None),
        Situation(NO_LEAD_TO_RELEASE, False, QUARANTINED),
    ),
}


@pytest.mark.parametrize("what", SITUATIONS)
def test_a_decision_is_refused_or_done_already(connection: Connection, what: str) -> None:
    driver, columns, status, reason, expected = SITUATIONS[what]
    # Whoever takes a row of that key for a driver link, links the driver to a person with a lead.
    connection.execute(link(8, "module_ct_migrations", DRIVER[driver]))  # type: ignore[arg-type]
    if columns is not None:
        append(connection, driver, 1, None, **columns)
    asked = {"driver_id": DRIVER[driver], "status": status, "reason": reason}
    (row,) = connection.execute(statement("resolve_situation"), asked).fetchall()
    assert (row["current_status"], row["is_done"]) == (expected.status, expected.is_done)
    assert str(row["refusal"]).startswith(str(expected.refusal))


# --- A reviewed plan ---


def planned_now(connection: Connection) -> dict[int, tuple[str | None, str | None]]:
    rows = connection.execute("select driver_id, outcome, error from pg_temp.planned").fetchall()
    assert len({row["driver_id"] for row in rows}) == len(rows)
    return {DRIVER.index(row["driver_id"]): (row["outcome"], row["error"]) for row in rows}


def test_who_is_not_as_reviewed_is_told_from_who_was_not_there(connection: Connection) -> None:
    connection.execute(
        "insert into pg_temp.reviewed select driver_id, fingerprint || case when driver_id = %s"
        " then 'x' else '' end from pg_temp.planned where driver_id <> %s",
        [DRIVER[2], DRIVER[8]],
    )
    connection.execute(statement("compare_with_review"))
    changed = "the situation has changed since the review"
    assert planned_now(connection) == {
        **dict.fromkeys((1, 3, 0), (None, None)),
        2: ("refused", changed),
        8: ("not reviewed", changed),
    }


@pytest.mark.parametrize(
    ("action", "of_the_other", "its_own", "expected"),
    [
        ("relink", "refused", None, "refused"),
        ("relink", "not reviewed", None, "refused"),
        ("relink", "already applied", None, None),
        ("relink", None, None, None),
        ("relink", "refused", "not reviewed", "not reviewed"),
        ("release", "refused", None, None),
        ("quarantine", "refused", None, None),
    ],
)
def test_a_person_is_relinked_as_reviewed_or_not_at_all(
    connection: Connection,
    action: str,
    of_the_other: str | None,
    its_own: str | None,
    expected: str | None,
) -> None:
    connection.execute(
        "update pg_temp.planned set action = %s where driver_id = any(%s)",
        [action, [DRIVER[8], DRIVER[0]]],
    )
    for driver, outcome in ((8, of_the_other), (0, its_own)):
        connection.execute(
            "update pg_temp.planned set outcome = %s where driver_id = %s",
            [outcome, DRIVER[driver]],
        )
    connection.execute(statement("refuse_whole_persons"))
    found = planned_now(connection)
    assert found.pop(8) == (of_the_other, None)
    assert found.pop(0) == (
        expected,
        "another driver of its person is not as reviewed" if expected != its_own else None,
    )
    assert set(found.values()) == {(None, None)}


def test_the_reviewed_that_are_in_no_plan_are_applied_already_or_refused(
    connection: Connection,
) -> None:
    append(connection, 9, 1, None, evidence_json={"fingerprint": "as reviewed"})
    append(connection, 5, 1, None, evidence_json={"fingerprint": "another"}, status="purged")
    append(connection, 7, 1, None, evidence_json={"fingerprint": "as reviewed"})
    connection.cursor().executemany(
        "insert into pg_temp.reviewed values (%s, 'as reviewed')",
        [(DRIVER[driver],) for driver in (9, 5, 6, 2)],
    )
    connection.execute(statement("insert_missing_reviewed"))
    gone = "the fix would not touch this driver any more"
    assert planned_now(connection) == {
        **dict.fromkeys(EVERYONE, (None, None)),
        9: ("already applied", None),
        5: ("refused", gone),
        6: ("refused", gone),
    }
    rows = connection.execute(
        "select driver_id, person_key::text, current_status::text, fingerprint"
        " from pg_temp.planned where outcome is not null order by driver_id"
    ).fetchall()
    assert [tuple(row.values()) for row in rows] == [
        (DRIVER[5], PERSON[5], "purged", "as reviewed"),
        (DRIVER[6], None, None, "as reviewed"),
        (DRIVER[9], PERSON[9], "quarantined", "as reviewed"),
    ]


# --- The plan ---

# The first person has two drivers to be released. Of the last person's, and of person 3, one is to
# be looked at again.
TO_PLAN = link(1, "drivers", DRIVER[9]) + entry(9, 1)
LOOKED_AT_AGAIN = (3, 8)
REPAIR_FAILED = {"detected_reason": "no_lead_has_events_repair_failed"}


@pytest.mark.parametrize(
    ("reprocess", "limit", "expected"),
    [
        # Driver: number of its person, drivers before that person.
        (False, None, {1: (1, 0), 9: (1, 0), 2: (2, 2), 0: (3, 3)}),
        (True, None, {1: (1, 0), 9: (1, 0), 2: (2, 2), 3: (3, 3), 0: (4, 4), 8: (4, 4)}),
        (True, 0, {1: (1, 0), 9: (1, 0)}),
        (False, 1, {1: (1, 0), 9: (1, 0)}),
        (True, 2, {1: (1, 0), 9: (1, 0)}),
        (False, 3, {1: (1, 0), 9: (1, 0), 2: (2, 2)}),
        (True, 5, {1: (1, 0), 9: (1, 0), 2: (2, 2), 3: (3, 3)}),
        (True, 6, {1: (1, 0), 9: (1, 0), 2: (2, 2), 3: (3, 3), 0: (4, 4), 8: (4, 4)}),
    ],
)
def test_a_plan_has_whole_persons_within_the_limit(
    connection: Connection,
    reprocess: bool,
    limit: int | None,
    expected: dict[int, tuple[int, int]],
) -> None:
    connection.execute(TO_PLAN)  # type: ignore[arg-type]
    for driver in LOOKED_AT_AGAIN:
        append(connection, driver, 1, None, **REPAIR_FAILED)
    rows = connection.execute(
        statement("plan"), {"reprocess": reprocess, "limit": limit}
    ).fetchall()
    assert len(rows) == len(expected)
    assert {
        DRIVER.index(row["driver_id"]): (row["person_no"], row["drivers_before"]) for row in rows
    } == expected


# --- Seals, and the audit of them ---

LEDGER = "canon.driver_orphan_quarantine_ledger"
ITS_TRIGGER = "driver_orphan_quarantine_ledger_is_append_only"
UNPROTECTED = f"""
    alter table {LEDGER} disable trigger {ITS_TRIGGER};
    alter table canon.driver_orphan_quarantine_seals
    disable trigger driver_orphan_quarantine_seals_are_append_only;
"""
# What these statements make of it, without the rest of the lines.
FOUND_UNPROTECTED = [
    f"{what}: trigger driver_orphan_quarantine_{trigger}_append_only"
    for what in ("gone", "new")
    for trigger in ("ledger_is", "seals_are")
]


@pytest.fixture
def sealed(connection: Connection) -> Connection:
    """Three seals, the last without entries; the entries stand in the table in disorder.

    Their numbers are far from those of the sequence, which no rollback turns back.
    """
    for way in ("indexscan", "indexonlyscan", "bitmapscan"):  # or the index would put them right
        connection.execute(f"set local enable_{way} = off")  # type: ignore[arg-type]
    for number, driver in ((-5, 2), (2_000_000, 3), (1_000_000, 6)):
        append_as(connection, number, driver, 1)
    seal(connection)
    append_as(connection, 2_000_001, 3, 2)
    seal(connection)
    seal(connection)
    return connection


def seal(connection: Connection) -> seals.Seal:
    return seals.seal(connection, seals.Run("fix", {}), "applied", {"drivers": 1})


def append_as(connection: Connection, number: int, driver: int, revision: int) -> None:
    """Append a ledger entry that has this number."""
    connection.execute(
        f"insert into {LEDGER}"  # type: ignore[arg-type]
        " (entry_id, driver_id, revision, detected_reason, resolution_notes)"
        " overriding system value values (%s, %s, %s, 'manual_detection', %s)",
        [number, DRIVER[driver], revision, f"revision {revision}"],
    )


def digests_by_hand(connection: Connection, entries_of: list[list[int]]) -> list[str]:
    """The digests of all seals, over the entries that each of them should cover."""
    rows = connection.execute(
        sql.SQL("select entry_id, {} as text from {} as entry").format(
            statement("entry_text"), sql.SQL(LEDGER)
        )
    )
    hashes = {row["entry_id"]: sha256(row["text"].encode()).digest() for row in rows}
    found: list[str] = []
    for seal_no, entries in enumerate(entries_of, 1):
        joined = b"".join(hashes[number] for number in sorted(entries))
        (row,) = connection.execute(
            sql.SQL(
                "select {} as text from (select *, %(before)s::text as previous_digest,"
                " %(entries)s::text as entries_digest from canon.driver_orphan_quarantine_seals"
                " where seal_no = %(seal_no)s) as facts"
            ).format(statement("seal_text")),
            {
                "before": found[-1] if found else None,
                "entries": sha256(joined).hexdigest() if entries else None,
                "seal_no": seal_no,
            },
        ).fetchall()
        found.append(sha256(row["text"].encode()).hexdigest())
    return found


def test_a_seal_covers_what_no_seal_before_it_does(sealed: Connection) -> None:
    rows = sealed.execute(
        "select seal_no, entries, last_entry_id, digest from canon.driver_orphan_quarantine_seals"
        " order by seal_no"
    ).fetchall()
    assert [(row["seal_no"], row["entries"], row["last_entry_id"]) for row in rows] == [
        (1, 5, 2_000_000),
        (2, 1, 2_000_001),
        (3, 0, 2_000_001),
    ]
    by_hand = digests_by_hand(sealed, [[-5, 1, 2, 1_000_000, 2_000_000], [2_000_001], []])
    assert [row["digest"] for row in rows] == by_hand


def test_an_empty_ledger_is_sealed_too(connection: Connection) -> None:
    connection.execute(
        f"alter table {LEDGER} disable trigger user; delete from {LEDGER}"  # type: ignore[arg-type]
    )
    seal(connection)
    rows = connection.execute("select * from canon.driver_orphan_quarantine_seals").fetchall()
    assert [(row["seal_no"], row["entries"], row["last_entry_id"]) for row in rows] == [(1, 0, 0)]


def audited(connection: Connection) -> list[tuple[Any, ...]]:
    """Of every seal: the one before, entries then and now, if it is whole, other protection."""
    return [
        (
            *(row["seal_no"], row["previous_seal_no"], row["entries"], row["entries_found"]),
            *(row["is_intact"], in_short(row["protection_changes"])),
        )
        for row in seals.rows_of(connection, "audit_seals", {})
    ]


def in_short(lines: list[str] | None) -> list[str] | None:
    return lines and [line.partition(" on ")[0] for line in lines]


SEALED = [(1, 0, 5, 5, True, None), (2, 1, 1, 1, True, None), (3, 2, 0, 0, True, None)]


def test_an_audit_finds_seals_as_they_were(sealed: Connection) -> None:
    assert audited(sealed) == SEALED


def test_an_audit_finds_the_seal_whose_entries_are_others(sealed: Connection) -> None:
    sealed.execute(f"alter table {LEDGER} disable trigger user")  # type: ignore[arg-type]
    sealed.execute(f"update {LEDGER} set resolution_notes = 'x' where entry_id = 2000001")  # type: ignore[arg-type]
    sealed.execute(f"delete from {LEDGER} where entry_id = 1000000")  # type: ignore[arg-type]
    assert audited(sealed) == [(1, 0, 5, 4, False, None), (2, 1, 1, 1, False, None), SEALED[2]]


def test_an_audit_finds_since_when_the_protection_is_another(sealed: Connection) -> None:
    sealed.execute(UNPROTECTED)  # type: ignore[arg-type]
    seal(sealed)
    seal(sealed)
    changed = (4, 3, 0, 0, True, FOUND_UNPROTECTED)
    assert audited(sealed) == [*SEALED, changed, (5, 4, 0, 0, True, None)]


def now_is(connection: Connection) -> tuple[Any, ...]:
    """Entries, those not sealed, other protection since, drivers that are shown otherwise."""
    (row,) = seals.rows_of(connection, "audit_now", {})
    shown = [
        driver if driver == "x" else DRIVER.index(driver)
        for driver in row["drivers_shown_otherwise"]
    ]
    return row["entries"], row["entries_not_sealed"], in_short(row["protection_changes"]), shown


def test_without_a_seal_every_entry_is_not_sealed(connection: Connection) -> None:
    assert now_is(connection) == (2, 2, [], [])


def test_entries_since_the_last_seal_are_not_sealed(sealed: Connection) -> None:
    assert now_is(sealed) == (6, 0, [], [])
    append_as(sealed, 2_000_002, 8, 1)
    assert now_is(sealed) == (7, 1, [], [])


def test_entries_without_a_run_are_not_those_of_runs(connection: Connection) -> None:
    (before,) = seals.rows_of(connection, "audit_now", {})
    append(connection, 8, 1, None)
    append(connection, 8, 2, uuid.uuid4())
    append(connection, 8, 3, uuid.uuid4())
    (after,) = seals.rows_of(connection, "audit_now", {})
    assert after["entries"] == before["entries"] + 3
    assert after["entries_of_runs"] == before["entries_of_runs"] + 2


def test_protection_is_held_against_the_last_seal(sealed: Connection) -> None:
    sealed.execute(UNPROTECTED)  # type: ignore[arg-type]
    assert now_is(sealed) == (6, 0, FOUND_UNPROTECTED, [])
    seal(sealed)
    assert now_is(sealed) == (6, 0, [], [])


def test_a_driver_without_a_state_is_rightly_not_shown(sealed: Connection) -> None:
    append(sealed, 6, 2, None, is_withdrawn=True)
    append(sealed, 8, 1, None, is_withdrawn=True)
    append(sealed, 8, 2, None)
    assert now_is(sealed)[3] == []


SHOWN_OTHERWISE = {
    "nothing": ("where false", [1, 2, 3, 4, 6]),
    "others": (
        "where entry_id in (1, -5) union all select 'x', null, now(),"
        " (array_agg(detected_reason))[1], null, null, (array_agg(status))[1], null, null"
        f" from {LEDGER}",
        [1, 3, 6, "x"],
    ),
    "an older state": ("where revision = 1", [3]),
}


@pytest.mark.parametrize("what", SHOWN_OTHERWISE)
def test_drivers_whose_newest_entry_is_not_what_the_old_name_shows_are_named(
    sealed: Connection, what: str
) -> None:
    condition, drivers = SHOWN_OTHERWISE[what]
    show(sealed, condition)
    assert now_is(sealed)[3] == drivers


def show(connection: Connection, condition: str) -> None:
    connection.execute(
        "create or replace view canon.driver_orphan_quarantine as"  # type: ignore[arg-type]
        " select driver_id, person_key, detected_at, detected_reason, creation_rule, evidence_json,"
        f" status, resolved_at, resolution_notes from {LEDGER} {condition}"
    )


def test_a_hundred_drivers_are_named_at_most(sealed: Connection) -> None:
    sealed.execute(
        f"insert into {LEDGER} (driver_id, revision, detected_reason)"  # type: ignore[arg-type]
        " select repeat('x', number), 1, 'manual_detection'"
        " from generate_series(1, 101) as numbers (number)"
    )
    show(sealed, "where false")
    (row,) = seals.rows_of(sealed, "audit_now", {})
    assert len(row["drivers_shown_otherwise"]) == 100
