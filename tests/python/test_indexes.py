"""Advice about indexes of CT4's tables: where one is missing and would help, and only there."""

from __future__ import annotations

import pytest
from ct4_orphans import doctor as doctors
from ct4_orphans import guard, indexes
from ct4_orphans.database import Connection, Settings, connect
from ct4_orphans.indexes import DAYS_OF_A_DRIVER, LINKS_OF_A_PERSON
from older import execute


def make_large(settings: Settings) -> None:
    """Let the catalogue say that the tables have 5,000,000 rows each."""
    execute(
        settings,
        "update pg_class set reltuples = 5000000"
        " where oid in ('canon.identity_links'::regclass, 'public.summary_daily'::regclass)",
    )


def advised(connection: Connection) -> list[indexes.Index]:
    return [advice.index for advice in indexes.advice(connection)]


@pytest.mark.parametrize(
    ("definition", "is_enough"),
    [
        ("(driver_id, date_file)", True),
        ("using hash (driver_id)", True),
        ("(date_file, driver_id)", False),
        ("(driver_id) where count_orders_completed > 0", False),
        ("using brin (driver_id)", False),
        ("(upper(driver_id))", False),
    ],
)
def test_an_index_of_somebody_else_counts_if_it_finds_one_driver(
    built_database: Settings, definition: str, is_enough: bool
) -> None:
    execute(built_database, f"create index theirs on public.summary_daily {definition}")
    make_large(built_database)
    with connect(built_database, read_only=True) as connection:
        assert advised(connection) == [
            LINKS_OF_A_PERSON,
            *([] if is_enough else [DAYS_OF_A_DRIVER]),
        ]


def test_an_index_that_was_left_half_made_is_named_and_the_remedy_makes_it_anew(
    built_database: Settings,
) -> None:
    name = f"canon.{LINKS_OF_A_PERSON.name}"
    execute(built_database, LINKS_OF_A_PERSON.create())
    execute(
        built_database,
        f"update pg_index set indisvalid = false where indexrelid = '{name}'::regclass",
    )
    make_large(built_database)
    with connect(built_database, read_only=True) as connection:
        finding, _ = doctors._indexes(connection, doctors.Contract([], {}, ""))
    assert f"{LINKS_OF_A_PERSON.name} is half made" in finding.problem
    for statement in finding.remedy.partition(" say:  ")[2].rstrip(";").split(";"):
        execute(built_database, statement)
    make_large(built_database)
    with connect(built_database, read_only=True) as connection:
        assert advised(connection) == [DAYS_OF_A_DRIVER]


def test_the_index_of_the_guard_is_one_and_its_removal_leaves_the_advised_one(
    built_database: Settings,
) -> None:
    with connect(built_database) as connection:
        guard.install(connection, "warn", with_index=True)
        make_large(built_database)
        assert advised(connection) == [DAYS_OF_A_DRIVER]
        execute(built_database, LINKS_OF_A_PERSON.create())
        guard.remove(connection)
        make_large(built_database)
        assert advised(connection) == [DAYS_OF_A_DRIVER]
        assert guard.state(connection).usable_index == LINKS_OF_A_PERSON.name


def test_a_large_table_that_was_never_analysed_is_large(connection: Connection) -> None:
    connection.execute(
        "insert into public.summary_daily select md5(i::text), '01-01-2025', 1, 1"
        " from generate_series(1, 300000) as i"
    )
    assert advised(connection) == [DAYS_OF_A_DRIVER]
