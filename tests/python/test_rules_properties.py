"""The views against a plain reading of the rules, on hundreds of small hostile databases.

Three things are held here: the reading itself, by worlds small enough to work out by hand; the
generated worlds, which must contain every situation the rules speak of; and the views, which must
agree with the reading in every row. ORPHANS_TEST_WORLDS sets how many databases are tried.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import pytest
import reading
from hypothesis import HealthCheck, Phase, given, note, settings
from psycopg import sql
from reading import (
    CABINET_LEADS,
    DRIVERS,
    MIGRATIONS,
    NO_EVENTS,
    REPAIR_FAILED,
    SCOUTING,
    Attribution,
    EligibleRow,
    FunnelRow,
    IndexedDriver,
    LeadEvent,
    LeadRow,
    Link,
    PaymentRow,
    Person,
    PlanRow,
    PublicDriver,
    Quarantined,
    Rule,
    SummaryRow,
    World,
    YangoRow,
)
from worlds import insert_world, worlds

settings.register_profile(
    "rules",
    max_examples=int(os.environ.get("ORPHANS_TEST_WORLDS", "150")),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
RULES = settings.get_profile("rules")


# --- The views agree with the reading -------------------------------------------------------------


def read_view(cursor: psycopg.Cursor[Any], view: str, row_type: Any) -> list[Any]:
    """All rows of one of the drop-in views, by the names of its columns."""
    columns = sql.SQL(", ").join(map(sql.Identifier, row_type._fields))
    cursor.execute(sql.SQL("select {} from {}").format(columns, sql.Identifier("ops", view)))
    return [row_type(*row) for row in cursor.fetchall()]


def read_payments(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return read_view(cursor, "v_payment_calculation", PaymentRow)


def read_funnel(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return read_view(cursor, "v_cabinet_funnel_status", FunnelRow)


def read_eligible(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return read_view(cursor, "v_ct4_eligible_drivers", EligibleRow)


def read_plan(cursor: psycopg.Cursor[Any]) -> list[Any]:
    """All rows of the plan, in the shape of the reading's."""
    columns = PlanRow._fields[:-1]
    cursor.execute(
        sql.SQL("select {}, rivals from ops.v_orphan_fix_plan").format(
            sql.SQL(", ").join(map(sql.Identifier, columns))
        )
    )
    return [plan_row(dict(zip([*columns, "rivals"], row, strict=True))) for row in cursor]


def plan_row(row: dict[str, Any]) -> PlanRow:
    """A row of the view: lead rows in order, rivals only where the reading has a say in them."""
    leads = sorted(LeadRow(*(lead[name] for name in LeadRow._fields)) for lead in row["lead_rows"])
    rivals = row.pop("rivals")
    has_a_say = row["action"] == "release" or (
        row["action"] == "quarantine" and row["detected_reason"] == REPAIR_FAILED
    )
    return PlanRow(**row | {"lead_rows": tuple(leads)}, has_rivals=bool(rivals) if has_a_say else None)


VIEWS: dict[str, tuple[Callable[[psycopg.Cursor[Any]], list[Any]], Callable[[World], list[Any]]]] = {
    "ops.v_orphan_fix_plan": (read_plan, reading.plan),
    "ops.v_payment_calculation": (read_payments, reading.payments),
    "ops.v_cabinet_funnel_status": (read_funnel, reading.funnel),
    "ops.v_ct4_eligible_drivers": (read_eligible, reading.eligible),
}
ONE_ROW_PER_DRIVER = ("ops.v_orphan_fix_plan", "ops.v_cabinet_funnel_status")
ONE_ROW_PER_DRIVER += ("ops.v_ct4_eligible_drivers",)


def differences(view: str, found: list[Any], expected: list[Any]) -> list[str]:
    """One line for each row that only one side has, and for each driver with several rows."""
    in_view, in_reading = Counter(found), Counter(expected)
    lines = [f"{view}: only in the view:    {row}" for row in (in_view - in_reading).elements()]
    lines += [f"{view}: only in the reading: {row}" for row in (in_reading - in_view).elements()]
    if view in ONE_ROW_PER_DRIVER:
        rows = Counter(row.driver_id for row in found)
        lines += [f"{view}: {n} rows of driver {driver}" for driver, n in rows.items() if n > 1]
    return lines


def disagreements(connection: psycopg.Connection[Any], world: World) -> list[str]:
    """Write the world, read all four views, and leave the database as it was."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("set local timezone to 'America/Lima'")
            insert_world(cursor, world)
            return [
                line
                for view, (read, expect) in VIEWS.items()
                for line in differences(view, read(cursor), expect(world))
            ]
    finally:
        connection.rollback()


@RULES
@given(world=worlds())
def test_views_agree_with_the_reading(
    built_connection: psycopg.Connection[Any], world: World
) -> None:
    lines = disagreements(built_connection, world)
    note("\n".join(lines))
    assert not lines, "\n" + "\n".join(lines)


# --- The worlds contain what the rules speak of ---------------------------------------------------

SITUATIONS = """
relink by driver_id_exact
relink by both_exact
relink by license_exact
relink by phone_exact
relink several leads at once
relink several drivers of a person
relink only of the quarantined
relink of a quarantined beside a new one
relink of quarantined
relink of resolved_relinked
relink of resolved_created_lead
quarantine no_lead_no_events
quarantine no_lead_has_events_repair_failed
quarantine of quarantined
quarantine of resolved_relinked
quarantine of resolved_created_lead
release
release with events
release without events
refused ambiguous at level 1
refused ambiguous at level 2
refused lead_already_linked
refused event_of_another_person
purged orphan
purged without link
quarantined without link
quarantined by hand and left alone
the same rule id pays scout and partner
scout payment achieved
scout payment missed
partner payment achieved
partner payment missed
payment of another origin
payment of a scout
payment of an event without person
funnel registered_incomplete
funnel registered_complete
funnel connected_no_trips
funnel reached_m1
funnel reached_m5
funnel reached_m25
funnel cabinet
funnel fleet_migration
funnel another origin
eligible confirmed
eligible enriched
eligible cabinet
eligible fleet_migration
eligible by both origins
not eligible: ambiguous
""".strip().splitlines()


def situations(world: World) -> set[str]:
    """What of SITUATIONS happens in this world."""
    return {
        *plan_situations(world),
        *refusal_situations(world),
        *payment_situations(world),
        *(f"funnel {row.funnel_status}" for row in reading.funnel(world)),
        *(f"funnel {tag_kind(row.origin_tag)}" for row in reading.funnel(world)),
        *eligible_situations(world),
    }


def tag_kind(tag: str) -> str:
    """The tag, or that it is another one."""
    return tag if tag in ("cabinet", "fleet_migration", "unknown") else "another origin"


def plan_situations(world: World) -> Iterator[str]:
    rows = reading.plan(world)
    relinked = [row for row in rows if row.action == "relink"]
    yield from (f"relink by {row.strategy}" for row in relinked)
    yield from (f"{row.action} of {row.current_status}" for row in rows)
    yield from (f"quarantine {row.detected_reason}" for row in rows if row.action == "quarantine")
    for row in rows:
        if row.action == "release":
            yield "release"
            yield "release with events" if row.has_events else "release without events"
    if any(len(row.lead_rows) > 1 for row in relinked):
        yield "relink several leads at once"
    if any(n > 1 for n in Counter(row.person_key for row in relinked).values()):
        yield "relink several drivers of a person"
    for row in relinked:
        if row.requires_reprocess:
            yield "relink only of the quarantined"
        elif row.current_status == "quarantined":
            yield "relink of a quarantined beside a new one"


def refusal_situations(world: World) -> Iterator[str]:
    for voice in reading.voices(world):
        level = f" at level {voice.level}" if voice.refusal == "ambiguous" else ""
        yield f"refused {voice.refusal}{level}"
    planned = {row.driver_id for row in reading.plan(world)}
    for state in world.quarantine:
        link = reading.link_of_driver(world, state.driver_id)
        if link is None:
            yield f"{state.status} without link"
        elif state.status == "purged" and reading.is_orphan(world, link.person_key):
            yield "purged orphan"
        by_hand = state.detected_reason not in reading.MACHINE_REASONS
        if link and by_hand and state.status == "quarantined" and state.driver_id not in planned:
            yield "quarantined by hand and left alone"


def payment_situations(world: World) -> Iterator[str]:
    rows = reading.payments(world)
    keys = Counter((row.person_key, row.origin_tag, row.rule_id) for row in rows)
    if any(n > 1 for n in keys.values()):
        yield "the same rule id pays scout and partner"
    with_person = {event.person_key for event in world.lead_events}
    for row in rows:
        yield f"{row.rule_scope} payment {'achieved' if row.milestone_achieved else 'missed'}"
        yield f"payment of {tag_kind(row.origin_tag)}"
        if row.scout_id is not None:
            yield "payment of a scout"
        if row.person_key not in with_person:
            yield "payment of an event without person"


def eligible_situations(world: World) -> Iterator[str]:
    rows = reading.eligible(world)
    origins: dict[str | None, set[str]] = {}
    for conversion in reading.conversions(world):
        origins.setdefault(conversion.driver_id, set()).add(conversion.origin_tag)
    for row in rows:
        yield f"eligible {row.identity_status}"
        yield f"eligible {row.origin_tag}"
        if {"cabinet", "fleet_migration"} <= origins[row.driver_id]:
            yield "eligible by both origins"
    for driver_id, tags in origins.items():
        link = reading.link_of_driver(world, driver_id) if driver_id else None
        if link and tags & {"cabinet", "fleet_migration"}:
            status = reading.eligible_row(world, link, "cabinet").identity_status
            yield f"not eligible: {status}"


def test_the_worlds_contain_every_situation() -> None:
    seen: Counter[str] = Counter()

    @settings(RULES, max_examples=400, derandomize=True, phases=[Phase.generate])
    @given(world=worlds())
    def look(world: World) -> None:
        seen.update(situations(world))

    look()
    rare = {situation: seen[situation] for situation in SITUATIONS if seen[situation] < 4}
    assert not rare, f"these hardly occur, so nothing is proven about them: {rare}"


# --- The reading itself: worlds worked out by hand ------------------------------------------------

ANA, BETO, CARLA, _, _ = PEOPLE = __import__("worlds").PEOPLE
A, B, C = "a" * 32, "b" * 32, "c" * 32
DAY = date(2025, 3, 10)
NOON = datetime(2025, 3, 1, 12, tzinfo=timezone.utc)
