"""Small hostile databases for the property tests: how to make them, and how to write them down.

The pools are small, so that phones, licences, ids and dates collide all the time. Everything that
ct4-database.md says can occur in production occurs here: NULL and non-object payloads, numeric
ids, malformed and impossible dates, several rows a day, corrections (negative trips and work) of
that day or another, persons with two drivers or none. Most worlds play in January 2025, others at
the end of a decade, of a leap February, or of the calendar.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Json
from reading import (
    DRIVERS,
    INFINITY,
    LEAD_SOURCES,
    MIGRATIONS,
    MINUS_INFINITY,
    NO_EVENTS,
    REPAIR_FAILED,
    AnyDay,
    Attribution,
    FarDay,
    IndexedDriver,
    LeadEvent,
    Link,
    Person,
    PublicDriver,
    Quarantined,
    Rule,
    SummaryRow,
    World,
    YangoRow,
    day_of,
)

PEOPLE = [UUID(f"00000000-0000-4000-8000-00000000000{number}") for number in range(1, 6)]
NUMERIC_DRIVER = "12345678901234567890123456789012"
DRIVER_POOL = ["a" * 32, "b" * 32, "c" * 32, "d" * 32, "e" * 32, NUMERIC_DRIVER]
STRANGER = "f" * 32  # a driver that CT4 never linked
OTHER_SOURCE = "module_ct_referrals"  # not a lead source

# Each driver's own licence and phone, in spellings that mean the same.
LICENCES = [
    ["Q45871231", "q45871231", " Q-4587 1231 ", "ÑQ45871231"],
    ["Q45871232", "q.45871232", "Q4587/1232"],
    ["A1", "a1", "A-1", "a 1ı"],
    ["45871234", "4587-1234"],
    ["PE0000005", "pe 0000005", "peſ0000005"],
    ["B71234567", "b71234567"],
]
NO_LICENCES = [None, "", "-", " ", "Ñ"]
PHONES = [
    ["987654321", "+51 987 654 321", "51987654321", "0051987654321", "987-654-321"],
    ["912345678", "51 912345678", "0051 912 345 678"],
    ["(01) 456-7890", "014567890"],
    ["999888777", "0051999888777"],
    ["51987654", "+51987654"],  # 8 digits: 51 is no country code here
    ["00999888777", "00 999 888 777"],  # 00 without 51 is no prefix
]
NO_PHONES = [None, "", "1234567", "987", "---", "٩٨٧٦٥٤٣٢١"]

TAGS = ["cabinet", "fleet_migration", "referral", "unknown", "", "7"]
LEAD_DAY = date(2025, 1, 15)
# The day around which a world plays. A view may keep a calendar of some decades, and work in whole
# months or years.
ANCHORS = [
    *[LEAD_DAY] * 6,
    *[date(2009, 12, 30), date(2039, 12, 30)] * 4,
    *[date.min, date.max - timedelta(days=1)] * 3,
    *[date(2010, 1, 2), date(2040, 1, 1), date(2024, 2, 27), date(2100, 2, 27)],
]
EVENT_OFFSETS = [-2, -1, 0, 0, 1]
FAR_OFFSETS = [-25, -6, 4, 14, 30]
ODD_EVENT_DATES: list[AnyDay] = [
    *[MINUS_INFINITY] * 4,
    *[date.min, INFINITY] * 2,
    date.max,
    day_of(-4712, 1, 1),
    day_of(5874897, 12, 31),
    date(2009, 12, 31),
    date(2040, 1, 1),
]
# Around the edges of windows of 1, 7, 14 and 30 days.
SUMMARY_OFFSETS = [-20, -3, -2, -1, 0, 0, 0, 1, 1, 2, 5, 6, 7, 8, 12, 13, 14, 15, 28, 29, 30, 31]
EARLIER_OFFSETS = [-28, -20, -15, -8, -4, -3, -2, -1]
TAKEN_BACK_OFFSETS = [-12, -10, -8, -7, -6, -5, 0, 1, 2]
BUSY_OFFSETS = [-8, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 29, 30]
ODD_DATES = [
    "01-01-0001",
    "31-12-9999",
    "31-12-2009",
    "01-01-2010",
    "31-12-2039",
    "01-01-2040",
    "29-02-2000",
    "29-02-2024",
]
BAD_DATES = [
    "31-02-2025",
    "29-02-2025",
    "29-02-1900",
    "31-04-2025",
    "32-01-2025",
    "00-01-2025",
    "16-00-2025",
    "00-00-0000",
    "01-13-2025",
    "01-01-0000",
    "1-2-2025",
    "16-1-2025",
    "16-01-25",
    "16-01-20255",
    "116-01-2025",
    "-6-01-2025",
    "+6-01-2025",
    " 6-01-2025",
    " 16-01-2025",
    "16-01-2025 ",
    "16 - 01 - 2025",
    "16-01-2025\n",
    "\n16-01-2025",
    "16-01-2025\n17-01-2025",
    "16-01-2025\t",
    "16-01-2025\u00a0",
    "16-01-2025 00:00:00",
    "16-01-2025 BC",
    "16-JAN-2025",
    "2025-01-16",
    "16/01/2025",
    "16012025",
    "16\u201101\u20112025",
    "١٦-٠١-٢٠٢٥",
    "１６-０１-２０２５",
    "16-01-٢٠٢٥",
    "infinity",
    "today",
    "abc",
    " ",
    "",
    None,
]
# What a driver's exporter writes: numbers of trips, and work seconds.
TRIPS = [1, 0, 0, None, 2, 4, 5, 20, 24, 25]
WORK = [3600, 0, None, 1]
CORRECTIONS = [-1, -3, -24, -1, -3, -24, -5, -25]
WORK_CORRECTIONS = [-1, -3600, -7200]
HABITS: dict[str, tuple[list[int | None], list[int | None]]] = {
    "usual": (TRIPS, WORK),
    "corrected": ([25, 24, 5, 4, 3, 1, *TRIPS, *CORRECTIONS], [*WORK * 2, *WORK_CORRECTIONS]),
    "seldom": ([0, 0, None, 1, 1, 2, -1], [3600, 1, 3600, 0]),
    "idle": ([0], WORK),
    "unknown": ([None], WORK),
    "without work": (TRIPS, [0, None, -1]),
    "absurd": ([2**31 - 1, -(2**31), 25, None], [2**63 - 1, -(2**63), 1]),
}
EACH_HABIT = ["usual"] * 5 + ["corrected"] * 9 + ["seldom"] * 4
EACH_HABIT += ["idle", "unknown", "without work", "absurd"]
# Indexes of the driver an event is about, and of a driver (the same, often) of the same person.
About = tuple[int, int]

EVENT_COUNTS = [3, 0, 1, 4, 5, 6, 7, 8, 9]
ROW_COUNTS = [2, 0, 1, 3, 4, 5]
BUSY_ROW_COUNTS = [4, 3, 5, 6, 7, 8, 9]
MOMENTS = [
    datetime(2025, 1, 10, 12, tzinfo=timezone.utc),
    datetime(2025, 1, 11, 2, 30, tzinfo=timezone.utc),  # still 10 January in Lima
    datetime(2025, 1, 12, tzinfo=timezone.utc),
]
REASONS = [NO_EVENTS, REPAIR_FAILED, "legacy_driver_without_origin", "manual_detection"]
STATUSES = ["quarantined"] * 2 + ["resolved_relinked", "resolved_created_lead", "purged"]


# --- Small strategies -----------------------------------------------------------------------------


def pick(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of the values; repeated ones are likelier, the first is the simplest."""
    return st.sampled_from(values)


@cache
def one_in(number: int) -> st.SearchStrategy[bool]:
    """True once in so many times."""
    return st.integers(1, number).map(lambda drawn: drawn == number)


@cache
def maybe(number: int, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """None, but once in so many times a value of the strategy."""
    return one_in(number).flatmap(lambda hit: strategy if hit else st.none())


@cache
def licence(owner: int) -> st.SearchStrategy[str | None]:
    """A spelling of the owner's licence; sometimes another owner's, or none at all."""
    return spelling(LICENCES, NO_LICENCES, owner)


@cache
def phone(owner: int) -> st.SearchStrategy[str | None]:
    """A spelling of the owner's phone; sometimes another owner's, or none at all."""
    return spelling(PHONES, NO_PHONES, owner)


def spelling(
    pool: list[list[str]], rubbish: list[str | None], owner: int
) -> st.SearchStrategy[str | None]:
    """Mostly one of the owner's spellings, else anybody's, or rubbish."""
    own = pool[owner] * (60 // len(pool[owner]))
    return pick([*own, *(text for texts in pool for text in texts), *rubbish * 2])


# --- Persons, drivers, links ----------------------------------------------------------------------


@st.composite
def persons(draw: st.DrawFn) -> list[Person]:
    """All the people; few with a phone or licence of their own, sometimes a shared one."""
    return [
        Person(
            person_key,
            draw(maybe(3, phone(index))),
            draw(maybe(3, licence(index))),
        )
        for index, person_key in enumerate(PEOPLE)
    ]


@st.composite
def owned_links(draw: st.DrawFn, busy: bool) -> list[tuple[UUID, str, str]]:
    """Links of most drivers: the first people mostly have two, the last ones none."""
    owners = (PEOPLE[:2] * 4 if busy else PEOPLE[:3] * 3) + PEOPLE[2:] + [None]
    owned = [(draw(pick(owners)), DRIVERS, driver_id) for driver_id in DRIVER_POOL]
    return [(person, table, key) for person, table, key in owned if person is not None]


@st.composite
def lead_rows_linked(draw: st.DrawFn, events: list[LeadEvent]) -> list[tuple[UUID, str, str]]:
    """Links of some events' own rows, of leads without an event, of rows that are no lead."""
    rows = [
        (event.source_table, event.source_pk)
        for event in events
        if draw(one_in(6 if event.person_key else 3))
    ]
    rows += [(table, "90") for table in (*LEAD_SOURCES, OTHER_SOURCE) if draw(one_in(7))]
    owners = [event.person_key for event in events if event.person_key] * 2 + PEOPLE
    return [(draw(pick(owners)), table, key) for table, key in rows if table != DRIVERS]


@st.composite
def numbered(draw: st.DrawFn, owned: list[tuple[UUID, str, str]]) -> list[Link]:
    """The links with ids in random order, so that linked_at and id need not agree."""
    ids = draw(st.permutations(range(1, len(owned) + 1)))
    return [
        Link(
            id=link_id,
            person_key=person_key,
            source_table=table,
            source_pk=key,
            snapshot_date=draw(pick(MOMENTS)),
            linked_at=draw(pick(MOMENTS)),
            match_rule=draw(pick(["PHONE_EXACT", "DRIVERS_INDEX"])),
            confidence_level=draw(pick(["HIGH", "MEDIUM", "LOW"])),
        )
        for link_id, (person_key, table, key) in zip(ids, owned, strict=True)
    ]


@st.composite
def drivers_index(draw: st.DrawFn) -> list[IndexedDriver]:
    """Some drivers as the index knows them."""
    return [
        IndexedDriver(
            driver_id,
            phone_norm=draw(maybe(2, phone(index))),
            license_norm=draw(maybe(2, licence(index))),
        )
        for index, driver_id in enumerate(DRIVER_POOL)
        if draw(pick([True, True, False]))
    ]


@st.composite
def public_drivers(draw: st.DrawFn) -> list[PublicDriver]:
    """Some drivers as the parks' table knows them."""
    return [
        PublicDriver(
            driver_id,
            phone=draw(phone(index)),
            license_number=draw(licence(index)),
            license_normalized_number=draw(maybe(2, licence(index))),
        )
        for index, driver_id in enumerate(DRIVER_POOL)
        if draw(pick([True, True, False]))
    ]


# --- Lead events ----------------------------------------------------------------------------------


@st.composite
def naming(draw: st.DrawFn, about: About) -> dict[str, Any]:
    """A payload that names a driver, at one of the six places, perhaps as a number."""
    driver_id = draw(pick([DRIVER_POOL[about[0]]] * 4 + DRIVER_POOL))
    value = int(driver_id) if driver_id == NUMERIC_DRIVER and draw(st.booleans()) else driver_id
    key = draw(pick(["driver_id", "driverId", "id"]))
    return {"driver": {key: value}} if draw(one_in(3)) else {key: value}


@st.composite
def almost_naming(draw: st.DrawFn, about: About) -> dict[str, Any]:
    """A payload that looks as if it named a driver, and does not."""
    driver_id = DRIVER_POOL[about[0]]
    return draw(
        pick(
            [
                {"match_meta": {"driver_id": driver_id}},
                {"driver": driver_id},
                {"driver": [{"driver_id": driver_id}, driver_id]},
                {"driver": {"driver": {"id": driver_id}}},
                {"driver_id": [driver_id], "driver": None},
                {"driver_id": {"id": driver_id}},
                {"driver_id": driver_id.upper() + " "},
                {"driver_id": STRANGER, "driverId": None, "id": 7},
                {"driver_id": "", "driver": {}},
                {"id": 4711, "driver_name": driver_id},
            ]
        )
    )


@st.composite
def identifying(draw: st.DrawFn, about: About) -> dict[str, Any]:
    """A payload with a licence, a phone or both, mostly those of one driver."""
    keys = draw(
        pick(
            [
                ["driver_license"],
                ["driver_phone"],
                ["park_phone"],
                ["driver_license", "driver_phone"],
                ["driver_license", "driver_phone"],
                ["driver_license", "park_phone"],
                ["driver_license", "park_phone"],
                ["driver_license", "driver_phone", "park_phone"],
                ["driver_phone", "park_phone"],
            ]
        )
    )
    owner, sibling = about
    other = draw(pick([owner, owner, sibling]))
    found = {key: draw(licence(owner) if key == "driver_license" else phone(other)) for key in keys}
    return {key: as_number(value) if draw(one_in(4)) else value for key, value in found.items()}


def as_number(text: str | None) -> int | str | None:
    """The text as a JSON number, if it is one: "ids can be numbers", and so can phones."""
    return int(text) if text and text.isascii() and text.isdigit() and text[0] != "0" else text


@st.composite
def objects(draw: st.DrawFn, about: About) -> dict[str, Any]:
    """A payload that is an object, mostly about one driver."""
    kinds = [[identifying], [identifying], [identifying], [naming], [almost_naming]]
    kinds += [[naming, identifying], [almost_naming, identifying], [naming, naming], []]
    payload: dict[str, Any] = {}
    for kind in draw(pick(kinds)):
        payload |= draw(kind(about))
    if draw(one_in(3)):
        payload["origin_tag"] = draw(pick([*TAGS, 7, None, True, [1], {"tag": "cabinet"}]))
    return payload


@cache
def not_objects() -> st.SearchStrategy[str | None]:
    """Payloads that are no object, though they hold what an object would name."""
    driver_id = DRIVER_POOL[0]
    values = [[], [{"driver_id": driver_id}], ["origin_tag"], driver_id, 7, int(NUMERIC_DRIVER)]
    return pick([None, "null", "true", '{"driver_id": 1.50}', *map(json.dumps, values)])


@cache
def payloads(about: About) -> st.SearchStrategy[str | None]:
    """A payload as JSON text, or SQL's NULL."""
    usual = objects(about).map(json.dumps)
    return one_in(7).flatmap(lambda odd: not_objects() if odd else usual)


@st.composite
def lead_event(
    draw: st.DrawFn, number: int, owners: dict[str, UUID], dates: list[AnyDay], busy: bool
) -> LeadEvent:
    """An event, also of a source that is no lead source, even of a driver's own row."""
    source = draw(pick([*LEAD_SOURCES, MIGRATIONS] * 5 + [OTHER_SOURCE] * 4 + [DRIVERS]))
    driver = draw(st.integers(0, len(DRIVER_POOL) - 1))
    person_key = owners.get(DRIVER_POOL[driver])
    others = [index for index, key in enumerate(DRIVER_POOL) if owners.get(key) == person_key]
    return LeadEvent(
        id=number,
        source_table=source,
        source_pk=draw(pick(DRIVER_POOL if source == DRIVERS else "123456789")),
        event_date=draw(pick(dates)),
        person_key=draw(pick([None] * (5 if busy else 11) + [person_key] * 8 + PEOPLE)),
        scout_id=draw(pick([1, 2, 3, None])),
        payload=draw(payloads((driver, draw(pick(others))))),
    )


@st.composite
def lead_events(
    draw: st.DrawFn, owners: dict[str, UUID], anchor: date, busy: bool
) -> list[LeadEvent]:
    """A few events of different rows; in some worlds also of days that are absurd."""
    dates: list[AnyDay] = [shifted(anchor, days) for days in EVENT_OFFSETS * 2 + FAR_OFFSETS]
    dates += draw(pick([[], [], ODD_EVENT_DATES]))
    numbers = range(1, draw(pick(EVENT_COUNTS[3:] if busy else EVENT_COUNTS)) + 1)
    events = [draw(lead_event(number, owners, dates, busy)) for number in numbers]
    return unique(events, lambda event: (event.source_table, event.source_pk))


def shifted(day: date, days: int) -> date:
    """So many days later, but no further than Python's dates go."""
    number = day.toordinal() + days
    return date.fromordinal(min(max(number, 1), date.max.toordinal()))


def unique(rows: Iterable[Any], key: Any) -> list[Any]:
    """The first row of each key."""
    found: dict[Any, Any] = {}
    for row in rows:
        found.setdefault(key(row), row)
    return list(found.values())


# --- Money, days, quarantine ----------------------------------------------------------------------


@st.composite
def rules(draw: st.DrawFn, anchor: date, busy: bool, newer: bool) -> list[Rule]:
    """Rules with ids from 1, which so occur for scouts and for partners."""
    close = [shifted(anchor, days) for days in EVENT_OFFSETS]
    count = draw(pick([4, 5, 6, 7, 8] if busy else [2, 1, 3, 4, 5]))
    return [
        Rule(
            id=number,
            origin_tag=draw(pick(TAGS[:3] * 3 + TAGS[:2] * (9 if busy else 2) + TAGS)),
            window_days=draw(pick([7, 14, 30, 1] * 5 + [60, 400, 1_000_000])),
            milestone_trips=draw(pick([1, 5, 25, 2])),
            amount=Decimal(draw(pick(["100.00", "0.50", "25.00"]))),
            currency=draw(pick(["PEN", "USD"])),
            valid_from=draw(pick([date.min] * 3 + [MINUS_INFINITY] * 12 + close)),
            valid_to=draw(pick([None] * 13 + [INFINITY, date.max] + close)),
            is_active=draw(pick([True] * 7 + [False])),
            milestone_type=draw(pick(["trips", "connection"])) if newer else "trips",
        )
        for number in range(1, count + 1)
    ]


@st.composite
def yango_rows(draw: st.DrawFn) -> YangoRow:
    """A row of the Yango ledger; ties on the snapshot are frequent."""
    return YangoRow(
        driver_id=draw(pick(DRIVER_POOL[:3] * 5 + DRIVER_POOL + [STRANGER, None])),
        identity_status=draw(
            pick(["confirmed", "enriched"] * 3 + ["ambiguous", "rejected", "", None])
        ),
        match_rule=draw(pick(["Y1", "y1", "", None])),
        match_confidence=draw(pick(["high", "low", None])),
        latest_snapshot_at=draw(pick([*MOMENTS[:2], None])),
    )


@st.composite
def rows_of_driver(
    draw: st.DrawFn, driver_id: str | None, anchor: date, count: int, busy: bool
) -> list[SummaryRow]:
    """A driver's days, a row for each park, or what an exporter made of them."""
    habit = draw(pick(EACH_HABIT))
    trips, work = HABITS[habit]
    offsets = BUSY_OFFSETS if busy else SUMMARY_OFFSETS
    offsets = offsets + EARLIER_OFFSETS if habit == "corrected" else offsets
    rows = draw(taken_back(driver_id, anchor)) if habit == "corrected" else []
    only_bad = draw(one_in(15))
    for _ in range(count):
        day = written(shifted(anchor, draw(pick(offsets))))
        kinds = [BAD_DATES] if only_bad else [[day]] * 12 + [ODD_DATES, BAD_DATES]
        kinds += [[row.date_file for row in rows]] * (6 if rows and not only_bad else 0)
        date_file = draw(pick(draw(pick(kinds))))
        rows.append(SummaryRow(driver_id, date_file, draw(pick(trips)), draw(pick(work))))
    return rows


@st.composite
def taken_back(draw: st.DrawFn, driver_id: str | None, anchor: date) -> list[SummaryRow]:
    """Trips that an exporter gives on one day and takes back on another."""
    pairs = [
        (draw(pick(TAKEN_BACK_OFFSETS)), draw(st.integers(0, 4)), draw(pick([25, 24, 5, 1])))
        for _ in range(draw(pick([1, 0, 1, 2])))
    ]
    return [
        SummaryRow(driver_id, written(shifted(anchor, offset)), trips, draw(pick(WORK)))
        for first, later, number in pairs
        for offset, trips in ((first, number), (first + later, -number))
    ]


def written(day: date) -> str:
    """'DD-MM-YYYY' (strftime writes year 1 as it likes)."""
    return f"{day.day:02}-{day.month:02}-{day.year:04}"


@st.composite
def summary_daily(draw: st.DrawFn, anchor: date, busy: bool) -> list[SummaryRow]:
    """Some days of most drivers, of a stranger, and of nobody."""
    numbers = BUSY_ROW_COUNTS if busy else ROW_COUNTS
    counts = {driver_id: draw(pick(numbers)) for driver_id in DRIVER_POOL}
    counts[None] = draw(pick(ROW_COUNTS))
    counts[STRANGER] = draw(pick([0, 0, 1, 3]))
    rows = [
        row
        for driver_id, count in counts.items()
        for row in draw(rows_of_driver(driver_id, anchor, count, busy))
    ]
    return draw(st.permutations(rows))


@st.composite
def quarantine_states(draw: st.DrawFn, links: list[Link], busy: bool) -> list[Quarantined]:
    """Some drivers' states, of unlinked ones too; the person on file may be another by now."""
    owners = {link.source_pk: link.person_key for link in links if link.source_table == DRIVERS}
    once_in = draw(pick([4, 4, 1] if busy else [2, 2, 1]))
    return [
        Quarantined(
            driver_id=driver_id,
            status=draw(pick(STATUSES)),
            detected_reason=draw(pick(REASONS)),
            revision=draw(st.integers(1, 3)),
            person_key=draw(pick([owners.get(driver_id), owners.get(driver_id), None, PEOPLE[4]])),
        )
        for driver_id in [*DRIVER_POOL, STRANGER]
        if draw(one_in(once_in))
    ]


@st.composite
def attributions(draw: st.DrawFn) -> list[Attribution]:
    """What the lead ledger says of some people."""
    sources = ["referral", "referral", "cabinet", "fleet_migration", "", None]
    return [Attribution(person, draw(pick(sources))) for person in PEOPLE if draw(one_in(2))]


@st.composite
def worlds(draw: st.DrawFn, newer_rules: bool = False) -> World:
    """A whole small database; newer_rules for a deployment with milestone_type.

    In a busy one people work and are paid; in the others more of them are in quarantine.
    """
    anchor, busy = draw(pick(ANCHORS)), draw(st.booleans())
    owned = draw(owned_links(busy))
    owners = {driver_id: person_key for person_key, _, driver_id in owned}
    events = draw(lead_events(owners, anchor, busy))
    links = draw(numbered(owned + draw(lead_rows_linked(events))))
    return World(
        persons=draw(persons()),
        links=links,
        drivers_index=draw(drivers_index()),
        drivers=draw(public_drivers()),
        lead_events=events,
        lead_ledger=draw(attributions()),
        scout_rules=draw(rules(anchor, busy, newer=newer_rules)),
        partner_rules=draw(rules(anchor, busy, newer=False)),
        yango=draw(st.lists(yango_rows(), max_size=8)),
        summary_daily=draw(summary_daily(anchor, busy)),
        quarantine=draw(quarantine_states(links, busy)),
    )


# --- Writing a world down -------------------------------------------------------------------------


def insert_world(cursor: psycopg.Cursor[Any], world: World) -> None:
    """Write a world into an empty CT4 database that has the quarantine ledger."""
    insert_persons(cursor, world)
    insert_drivers(cursor, world)
    insert_events(cursor, world)
    insert_rules(cursor, "scout_payment_rules", world.scout_rules)
    insert_rules(cursor, "partner_payment_rules", world.partner_rules)
    insert_activity(cursor, world)
    insert_quarantine(cursor, world.quarantine)


def insert(
    cursor: psycopg.Cursor[Any], table: str, columns: str, rows: Iterable[tuple[Any, ...]]
) -> None:
    """Insert rows; table and columns are names of ours, the values are bound."""
    names = columns.split()
    statement = sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier(*table.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join([sql.Placeholder()] * len(names)),
    )
    cursor.executemany(statement, list(rows))


def insert_persons(cursor: psycopg.Cursor[Any], world: World) -> None:
    """The registry, its links, and what the lead ledger says."""
    insert(
        cursor,
        "canon.identity_registry",
        "person_key primary_phone primary_license",
        ((row.person_key, row.primary_phone, row.primary_license) for row in world.persons),
    )
    insert(
        cursor,
        "canon.identity_links",
        "id person_key source_table source_pk snapshot_date match_rule match_score "
        "confidence_level linked_at",
        (
            (
                row.id,
                row.person_key,
                row.source_table,
                row.source_pk,
                row.snapshot_date,
                row.match_rule,
                90,
                row.confidence_level,
                row.linked_at,
            )
            for row in world.links
        ),
    )
    insert(
        cursor,
        "observational.lead_ledger",
        "person_key attributed_source",
        ((row.person_key, row.attributed_source) for row in world.lead_ledger),
    )


def insert_drivers(cursor: psycopg.Cursor[Any], world: World) -> None:
    """The drivers in CT4's index and in the parks' own table."""
    insert(
        cursor,
        "canon.drivers_index",
        "driver_id phone_norm license_norm snapshot_date",
        (
            (row.driver_id, row.phone_norm, row.license_norm, LEAD_DAY)
            for row in world.drivers_index
        ),
    )
    insert(
        cursor,
        "public.drivers",
        "driver_id phone license_number license_normalized_number",
        (
            (row.driver_id, row.phone, row.license_number, row.license_normalized_number)
            for row in world.drivers
        ),
    )


def insert_events(cursor: psycopg.Cursor[Any], world: World) -> None:
    """The lead events, not in their order; a payload that is None is SQL's NULL, not JSON's."""
    insert(
        cursor,
        "observational.lead_events",
        "id source_table source_pk event_date person_key scout_id payload_json",
        (
            (
                row.id,
                row.source_table,
                row.source_pk,
                storable(row.event_date),
                row.person_key,
                row.scout_id,
                None if row.payload is None else Json(row.payload, dumps=str),
            )
            for row in world.lead_events[::-2] + world.lead_events[-2::-2]
        ),
    )


def insert_rules(cursor: psycopg.Cursor[Any], table: str, rows: list[Rule]) -> None:
    """Payment rules; a milestone_type other than the usual needs the newer column."""
    columns = (
        "id origin_tag window_days milestone_trips amount currency valid_from valid_to is_active"
    )
    if any(row.milestone_type != "trips" for row in rows):
        cursor.execute(
            sql.SQL("alter table {} add column if not exists milestone_type text").format(
                sql.Identifier("ops", table)
            )
        )
        columns += " milestone_type"
    names = columns.split()
    values = (tuple(storable(getattr(row, name)) for name in names) for row in rows)
    insert(cursor, f"ops.{table}", columns, values)


def storable(value: Any) -> Any:
    """The value as psycopg can bind it."""
    return value.isoformat() if isinstance(value, FarDay) else value


def insert_activity(cursor: psycopg.Cursor[Any], world: World) -> None:
    """The Yango ledger and the daily summaries."""
    insert(
        cursor,
        "ops.yango_payments_ledger",
        "driver_id identity_status match_rule match_confidence latest_snapshot_at",
        (
            (
                row.driver_id,
                row.identity_status,
                row.match_rule,
                row.match_confidence,
                row.latest_snapshot_at,
            )
            for row in world.yango
        ),
    )
    insert(
        cursor,
        "public.summary_daily",
        "driver_id date_file count_orders_completed sum_work_time_seconds",
        (
            (row.driver_id, row.date_file, row.trips, row.work_seconds)
            for row in world.summary_daily
        ),
    )


def insert_quarantine(cursor: psycopg.Cursor[Any], states: list[Quarantined]) -> None:
    """The states as newest entries; the older ones say something else, to mislead whoever looks."""
    insert(
        cursor,
        "canon.driver_orphan_quarantine_ledger",
        "driver_id revision person_key detected_reason status",
        (
            (state.driver_id, revision, state.person_key, *entry(state, revision))
            for state in states
            for revision in range(1, state.revision + 1)
        ),
    )


def entry(state: Quarantined, revision: int) -> tuple[str, str]:
    """Reason and status of one revision of a driver."""
    if revision == state.revision:
        return state.detected_reason, state.status
    excluded = state.status in ("quarantined", "purged")
    return REASONS[-revision], "resolved_relinked" if excluded else "purged"
