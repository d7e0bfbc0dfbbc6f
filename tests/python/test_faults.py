"""Faults: the real fix is broken at places that are known, and keeps what it promises.

faults.py has the means. Everything is judged from outside: by the tables, the report, the last
line, the exit code, and by what the next run comes to.
"""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faults
import pytest
from ct4_orphans import audit, embedded, seals
from ct4_orphans.database import Settings, connect
from faults import Boundary, Command, Fault, Outcome, Wire
from psycopg import sql
from reading import (
    CABINET_LEADS,
    MIGRATIONS,
    NO_EVENTS,
    SCOUTING,
    IndexedDriver,
    Person,
    PublicDriver,
    Quarantined,
    World,
)
from test_fix import (
    driver_of,
    end_state,
    event,
    fill,
    in_this_process,
    lead_link,
    linked,
    on_link_insert,
    person_key,
    plan,
    query,
    violations,
)

BATCH = 9  # drivers in a transaction: there are three
WAIT_FOR_WRITERS = "canon.driver_orphan_quarantine_wait_for_writers"
INJECTED: Counter[str] = Counter()

Place = Boundary | Callable[[Boundary], bool]

# What the persons are, in the order in which the fix takes them: every transaction has several
# kinds of work, and "+" is one more driver of the same person.
KINDS = """
strong none licence+ twins twins release phone strong+ none taken both none
release+ strong none phone++ none licence none quarantined purged whole both none
"""
TOWN = KINDS.split()


def town() -> World:
    """Every kind of work that a fix has, and some drivers that it must leave alone."""
    world = World()
    for number, what in enumerate(TOWN, start=1):
        kind, person = what.rstrip("+"), person_key(number)
        drivers = [driver_of(f"{number} {nth}") for nth in range(1 + what.count("+"))]
        licence = f"Q{number:08}"
        # The twins' phone is that of two persons: nobody knows whose lead it is.
        phone = "911111111" if kind == "twins" else f"9{number:08}"
        world.persons.append(Person(person))
        if kind != "purged":  # a purge has removed its link
            world.links += [
                linked(10 * number + nth, person, driver) for nth, driver in enumerate(drivers)
            ]
        world.drivers_index.append(IndexedDriver(drivers[0], license_norm=licence))
        world.drivers.append(PublicDriver(drivers[-1], phone=phone))
        events = {
            "strong": [(MIGRATIONS, {"driver_id": drivers[0]})],
            "licence": [(SCOUTING, {"driver_license": licence})],
            "both": [(SCOUTING, {"driver_license": licence, "driver_phone": phone})],
            "phone": [(CABINET_LEADS, {"park_phone": phone}), (SCOUTING, {"driver_phone": phone})],
            "twins": [(CABINET_LEADS, {"park_phone": phone})],
            "taken": [(CABINET_LEADS, {"park_phone": phone})],
        }
        world.lead_events += [
            event(number + 100 * nth, table, payload)
            for nth, (table, payload) in enumerate(events.get(kind, []))
        ]
        if kind in ("release", "whole"):
            world.links.append(lead_link(500 + number, person, CABINET_LEADS, f"own{number}"))
        if kind == "taken":  # the event is about a lead row that is somebody's
            whole = person_key(1 + TOWN.index("whole"))
            world.links.append(lead_link(500 + number, whole, CABINET_LEADS, f"L{number}"))
        if kind in ("release", "quarantined", "purged"):
            status = "purged" if kind == "purged" else "quarantined"
            world.quarantine += [
                Quarantined(driver, status, NO_EVENTS, 2, person) for driver in drivers
            ]
    return world


# --- What must never be ---------------------------------------------------------------------------

HALF_STATES = """
select 'a link of a run without an entry of that run for its person: ' || links.source_pk
from canon.identity_links as links
where
    links.match_rule = 'LEAD_EVENT_RECONSTRUCTION'
    and not exists (
        select 1
        from canon.driver_orphan_quarantine_ledger as entries
        where
            entries.run_id::text = links.evidence ->> 'run_id'
            and entries.person_key = links.person_key
            and entries.status = 'resolved_relinked'
    )

union all

select 'a relinked driver without the links of that run: ' || entries.driver_id
from canon.driver_orphan_quarantine_ledger as entries
cross join lateral
    jsonb_to_recordset(entries.evidence_json -> 'lead_rows')
        as lead_rows (source_table text, source_pk text)
where
    entries.status = 'resolved_relinked'
    and entries.run_id is not null
    and not exists (
        select 1
        from canon.driver_orphan_quarantine_ledger as newer
        where newer.driver_id = entries.driver_id and newer.revision > entries.revision
    )
    and not exists (
        select 1
        from canon.identity_links as links
        where
            links.source_table = lead_rows.source_table
            and links.source_pk = lead_rows.source_pk
            and links.person_key = entries.person_key
            and links.evidence ->> 'run_id' = entries.run_id::text
    )

union all

select 'a gap in the revisions of driver ' || driver_id
from canon.driver_orphan_quarantine_ledger
group by driver_id
having min(revision) <> 1 or max(revision) <> count(*)

union all

select 'a person of whom a run has done some drivers and not others: ' || entries.person_key
from canon.driver_orphan_quarantine_ledger as entries
inner join canon.identity_links as links
    on entries.person_key = links.person_key and links.source_table = 'drivers'
where
    entries.evidence_json ->> 'action' in ('relink', 'quarantine', 'release')
    and not exists (
        select 1
        from canon.driver_orphan_quarantine_ledger as others
        where others.driver_id = links.source_pk and others.run_id = entries.run_id
    )

union all

select 'a lead row that is linked twice: ' || source_pk
from canon.identity_links
group by source_table, source_pk
having count(*) > 1
"""


def half_states(settings: Settings) -> list[str]:
    """What no fault may leave behind; the ledger's digests too say what is wrong with it."""
    found = [text for (text,) in query(settings, HALF_STATES)]
    with connect(settings, read_only=True) as connection:
        return found + audit.audit(connection, {}).problems


def entries_of_runs(settings: Settings) -> dict[str, set[str]]:
    """The drivers to which each run of a fix has appended an entry."""
    rows = query(
        settings,
        "select run_id::text, array_agg(driver_id::text) from canon.driver_orphan_quarantine_ledger"
        " where run_id is not null group by run_id",
    )
    return {run_id: set(drivers) for run_id, drivers in rows}


def lies(outcome: Outcome, settings: Settings, planned: int) -> list[str]:
    """What a report says otherwise than the tables."""
    report = outcome.report
    run_id, stats = report["run_id"], report["stats"]
    if report["result"] == "unknown":
        told = stats is None and report["drivers"] == []
        return [] if told else ["the result is unknown, and yet there are drivers or counts"]
    entries = query(
        settings,
        "select driver_id, status::text from canon.driver_orphan_quarantine_ledger"
        " where run_id = %s",
        uuid.UUID(run_id),
    )
    links = query(
        settings,
        "select count(*)::int from canon.identity_links where evidence ->> 'run_id' = %s",
        run_id,
    )
    outcomes = {row["driver_id"]: row["outcome"] for row in report["drivers"]}
    (csv_path,) = outcome.directory.glob("orphans_report_*.csv")
    with csv_path.open(encoding="utf-8", newline="") as file:
        in_csv = {row["driver_id"]: row["outcome"] or None for row in csv.DictReader(file)}
    statuses = Counter(status for _, status in entries)
    applied = sum(statuses.values())
    pairs = {
        "drivers": ({key for key in outcomes if outcomes[key]}, {key for key, _ in entries}),
        "outcomes": (set(outcomes.values()) - {None}, {"applied"} if entries else set()),
        "CSV": (in_csv, outcomes),
        "processed": (stats["processed"], planned),
        "not_reached": (stats["not_reached"], planned - applied),
        "quarantined": (stats["quarantined"], statuses["quarantined"]),
        "resolved_relinked": (stats["resolved_relinked"], statuses["resolved_relinked"]),
        "released": (stats["released"], statuses["resolved_created_lead"]),
        "links_created": (stats["links_created"], links[0][0]),
        "result": (report["result"] == "complete", outcome.code == 0),
    }
    if applied == planned and outcome.code != 0:  # broken off when all was done: either is true
        del pairs["result"]
    return [
        f"the report's {name}: {said}, and there is: {there}"
        for name, (said, there) in pairs.items()
        if said != there
    ]


TAKE_OUT = """
alter table canon.driver_orphan_quarantine_ledger
disable trigger driver_orphan_quarantine_ledger_is_append_only;
alter table canon.driver_orphan_quarantine_seals
disable trigger driver_orphan_quarantine_seals_are_append_only;
delete from canon.identity_links where match_rule = 'LEAD_EVENT_RECONSTRUCTION';
delete from canon.driver_orphan_quarantine_ledger where run_id is not null;
delete from canon.driver_orphan_quarantine_seals where command = 'fix';
alter table canon.driver_orphan_quarantine_ledger
enable always trigger driver_orphan_quarantine_ledger_is_append_only;
alter table canon.driver_orphan_quarantine_seals
enable always trigger driver_orphan_quarantine_seals_are_append_only;
"""


# --- The laboratory -------------------------------------------------------------------------------


@dataclass
class Undisturbed:
    """The same run when nobody is in its way."""

    boundaries: list[Boundary]
    transactions: list[set[str]]
    end: tuple[set[Any], set[Any]]

    @property
    def planned(self) -> set[str]:
        return set().union(*self.transactions)

    @property
    def points(self) -> list[Boundary]:
        """All boundaries; not the goodbye, which nothing is asked with."""
        return [point for point in self.boundaries if point.statement != "terminate"]

    @property
    def applying(self) -> range:
        """The requests of the transactions that change something."""
        begins = [point.number for point in self.points if point.statement.startswith("BEGIN")]
        first = next(point.number for point in self.points if is_link_insert(point))
        commits = [point.number for point in self.points if point.statement == "COMMIT"]
        inserts = [point.number for point in self.points if is_link_insert(point)]
        last = next(number for number in commits if number > inserts[-1])
        return range(max(number for number in begins if number < first), last + 1)

    def phase(self, point: Boundary) -> str:
        """What the run does there: plan, (prepare to) apply, or report."""
        commits = [point.number for point in self.points if point.statement == "COMMIT"]
        if point.number in self.applying:
            return "apply"
        if point.number > self.applying.start:
            return "report"
        # From the last COMMIT before: the client may be further than the server.
        is_plan = any(point.number < number < self.applying.start for number in commits)
        return "plan" if is_plan else "prepare"

    def commits(self, side: faults.Side = "after") -> list[Boundary]:
        """Where each transaction that changes something is committed."""
        return [
            point
            for point in self.points
            if point.side == side and point.statement == "COMMIT" and point.number in self.applying
        ]

    def nth(self, number: int, text: str, side: faults.Side = "before") -> Boundary:
        """The place in transaction `number` (from 0) where a statement starts like this."""
        inside = [
            point for point in self.points if point.side == side and point.number in self.applying
        ]
        return [point for point in inside if point.statement.startswith(text)][number]


def is_link_insert(point: Boundary) -> bool:
    return "insert into canon.identity_links" in point.statement


@dataclass
class Disturbed:
    """A run to which something was done, and what is there now."""

    point: Boundary | None
    settings: Settings
    outcome: Outcome
    boundaries: list[Boundary]

    @property
    def committed(self) -> int:
        """Transactions with changes for which the server has answered COMMIT, heard or not."""
        count, has_changes = 0, False
        for boundary in self.boundaries:
            if boundary.side == "after" and boundary.line.number == 0:
                has_changes = has_changes or is_link_insert(boundary)
                if boundary.statement in ("COMMIT", "ROLLBACK"):
                    count += has_changes and boundary.statement == "COMMIT"
                    has_changes = False
        return count

    @property
    def line(self) -> str:
        """The one line on standard error."""
        assert len(self.outcome.err.splitlines()) == 1, self.outcome.err
        return self.outcome.err.strip()


class Running:
    """A run that was started through a wire, and what is to be done to it."""

    def __init__(
        self, settings: Settings, name: str, at: Place | None, do: Fault, again: Fault
    ) -> None:
        self.settings = settings
        self.name, self.at, self.do, self.again = name, at, do, again
        self.hit: Boundary | None = None
        self.wire = Wire(settings, self.reach)

    def reach(self, boundary: Boundary) -> None:
        """Do it if this is the place; at every place of later connections, do it again."""
        if boundary.line.number > 0:
            self.again(boundary)
        elif self.at and self.hit is None and self.is_at(boundary):
            self.hit = boundary
            self.do(boundary)

    def is_at(self, boundary: Boundary) -> bool:
        if not isinstance(self.at, Boundary):
            return bool(self.at and self.at(boundary))
        if (boundary.side, boundary.number) != (self.at.side, self.at.number):
            return False
        assert boundary.statement == self.at.statement, "two runs did not ask for the same"
        return True

    def finish(self) -> Disturbed:
        try:
            outcome = self.wire.command.result().finish()
        finally:
            self.wire.close()
        if self.at:
            assert self.hit, f"the run never came to {self.at}"
            INJECTED[self.name] += 1
        faults.wait_until_gone(self.settings)
        return Disturbed(self.hit, self.settings, outcome, self.wire.boundaries)


class Laboratory:
    """A town for every run, what an undisturbed run makes of it, and what must hold after one."""

    def __init__(self, server: Settings, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.made: list[str] = []
        self.free: list[Settings] = []
        self.lent: list[Settings] = []
        self.run_again: dict[Any, list[str]] = {}
        self.template = self._recreate("template_built")
        fill(self.template, town())
        with connect(self.template) as connection:  # as the migration does it
            seals.seal(connection, seals.Run("migration", {}), "ended")
        self.before = end_state(self.template)
        run = self.finish(self.start())
        entries = entries_of_runs(run.settings)
        assert run.outcome.code == 0, run.outcome.err
        assert len(entries) == 1
        moments = query(
            run.settings,
            "select array_agg(driver_id::text) from canon.driver_orphan_quarantine_ledger"
            " where run_id is not null group by recorded_at order by recorded_at",
        )
        self.undisturbed = Undisturbed(
            run.boundaries, [set(drivers) for (drivers,) in moments], end_state(run.settings)
        )

    def database(self) -> Settings:
        return self._recreate(self.template.dbname)

    def _recreate(self, template: str) -> Settings:
        self.made.append(f"test_{uuid.uuid4().hex}")
        return embedded.recreate_database(self.server, self.made[-1], template=template)

    def drop(self) -> None:
        with faults.connection_to(self.server) as connection:
            for name in self.made:
                connection.execute(
                    sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
                )

    def free_database(self) -> Settings:
        self.lent.append(self.free.pop() if self.free else self.database())
        return self.lent[-1]

    def give_back(self, settings: Settings) -> None:
        """Take out what runs have done, so that the next run can have this database.

        A new one for each would cost a checkpoint each, which is more than the run.
        """
        with faults.connection_to(settings) as connection:
            connection.execute(TAKE_OUT)  # type: ignore[arg-type]
        assert end_state(settings) == self.before, "this is not the town that it was"
        self.lent.remove(settings)
        self.free.append(settings)

    def output(self) -> Path:
        return self.directory / uuid.uuid4().hex

    def start(
        self,
        name: str = "",
        at: Place | None = None,
        do: Fault = lambda _: None,
        again: Fault = lambda _: None,
        settings: Settings | None = None,
        mutilated: faults.Mutilation = nullcontext,
        reports: Path | None = None,
        patient: bool = False,
    ) -> Running:
        running = Running(settings or self.free_database(), name, at, do, again)
        running.wire.command.set_result(
            faults.start(
                running.wire.settings,
                self.output(),
                "fix",
                "--execute",
                batch=BATCH,
                patient=patient,
                reports=reports,
                mutilated=mutilated,
            )
        )
        return running

    def finish(self, running: Running) -> Disturbed:
        return running.finish()

    def disturb(self, name: str, at: Place, do: Fault, **options: Any) -> Disturbed:
        return self.start(name, at, do, **options).finish()

    def broken_promises(self, run: Disturbed) -> list[str]:
        """Whole transactions, no half state, no lie, and the next run ends where it should."""
        found = half_states(run.settings)
        done = set().union(*entries_of_runs(run.settings).values())
        transactions = self.undisturbed.transactions
        if done != set().union(*transactions[: run.committed]):
            found.append(f"{run.committed} transactions were committed, and done are {done}")
        if "Traceback" in run.outcome.err:
            found.append(f"a traceback: {run.outcome.err}")
        if run.outcome.reports:
            found += lies(run.outcome, run.settings, len(self.undisturbed.planned))
        return [f"{run.point}: {problem}" for problem in found + self.does_not_converge(run)]

    def does_not_converge(self, run: Disturbed) -> list[str]:
        """What the next run gets wrong. Of equal databases, one is run again."""
        sealed = query(
            run.settings, "select step, entries from canon.driver_orphan_quarantine_seals"
        )
        now = (*map(frozenset, end_state(run.settings)), tuple(sealed))
        if now not in self.run_again:
            self.run_again[now] = self._run_again(run)
        return self.run_again[now]

    def _run_again(self, run: Disturbed) -> list[str]:
        again = in_this_process(run.settings, self.output(), "--execute")
        found = half_states(run.settings)
        if again.code != 0:
            found.append(f"the next run ends with {again.code}: {again.err}")
        if end_state(run.settings) != self.undisturbed.end:
            found.append("the next run ends somewhere else")
        return found + [f"still to do: {driver}" for driver in plan(run.settings)]


@pytest.fixture(scope="module")
def laboratory(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    made = Laboratory(server, tmp_path_factory.mktemp("faults"))
    yield made
    made.drop()


@pytest.fixture
def lab(
    laboratory: Laboratory, record_property: Callable[[str, object], None]
) -> Iterator[Laboratory]:
    """The laboratory; the faults that a test injects are counted for the last lines of pytest."""
    before = INJECTED.total()
    yield laboratory
    record_property("faults_injected", INJECTED.total() - before)
    for settings in [*laboratory.lent]:
        laboratory.give_back(settings)


def stopped(run: Disturbed, saying: str) -> list[str]:
    """What is missing where a run must end with a report, one line, and exit code 1."""
    found = []
    if run.outcome.code != 1:
        found.append(f"{run.point}: exit code {run.outcome.code}: {run.outcome.err}")
    if len(run.outcome.err.splitlines()) != 1 or saying not in run.outcome.err:
        found.append(f"{run.point}: not one line with {saying!r}: {run.outcome.err}")
    if len(run.outcome.reports) != 1:
        found.append(f"{run.point}: {len(run.outcome.reports)} reports")
    return found


def nothing_happened(run: Disturbed, code: int) -> list[str]:
    """What is wrong where a run must end before it has done anything: one line, no files."""
    found = []
    if run.outcome.code != code:
        found.append(f"{run.point}: exit code {run.outcome.code}: {run.outcome.err}")
    if len(run.outcome.err.splitlines()) != 1:
        found.append(f"{run.point}: not one line: {run.outcome.err}")
    if run.outcome.directory.exists() and list(run.outcome.directory.iterdir()):
        found.append(f"{run.point}: files are left")
    if entries_of_runs(run.settings):
        found.append(f"{run.point}: something was done")
    return found


# --- SIGKILL --------------------------------------------------------------------------------------


def test_the_town_has_every_kind_of_work_in_three_transactions(lab: Laboratory) -> None:
    assert len(lab.undisturbed.transactions) == 3
    assert len(lab.undisturbed.commits()) == 3
    assert len(lab.undisturbed.planned) == 26


def test_a_kill_at_any_boundary_leaves_whole_transactions_and_the_next_run_finishes(
    lab: Laboratory,
) -> None:
    problems: list[str] = []
    points = lab.undisturbed.points
    for point in points:
        run = lab.disturb("SIGKILL", point, faults.kill)
        if run.outcome.code != -signal.SIGKILL:
            problems.append(f"{point}: was not killed")
        problems += lab.broken_promises(run)
        lab.give_back(run.settings)
    assert not problems, "\n".join(problems)
    assert len(points) >= 100


# --- SIGINT and SIGTERM ---------------------------------------------------------------------------


def interrupted(lab: Laboratory, run: Disturbed) -> list[str]:
    """What is wrong after a signal."""
    assert run.point
    phase = lab.undisturbed.phase(run.point)
    if phase == "plan":
        return nothing_happened(run, 1)
    if phase == "apply":
        return stopped(run, "Interrupted")
    problems = []
    if run.outcome.code not in (0, 1):
        problems.append(f"{run.point}: exit code {run.outcome.code}: {run.outcome.err}")
    # When all is applied: a report, or where to find what was done; and not the contrary.
    if phase == "report" and not run.outcome.reports and "run_id" not in run.outcome.err:
        problems.append(f"{run.point}: neither a report nor a run_id: {run.outcome.err}")
    if phase == "report" and "Nothing was changed" in run.outcome.err:
        problems.append(f"{run.point}: everything was changed: {run.outcome.err}")
    return problems


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_one_line_and_a_report_of_exactly_what_was_applied(
    lab: Laboratory, number: signal.Signals
) -> None:
    problems: list[str] = []
    first = 0 if number == signal.SIGINT else 3
    points = lab.undisturbed.points
    for point in [*points[first::12], *lab.undisturbed.commits(), *points[-2:]]:
        run = lab.disturb(number.name, point, faults.send(number))
        problems += interrupted(lab, run) + lab.broken_promises(run)
        lab.give_back(run.settings)
    assert not problems, "\n".join(problems)


def test_an_interrupt_in_the_moment_of_asking_is_no_different(lab: Laboratory) -> None:
    problems: list[str] = []
    for point in [point for point in lab.undisturbed.points if point.side == "before"][4::9]:
        run = lab.disturb("SIGINT", point, faults.send(signal.SIGINT, settle=0))
        problems += interrupted(lab, run) + lab.broken_promises(run)
        lab.give_back(run.settings)
    assert not problems, "\n".join(problems)


# --- The connection, or the server's process, is lost ---------------------------------------------


def look_up_or_nothing(lab: Laboratory, run: Disturbed) -> list[str]:
    """What is wrong after a loss: before anything is applied, while it is, or when all is done."""
    return after_loss(lab, run) + lab.broken_promises(run)


def after_loss(lab: Laboratory, run: Disturbed) -> list[str]:
    assert run.point
    phase = lab.undisturbed.phase(run.point)
    if phase == "plan":
        return nothing_happened(run, 3)
    if phase == "apply":
        done = len(set().union(*lab.undisturbed.transactions[: run.committed]))
        return stopped(run, f"{done} of {len(lab.undisturbed.planned)} drivers are applied")
    if phase == "report" and (len(run.outcome.reports) != 1 or run.outcome.code not in (0, 1)):
        return [f"{run.point}: exit code {run.outcome.code}: {run.outcome.err}"]
    return []


LOSSES = {"connection cut": faults.cut, "backend terminated": faults.terminate}


@pytest.mark.parametrize("name", LOSSES)
def test_after_a_loss_the_ledger_is_looked_up_and_nothing_is_repeated(
    lab: Laboratory, name: str
) -> None:
    problems: list[str] = []
    first = 1 if name == "connection cut" else 3  # there is a process once it has answered
    commits = [*lab.undisturbed.commits("before"), *lab.undisturbed.commits("after")]
    points = lab.undisturbed.points
    for point in [*points[first::11], *commits, *points[-2:]]:
        run = lab.disturb(name, point, LOSSES[name])
        problems += look_up_or_nothing(lab, run)
        lab.give_back(run.settings)
    assert not problems, "\n".join(problems)


def test_a_commit_that_arrives_after_the_client_is_cut_off_is_waited_for(lab: Laboratory) -> None:
    problems: list[str] = []
    for number, point in enumerate(lab.undisturbed.commits("before"), start=1):
        run = lab.disturb("late COMMIT", point, faults.deliver_late(0.7))
        assert run.committed == number
        problems += look_up_or_nothing(lab, run)
    assert not problems, "\n".join(problems)


def test_without_a_way_back_the_result_is_unknown(lab: Laboratory) -> None:
    commits = [*lab.undisturbed.commits("before"), *lab.undisturbed.commits("after")]
    problems: list[str] = []
    runs = [lab.start("connection cut for good", point, faults.cut_for_good) for point in commits]
    for run in map(lab.finish, runs):
        problems += lab.broken_promises(run)
        report = run.outcome.report
        assert run.outcome.code == 3
        assert report["result"] == "unknown"
        assert report["drivers"] == []
        assert report["stats"] is None
        assert "unknown" in run.line
        assert report["run_id"] in run.line
        assert "audit" in run.line
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("number", [0, 1, 3, 6, 9, 12, 16])
def test_a_second_loss_while_the_ledger_is_looked_up_is_no_guess(
    lab: Laboratory, number: int
) -> None:
    """Of the second connection too, after any request: then the third one looks, or it says so."""

    def cut_the_second(boundary: Boundary) -> None:
        place = (boundary.line.number, boundary.side, boundary.number)
        if place == (1, "after", number):
            INJECTED["second loss"] += 1
            boundary.line.cut()

    run = lab.disturb(
        "connection cut", lab.undisturbed.commits()[1], faults.cut, again=cut_the_second
    )
    assert run.committed == 2
    assert lab.broken_promises(run) == []
    if run.outcome.report["result"] == "unknown":
        assert run.outcome.code == 3
        assert "unknown" in run.line
        assert run.outcome.report["run_id"] in run.line
    else:
        assert stopped(run, "drivers are applied") == []


def test_an_interrupt_while_it_connects_again_does_not_say_that_nothing_was_changed(
    lab: Laboratory,
) -> None:
    def cut_and_interrupt(boundary: Boundary) -> None:
        faults.cut_for_good(boundary)
        faults.send(signal.SIGINT, settle=0.4)(boundary)

    run = lab.disturb("SIGINT", lab.undisturbed.commits()[1], cut_and_interrupt)
    (run_id,) = entries_of_runs(run.settings)
    assert run.outcome.code in (1, 3)
    assert "Nothing was changed" not in run.outcome.err
    assert run_id in run.line
    assert lab.broken_promises(run) == []


# --- While a statement runs -----------------------------------------------------------------------


def test_a_statement_that_is_broken_off_while_it_runs_is_rolled_back(lab: Laboratory) -> None:
    at = lab.undisturbed.nth(1, "insert into canon.identity_links")
    runs = {
        "SIGKILL": lab.start("SIGKILL", at, faults.while_blocked(faults.kill)),
        **{
            number.name: lab.start(
                number.name, at, faults.while_blocked(faults.send(number), hold=1)
            )
            for number in (signal.SIGINT, signal.SIGTERM)
        },
        "cancelled": lab.start("statement cancelled", at, faults.while_blocked(faults.cancel)),
        "terminated": lab.start("backend terminated", at, faults.while_blocked(faults.terminate)),
        "cut": lab.start("connection cut", at, faults.while_blocked(faults.cut, hold=1)),
    }
    done = {name: lab.finish(run) for name, run in runs.items()}
    problems = [problem for run in done.values() for problem in lab.broken_promises(run)]
    # A signal lets the transaction that is on come to its end.
    committed = dict.fromkeys(done, 1) | {"SIGINT": 2, "SIGTERM": 2}
    assert {name: run.committed for name, run in done.items()} == committed
    assert done["SIGKILL"].outcome.code == -signal.SIGKILL
    problems += stopped(done["SIGINT"], "Interrupted") + stopped(done["SIGTERM"], "Interrupted")
    problems += stopped(done["cancelled"], "Stopped: canceling statement due to user request")
    for name in ("terminated", "cut"):
        problems += stopped(done[name], "of 26 drivers are applied")
    assert not problems, "\n".join(problems)


def test_the_next_run_is_refused_until_the_server_has_done_with_the_killed_one(
    lab: Laboratory,
) -> None:
    at = lab.undisturbed.nth(1, "insert into canon.identity_links")
    running = lab.start("SIGKILL", at, faults.while_blocked(faults.kill, hold=3))
    assert running.wire.command.result().finish().code == -signal.SIGKILL
    again = in_this_process(running.settings, lab.output(), "--execute")
    assert again.code == 4
    assert "Another execute is running" in again.err
    run = lab.finish(running)
    assert run.committed == 1
    assert lab.broken_promises(run) == []


# --- Timeouts -------------------------------------------------------------------------------------


def set_for_the_role(settings: Settings, name: str, value: str = "default") -> None:
    """As an administrator does it: it holds for every new session in this database."""
    query(settings, f"alter role postgres in database {settings.dbname} set {name} = {value}")


@contextmanager
def locked(settings: Settings, table: str) -> Iterator[None]:
    with faults.connection_to(settings) as connection:
        connection.autocommit = False
        connection.execute(f"lock table {table} in access exclusive mode")  # type: ignore[arg-type]
        yield


@pytest.mark.parametrize("name", ["statement_timeout", "lock_timeout"])
def test_a_timeout_while_it_plans_is_one_line_and_never_no_events(
    lab: Laboratory, name: str
) -> None:
    settings = lab.database()
    set_for_the_role(settings, name, "'400ms'")
    with locked(settings, "observational.lead_events"):
        outcome = in_this_process(settings, lab.output(), "--execute")
    INJECTED[name] += 1
    run = Disturbed(None, settings, Outcome(**vars(outcome)), [])
    assert nothing_happened(run, 3) == []
    assert "timeout" in run.line
    set_for_the_role(settings, name)
    assert lab.broken_promises(run) == []


def test_a_statement_timeout_while_it_applies_stops_with_a_report(lab: Laboratory) -> None:
    settings = lab.database()
    set_for_the_role(settings, "statement_timeout", "'1500ms'")
    at = lab.undisturbed.nth(1, "insert into canon.identity_links")
    blocked = faults.while_blocked(lambda _: time.sleep(1.5))
    run = lab.disturb("statement_timeout", at, blocked, settings=settings)
    set_for_the_role(settings, "statement_timeout")
    assert run.committed == 1
    assert stopped(run, "Stopped: canceling statement due to statement timeout") == []
    assert lab.broken_promises(run) == []


def test_a_lock_that_cannot_be_had_while_it_applies_stops_with_a_report(lab: Laboratory) -> None:
    settings = lab.database()
    query(settings, "create table canon.of_another_service ()")
    on_link_insert(
        settings,
        "perform set_config('lock_timeout', '50ms', true); perform from canon.of_another_service;",
    )
    with ExitStack() as held:
        run = lab.disturb(
            "lock_timeout",
            lab.undisturbed.nth(1, "insert into canon.identity_links"),
            lambda _: held.enter_context(locked(settings, "canon.of_another_service")),
            settings=settings,
        )
    query(settings, "drop trigger of_ct4 on canon.identity_links")
    assert run.committed == 1
    assert stopped(run, "Stopped: canceling statement due to lock timeout") == []
    assert lab.broken_promises(run) == []


def test_whoever_holds_the_ledger_is_waited_for_only_so_long(lab: Laboratory) -> None:
    """Another service may have an entry that it never commits: every transaction has a limit."""
    limited, waits = False, 0
    for point in lab.undisturbed.points:
        if point.side == "before":
            limited = limited and not point.statement.startswith("BEGIN")
            limited = limited or "lock_timeout" in point.statement
            if point.statement.startswith(f"select {WAIT_FOR_WRITERS}"):
                waits += 1
                assert limited, f"{point}: without a lock_timeout"
    assert waits >= len(lab.undisturbed.transactions)


# --- Somebody in the way: tried again, three times ------------------------------------------------


def fail_first(settings: Settings, times: int, errcode: str, when: str) -> None:
    """The first so many tries of the first transaction are refused, as if by chance."""
    query(settings, "create sequence canon.tries")
    query(
        settings,
        "create function canon.of_chance() returns trigger language plpgsql as $$ begin"
        f" if nextval('canon.tries') <= {times} then"
        f" raise exception 'by chance' using errcode = '{errcode}'; end if; return null; end $$",
    )
    kind, how = {
        "statement": ("trigger", "for each statement"),
        "commit": ("constraint trigger", "deferrable initially deferred for each row"),
    }[when]
    query(
        settings,
        f"create {kind} of_chance after insert on canon.identity_links"
        f" {how} execute function canon.of_chance()",
    )


@pytest.mark.parametrize(
    ("errcode", "when"), [("deadlock_detected", "statement"), ("serialization_failure", "commit")]
)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_chance_refuses_is_tried_three_times_and_then_stopped(
    lab: Laboratory, times: int, errcode: str, when: str
) -> None:
    settings = lab.database()
    fail_first(settings, times, errcode, when)
    outcome = in_this_process(settings, lab.output(), "--execute")
    INJECTED[errcode] += times
    run = Disturbed(None, settings, Outcome(**vars(outcome)), [])
    query(settings, "drop trigger of_chance on canon.identity_links")
    if times < 3:
        assert outcome.code == 0, outcome.err
        assert end_state(settings) == lab.undisturbed.end
    else:
        assert stopped(run, "by chance") == []
    assert lies(run.outcome, settings, len(lab.undisturbed.planned)) == []
    assert half_states(settings) == []
    assert lab.does_not_converge(run) == []


def test_a_deadlock_with_another_service_is_tried_again(lab: Laboratory) -> None:
    settings = lab.database()
    set_for_the_role(settings, "deadlock_timeout", "'200ms'")
    service = faults.connection_to(settings)

    def wants_the_same_lead(_: Boundary) -> None:
        """The service waits for the run, which is about to wait for the service's entry."""
        service.autocommit = False
        service.execute("set deadlock_timeout = '1min'")
        service.execute(
            "insert into canon.driver_orphan_quarantine (driver_id, detected_reason)"
            " values ('of another service', 'manual_detection')"
        )
        threading.Thread(target=insert, daemon=True).start()
        faults.wait_until_blocked(settings, service.info.backend_pid)

    def insert() -> None:
        with service:  # the run is the victim, so this goes through, and is taken back
            service.execute(
                "insert into canon.identity_links (person_key, source_table, source_pk,"
                " snapshot_date, match_rule, match_score, confidence_level)"
                " values (%s, %s, 'L1', now(), 'SERVICE', 1, 'LOW')",
                [person_key(1), MIGRATIONS],
            )
            service.rollback()

    at = lab.undisturbed.nth(0, f"select {WAIT_FOR_WRITERS}")
    run = lab.disturb("deadlock", at, wants_the_same_lead, settings=settings)
    assert run.outcome.code == 0, run.outcome.err
    tries = [boundary for boundary in run.boundaries if boundary.statement == "ROLLBACK"]
    assert tries, "there was no deadlock"
    assert end_state(settings) == lab.undisturbed.end
    assert lab.broken_promises(run) == []


# --- The server is stopped, and starts again ------------------------------------------------------


@pytest.fixture(scope="module")
def own_server(laboratory: Laboratory) -> Iterator[Path]:
    """The data directory of a server with the town in it, whose commits are on the disk."""
    directory = faults.ROOT / ".embedded" / f"faults-{uuid.uuid4().hex[:8]}"
    with faults.server_of_its_own(directory) as server:
        town = faults.copy_database(laboratory.template, server)
        query(town, f"alter database {town.dbname} set synchronous_commit = on")
        yield directory


@pytest.mark.parametrize(
    ("how", "number", "text", "side"),
    [
        (signal.SIGINT, 1, "COMMIT", "before"),
        (signal.SIGQUIT, 1, "COMMIT", "after"),
        (signal.SIGQUIT, 2, "insert into canon.driver_orphan_quarantine_ledger", "after"),
    ],
    ids=["stopped before a COMMIT", "crashed after a COMMIT", "crashed in a transaction"],
)
def test_after_a_restart_of_the_server_the_ledger_is_looked_up(
    lab: Laboratory,
    own_server: Path,
    how: signal.Signals,
    number: int,
    text: str,
    side: faults.Side,
) -> None:
    server = embedded.start_server(own_server)
    town = replace(lab.template, host=server.host)
    settings = embedded.recreate_database(server, "disturbed", template=town.dbname)
    query(settings, "alter database disturbed set synchronous_commit = on")
    at = lab.undisturbed.nth(number, text, side)
    run = lab.disturb(
        "server restarted", at, faults.restart(own_server, how), settings=settings, patient=True
    )
    assert run.committed == (2 if (text, side) != ("COMMIT", "before") else 1)
    assert look_up_or_nothing(lab, run) == []


# --- Disk full ------------------------------------------------------------------------------------


@contextmanager
def disk_or_skip(size: str) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(faults.small_disk(size))
        except OSError as error:
            pytest.skip(str(error))
        yield disk


@contextmanager
def tablespace(server: Settings, data_directory: Path, disk: Path) -> Iterator[str]:
    owner = data_directory.stat()
    os.chown(disk, owner.st_uid, owner.st_gid)
    with faults.connection_to(server) as connection:
        connection.execute(f"create tablespace small location '{disk}'")  # type: ignore[arg-type]
        try:
            yield "small"
        finally:
            (disk / "filler").unlink(missing_ok=True)
            connection.execute("drop database if exists disturbed with (force)")
            connection.execute("drop tablespace small")


def test_a_disk_that_is_full_while_it_applies_stops_with_a_report(
    lab: Laboratory, own_server: Path
) -> None:
    server = embedded.start_server(own_server)
    with disk_or_skip("4m") as disk, tablespace(server, own_server, disk) as small:
        settings = embedded.recreate_database(server, "disturbed", template=lab.template.dbname)
        query(settings, f"alter table canon.driver_orphan_quarantine_ledger set tablespace {small}")
        at = lab.undisturbed.nth(1, "insert into canon.driver_orphan_quarantine_ledger")
        run = lab.disturb("disk full", at, lambda _: faults.fill_up(disk), settings=settings)
        assert run.committed == 1
        assert stopped(run, "No space left on device") == []
        (disk / "filler").unlink()
        assert lab.broken_promises(run) == []


def test_a_disk_that_is_full_while_it_plans_is_one_line_and_nothing_is_changed(
    lab: Laboratory, own_server: Path
) -> None:
    server = embedded.start_server(own_server)
    with disk_or_skip("48m") as disk, tablespace(server, own_server, disk):
        with faults.connection_to(server) as connection:
            connection.execute(
                f"create database disturbed template {lab.template.dbname} tablespace small"  # type: ignore[arg-type]
            )
        settings = replace(server, dbname="disturbed")
        at = next(
            point
            for point in lab.undisturbed.points
            if "create temporary table planned" in point.statement
        )
        run = lab.disturb("disk full", at, lambda _: faults.fill_up(disk), settings=settings)
        assert nothing_happened(run, 3) == []
        assert "No space left on device" in run.line
        (disk / "filler").unlink()
        assert lab.broken_promises(run) == []


def test_a_disk_that_is_full_for_the_report_says_that_the_changes_are_in_the_database(
    lab: Laboratory,
) -> None:
    with disk_or_skip("64k") as disk:
        at = next(point for point in lab.undisturbed.points if "DECLARE" in point.statement)
        run = lab.disturb("disk full", at, lambda _: faults.fill_up(disk), reports=disk / "reports")
        (run_id,) = entries_of_runs(run.settings)
        assert run.outcome.code == 5
        assert "The changes ARE in the database" in run.line
        assert run_id in run.line
        assert list((disk / "reports").iterdir()) == []
        assert run.committed == len(lab.undisturbed.transactions)
        assert lab.broken_promises(run) == []


# --- Several at once ------------------------------------------------------------------------------


def start_all(lab: Laboratory, settings: Settings, *commands: tuple[str, ...]) -> list[Command]:
    return [faults.start(settings, lab.output(), *command, batch=BATCH) for command in commands]


def test_of_eight_executes_at_once_one_works_and_seven_are_refused(lab: Laboratory) -> None:
    settings = lab.database()
    refused: list[Outcome] = []

    def seven_more(_: Boundary) -> None:
        seven = start_all(lab, settings, *[("fix", "--execute")] * 7)
        refused.extend(command.finish() for command in seven)

    at = lab.undisturbed.nth(0, "insert into canon.identity_links")
    run = lab.disturb(
        "executes at once", at, faults.while_blocked(seven_more, hold=0), settings=settings
    )
    assert [outcome.code for outcome in refused] == [4] * 7
    assert run.outcome.code == 0, run.outcome.err
    assert lab.broken_promises(run) == []


@pytest.mark.parametrize("again", range(3))
def test_eight_executes_at_once_come_to_what_one_comes_to(lab: Laboratory, again: int) -> None:
    settings = lab.database()
    outcomes = [
        command.finish() for command in start_all(lab, settings, *[("fix", "--execute")] * 8)
    ]
    INJECTED["executes at once"] += 1
    assert {outcome.code for outcome in outcomes} <= {0, 4}
    reports = [report for outcome in outcomes for report in outcome.reports]
    assert len(reports) == sum(outcome.code == 0 for outcome in outcomes)
    assert sum(report["stats"]["processed"] for report in reports) == 26
    assert half_states(settings) == []
    assert end_state(settings) == lab.undisturbed.end


def test_executes_resolves_and_undos_at_once_leave_no_half_state(lab: Laboratory) -> None:
    settings = lab.database()
    assert in_this_process(settings, lab.output(), "--execute").code == 0
    (run_id,) = entries_of_runs(settings)
    purge = ["--status", "purged", "--note", "at once"]
    look_again = ("fix", "--execute", "--reprocess-quarantined")
    commands = start_all(
        lab,
        settings,
        ("undo", run_id),
        ("resolve", driver_of("2 0"), *purge),
        look_again,
        ("fix", "--execute"),
        ("undo", run_id),
        ("resolve", driver_of("3 1"), *purge),
        look_again,
        ("fix", "--execute"),
    )
    outcomes = [command.finish() for command in commands]
    INJECTED["executes, undos and resolves at once"] += 1
    assert {outcome.code for outcome in outcomes} <= {0, 1, 4}, [o.err for o in outcomes]
    assert 0 in {outcome.code for outcome in outcomes}
    assert not any("Traceback" in outcome.err for outcome in outcomes)
    assert half_states(settings) == []
    assert in_this_process(settings, lab.output(), "--execute").code == 0
    assert half_states(settings) == []
    assert set(violations(settings).values()) == {0}


# --- The checks themselves can fail ---------------------------------------------------------------


def test_a_fix_without_transactions_would_be_found(lab: Laboratory) -> None:
    def before_the_entries(boundary: Boundary) -> bool:
        text = "insert into canon.driver_orphan_quarantine_ledger"
        return boundary.side == "before" and text in boundary.statement

    run = lab.start(
        "", before_the_entries, faults.kill, mutilated=faults.every_statement_commits
    ).finish()
    assert any("a link of a run without an entry" in text for text in lab.broken_promises(run))


NEW_RUN = "00000000-0000-4000-8000-00000000beef"
BREAKS = {
    "a link of a run without an entry": (
        "insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date,"
        " match_rule, match_score, confidence_level, evidence) select person_key, 'module_ct_mi"
        "grations', 'nobody''s', now(), 'LEAD_EVENT_RECONSTRUCTION', 100, 'HIGH',"
        f" jsonb_build_object('run_id', '{NEW_RUN}') from canon.identity_registry limit 1"
    ),
    "a relinked driver without the links": (
        "delete from canon.identity_links where id = (select max(id) from canon.identity_links"
        " where match_rule = 'LEAD_EVENT_RECONSTRUCTION')"
    ),
    "a gap in the revisions": (
        "insert into canon.driver_orphan_quarantine_ledger (driver_id, revision, detected_reason)"
        " values ('a driver', 2, 'manual_detection')"
    ),
    "a person of whom a run has done some drivers": (
        "insert into canon.driver_orphan_quarantine_ledger (driver_id, revision, person_key,"
        " detected_reason, status, evidence_json, run_id) select driver_id, revision + 1,"
        " person_key, detected_reason, status, jsonb_build_object('action', 'release'),"
        f" '{NEW_RUN}' from canon.driver_orphan_quarantine_ledger"
        f" where driver_id = '{driver_of('13 1')}' and run_id is not null"
    ),
    "a lead row that is linked twice": (
        "create table old as table canon.identity_links;"
        " alter table canon.identity_links rename to real_links;"
        " create table canon.identity_links as table old union all table old"
    ),
    "seal": "alter table canon.driver_orphan_quarantine_ledger disable trigger all",
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_half_state_would_be_found(lab: Laboratory, what: str) -> None:
    settings = lab.database()
    assert in_this_process(settings, lab.output(), "--execute").code == 0
    assert half_states(settings) == []
    with faults.connection_to(settings) as connection:
        connection.execute(BREAKS[what])  # type: ignore[arg-type]
    assert any(what in text for text in half_states(settings))


def test_a_report_that_lies_would_be_found(lab: Laboratory) -> None:
    settings = lab.database()
    done = in_this_process(settings, lab.output(), "--execute")
    outcome = Outcome(**vars(done))
    assert lies(outcome, settings, 26) == []
    (path,) = outcome.directory.glob("*.json")
    truth = path.read_text("utf-8")
    for name, said in {
        "result": truth.replace('"complete"', '"stopped"'),
        "not_reached": truth.replace('"not_reached": 0', '"not_reached": 1'),
        "links_created": truth.replace('"links_created": 11', '"links_created": 12'),
        "outcomes": truth.replace('"outcome": "applied"', '"outcome": "changed"', 1),
        "drivers": truth.replace('"outcome": "applied"', '"outcome": null', 1),
    }.items():
        assert said != truth
        path.write_text(said, "utf-8")
        assert any(text.startswith(f"the report's {name}") for text in lies(outcome, settings, 26))
