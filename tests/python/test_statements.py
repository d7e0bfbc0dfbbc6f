"""The fix's guards, statement by statement, on states that the right code never leaves by itself.

`find_changed` looks before a batch is written, `postconditions` before it is committed. Whatever
they miss is written; whatever they see too much of is left undone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import open_connection
from ct4_orphans import decisions, embedded
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings, statement
from ct4_orphans.errors import RefusedError
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


@pytest.mark.parametrize("persons", [(3, 8), (8, 3)])
def test_a_driver_without_a_link_is_of_the_person_of_its_newest_entry(
    connection: Connection, persons: tuple[int, int]
) -> None:
    for revision, person in enumerate(persons, 1):
        added = entry(9, revision).replace(PERSON[9], PERSON[person])
        connection.execute(added)  # type: ignore[arg-type]
    row = connection.execute(statement("person_of_driver"), {"driver_id": DRIVER[9]}).fetchone()
    assert row
    assert str(row["person_key"]) == PERSON[persons[-1]]
