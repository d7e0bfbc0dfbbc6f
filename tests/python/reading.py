"""A plain, row-by-row reading of the rules: what the views should say, worked out in Python.

It shares no code with the SQL and is written from the documents alone: ct4-database.md ("The
rules", "What the two source views mean", "The four views") and issue 2, item 5 ("The plan as a
view"). It is slow on purpose: loops over lists, one question per function.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import total_ordering
from math import inf, isinf
from typing import Any, NamedTuple
from uuid import UUID

CABINET_LEADS = "module_ct_cabinet_leads"
SCOUTING = "module_ct_scouting_daily"
MIGRATIONS = "module_ct_migrations"
LEAD_SOURCES = (CABINET_LEADS, SCOUTING, MIGRATIONS)
DRIVERS = "drivers"

NO_EVENTS = "no_lead_no_events"
REPAIR_FAILED = "no_lead_has_events_repair_failed"
MACHINE_REASONS = (NO_EVENTS, REPAIR_FAILED)

# "both_exact, then license_exact, then phone_exact", after the one strategy of level 1.
STRATEGIES = ("driver_id_exact", "both_exact", "license_exact", "phone_exact")


# --- Days -----------------------------------------------------------------------------------------

DAYS_OF_400_YEARS = 146097  # after which the calendar begins anew


@total_ordering
@dataclass(frozen=True)
class FarDay:
    """A day that PostgreSQL's date holds and Python's does not: before year 1, after year 9999.

    The number is what date.toordinal() would be; infinite for 'infinity' and '-infinity'.
    """

    number: float

    def toordinal(self) -> float:
        return self.number

    def __lt__(self, other: date | FarDay) -> bool:
        return self.number < other.toordinal()

    def isoformat(self) -> str:
        """As PostgreSQL writes it."""
        if isinf(self.number):
            return "infinity" if self.number > 0 else "-infinity"
        turns, rest = divmod(int(self.number) - 1, DAYS_OF_400_YEARS)
        near = date.fromordinal(rest + 1)
        year = near.year + 400 * turns
        text = f"{year if year > 0 else 1 - year:04}-{near.month:02}-{near.day:02}"
        return text if year > 0 else f"{text} BC"


AnyDay = date | FarDay
INFINITY, MINUS_INFINITY = FarDay(inf), FarDay(-inf)


def day_number(number: float) -> AnyDay:
    """The day of this ordinal number."""
    inside = 1 <= number <= date.max.toordinal()
    return date.fromordinal(int(number)) if inside else FarDay(number)


def day_of(year: int, month: int, day: int) -> AnyDay:
    """A day of any year; year 0 is 1 BC."""
    turns = (year - 1) // 400
    near = date(year - 400 * turns, month, day)
    return day_number(near.toordinal() + turns * DAYS_OF_400_YEARS)


def plus(day: AnyDay, days: int) -> AnyDay:
    """So many days later; infinity stays where it is."""
    return day_number(day.toordinal() + days)


# --- The tables, as far as the rules read them ----------------------------------------------------


@dataclass(frozen=True)
class Person:
    """A row of canon.identity_registry."""

    person_key: UUID
    primary_phone: str | None = None
    primary_license: str | None = None


@dataclass(frozen=True)
class Link:
    """A row of canon.identity_links: of a driver, of a lead, or of something else."""

    id: int
    person_key: UUID
    source_table: str
    source_pk: str
    snapshot_date: datetime
    linked_at: datetime
    match_rule: str = "RULE"
    confidence_level: str = "HIGH"


@dataclass(frozen=True)
class IndexedDriver:
    """A row of canon.drivers_index."""

    driver_id: str
    phone_norm: str | None = None
    license_norm: str | None = None


@dataclass(frozen=True)
class PublicDriver:
    """A row of public.drivers."""

    driver_id: str
    phone: str | None = None
    license_number: str | None = None
    license_normalized_number: str | None = None


@dataclass(frozen=True)
class LeadEvent:
    """A row of observational.lead_events; payload is the JSON text, None is SQL's NULL."""

    id: int
    source_table: str
    source_pk: str
    event_date: AnyDay
    person_key: UUID | None = None
    scout_id: int | None = None
    payload: str | None = None


@dataclass(frozen=True)
class Attribution:
    """A row of observational.lead_ledger."""

    person_key: UUID
    attributed_source: str | None = None


@dataclass(frozen=True)
class Rule:
    """A row of ops.scout_payment_rules or ops.partner_payment_rules."""

    id: int
    origin_tag: str
    window_days: int
    milestone_trips: int
    amount: Decimal
    valid_from: AnyDay
    valid_to: AnyDay | None = None
    is_active: bool | None = True
    currency: str = "PEN"
    milestone_type: str = "trips"


@dataclass(frozen=True)
class YangoRow:
    """A row of ops.v_yango_payments_ledger_latest_enriched."""

    driver_id: str | None
    identity_status: str | None = None
    match_rule: str | None = None
    match_confidence: str | None = None
    latest_snapshot_at: datetime | None = None


@dataclass(frozen=True)
class SummaryRow:
    """A row of public.summary_daily."""

    driver_id: str | None
    date_file: str | None
    trips: int | None = None
    work_seconds: int | None = None


@dataclass(frozen=True)
class Quarantined:
    """The newest entry of a driver in the quarantine ledger: its state."""

    driver_id: str
    status: str
    detected_reason: str
    revision: int = 1
    person_key: UUID | None = None


@dataclass
class World:
    """A whole database, as far as the rules read it."""

    persons: list[Person] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    drivers_index: list[IndexedDriver] = field(default_factory=list)
    drivers: list[PublicDriver] = field(default_factory=list)
    lead_events: list[LeadEvent] = field(default_factory=list)
    lead_ledger: list[Attribution] = field(default_factory=list)
    scout_rules: list[Rule] = field(default_factory=list)
    partner_rules: list[Rule] = field(default_factory=list)
    yango: list[YangoRow] = field(default_factory=list)
    summary_daily: list[SummaryRow] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)


# --- The rows of the views ------------------------------------------------------------------------


class LeadRow(NamedTuple):
    """A lead row that a relink would link, and the event that says so."""

    event_id: int
    source_table: str
    source_pk: str
    evidence_level: int
    strategy: str


class PlanRow(NamedTuple):
    """A row of ops.v_orphan_fix_plan: "one row per driver that a fix would touch"."""

    driver_id: str
    person_key: UUID
    action: str
    status: str
    detected_reason: str
    requires_reprocess: bool
    current_status: str | None
    next_revision: int
    has_events: bool
    evidence_level: int | None
    strategy: str | None
    lead_rows: tuple[LeadRow, ...]
    has_rivals: bool | None
    """Whether rivals must be named (True), must not be (False), or is left open (None)."""


class Rival(NamedTuple):
    """A refused event as a reviewer of the plan sees it."""

    event_id: int
    source_table: str
    source_pk: str
    event_date: str
    evidence_level: int
    matched_by: tuple[str, ...]
    refusal: str
    persons: tuple[str, ...]
    lead_row_linked_to: str | None
    event_of_person: str | None


class EvidenceRow(NamedTuple):
    """What a row of ops.v_orphan_fix_plan shows a reviewer, every list in its order."""

    driver_id: str
    lead_rows: tuple[int, ...]
    rivals: tuple[Rival, ...]
    weak_events: tuple[int, ...]
    explanation: str
    license_masked: str | None
    phone_masked: str | None


class PaymentRow(NamedTuple):
    """A row of ops.v_payment_calculation."""

    person_key: UUID
    origin_tag: str
    scout_id: int | None
    driver_id: str
    lead_date: AnyDay
    rule_id: int
    rule_scope: str
    milestone_trips: int
    window_days: int
    currency: str
    amount: Decimal
    rule_valid_from: AnyDay
    rule_valid_to: AnyDay | None
    milestone_achieved: bool
    achieved_date: date | None
    achieved_trips_in_window: int
    is_payable: bool
    payable_date: AnyDay | None
    payment_scheme: str


class FunnelRow(NamedTuple):
    """A row of ops.v_cabinet_funnel_status."""

    driver_id: str
    person_key: UUID | None
    origin_tag: str
    funnel_status: str
    connected_flag: bool
    connected_date: date | None
    trips_total: int
    highest_milestone: int | None
    m1_date: date | None
    m5_date: date | None
    m25_date: date | None


class EligibleRow(NamedTuple):
    """A row of ops.v_ct4_eligible_drivers."""

    driver_id: str
    person_key: UUID
    origin_tag: str
    identity_status: str | None
    match_rule: str | None
    match_confidence: str | None
    first_seen_at: date
    latest_snapshot_at: datetime


# --- Normalisation --------------------------------------------------------------------------------


def normalise_licence(value: str | None) -> str | None:
    """ "Upper case, then letters and digits only"; ASCII only. An empty licence is none."""
    ascii_only = (character for character in value or "" if character.isascii())
    return "".join(character.upper() for character in ascii_only if character.isalnum()) or None


def normalise_phone(value: str | None) -> str | None:
    """ "Digits only"; mobiles "by their last 9 digits"; "fewer than 8 digits is no phone".

    Nor is a text of more than 100 characters.
    """
    if len(value or "") > 100:
        return None
    digits = "".join(character for character in value or "" if character in "0123456789")
    for country_code in ("0051", "51", ""):
        rest = digits[len(country_code) :]
        if digits.startswith(country_code) and len(rest) == 9 and rest[0] == "9":
            return rest
    return digits if len(digits) >= 8 else None


def parse_day(date_file: str | None) -> date | None:
    """Read 'DD-MM-YYYY'; "hand-exported: malformed and impossible dates occur" are None."""
    if date_file is None or not re.fullmatch(r"[0-9]{2}-[0-9]{2}-[0-9]{4}", date_file):
        return None
    day, month, year = (int(part) for part in date_file.split("-"))
    try:
        return date(year, month, day)
    except ValueError:
        return None


# --- Payloads -------------------------------------------------------------------------------------


def payload_object(event: LeadEvent) -> dict[str, Any] | None:
    """The payload if it is an object: it "can be NULL, an array, a string or a number"."""
    if event.payload is None:
        return None
    payload = json.loads(event.payload, parse_float=Decimal)
    return payload if isinstance(payload, dict) else None


def text_at(value: Any, key: str) -> str | None:
    """PostgreSQL's `value ->> key`: the text at a key of an object; "ids can be numbers"."""
    found = value.get(key) if isinstance(value, dict) else None
    return None if found is None else json_text(found)


def json_text(value: Any) -> str:
    """A JSON value as PostgreSQL's jsonb writes it, strings without their quotes."""
    return value if isinstance(value, str) else _jsonb(value)


def _jsonb(value: Any) -> str:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{_jsonb(key)}: {_jsonb(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_jsonb(item) for item in value) + "]"
    if isinstance(value, Decimal):
        return format(value, "f")
    return json.dumps(value, ensure_ascii=False)


def named_drivers(payload: dict[str, Any]) -> set[str]:
    """ "Directly at driver_id, driverId, or inside a nested driver object"; or a bare id.

    "A bare top-level id … names a driver only if it equals a known driver_id": whoever compares
    these texts with the ids of linked drivers has honoured that. match_meta is no naming.
    """
    places = (payload, payload.get("driver"))
    texts = (text_at(place, key) for place in places for key in ("driver_id", "driverId", "id"))
    return {text for text in texts if text is not None}


def event_licence(payload: dict[str, Any]) -> str | None:
    """ "Its licence (driver_license)"."""
    return normalise_licence(text_at(payload, "driver_license"))


def event_phones(payload: dict[str, Any]) -> set[str]:
    """ "Or phone (driver_phone, park_phone)"."""
    phones = (normalise_phone(text_at(payload, key)) for key in ("driver_phone", "park_phone"))
    return {phone for phone in phones if phone is not None}


# --- Drivers and persons --------------------------------------------------------------------------


def driver_links(world: World) -> list[Link]:
    """ "A driver is source_table = 'drivers', source_pk = driver_id"."""
    return [link for link in world.links if link.source_table == DRIVERS]


def link_of_driver(world: World, driver_id: str) -> Link | None:
    """The driver's link; (source_table, source_pk) is unique, so there is one at most."""
    return next((link for link in driver_links(world) if link.source_pk == driver_id), None)


def link_of_event(world: World, event: LeadEvent) -> Link | None:
    """The link of the event's own row (source_table, source_pk)."""
    row = (event.source_table, event.source_pk)
    return next((link for link in world.links if (link.source_table, link.source_pk) == row), None)


def lead_links(world: World, person_key: UUID) -> list[Link]:
    """ "A lead is a row whose source_table is one of" the lead sources."""
    return [
        link
        for link in world.links
        if link.person_key == person_key and link.source_table in LEAD_SOURCES
    ]


def is_orphan(world: World, person_key: UUID) -> bool:
    """ "Orphan = a driver link whose person has no link to any lead source"."""
    return not lead_links(world, person_key)


def state_of(world: World, driver_id: str) -> Quarantined | None:
    """The driver's current entry in the quarantine."""
    return next((state for state in world.quarantine if state.driver_id == driver_id), None)


def status_of(world: World, driver_id: str) -> str | None:
    """The status of the driver's current entry in the quarantine, None if it never had one."""
    state = state_of(world, driver_id)
    return state.status if state else None


def is_excluded(world: World, driver_id: str) -> bool:
    """ "Operational views exclude quarantined and purged drivers, at once"."""
    return status_of(world, driver_id) in ("quarantined", "purged")


def first_of(
    normalise: Callable[[str | None], str | None], values: Iterable[str | None]
) -> str | None:
    """The first value that is one after normalisation."""
    return next((normal for normal in map(normalise, values) if normal is not None), None)


def driver_licence(world: World, link: Link) -> str | None:
    """ "From drivers_index, else public.drivers, else identity_registry"."""
    return first_of(
        normalise_licence,
        [row.license_norm for row in world.drivers_index if row.driver_id == link.source_pk]
        + [
            row.license_normalized_number
            for row in world.drivers
            if row.driver_id == link.source_pk
        ]
        + [row.license_number for row in world.drivers if row.driver_id == link.source_pk]
        + [row.primary_license for row in world.persons if row.person_key == link.person_key],
    )


def driver_phone(world: World, link: Link) -> str | None:
    """ "From drivers_index, else public.drivers, else identity_registry"."""
    return first_of(
        normalise_phone,
        [row.phone_norm for row in world.drivers_index if row.driver_id == link.source_pk]
        + [row.phone for row in world.drivers if row.driver_id == link.source_pk]
        + [row.primary_phone for row in world.persons if row.person_key == link.person_key],
    )


# --- Evidence -------------------------------------------------------------------------------------


class Voice(NamedTuple):
    """An event that speaks for a person, and why it must not repair that person if so."""

    event: LeadEvent
    person_key: UUID
    level: int
    strategy: str
    refusal: str | None


def voices(world: World) -> list[Voice]:
    """Every event that speaks for somebody at level 1 or 2, once per person."""
    return [voice for event in world.lead_events for voice in voices_of_event(world, event)]


def voices_of_event(world: World, event: LeadEvent) -> Iterator[Voice]:
    """ "An event speaks at its strongest level only"; "of a lead source, payload an object"."""
    payload = payload_object(event)
    if event.source_table not in LEAD_SOURCES or payload is None:
        return
    level, heard = 1, persons_named(world, payload)
    if not heard:
        level, heard = 2, persons_matched(world, payload)
    for person_key, strategy in heard.items():
        refusal = refusal_of(world, event, set(heard), person_key)
        yield Voice(event, person_key, level, strategy, refusal)


def persons_named(world: World, payload: dict[str, Any]) -> dict[UUID, str]:
    """ "At level 1 if it names a driver linked to that person"; all drivers, not orphans only."""
    names = named_drivers(payload)
    return {
        link.person_key: "driver_id_exact"
        for link in driver_links(world)
        if link.source_pk in names
    }


def persons_matched(world: World, payload: dict[str, Any]) -> dict[UUID, str]:
    """ "Else at level 2 if its licence or phone equals that of a driver linked to that person"."""
    best: dict[UUID, str] = {}
    for link in driver_links(world):
        strategy = match(world, link, payload)
        if strategy is not None:
            best[link.person_key] = strongest([strategy, best.get(link.person_key, strategy)])
    return best


def match(world: World, link: Link, payload: dict[str, Any]) -> str | None:
    """ "The event's normalised licence and/or phone equals the driver's, exactly"."""
    licence, phone = driver_licence(world, link), driver_phone(world, link)
    same_licence = licence is not None and licence == event_licence(payload)
    same_phone = phone is not None and phone in event_phones(payload)
    if same_licence and same_phone:
        return "both_exact"
    if same_licence:
        return "license_exact"
    return "phone_exact" if same_phone else None


def strongest(strategies: Iterable[str]) -> str:
    """ "Strongest first"."""
    return min(strategies, key=STRATEGIES.index)


def refusal_of(world: World, event: LeadEvent, heard: set[UUID], person_key: UUID) -> str | None:
    """ "Ambiguous or conflicting events repair nothing"."""
    if len(heard) > 1:
        return "ambiguous"
    if link_of_event(world, event) is not None:
        return "lead_already_linked"
    if event.person_key is not None and event.person_key != person_key:
        return "event_of_another_person"
    return None


# --- The plan -------------------------------------------------------------------------------------


def plan(world: World) -> list[PlanRow]:
    """ops.v_orphan_fix_plan: what a fix would do, driver by driver."""
    spoken = voices(world)
    rows = (
        plan_of_driver(world, link, [v for v in spoken if v.person_key == link.person_key])
        for link in driver_links(world)
    )
    return [row for row in rows if row is not None]


def plan_of_driver(world: World, link: Link, spoken: list[Voice]) -> PlanRow | None:
    """The one thing a fix would do about this driver, or nothing."""
    if status_of(world, link.source_pk) == "purged":
        return None
    if not is_orphan(world, link.person_key):
        return release(world, link)
    usable = [voice for voice in spoken if voice.refusal is None]
    return relink(world, link, usable) if usable else quarantine(world, link, spoken)


def release(world: World, link: Link) -> PlanRow | None:
    """ "Quarantined drivers whose person has a lead by now: action release"."""
    state = state_of(world, link.source_pk)
    if state is None or state.status != "quarantined":
        return None
    leads = {(lead.source_table, lead.source_pk) for lead in lead_links(world, link.person_key)}
    events = {(event.source_table, event.source_pk) for event in world.lead_events}
    return PlanRow(
        driver_id=link.source_pk,
        person_key=link.person_key,
        action="release",
        status="resolved_created_lead",
        detected_reason=state.detected_reason,
        requires_reprocess=False,
        current_status=state.status,
        next_revision=state.revision + 1,
        has_events=bool(leads & events),
        evidence_level=None,
        strategy=None,
        lead_rows=(),
        has_rivals=False,
    )


def relink(world: World, link: Link, usable: list[Voice]) -> PlanRow:
    """ "A person with usable events is relinked": of its best level, every driver of it."""
    state = state_of(world, link.source_pk)
    in_quarantine = state is not None and state.status == "quarantined"
    level = min(voice.level for voice in usable)
    best = [voice for voice in usable if voice.level == level]
    return PlanRow(
        driver_id=link.source_pk,
        person_key=link.person_key,
        action="relink",
        status="resolved_relinked",
        detected_reason=state.detected_reason if state and in_quarantine else REPAIR_FAILED,
        requires_reprocess=all_in_quarantine(world, link.person_key),
        current_status=state.status if state else None,
        next_revision=state.revision + 1 if state else 1,
        has_events=True,
        evidence_level=level,
        strategy=strongest(voice.strategy for voice in best),
        lead_rows=lead_rows(best),
        has_rivals=None,
    )


def all_in_quarantine(world: World, person_key: UUID) -> bool:
    """Whether no driver of the person is a candidate without --reprocess-quarantined."""
    statuses = [
        status_of(world, link.source_pk)
        for link in driver_links(world)
        if link.person_key == person_key
    ]
    return all(status == "quarantined" for status in statuses if status != "purged")


def lead_rows(usable: list[Voice]) -> tuple[LeadRow, ...]:
    """ "All usable events of its best level become links", in a fixed order."""
    return tuple(
        sorted(
            LeadRow(v.event.id, v.event.source_table, v.event.source_pk, v.level, v.strategy)
            for v in usable
        )
    )


def quarantine(world: World, link: Link, spoken: list[Voice]) -> PlanRow | None:
    """ "Otherwise every candidate driver is quarantined"; the unchanged get no new entry."""
    state = state_of(world, link.source_pk)
    reason = REPAIR_FAILED if spoken else NO_EVENTS
    in_quarantine = state is not None and state.status == "quarantined"
    if state and in_quarantine and not is_news(state.detected_reason, reason):
        return None
    return PlanRow(
        driver_id=link.source_pk,
        person_key=link.person_key,
        action="quarantine",
        status="quarantined",
        detected_reason=reason,
        requires_reprocess=in_quarantine,
        current_status=state.status if state else None,
        next_revision=state.revision + 1 if state else 1,
        has_events=bool(spoken),
        evidence_level=min((voice.level for voice in spoken), default=None),
        strategy=None,
        lead_rows=(),
        has_rivals=True if spoken else None,
    )


def is_news(current_reason: str, reason: str) -> bool:
    """Reasons given by hand are never overwritten, the machine's only by another one."""
    return current_reason in MACHINE_REASONS and current_reason != reason


# --- What a reviewer is shown ---------------------------------------------------------------------

SHOWN = 10  # rivals for one value, persons of one rival, weak events: "ten are enough"
Value = tuple[str, str]  # its kind, and itself


def evidence(world: World) -> list[EvidenceRow]:
    """The lists of the plan: links to make, refused events, events with the person alone."""
    spoken = voices(world)
    shown = shown_values(world, spoken)
    return [
        EvidenceRow(
            row.driver_id,
            tuple(lead.event_id for lead in row.lead_rows),
            () if row.action == "release" else rivals(world, row.person_key, spoken, shown),
            () if row.action == "release" else weak_events(world, row.person_key, spoken)[:SHOWN],
            explanation(world, row, spoken, shown),
            masked(driver_licence(world, link)),
            masked(driver_phone(world, link)),
        )
        for row in plan(world)
        if (link := link_of_driver(world, row.driver_id)) is not None
    ]


def masked(text: str | None) -> str | None:
    """ "Only masked": the last three characters, of a short text none."""
    if text is None:
        return None
    kept = text[-3:] if len(text) >= 6 else ""
    return kept.rjust(len(text), "*")


SAYS = {
    "driver_id_exact": "names the driver",
    "both_exact": "has the driver's licence and phone",
    "license_exact": "has the driver's licence",
    "phone_exact": "has the driver's phone",
}


def explanation(
    world: World, row: PlanRow, spoken: list[Voice], shown: dict[Value, list[int]]
) -> str:
    """The sentence that says why."""
    if row.action == "release":
        leads = sorted(lead_links(world, row.person_key), key=lambda link: link.id)
        more = f" and {len(leads) - 1} more" if len(leads) > 1 else ""
        first = f"{leads[0].source_table} {leads[0].source_pk}"
        return f"Released: the person has a lead by now ({first}{more})."
    if row.strategy:
        events = "lead event" if len(row.lead_rows) == 1 else "lead events"
        return (
            f"Relinked: {len(row.lead_rows)} {events} at evidence level {row.evidence_level}; "
            f"the strongest {SAYS[row.strategy]} ({row.strategy})."
        )
    if row.has_events:
        refused = rivals(world, row.person_key, spoken, shown)
        why = ", ".join(sorted({rival.refusal for rival in refused})).replace("_", " ")
        return f"Quarantined: {len(refused)} lead event(s) match, but none proves a lead ({why})."
    weak = len(weak_events(world, row.person_key, spoken))
    carried = f"; {weak} carry only its person_key, which proves nothing" if weak else ""
    return f"Quarantined: no lead event names the driver or has its licence or phone{carried}."


def values_of_person(world: World, person_key: UUID) -> set[Value]:
    """The ids, licences and phones of all drivers of a person."""
    links = [link for link in driver_links(world) if link.person_key == person_key]
    found = {("driver_id", link.source_pk) for link in links}
    found |= {("license", text) for link in links if (text := driver_licence(world, link))}
    return found | {("phone", text) for link in links if (text := driver_phone(world, link))}


def values_heard(world: World, voice: Voice) -> set[Value]:
    """By what this event speaks for this person, at its level."""
    payload = payload_object(voice.event) or {}
    if voice.level == 1:
        said = {("driver_id", name) for name in named_drivers(payload)}
    else:
        said = {("phone", phone) for phone in event_phones(payload)}
        licence = event_licence(payload)
        said |= {("license", licence)} if licence else set()
    return said & values_of_person(world, voice.person_key)


def shown_values(world: World, spoken: list[Voice]) -> dict[Value, list[int]]:
    """For each value the first refused events with it."""
    events: dict[Value, set[int]] = defaultdict(set)
    for voice in spoken:
        if voice.refusal:
            for value in values_heard(world, voice):
                events[value].add(voice.event.id)
    return {value: sorted(ids)[:SHOWN] for value, ids in events.items()}


def rivals(
    world: World, person_key: UUID, spoken: list[Voice], shown: dict[Value, list[int]]
) -> tuple[Rival, ...]:
    """Refused events that speak for the person, the strongest first."""
    found = []
    for voice in spoken:
        event = voice.event
        values = values_heard(world, voice)
        kinds = sorted({kind for kind, text in values if event.id in shown.get((kind, text), [])})
        if voice.person_key != person_key or voice.refusal is None or not kinds:
            continue
        heard = sorted(str(other.person_key) for other in spoken if other.event is event)
        link = link_of_event(world, event)
        found.append(
            Rival(
                event.id,
                event.source_table,
                event.source_pk,
                event.event_date.isoformat(),
                voice.level,
                tuple(kinds),
                voice.refusal,
                tuple(heard[:SHOWN]),
                str(link.person_key) if link else None,
                str(event.person_key) if event.person_key else None,
            )
        )
    return tuple(sorted(found, key=lambda rival: (rival.evidence_level, rival.event_id)))


def weak_events(world: World, person_key: UUID, spoken: list[Voice]) -> tuple[int, ...]:
    """ "Only event.person_key equals the driver's person": of any source, speaking or not."""
    heard = {voice.event.id for voice in spoken if voice.person_key == person_key}
    weak = [event.id for event in world.lead_events if event.person_key == person_key]
    return tuple(sorted(set(weak) - heard))


# --- Conversions and days -------------------------------------------------------------------------


class Conversion(NamedTuple):
    """A lead of a person under one origin, and the driver that person has by now."""

    person_key: UUID
    origin_tag: str
    lead_date: AnyDay
    scout_id: int | None
    driver_id: str | None


class Day(NamedTuple):
    """What a driver did on one day, over all parks."""

    day: date
    trips: int
    work_seconds: int


def conversions(world: World) -> list[Conversion]:
    """ "One row per (person_key, origin_tag) of lead_events that have a person_key"."""
    groups: dict[tuple[UUID, str], list[LeadEvent]] = defaultdict(list)
    for event in world.lead_events:
        person_key = person_of_event(world, event)
        if person_key is not None:
            groups[person_key, origin_of_event(world, event, person_key)].append(event)
    return [
        Conversion(
            person_key=person_key,
            origin_tag=origin_tag,
            lead_date=min(event.event_date for event in events),
            scout_id=scout_of(events) if origin_tag == "fleet_migration" else None,
            driver_id=driver_of_person(world, person_key),
        )
        for (person_key, origin_tag), events in groups.items()
    ]


def person_of_event(world: World, event: LeadEvent) -> UUID | None:
    """ "An event without person_key belongs to the person to whom its lead row is linked"."""
    if event.person_key is not None:
        return event.person_key
    link = link_of_event(world, event)
    return link.person_key if link else None


def origin_of_event(world: World, event: LeadEvent, person_key: UUID) -> str:
    """ "Payload's origin_tag, else by source …, else attributed_source, else unknown"."""
    tag = text_at(payload_object(event), "origin_tag")
    if tag is not None:
        return tag
    if event.source_table == MIGRATIONS:
        return "fleet_migration"
    if event.source_table in (CABINET_LEADS, SCOUTING):
        return "cabinet"
    for attribution in world.lead_ledger:
        if attribution.person_key == person_key and attribution.attributed_source is not None:
            return attribution.attributed_source
    return "unknown"


def scout_of(events: list[LeadEvent]) -> int | None:
    """ "The latest event's" scout, also when that one has none."""
    return max(events, key=lambda event: (event.event_date, event.id)).scout_id


def driver_of_person(world: World, person_key: UUID) -> str | None:
    """ "The person's most recently linked driver (linked_at, then id), or NULL"."""
    links = [link for link in driver_links(world) if link.person_key == person_key]
    newest = max(links, key=lambda link: (link.linked_at, link.id), default=None)
    return newest.source_pk if newest else None


def days_of(world: World, driver_id: str) -> list[Day]:
    """The driver's days in order: "one driver can have several rows a day (several parks)"."""
    days: dict[date, Day] = {}
    for row in world.summary_daily:
        day = parse_day(row.date_file)
        if row.driver_id == driver_id and day is not None:
            so_far = days.get(day, Day(day, 0, 0))
            trips = so_far.trips + (row.trips or 0)
            days[day] = Day(day, trips, so_far.work_seconds + (row.work_seconds or 0))
    return sorted(days.values())


def reached(days: list[Day], trips: int) -> tuple[date, int] | None:
    """The first of these days whose cumulative trips reach a number, and that cumulative count."""
    total = 0
    for day in days:
        total += day.trips
        if total >= trips:
            return day.day, total
    return None


def connected(days: list[Day]) -> tuple[date, int] | None:
    """ "First day … with work time > 0", and the trips up to and on it."""
    total = 0
    for day in days:
        total += day.trips
        if day.work_seconds > 0:
            return day.day, total
    return None


# --- Payments -------------------------------------------------------------------------------------


def payments(world: World) -> list[PaymentRow]:
    """ops.v_payment_calculation: conversion rows x "every active rule of its origin_tag"."""
    rules = [("scout", rule) for rule in world.scout_rules]
    rules += [("partner", rule) for rule in world.partner_rules]
    return [
        payment(world, conversion, conversion.driver_id, scope, rule)
        for conversion in conversions(world)
        if conversion.driver_id is not None and not is_excluded(world, conversion.driver_id)
        for scope, rule in rules
        if applies(rule, conversion)
    ]


def applies(rule: Rule, conversion: Conversion) -> bool:
    """ "Every active rule … of its origin_tag that is valid on lead_date"."""
    return (
        rule.is_active is True
        and rule.origin_tag == conversion.origin_tag
        and rule.valid_from <= conversion.lead_date
        and (rule.valid_to is None or conversion.lead_date <= rule.valid_to)
    )


def payment(
    world: World, conversion: Conversion, driver_id: str, scope: str, rule: Rule
) -> PaymentRow:
    """One conversion under one rule."""
    achieved_date, trips = achievement(world, conversion.lead_date, driver_id, rule)
    return PaymentRow(
        person_key=conversion.person_key,
        origin_tag=conversion.origin_tag,
        scout_id=conversion.scout_id,
        driver_id=driver_id,
        lead_date=conversion.lead_date,
        rule_id=rule.id,
        rule_scope=scope,
        milestone_trips=rule.milestone_trips,
        window_days=rule.window_days,
        currency=rule.currency,
        amount=rule.amount,
        rule_valid_from=rule.valid_from,
        rule_valid_to=rule.valid_to,
        milestone_achieved=achieved_date is not None,
        achieved_date=achieved_date,
        achieved_trips_in_window=trips,
        is_payable=achieved_date is not None,
        payable_date=payable_date(scope, conversion.origin_tag, achieved_date),
        payment_scheme=payment_scheme(scope, rule),
    )


def achievement(
    world: World, lead_date: AnyDay, driver_id: str, rule: Rule
) -> tuple[date | None, int]:
    """ "Within [lead_date, lead_date + window_days) the first day whose cumulative trips …"."""
    end = plus(lead_date, rule.window_days)
    window = [day for day in days_of(world, driver_id) if lead_date <= day.day < end]
    if rule.milestone_type == "connection":
        return connected(window) or (None, 0)
    return reached(window, rule.milestone_trips) or (None, 0)


def payable_date(scope: str, origin_tag: str, achieved_date: date | None) -> AnyDay | None:
    """ "+ 14 days (partner), + 7 (scout, cabinet), + 30 (scout, fleet_migration)"."""
    scout_terms = {"cabinet": 7, "fleet_migration": 30}
    term = 14 if scope == "partner" else scout_terms.get(origin_tag)
    if achieved_date is None or term is None:
        return None
    return plus(achieved_date, term)


def payment_scheme(scope: str, rule: Rule) -> str:
    """ "yango_14d_Ntrips (partner, cabinet), cabinet_7d_…, migration_30d_…, else origin_Wd_…"."""
    schemes = {
        ("partner", "cabinet"): "yango_14d",
        ("scout", "cabinet"): "cabinet_7d",
        ("scout", "fleet_migration"): "migration_30d",
    }
    otherwise = f"{rule.origin_tag}_{rule.window_days}d"
    return f"{schemes.get((scope, rule.origin_tag), otherwise)}_{rule.milestone_trips}trips"


# --- Funnel ---------------------------------------------------------------------------------------


def funnel(world: World) -> list[FunnelRow]:
    """ops.v_cabinet_funnel_status: every driver there is, "less the excluded"."""
    paid = payments(world)
    converted = conversions(world)
    drivers = {link.source_pk for link in driver_links(world)}
    drivers |= {row.driver_id for row in converted if row.driver_id is not None}
    drivers |= {
        row.driver_id
        for row in world.summary_daily
        if row.driver_id is not None and reached(days_of(world, row.driver_id), 1)
    }
    return [
        funnel_row(
            world,
            driver_id,
            [row for row in converted if row.driver_id == driver_id],
            {row.origin_tag for row in paid if row.driver_id == driver_id},
        )
        for driver_id in sorted(drivers)
        if not is_excluded(world, driver_id)
    ]


def funnel_row(
    world: World, driver_id: str, converted: list[Conversion], tags: set[str]
) -> FunnelRow:
    """One driver: "connection and trips_total from the driver's latest conversion row"."""
    link = link_of_driver(world, driver_id)
    days = days_of(world, driver_id)
    latest = max(converted, key=lambda row: row.lead_date, default=None)
    since = [day for day in days if latest and day.day >= latest.lead_date]
    connection = connected(since)
    trips_30d = sum(day.trips for day in since if latest and day.day < plus(latest.lead_date, 30))
    milestones = {trips: found[0] for trips in (1, 5, 25) if (found := reached(days, trips))}
    highest = max(milestones, default=None)
    return FunnelRow(
        driver_id=driver_id,
        person_key=link.person_key if link else None,
        origin_tag=funnel_origin(tags),
        funnel_status=funnel_status(link is not None, connection is not None, trips_30d, highest),
        connected_flag=connection is not None,
        connected_date=connection[0] if connection else None,
        trips_total=trips_30d,
        highest_milestone=highest,
        m1_date=milestones.get(1),
        m5_date=milestones.get(5),
        m25_date=milestones.get(25),
    )


def funnel_origin(tags: set[str]) -> str:
    """ "Cabinet before fleet_migration before unknown": other tags stand before unknown."""
    for tag in ("cabinet", "fleet_migration"):
        if tag in tags:
            return tag
    return min(tags - {"unknown"}, default="unknown")


def funnel_status(
    has_person: bool, is_connected: bool, trips_total: int, highest: int | None
) -> str:
    """ "funnel_status, first that holds"."""
    if not has_person:
        return "registered_incomplete"
    if not is_connected:
        return "registered_complete"
    if trips_total == 0 or highest is None:
        return "connected_no_trips"
    return f"reached_m{highest}"


# --- Eligibility ----------------------------------------------------------------------------------


def eligible(world: World) -> list[EligibleRow]:
    """ops.v_ct4_eligible_drivers: "drivers with a conversion row of origin cabinet or …"."""
    origins: dict[str, set[str]] = defaultdict(set)
    for row in conversions(world):
        if row.origin_tag in ("cabinet", "fleet_migration") and row.driver_id is not None:
            origins[row.driver_id].add(row.origin_tag)
    rows = [
        eligible_row(world, link, min(origins[link.source_pk]))  # cabinet sorts first
        for link in driver_links(world)
        if link.source_pk in origins and not is_excluded(world, link.source_pk)
    ]
    return [row for row in rows if row.identity_status in ("confirmed", "enriched", None)]


def eligible_row(world: World, link: Link, origin_tag: str) -> EligibleRow:
    """ "The Yango ledger's latest for the driver, else from the driver link's confidence"."""
    yango = latest_yango(world, link.source_pk)
    by_confidence = {"HIGH": "confirmed", "MEDIUM": "enriched", "LOW": "ambiguous"}
    return EligibleRow(
        driver_id=link.source_pk,
        person_key=link.person_key,
        origin_tag=origin_tag,
        identity_status=first(yango.identity_status, by_confidence[link.confidence_level]),
        match_rule=first(yango.match_rule, link.match_rule),
        match_confidence=first(yango.match_confidence, link.confidence_level),
        first_seen_at=link.snapshot_date.astimezone(timezone.utc).date(),
        latest_snapshot_at=yango.latest_snapshot_at or link.snapshot_date,
    )


def first(value: str | None, otherwise: str) -> str:
    """SQL's coalesce: an empty text is a value."""
    return otherwise if value is None else value


def latest_yango(world: World, driver_id: str) -> YangoRow:
    """The driver's latest row of the Yango ledger, all None if it has none."""
    rows = [row for row in world.yango if row.driver_id == driver_id]
    rows.sort(key=lambda row: nulls_last(row.match_confidence))
    rows.sort(key=lambda row: nulls_last(row.match_rule))
    rows.sort(key=lambda row: nulls_last(row.identity_status))
    epoch = datetime.min.replace(tzinfo=timezone.utc)
    rows.sort(key=lambda row: row.latest_snapshot_at or epoch, reverse=True)
    return rows[0] if rows else YangoRow(driver_id)


def nulls_last(value: str | None) -> tuple[bool, str]:
    """A sort key: by code point, None at the end."""
    return value is None, value or ""
