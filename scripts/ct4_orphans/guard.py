"""The guard: CT4's database itself records or refuses what would break criterion 1.

It is for every service that writes, is off unless installed, and can be taken out without a trace.
How it holds when services write at the same moment is said in sql/guard_functions.sql.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as pg_errors
from psycopg import sql

from ct4_orphans import indexes, seals, views
from ct4_orphans.adoption import count
from ct4_orphans.database import AnyConnection, Connection, Row, rows, statement
from ct4_orphans.errors import DatabaseError, RefusedError, some

if TYPE_CHECKING:
    from typing_extensions import LiteralString

MODES = ("warn", "enforce")
OFF, DAMAGED = "off", "damaged"
CONSTRAINT = "ct4_orphans_guard"  # by this name the guard's refusals are known
SETTINGS = "canon.ct4_orphans_guard"
VIOLATIONS = "canon.ct4_orphans_guard_violations"
TABLES = (
    SETTINGS,
    "canon.ct4_orphans_guard_pending",
    "canon.ct4_orphans_guard_persons",
    "canon.ct4_orphans_guard_drivers",
    VIOLATIONS,
)
INDEX = "ct4_orphans_guard_person_key"  # a removal takes out this one, and nobody else's
CREATE_INDEX = indexes.LINKS_OF_A_PERSON.create(INDEX)
WRITTEN_BY_SERVICES = ("canon.identity_links", "canon.driver_orphan_quarantine_ledger")
SECONDS_FOR_LOCKS = 15
FIRST_LOCK_MS, NEXT_LOCK_MS = 3_000, 500
SHOWN = 5


@dataclass(frozen=True)
class State:
    """What there is of the guard: `mode` is off, warn, enforce, or damaged where parts miss."""

    mode: str
    since: Any = None
    set_by: str = ""
    lead_sources: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    usable_index: str = ""
    broken_index: bool = False

    @property
    def is_installed(self) -> bool:
        """Tell whether there is anything that acts, or should."""
        return self.mode != OFF


def state(connection: AnyConnection) -> State:
    """Return what is installed, from the catalogues and the guard's one row."""
    parts = rows(connection, statement("guard_parts"))
    existing = indexes.LINKS_OF_A_PERSON.existing(connection)
    found: dict[str, Any] = {
        "usable_index": next((index["name"] for index in existing if index["is_usable"]), ""),
        "broken_index": any(
            index["name"] == INDEX and not index["is_usable"] for index in existing
        ),
    }
    there = [part for part in parts if part["is_there"]]
    # What a removal may leave: it acts on nobody.
    if all(f"canon.{part['name']}" == VIOLATIONS for part in there):
        return State(OFF, **found)
    damage = [
        f"{part['kind']} {part['name']} {'is missing' if not part['is_there'] else 'is disabled'}"
        for part in parts
        if not part["is_there"] or part["is_off"]
    ]
    settings: Row = {}
    if any(f"canon.{part['name']}" == SETTINGS and part["kind"] == "table" for part in there):
        settings = _settings(connection)
        damage += [] if settings else [f"{SETTINGS} has no row"]
    if settings:
        found |= {name: settings[name] for name in ("since", "set_by", "lead_sources")}
    return State(DAMAGED if damage else settings["mode"], damage=damage, **found)


def lead_sources(connection: Connection) -> list[str]:
    """Return the lead sources of the seed, where the rule lives; none before the first deploy."""
    if not views.facts_of(connection, "ct4_orphans.lead_sources"):
        return []
    query = "select source_table from ct4_orphans.lead_sources order by source_table"
    return [row["source_table"] for row in rows(connection, query)]


def check_install(connection: Connection) -> State:
    """Return what is installed now. Raises DatabaseError naming all that an install lacks."""
    _check(connection, needs_to_create=True)
    if not lead_sources(connection):
        raise DatabaseError(
            "ct4_orphans.lead_sources is missing or empty, so the guard would know no lead. Run "
            "'orphans deploy' (by hand: 'dbt seed') first."
        )
    return state(connection)


def install(connection: Connection, mode: str, *, with_index: bool = False) -> State:
    """Install the guard, switch its mode, or mend it; return what was there before.

    One transaction, but for the index: that is made without stopping anybody's writes.
    Raises DatabaseError if something is missing or somebody else holds the tables for too long.
    """
    before = check_install(connection)
    sources = lead_sources(connection)

    def create() -> None:
        connection.execute(statement("guard_tables"))
        for table in TABLES:
            # Default privileges are meant for CT4's tables.
            views.take_grants(connection, table, [], {})
        connection.execute(statement("guard_functions"))
        if mends:
            connection.execute(statement("guard_triggers"))
        connection.execute(
            "insert into canon.ct4_orphans_guard as guard (mode, lead_sources) values (%s, %s)"
            " on conflict (is_only_row) do update set mode = excluded.mode,"
            " lead_sources = excluded.lead_sources, since = excluded.since,"
            " set_by = excluded.set_by where (guard.mode, guard.lead_sources)"
            " is distinct from (excluded.mode, excluded.lead_sources)",
            [mode, sources],
        )
        if mends or (before.mode, sorted(before.lead_sources)) != (mode, sorted(sources)):
            run = seals.Run("guard", {"mode": mode, "lead_sources": sources})
            seals.seal(connection, run, "ended")  # a trigger of its own is on the ledger now

    mends = not before.is_installed or bool(before.damage)
    _when_nobody_is_in_the_way(connection, "share row exclusive" if mends else "", create)
    if with_index:
        make_index(connection)
    return before


def make_index(connection: Connection) -> None:
    """Make the index on person_key if no usable one is there, without stopping writes."""
    found = state(connection)
    if found.usable_index:
        return
    drop = sql.SQL("drop index concurrently if exists canon.{}").format(sql.Identifier(INDEX))
    connection.execute(drop)  # half made, by a run that was stopped
    try:
        connection.execute(sql.SQL(CREATE_INDEX))
    except psycopg.Error:
        if not connection.broken:
            connection.execute(drop)
        raise


def check_remove(connection: Connection) -> State:
    """Return what is installed now. Raises DatabaseError naming what a removal lacks."""
    _check(connection, needs_to_create=False)
    return state(connection)


def remove(connection: Connection, *, keep_violations: bool = False) -> State:
    """Take the guard out in one transaction, with its index; return what was there before.

    Raises DatabaseError if this user may not, or somebody else holds the tables for too long.
    """
    before = check_remove(connection)

    def drop() -> None:
        connection.execute(statement("guard_remove"))
        if not keep_violations:
            connection.execute(f"drop table if exists {VIOLATIONS}")
        if before.is_installed:
            seals.seal(connection, seals.Run("guard", {"mode": OFF}), "ended")

    _when_nobody_is_in_the_way(connection, "access exclusive" if before.is_installed else "", drop)
    return before


def refuse_while_installed(connection: AnyConnection) -> None:
    """Raise RefusedError while the guard is there: it reads the quarantine on every write."""
    if state(connection).is_installed:
        raise RefusedError(
            "The guard is installed, and every service's writes would fail without the "
            "quarantine. Take it out first:  orphans guard remove"
        )


def is_refusal(error: psycopg.Error) -> bool:
    """Tell whether it was the guard that refused a write."""
    return isinstance(error, pg_errors.CheckViolation) and error.diag.constraint_name == CONSTRAINT


def violations(connection: Connection) -> int:
    """Count what was recorded, also before a removal that has kept it."""
    if not views.facts_of(connection, VIOLATIONS):
        return 0
    return count(connection, VIOLATIONS)


def note(connection: Connection) -> str:
    """Return one line about the mode, for the doctor."""
    found = state(connection)
    if found.mode == OFF:
        return "is off: nothing in the database keeps new orphans out (orphans guard install)"
    if found.mode == DAMAGED:
        return f"is damaged: {some(found.damage)} (orphans guard install mends it)"
    return f"is in mode {found.mode} since {found.since:%Y-%m-%d %H:%M} UTC, by {found.set_by}"


def in_words(connection: Connection) -> Iterator[str]:
    """Give the status line by line. Raises DatabaseError if the quarantine is not there."""
    found = state(connection)
    yield f"guard: {note(connection)}"
    seed = lead_sources(connection)
    if found.lead_sources:
        yield f"lead sources: {', '.join(found.lead_sources)}"
    if found.is_installed and seed and sorted(seed) != sorted(found.lead_sources):
        yield f"  the seed has others: {', '.join(seed)}. Install again."
    yield from _violations_in_words(connection)
    sources = found.lead_sources or seed
    if sources and views.facts_of(connection, "canon.driver_orphan_quarantine"):
        orphans = rows(connection, statement("guard_orphans"), {"lead_sources": sources})
        found_now = orphans[0]["orphans"]
        yield f"drivers without a lead outside the quarantine now: {found_now:,}" + (
            "  (orphans fix)" if found_now else ""
        )
    if found.usable_index:
        yield f"index on person_key: {found.usable_index}"
    else:
        broken = " (one was left half made)" if found.broken_index else ""
        yield f"index on person_key: none{broken}; each commit of a link reads all links"
        yield f"  orphans guard install --index, or:  {CREATE_INDEX};"


def _violations_in_words(connection: Connection) -> Iterator[str]:
    yield f"violations recorded: {violations(connection):,}"
    if not views.facts_of(connection, VIOLATIONS):
        return
    last = rows(
        connection,
        "select to_char(detected_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') as at, driver_id,"
        " not_judged, session_user_name, application_name"
        " from canon.ct4_orphans_guard_violations order by violation_id desc limit %s",
        [SHOWN],
    )
    for row in last:
        what = row["driver_id"] or f"not judged ({row['not_judged']})"
        who = f"{row['session_user_name']} {row['application_name']}".strip()
        yield f"  {row['at']} UTC  {what}  by {who}"


def _settings(connection: AnyConnection) -> Row:
    try:
        with connection.transaction():
            found = rows(connection, "select * from canon.ct4_orphans_guard")
    except pg_errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"This user may not read {SETTINGS}. Use the user that installed the guard."
        ) from error
    return found[0] if found else {}


def _check(connection: Connection, *, needs_to_create: bool) -> None:
    if connection.info.server_version < 130_000:
        raise DatabaseError("The guard needs PostgreSQL 13 or newer.")
    parameters = {"needs_to_create": needs_to_create}
    problems = [row["problem"] for row in rows(connection, statement("guard_problems"), parameters)]
    if problems:
        raise DatabaseError(f"The guard cannot be touched: {' '.join(problems)}")


def _when_nobody_is_in_the_way(
    connection: Connection, mode: LiteralString, work: Callable[[], None]
) -> None:
    """Run a transaction that has locked what everybody writes to, and be nobody's deadlock.

    It waits for one lock while it holds none, and for the other one so shortly that it gives up
    before the server looks for deadlocks: no service's transaction is chosen as the victim. Each
    of the two is the first in turn, since only who waits long has an autovacuum cancelled.
    """
    deadline = time.monotonic() + SECONDS_FOR_LOCKS
    order = list(WRITTEN_BY_SERVICES)
    while True:
        try:
            with connection.transaction():
                _lock_timeout(connection, FIRST_LOCK_MS)
                connection.execute("select pg_advisory_xact_lock(hashtext(%s))", [SETTINGS])
                for table in order if mode else []:
                    connection.execute(
                        sql.SQL("lock table {} in {} mode").format(
                            sql.Identifier(*table.split(".")), sql.SQL(mode)
                        )
                    )
                    _lock_timeout(connection, NEXT_LOCK_MS)
                work()
            return
        except pg_errors.LockNotAvailable as error:
            if time.monotonic() > deadline:
                raise DatabaseError(
                    "Somebody has been writing to canon.identity_links or the ledger for "
                    f"{SECONDS_FOR_LOCKS} s. Nothing was changed; run the same command again."
                ) from error
            order.reverse()
            time.sleep(0.1)


def _lock_timeout(connection: Connection, milliseconds: int) -> None:
    connection.execute("select set_config('lock_timeout', %s, true)", [f"{milliseconds}ms"])
