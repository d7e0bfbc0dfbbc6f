"""The guard (issue 4, item 3): what breaks criterion 1 is recorded or refused, whoever writes.

Most tests share one database per mode and make persons of their own in it. The rule is looked up
by the acceptance test of dbt, not by anything of the guard.
"""

from __future__ import annotations

import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from conftest import Run, open_connection
from ct4_orphans import cli, embedded, guard
from ct4_orphans import doctor as doctors
from ct4_orphans.database import Connection, Settings, connect, statement
from ct4_orphans.errors import DatabaseError, RefusedError
from older import catalogue
from psycopg import errors as pg_errors
from psycopg import sql
from test_decisions import Said, Town, criterion_sql
from test_fix import EXPECTED, ID, NAME, fill, query, town, violations

RULE = criterion_sql("criterion_1_drivers_without_lead_outside_quarantine")
LEVELS = ("read committed", "repeatable read", "serializable")
CABINET, SCOUTING = "module_ct_cabinet_leads", "module_ct_scouting_daily"
COLUMNS = "(person_key, source_table, source_pk, snapshot_date, match_rule, match_score,"
COLUMNS += " confidence_level)"
REST = "now(), 'OTHER', 90, 'HIGH'"


def link(person: str, table: str, key: str) -> str:
    return (
        f"insert into canon.identity_links {COLUMNS}"
        f" values ({person}, '{table}', {key}, now(), 'OTHER', 90, 'HIGH')"
    )


LINK_DRIVER = link("%(person)s", "drivers", "%(driver)s")
LINK_LEAD = link("%(person)s", CABINET, "%(lead)s")
LINK_OTHER_LEAD = link("%(person)s", SCOUTING, "%(lead)s")
UNLINK_DRIVER = "delete from canon.identity_links where source_pk = %(driver)s"
UNLINK_LEAD = f"delete from canon.identity_links where source_table = '{CABINET}'"
UNLINK_LEAD += " and source_pk = %(lead)s"
UNLINK_OTHER_LEAD = UNLINK_LEAD.replace(CABINET, SCOUTING)
QUARANTINE = (
    "insert into canon.driver_orphan_quarantine (driver_id, person_key, detected_reason)"
    " values (%(driver)s, %(person)s, 'manual_detection')"
)
LET_OUT = "update canon.driver_orphan_quarantine set status = %(status)s"
LET_OUT += ", resolved_at = now() where driver_id = %(driver)s"
RELEASE = LET_OUT.replace("%(status)s", "'resolved_created_lead'")
PURGE = LET_OUT.replace("%(status)s", "'purged'")
WITHDRAW = (
    "insert into canon.driver_orphan_quarantine_ledger"
    " (driver_id, revision, person_key, detected_reason, status, is_withdrawn)"
    " values (%(driver)s, 2, %(person)s, 'manual_detection', 'quarantined', true)"
)


@dataclass
class Persona:
    """Ids of one person that nobody else has; `other` is another person with a lead."""

    person: uuid.UUID = field(default_factory=uuid.uuid4)
    other: uuid.UUID = field(default_factory=uuid.uuid4)
    driver: str = field(default_factory=lambda: uuid.uuid4().hex)
    lead: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Guarded:
    """A database with the guard in a mode."""

    settings: Settings
    mode: str

    @cached_property
    def connection(self) -> psycopg.Connection[Any]:
        """One for all that is asked and prepared: a new one takes longer than the rest."""
        return psycopg.connect(**self.settings.connection_parameters(), autocommit=True)  # type: ignore[arg-type]

    def ask(self, words: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(words, parameters or None).fetchall()  # type: ignore[call-overload]

    def broken(self, *personas: Persona) -> set[str]:
        """Who of them operates without a lead."""
        drivers = [persona.driver for persona in personas]
        return {row[0] for row in self.ask(f"{RULE} and source_pk = any(%s)", drivers)}

    def recorded(self) -> list[str | None]:
        found = self.ask("select driver_id from canon.ct4_orphans_guard_violations")
        return [row[0] for row in found]

    def prepare(self, *statements: str) -> Persona:
        """A person in a state that keeps the rule."""
        persona = Persona()
        connection = self.connection
        with connection.transaction():
            connection.execute(
                "insert into canon.identity_registry (person_key) values (%s), (%s)",
                [persona.person, persona.other],
            )
            connection.execute(link("%s", CABINET, "%s"), [persona.other, str(persona.other)])  # type: ignore[arg-type]
            for words in statements:
                connection.execute(words, vars(persona))  # type: ignore[arg-type]
        assert self.broken(persona) == set()
        return persona

    def commit(self, persona: Persona, *statements: str, **options: Any) -> str:
        """Run the statements in a transaction: done, refused, or done and recorded."""
        connect_options = self.settings.connection_parameters() | options
        with psycopg.connect(**connect_options) as connection:
            for words in statements:
                connection.execute(words, vars(persona) if "%(" in words else None)  # type: ignore[arg-type]
            try:
                connection.commit()
            except pg_errors.CheckViolation as error:
                assert guard.is_refusal(error)
                return "refused"
        return "recorded" if persona.driver in self.recorded() else "done"


@pytest.fixture(scope="module")
def databases(server: Settings) -> Iterator[dict[str, Guarded]]:
    made = {}
    for mode in guard.MODES:
        name = f"test_{uuid.uuid4().hex}"
        settings = embedded.recreate_database(server, name, template="template_built")
        with connect(settings) as connection:
            guard.install(connection, mode)
        made[mode] = Guarded(settings, mode)
    yield made
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for guarded in made.values():
            name = sql.Identifier(guarded.settings.dbname)
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


@pytest.fixture(params=guard.MODES)
def guarded(request: pytest.FixtureRequest, databases: dict[str, Guarded]) -> Guarded:
    """The database of each mode, one after the other."""
    return databases[request.param]


@pytest.fixture
def enforced(databases: dict[str, Guarded]) -> Guarded:
    return databases["enforce"]


def recorded_in(settings: Settings) -> list[str | None]:
    return Guarded(settings, "").recorded()


def install(settings: Settings, mode: str) -> None:
    with connect(settings) as connection:
        guard.install(connection, mode)


# --- Each event, alone ----------------------------------------------------------------------------

LINKED = (LINK_LEAD, LINK_DRIVER)
SHUT_OUT = (QUARANTINE, LINK_DRIVER)

# What there is before, what is written, and whether the rule is broken by it.
EVENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "a driver without a lead": ((), (LINK_DRIVER,), True),
    "a driver whose person has a lead": ((LINK_LEAD,), (LINK_DRIVER,), False),
    "a driver of a source that is none": (
        (),
        (link("%(person)s", "module_ct_other", "%(lead)s"), LINK_DRIVER),
        True,
    ),
    "the driver first, the lead later": ((), (LINK_DRIVER, LINK_LEAD), False),
    "a driver that is quarantined": ((QUARANTINE,), (LINK_DRIVER,), False),
    "a driver, quarantined afterwards": ((), (LINK_DRIVER, QUARANTINE), False),
    "a driver that comes and goes": ((), (LINK_DRIVER, UNLINK_DRIVER), False),
    "a driver in a statement that is taken back": (
        (),
        ("savepoint s", LINK_DRIVER, "rollback to s"),
        False,
    ),
    "a purged driver, linked again by a service": ((QUARANTINE, PURGE), (LINK_DRIVER,), True),
    "the last lead goes": (LINKED, (UNLINK_LEAD,), True),
    "the last lead goes, and the driver": (LINKED, (UNLINK_LEAD, UNLINK_DRIVER), False),
    "one of two leads goes": ((*LINKED, LINK_OTHER_LEAD), (UNLINK_LEAD,), False),
    "both leads go": ((*LINKED, LINK_OTHER_LEAD), (UNLINK_LEAD, UNLINK_OTHER_LEAD), True),
    "the last lead of a quarantined driver goes": ((*LINKED, QUARANTINE), (UNLINK_LEAD,), False),
    "a lead is moved by delete and insert": (LINKED, (UNLINK_LEAD, LINK_LEAD), False),
    "a lead is moved away by an update": (
        LINKED,
        (
            "update canon.identity_links set person_key = %(other)s"
            f" where source_table = '{CABINET}' and source_pk = %(lead)s",
        ),
        True,
    ),
    "a lead becomes another source's": (
        LINKED,
        ("update canon.identity_links set source_table = 'x' where source_pk = %(lead)s",),
        True,
    ),
    "a lead becomes another lead": (
        LINKED,
        (
            f"update canon.identity_links set source_table = '{SCOUTING}'"
            " where source_pk = %(lead)s",
        ),
        False,
    ),
    "the driver is moved to a person with a lead": (
        LINKED,
        ("update canon.identity_links set person_key = %(other)s where source_pk = %(driver)s",),
        False,
    ),
    "the driver is moved to a person without one": (
        (link("%(other)s", "drivers", "%(driver)s"),),
        ("update canon.identity_links set person_key = %(person)s where source_pk = %(driver)s",),
        True,
    ),
    "all links of the person are moved together": (
        LINKED,
        ("update canon.identity_links set person_key = %(other)s where person_key = %(person)s",),
        False,
    ),
    "a link of a driver becomes one of a lead and back": (
        LINKED,
        (
            "update canon.identity_links set source_table = 'x' where source_pk = %(driver)s",
            "update canon.identity_links set source_table = 'drivers' where source_pk = %(driver)s",
        ),
        False,
    ),
    "an update of a score": (
        LINKED,
        ("update canon.identity_links set match_score = 1 where person_key = %(person)s",),
        False,
    ),
    "insert … on conflict do update, to a person without a lead": (
        (link("%(other)s", "drivers", "%(driver)s"),),
        (
            LINK_DRIVER + " on conflict (source_table, source_pk)"
            " do update set person_key = excluded.person_key",
        ),
        True,
    ),
    "insert … on conflict do nothing, of what is there": (
        (link("%(other)s", "drivers", "%(driver)s"),),
        (LINK_DRIVER + " on conflict (source_table, source_pk) do nothing",),
        False,
    ),
    "a release without a lead": (SHUT_OUT, (RELEASE,), True),
    "a release with a lead": ((*SHUT_OUT, LINK_LEAD), (RELEASE,), False),
    "a release, and the lead afterwards": (SHUT_OUT, (RELEASE, LINK_LEAD), False),
    "a purge of a driver that stays linked": (SHUT_OUT, (PURGE,), True),
    "a purge of a driver that is unlinked": (SHUT_OUT, (PURGE, UNLINK_DRIVER), False),
    "a quarantine withdrawn": (SHUT_OUT, (WITHDRAW,), True),
    "a release of a driver without a link": ((QUARANTINE,), (RELEASE,), False),
    "a lead of a person without a driver goes": ((LINK_LEAD,), (UNLINK_LEAD,), False),
    "replica mode": ((), ("set session_replication_role = replica", LINK_DRIVER), True),
    "a session that defers nothing": (
        (LINK_LEAD,),
        ("set constraints all immediate", LINK_DRIVER),
        False,
    ),
}


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_that_breaks_the_rule_is_refused_or_recorded_and_no_other(
    guarded: Guarded, event: str
) -> None:
    before, statements, breaks = EVENTS[event]
    persona = guarded.prepare(*before)
    done = guarded.commit(persona, *statements)
    if not breaks:
        assert done == "done"
        assert guarded.broken(persona) == set()
    elif guarded.mode == "enforce":
        assert done == "refused"
        assert guarded.broken(persona) == set()
    else:
        assert done == "recorded"
        assert guarded.broken(persona) == {persona.driver}
    assert query(guarded.settings, "select * from canon.ct4_orphans_guard_pending") == []


def test_copy_is_guarded_too(guarded: Guarded) -> None:
    good, bad = guarded.prepare(LINK_LEAD), guarded.prepare()
    with psycopg.connect(**guarded.settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        with connection.cursor().copy(f"copy canon.identity_links {COLUMNS} from stdin") as copy:
            for persona in (good, bad):
                copy.write_row(
                    (persona.person, "drivers", persona.driver, "2025-01-01", "R", 1, "LOW")
                )
        if guarded.mode == "enforce":
            with pytest.raises(pg_errors.CheckViolation):
                connection.commit()
            return
    assert bad.driver in guarded.recorded()
    assert good.driver not in guarded.recorded()


def test_truncate_leaves_nobody_without_a_lead_and_a_reload_is_judged(
    make_database: Callable[[str], Settings],
) -> None:
    enforced = Guarded(make_database("template_built"), "enforce")
    install(enforced.settings, "enforce")
    persona = enforced.prepare(*LINKED)
    truncate = "truncate canon.identity_links"
    assert enforced.commit(persona, truncate, LINK_DRIVER) == "refused"
    assert enforced.commit(persona, truncate, LINK_DRIVER, LINK_LEAD) == "done"
    assert enforced.commit(persona, truncate) == "done"


def test_a_session_that_defers_nothing_is_judged_at_each_statement(enforced: Guarded) -> None:
    persona = enforced.prepare()
    with psycopg.connect(**enforced.settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        connection.execute("set constraints all immediate")
        with pytest.raises(pg_errors.CheckViolation):
            connection.execute(LINK_DRIVER, vars(persona))  # type: ignore[arg-type]


def test_the_refusal_names_the_rule_the_drivers_and_what_to_do(enforced: Guarded) -> None:
    personas = [enforced.prepare() for _ in range(12)]
    with psycopg.connect(**enforced.settings.connection_parameters()) as connection:  # type: ignore[arg-type]
        for persona in personas:
            connection.execute(LINK_DRIVER, vars(persona))  # type: ignore[arg-type]
        with pytest.raises(pg_errors.CheckViolation) as caught:
            connection.commit()
    said = caught.value.diag
    first = sorted(persona.driver for persona in personas)[0]
    assert said.sqlstate == "23514"
    assert said.message_primary is not None and said.message_detail is not None
    assert f"driver {first} would operate without a lead" in said.message_primary
    assert "rule: criterion 1" in said.message_primary
    assert said.constraint_name == "ct4_orphans_guard"
    assert "12 (" in said.message_detail and said.message_detail.count(",") == 10
    assert "quarantined" in str(said.message_hint)


def test_a_record_says_who_what_and_when(databases: dict[str, Guarded]) -> None:
    warned = databases["warn"]
    persona = warned.prepare()
    assert warned.commit(persona, LINK_DRIVER, application_name="crm-sync") == "recorded"
    found = query(
        warned.settings,
        "select person_key, session_user_name, application_name, not_judged,"
        " detected_at > now() - interval '1 minute', txid is not null"
        " from canon.ct4_orphans_guard_violations where driver_id = %s",
        persona.driver,
    )
    assert found == [(persona.person, "postgres", "crm-sync", None, True, True)]


def test_a_guard_that_warns_stops_nobody_even_when_it_is_broken(
    make_database: Callable[[str], Settings],
) -> None:
    warned = Guarded(make_database("template_built"), "warn")
    install(warned.settings, "warn")
    persona = warned.prepare()
    query(warned.settings, "alter table canon.ct4_orphans_guard_persons rename to lost")
    warned.commit(persona, LINK_DRIVER)
    found = query(
        warned.settings, "select driver_id, not_judged from canon.ct4_orphans_guard_violations"
    )
    assert found == [(None, "42P01")]


# --- Sessions at the same moment ------------------------------------------------------------------


class Session:
    """A connection whose statements run in a thread, so that it can wait for another session."""

    def __init__(self, settings: Settings, level: str) -> None:
        self.connection = psycopg.connect(**settings.connection_parameters())  # type: ignore[arg-type]
        self.pid = self.connection.info.backend_pid
        self.thread = ThreadPoolExecutor(1)
        self.level = level
        self.running: Future[None] | None = None
        self.error: psycopg.Error | None = None

    def start(self, step: str, words: str, persona: Persona) -> None:
        self.running = self.thread.submit(self._run, step, words, persona)

    def _run(self, step: str, words: str, persona: Persona) -> None:
        if self.error:
            return
        try:
            if step == "open":
                self.connection.execute(f"set transaction isolation level {self.level}")  # type: ignore[arg-type]
                self.connection.execute("select 1 from canon.ct4_orphans_guard")
            elif step == "write":
                self.connection.execute(words, vars(persona))  # type: ignore[arg-type]
            elif step == "check":
                self.connection.execute("set constraints all immediate")
            else:
                self.connection.commit()
        except psycopg.Error as error:
            self.error = error
            self.connection.rollback()

    def reset(self, level: str) -> None:
        self.level, self.error, self.running = level, None, None

    def close(self) -> None:
        self.thread.shutdown()
        self.connection.close()


class Stage:
    """Sessions that play an order of steps; a step that waits for another one is left waiting."""

    def __init__(self, guarded: Guarded, sessions: int) -> None:
        self.guarded = guarded
        self.sessions = [Session(guarded.settings, LEVELS[0]) for _ in range(sessions)]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self.sessions:
            session.close()

    def play(
        self,
        levels: tuple[str, ...],
        before: tuple[str, ...],
        writes: tuple[str, ...],
        order: list[tuple[int, str]],
    ) -> tuple[Persona, list[psycopg.Error | None]]:
        persona = self.guarded.prepare(*before)
        for session, level in zip(self.sessions, levels, strict=True):
            session.reset(level)
        left = list(order)
        deadline = time.monotonic() + 20
        while left:
            assert time.monotonic() < deadline, "the sessions wait for each other for ever"
            for number, step in left:
                session = self.sessions[number]
                if session.running is None or session.running.done():
                    left.remove((number, step))
                    session.start(step, writes[number], persona)
                    self._until_done_or_waiting(session)
                    break  # whoever has waited for this one goes on first
            else:
                time.sleep(0.002)
        for session in self.sessions:
            assert session.running
            session.running.result(20)
        return persona, [session.error for session in self.sessions]

    def _until_done_or_waiting(self, session: Session) -> None:
        assert session.running
        while not session.running.done():
            words = "select cardinality(pg_blocking_pids(%s)) > 0"
            if self.guarded.ask(words, session.pid) == [(True,)]:
                return
            time.sleep(0.001)


def steps(*words: str) -> list[tuple[int, str]]:
    """`0.open 1.open …` as pairs."""
    return [(int(word[0]), word[2:]) for word in words]


BOTH = ("0.open", "1.open", "0.write", "1.write")
# Each also with the two sessions changed round.
ORDERS = {
    "one commits after the other": steps(*BOTH, "0.commit", "1.commit"),
    "one commits while the other has been checked": steps(*BOTH, "0.check", "1.commit", "0.commit"),
    "both have been checked": steps(*BOTH, "0.check", "1.check", "1.commit", "0.commit"),
    "one comes and goes after the other's snapshot": steps(
        "0.open", "1.open", "1.write", "1.commit", "0.write", "0.commit"
    ),
    "one writes after the other was checked": steps(
        "0.open", "0.write", "0.check", "1.open", "1.write", "1.commit", "0.commit"
    ),
    "one after the other": steps("0.open", "0.write", "0.commit", "1.open", "1.write", "1.commit"),
}
TOGETHER: dict[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "the last lead goes, a driver comes": ((LINK_LEAD,), (UNLINK_LEAD, LINK_DRIVER)),
    "a quarantined driver comes, and is released": ((QUARANTINE,), (LINK_DRIVER, RELEASE)),
    "the last lead of a quarantined driver goes, and it is released": (
        (*LINKED, QUARANTINE),
        (UNLINK_LEAD, RELEASE),
    ),
    "two leads of a driver go": (
        (*LINKED, LINK_OTHER_LEAD),
        (UNLINK_LEAD, UNLINK_OTHER_LEAD),
    ),
    "the lead is moved away, a driver is moved there": (
        (LINK_LEAD, link("%(other)s", "drivers", "%(driver)s")),
        (
            "update canon.identity_links set person_key = %(other)s where source_pk = %(lead)s",
            "update canon.identity_links set person_key = %(person)s where source_pk = %(driver)s",
        ),
    ),
}


def both_ways() -> Iterator[list[tuple[int, str]]]:
    for order in ORDERS.values():
        yield order
        yield [(1 - number, step) for number, step in order]


def judge(
    guarded: Guarded, levels: tuple[str, ...], persona: Persona, errors: list[Any], recorded_: int
) -> bool:
    """What must hold after any order of sessions; returns whether the rule was broken."""
    kinds = {type(error) for error in errors if error}
    is_broken = bool(guarded.broken(persona))
    assert any(error is None for error in errors), "at least one gets through"
    if guarded.mode == "enforce":
        assert not is_broken
        assert kinds <= {pg_errors.CheckViolation, pg_errors.SerializationFailure}
        if set(levels) == {"read committed"}:
            assert kinds <= {pg_errors.CheckViolation}, "who waits is judged, not sent away"
    else:
        if "serializable" not in levels:
            assert kinds == set(), "nobody is refused"
        assert kinds <= {pg_errors.SerializationFailure}
        if is_broken:
            assert len(guarded.recorded()) > recorded_
    return is_broken


@pytest.mark.parametrize("together", TOGETHER)
def test_two_sessions_cannot_break_the_rule_together(guarded: Guarded, together: str) -> None:
    before, writes = TOGETHER[together]
    outcomes = set()
    with Stage(guarded, 2) as stage:
        for levels, order in product(product(LEVELS, LEVELS), both_ways()):
            count = len(guarded.recorded())
            persona, errors = stage.play(levels, before, writes, order)
            judge(guarded, levels, persona, errors, count)
            outcomes.add(tuple(error and type(error) for error in errors))
    if guarded.mode == "enforce":
        assert {True, False} == {first is None for first, _ in outcomes}, "either can be the one"
        assert {True, False} == {second is None for _, second in outcomes}


def test_without_rows_to_meet_at_two_sessions_do_break_it(
    make_database: Callable[[str], Settings],
) -> None:
    """The tests above can fail: the same check, deferred and all, without what they prove."""
    enforced = Guarded(make_database("template_built"), "enforce")
    install(enforced.settings, "enforce")
    words = statement("guard_functions").as_string()
    touches = r"insert into canon\.ct4_orphans_guard_(persons|drivers) .*?;\n"
    naive, changes = re.subn(touches, "", words, flags=re.DOTALL)
    assert changes == 2
    query(enforced.settings, naive)
    for together, levels in product(TOGETHER, (LEVELS[:1] * 2, LEVELS[1:2] * 2)):
        before, writes = TOGETHER[together]
        found = set()
        with Stage(enforced, 2) as stage:
            for order in both_ways():
                persona, errors = stage.play(levels, before, writes, order)
                found.add(not errors[0] and not errors[1] and bool(enforced.broken(persona)))
        assert found == {True, False}, (together, levels)


THREE: dict[str, tuple[tuple[str, ...], tuple[str, str, str]]] = {
    "two leads go, a driver comes": (
        (LINK_LEAD, LINK_OTHER_LEAD),
        (UNLINK_LEAD, UNLINK_OTHER_LEAD, LINK_DRIVER),
    ),
    "a lead goes, its quarantined driver comes and is released": (
        (LINK_LEAD, QUARANTINE),
        (UNLINK_LEAD, LINK_DRIVER, RELEASE),
    ),
}


@pytest.mark.parametrize("together", THREE)
def test_three_sessions_in_any_order_cannot_either(guarded: Guarded, together: str) -> None:
    before, writes = THREE[together]
    chance = random.Random(together)
    with Stage(guarded, 3) as stage:
        for _ in range(60):
            levels = tuple(chance.choice(LEVELS) for _ in range(3))
            each = [
                [
                    (number, step)
                    for step in chance.choice(
                        (("open", "write", "commit"), ("open", "write", "check", "commit"))
                    )
                ]
                for number in range(3)
            ]
            order = []
            while any(each):
                order.append(chance.choice([some for some in each if some]).pop(0))
            count = len(guarded.recorded())
            persona, errors = stage.play(levels, before, writes, order)
            judge(guarded, levels, persona, errors, count)


def test_a_transaction_older_than_the_guard_is_run_again(
    make_database: Callable[[str], Settings],
) -> None:
    """Whoever changed something before the guard was there has left no row to meet at."""
    enforced = Guarded(make_database("template_built"), "enforce")
    persona = enforced.prepare(LINK_LEAD)
    with open_connection(enforced.settings) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select 1")
        install(enforced.settings, "enforce")
        with pytest.raises(pg_errors.SerializationFailure, match="installed after"):
            old.execute(LINK_DRIVER, vars(persona))  # type: ignore[arg-type]


def test_bulk_loads_of_the_same_persons_in_other_orders_do_not_deadlock(enforced: Guarded) -> None:
    personas = [enforced.prepare(LINK_LEAD, QUARANTINE) for _ in range(30)]
    errors: list[BaseException] = []
    done: list[str] = []

    def load(number: int) -> None:
        chance = random.Random(number)
        with psycopg.connect(**enforced.settings.connection_parameters()) as connection:  # type: ignore[arg-type]
            for _ in range(12):
                level = LEVELS[0] if number < 3 else chance.choice(LEVELS)
                try:
                    with connection.transaction():
                        connection.execute(f"set transaction isolation level {level}")  # type: ignore[arg-type]
                        for persona in chance.sample(personas, 20):
                            own = {"driver": uuid.uuid4().hex, "lead": f"{number} {uuid.uuid4()}"}
                            connection.execute(LINK_OTHER_LEAD, vars(persona) | own)  # type: ignore[arg-type]
                            connection.execute(LINK_DRIVER, vars(persona) | own)  # type: ignore[arg-type]
                            connection.execute(UNLINK_OTHER_LEAD, own)  # type: ignore[arg-type]
                    done.append(level)
                except pg_errors.SerializationFailure as error:
                    if level == LEVELS[0]:
                        errors.append(error)
                except psycopg.Error as error:
                    errors.append(error)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert done.count(LEVELS[0]) >= 3 * 12


# --- Who may, and who is guarded ------------------------------------------------------------------


@pytest.fixture
def make_role(server: Settings) -> Iterator[Callable[[Settings, str], str]]:
    """Make a role that may log in, with these grants in a database; dropped with all it has."""
    made: list[tuple[Settings, str]] = []

    def make(settings: Settings, grants: str) -> str:
        role = f"role_{uuid.uuid4().hex}"
        query(settings, f"create role {role} login")
        made.append((settings, role))
        query(settings, grants.format(role=role))
        return role

    yield make
    for settings, role in made:
        query(settings, f"reassign owned by {role} to postgres; drop owned by {role}")
        query(settings, f"drop role {role}")


SERVICE = (
    "grant usage on schema canon to {role};"
    "grant insert, delete on canon.identity_links to {role};"
    "grant select (source_pk, source_table) on canon.identity_links to {role};"
    "grant usage on sequence canon.identity_links_id_seq to {role}"
)


def test_a_service_that_may_only_write_links_works_and_is_guarded(
    guarded: Guarded, make_role: Callable[[Settings, str], str]
) -> None:
    role = make_role(guarded.settings, SERVICE)
    persona = guarded.prepare(LINK_LEAD)
    assert guarded.commit(persona, LINK_DRIVER, user=role) == "done"
    gone = guarded.commit(persona, UNLINK_LEAD, user=role)
    assert gone == ("refused" if guarded.mode == "enforce" else "recorded")
    with psycopg.connect(**guarded.settings.connection_parameters() | {"user": role}) as connection:  # type: ignore[arg-type]
        for table in guard.TABLES:
            for words in (f"select from {table}", f"delete from {table}"):
                with (
                    pytest.raises(pg_errors.InsufficientPrivilege),
                    connection.transaction(),
                ):
                    connection.execute(words)  # type: ignore[call-overload]


def test_default_privileges_do_not_open_the_guard(
    make_database: Callable[[str], Settings], make_role: Callable[[Settings, str], str]
) -> None:
    settings = make_database("template_built")
    role = make_role(
        settings, "alter default privileges in schema canon grant all on tables to {role}"
    )
    install(settings, "enforce")
    may = query(
        settings,
        "select has_table_privilege(%s, t, 'delete') from unnest(%s::text[]) as t",
        role,
        list(guard.TABLES),
    )
    assert may == [(False,)] * len(guard.TABLES)


def test_an_install_names_every_privilege_that_is_missing(
    make_database: Callable[[str], Settings], make_role: Callable[[Settings, str], str]
) -> None:
    settings = make_database("template_built")
    role = make_role(settings, "grant usage on schema ct4_orphans, canon to {role}")
    said = say(settings, "install", user=role)
    assert said.code == 3, said.err
    (line,) = said.err.splitlines()
    for lacks in (
        "canon.identity_links belongs to postgres",
        "canon.driver_orphan_quarantine_ledger belongs to postgres",
        f"grant usage, create on schema canon to {role};",
        f"grant select on canon.driver_orphan_quarantine to {role};",
    ):
        assert lacks in line


def test_the_owner_of_the_tables_needs_no_superuser(
    make_database: Callable[[str], Settings], make_role: Callable[[Settings, str], str]
) -> None:
    settings = make_database("template_built")
    owner = make_role(
        settings,
        "grant usage, create on schema canon to {role}; grant usage on schema ct4_orphans to"
        " {role}; grant select on ct4_orphans.lead_sources to {role};"
        "alter table canon.identity_links owner to {role};"
        "alter view canon.driver_orphan_quarantine owner to {role};"
        "alter table canon.driver_orphan_quarantine_ledger owner to {role};"
        "alter table canon.driver_orphan_quarantine_seals owner to {role};"
        "alter function canon.driver_orphan_quarantine_wait_for_writers() owner to {role}",
    )
    assert say(settings, "install", "--mode", "enforce", user=owner).code == 0
    enforced = Guarded(settings, "enforce")
    assert enforced.commit(enforced.prepare(LINK_LEAD), LINK_DRIVER) == "done"
    assert enforced.commit(enforced.prepare(), LINK_DRIVER) == "refused"
    assert say(settings, "remove", user=owner).code == 0


# --- The commands ---------------------------------------------------------------------------------


def say(settings: Settings, *arguments: str, user: str | None = None) -> Said:
    """`orphans guard …` in this process."""
    environment = settings.environment() | ({"DB_USER": user} if user else {})
    result = CliRunner(env=environment).invoke(cli.main, ["guard", *arguments], prog_name="orphans")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise AssertionError("this would be a traceback") from result.exception
    assert not result.stdout or settings.dbname in result.stdout.splitlines()[0]
    return Said(result.exit_code, result.stdout, result.stderr)


def test_a_removal_leaves_nothing_and_a_dry_run_writes_nothing(built_database: Settings) -> None:
    before = catalogue(built_database)
    dry = say(built_database, "install", "--mode", "enforce", "--index", "--dry-run")
    assert dry.code == 0 and "Nothing was changed." in dry.out
    assert guard.CREATE_INDEX in dry.out
    assert catalogue(built_database) == before
    assert say(built_database, "install", "--mode", "enforce", "--index").code == 0
    installed = catalogue(built_database)
    assert installed != before
    dry = say(built_database, "remove", "--dry-run")
    assert dry.code == 0 and "Nothing was changed." in dry.out
    assert catalogue(built_database) == installed
    assert say(built_database, "remove").code == 0
    assert catalogue(built_database) == before
    assert say(built_database, "remove").code == 0, "a second time there is nothing to do"


def test_an_install_again_changes_nothing_and_over_another_mode_switches(
    built_database: Settings,
) -> None:
    assert "was off, is in mode warn" in say(built_database, "install").out
    first = query(built_database, "select * from canon.ct4_orphans_guard")
    triggers = query(built_database, "select oid from pg_trigger order by oid")
    assert "was warn, is in mode warn" in say(built_database, "install").out
    assert query(built_database, "select * from canon.ct4_orphans_guard") == first
    assert query(built_database, "select oid from pg_trigger order by oid") == triggers
    said = say(built_database, "install", "--mode", "enforce")
    assert "was warn, is in mode enforce" in said.out
    enforced = Guarded(built_database, "enforce")
    assert enforced.commit(enforced.prepare(), LINK_DRIVER) == "refused"
    assert "was enforce, is in mode warn" in say(built_database, "install", "--mode", "warn").out
    assert enforced.commit(enforced.prepare(), LINK_DRIVER) == "recorded"


def test_the_status_says_what_there_is(built_database: Settings) -> None:
    off = say(built_database, "status")
    assert off.code == 0 and "guard: is off" in off.out and "index on person_key: none" in off.out
    install(built_database, "warn")
    warned = Guarded(built_database, "warn")
    persona = warned.prepare()
    warned.commit(persona, LINK_DRIVER, application_name="crm")
    said = say(built_database, "status").out
    assert "is in mode warn since 20" in said and "by postgres" in said
    assert f"lead sources: {CABINET}" in said
    assert "violations recorded: 1\n" in said
    assert f"{persona.driver}  by postgres crm" in said
    assert "outside the quarantine now: 1  (orphans fix)" in said
    assert say(built_database, "install", "--index").code == 0
    assert f"index on person_key: {guard.INDEX}" in say(built_database, "status").out
    query(built_database, "insert into ct4_orphans.lead_sources values ('new', 'cabinet')")
    assert "the seed has others" in say(built_database, "status").out
    say(built_database, "install")
    assert "the seed has others" not in say(built_database, "status").out
    removed = say(built_database, "remove", "--keep-violations").out
    assert "Violations recorded: 1; kept in canon.ct4_orphans_guard_violations" in removed
    off = say(built_database, "status").out
    assert "guard: is off" in off and "violations recorded: 1\n" in off
    install(built_database, "warn")
    assert "violations recorded: 1\n" in say(built_database, "status").out


@pytest.mark.parametrize(
    "damage",
    [
        "alter table canon.identity_links disable trigger ct4_orphans_guard_insert",
        "alter table canon.identity_links enable trigger ct4_orphans_guard_delete",
        "drop trigger ct4_orphans_guard_entries on canon.driver_orphan_quarantine_ledger",
        "drop table canon.ct4_orphans_guard_pending",
        "drop function canon.ct4_orphans_guard_judge(uuid[], text[], text[])",
        "delete from canon.ct4_orphans_guard",
        "drop table canon.ct4_orphans_guard_persons",
    ],
)
def test_damage_is_seen_and_an_install_mends_it(built_database: Settings, damage: str) -> None:
    install(built_database, "enforce")
    query(built_database, damage)
    said = say(built_database, "status")
    assert said.code == 1 and "is damaged" in said.err
    assert say(built_database, "install", "--mode", "enforce").code == 0
    assert say(built_database, "status").code == 0
    enforced = Guarded(built_database, "enforce")
    assert enforced.commit(enforced.prepare(), LINK_DRIVER) == "refused"
    query(built_database, damage)
    assert say(built_database, "remove").code == 0
    assert "guard: is off" in say(built_database, "status").out


def test_an_index_of_somebody_else_is_enough_and_stays(built_database: Settings) -> None:
    query(built_database, "create index theirs on canon.identity_links (person_key, id)")
    say(built_database, "install", "--index")
    assert "index on person_key: theirs" in say(built_database, "status").out
    say(built_database, "remove")
    names = query(built_database, "select relname from pg_class where relname ~ 'theirs|guard'")
    assert names == [("theirs",)]


def test_an_index_that_was_left_half_made_is_made_anew(built_database: Settings) -> None:
    say(built_database, "install", "--index")
    usable = "select indisvalid from pg_index where indexrelid = %s::regclass"
    name = f"canon.{guard.INDEX}"
    query(
        built_database,
        "update pg_index set indisvalid = false where indexrelid = %s::regclass",
        name,
    )
    assert "one was left half made" in say(built_database, "status").out
    say(built_database, "install", "--index")
    assert query(built_database, usable, name) == [(True,)]


def test_doctor_says_what_the_guard_does(built_database: Settings, ct4_database: Settings) -> None:
    def notes(settings: Settings) -> list[str]:
        contract = doctors.Contract([], {}, "")
        with connect(settings, read_only=True) as connection:
            return list(doctors.in_words(list(doctors._guard(connection, contract))))

    assert notes(ct4_database) == [], "there is no quarantine to guard yet"
    assert notes(built_database)[0].startswith("  note  guard: is off")
    install(built_database, "enforce")
    assert notes(built_database)[0].startswith("  note  guard: is in mode enforce")


def test_an_install_without_the_ledger_says_what_to_do(ct4_database: Settings) -> None:
    said = say(ct4_database, "install")
    assert said.code == 3 and "orphans deploy" in said.err
    assert say(ct4_database, "status").code == 0
    assert say(ct4_database, "remove").code == 0


def test_an_install_waits_for_a_writer_and_is_nobodys_deadlock(
    built_database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has the ledger and wants the links, as the guard has them and wants the ledger."""
    guarded = Guarded(built_database, "enforce")
    persona = guarded.prepare()
    with open_connection(built_database) as writer:
        writer.execute(QUARANTINE, vars(persona))  # type: ignore[arg-type]
        thread = threading.Thread(target=install, args=(built_database, "enforce"))
        thread.start()
        while not query(
            built_database,
            "select 1 from pg_locks where relation = 'canon.identity_links'::regclass"
            " and mode = 'ShareRowExclusiveLock' and granted",
        ):
            time.sleep(0.005)
        writer.execute(LINK_DRIVER, vars(persona))  # type: ignore[arg-type]
        monkeypatch.setattr(guard, "SECONDS_FOR_LOCKS", 0)
        monkeypatch.setattr(guard, "FIRST_LOCK_MS", 100)
        with pytest.raises(DatabaseError, match="run the same command again"):
            install(built_database, "enforce")
        monkeypatch.setattr(guard, "SECONDS_FOR_LOCKS", 15)
        monkeypatch.setattr(guard, "FIRST_LOCK_MS", 3_000)
        writer.commit()
        thread.join(20)
    assert not thread.is_alive()
    assert guarded.commit(guarded.prepare(), LINK_DRIVER) == "refused"


# --- With the rest of the project -----------------------------------------------------------------


@pytest.fixture
def guarded_town(request: pytest.FixtureRequest, built_database: Settings, tmp_path: Path) -> Town:
    """The town of test_fix, orphans and all; then the guard is installed."""
    fill(built_database, town())
    install(built_database, request.param)
    return Town(built_database, tmp_path)


each_mode = pytest.mark.parametrize("guarded_town", guard.MODES, indirect=True)
enforcing = pytest.mark.parametrize("guarded_town", ["enforce"], indirect=True)


@each_mode
def test_the_fix_and_decisions_work_under_the_guard(guarded_town: Town) -> None:
    guarded_town.execute()
    states = guarded_town.sql("select driver_id, status::text from canon.driver_orphan_quarantine")
    found = {NAME.get(driver, "carla2"): status for driver, status in states}
    assert {name: found[name] for name in EXPECTED} == {
        name: status for name, (_, status, _) in EXPECTED.items()
    }
    for status in ("purged", "quarantined"):
        assert guarded_town.resolve("ivan", status).code == 0
    assert guarded_town.resolve("mario", "purged").code == 0
    assert set(violations(guarded_town.settings).values()) == {0}
    assert recorded_in(guarded_town.settings) == []


@enforcing
def test_an_undo_that_makes_orphans_again_is_refused_in_one_line(guarded_town: Town) -> None:
    run_id = guarded_town.execute()
    before = guarded_town.state()
    said = guarded_town.say("undo", run_id)
    assert said.code == 4
    (line,) = said.err.splitlines()
    assert "would operate without a lead: refused by the guard" in line
    assert "orphans guard install --mode warn" in line
    assert guarded_town.state() == before
    install(guarded_town.settings, "warn")
    assert guarded_town.say("undo", run_id).code == 0
    assert ID["ivan"] in recorded_in(guarded_town.settings)


@enforcing
def test_the_quarantine_cannot_be_taken_from_under_the_guard(guarded_town: Town, run: Run) -> None:
    before = catalogue(guarded_town.settings)
    for arguments in (("rollback", "--migration"), ("rollback", "--migration", "--dry-run")):
        said = guarded_town.say(*arguments)
        assert said.code == 4
        assert "orphans guard remove" in said.err and len(said.err.splitlines()) == 1
    down = run("alembic", "downgrade", "base", settings=guarded_town.settings)
    assert down.returncode == 4
    assert "orphans guard remove" in down.stderr and "Traceback" not in down.stderr
    assert catalogue(guarded_town.settings) == before
    with connect(guarded_town.settings) as connection:
        guard.remove(connection)
        guard.refuse_while_installed(connection)


def test_while_it_is_installed_it_says_so(built_database: Settings) -> None:
    install(built_database, "warn")
    with connect(built_database) as connection:
        assert "mode warn" in guard.note(connection)
        with pytest.raises(RefusedError, match="orphans guard remove"):
            guard.refuse_while_installed(connection)


def test_only_a_refusal_of_the_guard_is_taken_for_one(connection: Connection) -> None:
    with pytest.raises(pg_errors.CheckViolation) as caught:
        connection.execute(
            "insert into canon.driver_orphan_quarantine_ledger (driver_id, revision,"
            " detected_reason) values ('x', 0, 'manual_detection')"
        )
    assert not guard.is_refusal(caught.value)
