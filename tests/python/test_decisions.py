"""What people decide: a reviewed plan, explain, resolve and undo (issue 3, item 5).

Every command here runs through a `Town`, which holds before and after against each other: no row
of the ledger from before has changed, revisions run without a gap, and no purged driver operates
without a lead. The tests then only say what is special about them.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from conftest import ROOT, Run
from ct4_orphans import cli, embedded, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Settings, connect
from psycopg import sql
from psycopg.rows import tuple_row
from reading import CABINET_LEADS, DRIVERS, MIGRATIONS, NO_EVENTS, REPAIR_FAILED, SCOUTING
from test_fix import (
    DAY,
    EXPECTED,
    ID,
    KEY,
    LICENCES,
    NAME,
    PHONES,
    Outcome,
    add_link,
    end_state,
    fill,
    in_this_process,
    one_error_line,
    person_key,
    plan,
    query,
    town,
    violations,
    where_is,
)

BY_HAND = ("manual_detection", "legacy_driver_without_origin")
PURGED, QUARANTINED, RELEASED = "purged", "quarantined", "resolved_created_lead"
A_RUN = re.compile(r"\bRun ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
VIEWS = (
    "ops.v_driver_orphans",
    "ops.v_payment_calculation",
    "ops.v_ct4_eligible_drivers",
    "ops.v_cabinet_funnel_status",
)
EMPTY = person_key(50)  # a person without anything


# --- A town, and commands that are watched --------------------------------------------------------


@dataclass(frozen=True)
class State:
    """The relations that decisions are about: each row whole, as PostgreSQL prints it."""

    quarantine: list[str]
    links: list[str]
    ledger: list[str]
    gaps: list[str]
    """Drivers whose revisions do not run from 1 without a gap."""
    ghosts: list[str]
    """Purged drivers that are linked to a person without a lead: criterion 1 is red."""

    @property
    def now(self) -> tuple[list[str], list[str]]:
        """All but the history."""
        return self.quarantine, self.links


def state_of(settings: Settings) -> State:
    purged = "select driver_id from canon.driver_orphan_quarantine where status = 'purged'"
    ghosts = criterion_sql("criterion_1_drivers_without_lead_outside_quarantine")
    statements = (
        "select r::text from canon.driver_orphan_quarantine as r order by driver_id",
        "select r::text from canon.identity_links as r order by id",
        "select r::text from canon.driver_orphan_quarantine_ledger as r order by entry_id",
        f"select driver_id from ({criterion_sql('criterion_5_ledger_history_has_gaps')}) as r",
        f"select driver_id from ({ghosts}) as r where driver_id in ({purged})",
    )
    with connect(settings) as connection, connection.cursor(row_factory=tuple_row) as cursor:
        return State(
            *(
                [row for (row,) in cursor.execute(statement)]  # type: ignore[call-overload]
                for statement in statements
            )
        )


def is_sound(settings: Settings, before: State) -> None:
    """What holds after each of these commands, whatever became of it."""
    after = state_of(settings)
    assert after.ledger[: len(before.ledger)] == before.ledger, "history was changed"
    assert after.gaps == []
    assert set(after.ghosts) <= set(before.ghosts)


@cache
def criterion_sql(name: str) -> str:
    """An acceptance test of dbt, compiled."""
    text = (ROOT / "tests/acceptance" / f"{name}.sql").read_text()
    text = re.sub(r"\{\{ source\('(\w+)', '(\w+)'\) \}\}", r"\1.\2", text)
    text = re.sub(r"\{\{ ref\('(v_\w+)'\) \}\}", r"ops.\1", text)
    text = re.sub(r"\{\{ ref\('(\w+)'\) \}\}", r"ct4_orphans.\1", text)
    assert "{" not in text
    return text


def criterion(settings: Settings, name: str) -> list[tuple[Any, ...]]:
    """The violating rows of an acceptance test of dbt."""
    return query(settings, criterion_sql(name))


def is_green(settings: Settings) -> None:
    """Every acceptance criterion, the instructions' and dbt's."""
    assert set(violations(settings).values()) == {0}
    names = sorted(file.stem for file in (ROOT / "tests/acceptance").glob("criterion_*.sql"))
    assert len(names) >= 9
    assert {name: criterion(settings, name) for name in names} == {name: [] for name in names}


@dataclass
class Said:
    """What a command other than the fix said."""

    code: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        (run_id,) = A_RUN.findall(self.out)
        return str(run_id)


class Town:
    """A database with a world in it, and the commands, each of which is watched."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.reports = 0

    def state(self) -> State:
        return state_of(self.settings)

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return query(self.settings, statement, *parameters)

    def fix(self, *arguments: str) -> Outcome:
        before = self.state()
        self.reports += 1
        outcome = in_this_process(self.settings, self.directory / str(self.reports), *arguments)
        is_sound(self.settings, before)
        return outcome

    def say(self, *arguments: str) -> Said:
        """Run `orphans …` in this process."""
        before = self.state()
        result = CliRunner(env=self.settings.environment()).invoke(
            cli.main, list(arguments), prog_name="orphans"
        )
        if result.exception and not isinstance(result.exception, SystemExit):
            raise AssertionError("this would be a traceback") from result.exception
        is_sound(self.settings, before)
        return Said(result.exit_code, result.stdout, result.stderr)

    def dry_run(self, *arguments: str) -> Path:
        """A report to review."""
        return report_of(self.fix("--dry-run", *arguments))

    def apply(self, report: Path) -> Outcome:
        return self.fix("--execute", "--plan", str(report))

    def execute(self, *arguments: str) -> str:
        """Fix everything; the run_id."""
        outcome = self.fix("--execute", *arguments)
        assert outcome.code == 0, outcome.err
        return str(outcome.report["run_id"])

    def resolve(self, name: str, status: str, note: str = "Because.", *arguments: str) -> Said:
        return self.say(
            "resolve", ID.get(name, name), "--status", status, "--note", note, *arguments
        )

    def resolved(self, name: str, status: str, note: str = "Because.", *arguments: str) -> str:
        """Resolve, which must work; the run_id."""
        said = self.resolve(name, status, note, *arguments)
        assert said.code == 0, said.err
        return said.run_id

    def undo(self, run_id: str, *arguments: str) -> Said:
        return self.say("undo", run_id, *arguments)

    def undone(self, run_id: str) -> str:
        """Undo, which must work; the run_id of the undo."""
        said = self.undo(run_id)
        assert said.code == 0, said.err
        return said.run_id

    def explain(self, name: str) -> dict[str, Any]:
        said = self.say("explain", ID.get(name, name), "--json")
        assert said.code == 0, said.err
        found: dict[str, Any] = json.loads(said.out)
        return found

    def newest(self, name: str) -> dict[str, Any]:
        """The newest ledger entry of a driver."""
        with connect(self.settings) as connection:
            row = connection.execute(
                "select * from canon.driver_orphan_quarantine_ledger where driver_id = %s"
                " order by revision desc limit 1",
                [ID.get(name, name)],
            ).fetchone()
        assert row is not None, f"{name} has no ledger entry"
        return row

    def entries(self, name: str) -> int:
        """How many ledger entries a driver has."""
        rows = self.sql(
            "select count(*) from canon.driver_orphan_quarantine_ledger where driver_id = %s",
            ID[name],
        )
        return int(rows[0][0])

    def status(self, name: str) -> str | None:
        rows = self.sql(
            "select status::text from canon.driver_orphan_quarantine where driver_id = %s", ID[name]
        )
        return rows[0][0] if rows else None

    def as_a_service(self, statement: str, *parameters: Any) -> None:
        """The statement as another service runs it: PostgreSQL's errors are its own."""
        with psycopg.connect(**self.settings.connection_parameters()) as connection:  # type: ignore[arg-type]
            connection.execute(statement, parameters or None)  # type: ignore[call-overload]

    def link(self, name: str) -> list[tuple[Any, ...]]:
        """The driver link, whole."""
        return self.sql(
            "select id, r::text from canon.identity_links as r"
            " where source_table = 'drivers' and source_pk = %s",
            ID[name],
        )

    def link_again(self, name: str, person: uuid.UUID) -> None:
        """CT4 links a driver whose link is gone."""
        add_link(self.settings, person, DRIVERS, ID[name])

    def move(self, name: str, person: uuid.UUID) -> None:
        """CT4 finds that the driver is another person."""
        self.sql(
            "update canon.identity_links set person_key = %s"
            " where source_table = 'drivers' and source_pk = %s",
            person,
            ID[name],
        )

    def add_event(self, table: str, key: str, payload: Any) -> None:
        self.sql(
            "insert into observational.lead_events"
            " (source_table, source_pk, event_date, payload_json) values (%s, %s, %s, %s)",
            table,
            key,
            DAY,
            json.dumps(payload),
        )


def report_of(outcome: Outcome) -> Path:
    assert outcome.code == 0, outcome.err
    (path,) = outcome.directory.glob("orphans_report_*.json")
    return path


def outcomes(outcome: Outcome) -> dict[str, str]:
    return {NAME[driver]: row["outcome"] for driver, row in outcome.drivers.items()}


@pytest.fixture(scope="module")
def towns(server: Settings) -> Iterator[dict[str, str]]:
    """Two databases to copy: a town before the fix, and after it (with the fix's run_id)."""
    names = {"before": f"test_{uuid.uuid4().hex}", "after": f"test_{uuid.uuid4().hex}"}
    before = embedded.recreate_database(server, names["before"], template="template_built")
    fill(before, town())
    query(before, "insert into canon.identity_registry (person_key) values (%s)", EMPTY)
    after = embedded.recreate_database(server, names["after"], template=names["before"])
    with connect(after) as connection, fixing.only_one_execute(connection):
        fixing.prepare(connection, fixing.Options(True))
        run_id = uuid.uuid4()
        fixing.apply(connection, seals.Run("fix", {}, run_id))
    yield names | {"run_id": str(run_id)}
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type,assignment]
        for name in names.values():
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            )


@pytest.fixture
def unfixed(
    make_database: Callable[[str], Settings], towns: dict[str, str], tmp_path: Path
) -> Town:
    """The town of test_fix before any fix."""
    return Town(make_database(towns["before"]), tmp_path / "unfixed")


@pytest.fixture
def fixed(make_database: Callable[[str], Settings], towns: dict[str, str], tmp_path: Path) -> Town:
    """The town after a fix."""
    return Town(make_database(towns["after"]), tmp_path / "fixed")


@pytest.fixture(scope="module")
def shared(server: Settings) -> Iterator[dict[str, Settings]]:
    """The databases of `before_fix` and `after_fix`."""
    made: dict[str, Settings] = {}
    yield made
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for settings in made.values():
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(settings.dbname))
            )


def only_looked_at(
    shared: dict[str, Settings], template: str, server: Settings, directory: Path
) -> Iterator[Town]:
    """A town that tests share as long as none of them changes it."""
    if template not in shared:
        name = f"test_{uuid.uuid4().hex}"
        shared[template] = embedded.recreate_database(server, name, template=template)
    found = Town(shared[template], directory)
    before = found.state()
    yield found
    if found.state() != before:
        embedded.recreate_database(server, found.settings.dbname, template=template)


@pytest.fixture
def before_fix(
    shared: dict[str, Settings], towns: dict[str, str], server: Settings, tmp_path: Path
) -> Iterator[Town]:
    """`unfixed`, for tests that only look."""
    yield from only_looked_at(shared, towns["before"], server, tmp_path / "before_fix")


@pytest.fixture
def after_fix(
    shared: dict[str, Settings], towns: dict[str, str], server: Settings, tmp_path: Path
) -> Iterator[Town]:
    """`fixed`, for tests that only look."""
    yield from only_looked_at(shared, towns["after"], server, tmp_path / "after_fix")


@pytest.fixture
def first_run(towns: dict[str, str]) -> str:
    """The run_id of the fix of `fixed`."""
    return towns["run_id"]


@pytest.fixture
def make_role(server: Settings) -> Iterator[Callable[[Settings], Settings]]:
    """Log in as a role that may read everything and append to the ledger, but nothing else."""
    made: list[tuple[Settings, str]] = []

    def make(settings: Settings) -> Settings:
        role = f"role_{uuid.uuid4().hex}"
        made.append((settings, role))
        schemas = "schema canon, observational, ops, public, ct4_orphans"
        for statement in (
            f"create role {role} login",
            f"grant usage on {schemas} to {role}",
            f"grant select on all tables in {schemas} to {role}",
            f"grant insert on canon.driver_orphan_quarantine_ledger to {role}",
        ):
            query(settings, statement)
        return Settings(settings.host, settings.port, settings.dbname, role, "", settings.sslmode)

    yield make
    for settings, role in made:
        query(settings, f"drop owned by {role} cascade")
        query(server, f"drop role {role}")


def refused(said: Said | Outcome, *words: str, code: int = 4) -> str:
    """One clear line on stderr that says these words."""
    assert said.code == code, said.out + said.err
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("Error: ")
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert lines[0].isprintable()
    return lines[0]


def wrong_usage(said: Said | Outcome, *words: str) -> None:
    assert said.code == 2, said.out + said.err
    start = said.err.index("Error: ")
    assert [word for word in words if word not in said.err[start:]] == [], said.err


def no_report(outcome: Outcome) -> bool:
    return not outcome.directory.is_dir() or list(outcome.directory.iterdir()) == []


# --- A reviewed plan ------------------------------------------------------------------------------


def test_every_row_of_a_dry_run_has_a_fingerprint_in_json_and_csv(before_fix: Town) -> None:
    outcome = before_fix.fix("--dry-run")
    prints = {driver: row["fingerprint"] for driver, row in outcome.drivers.items()}
    assert all(isinstance(value, str) and len(value) >= 32 for value in prints.values())
    assert len(set(prints.values())) == len(EXPECTED)
    assert {row["driver_id"]: row["fingerprint"] for row in outcome.csv_rows} == prints


def test_a_fingerprint_is_the_same_as_long_as_nothing_changes(before_fix: Town) -> None:
    first, second = before_fix.fix("--dry-run"), before_fix.fix("--dry-run")
    assert first.drivers == second.drivers


def test_a_plan_comes_to_what_an_execute_comes_to(unfixed: Town, fixed: Town) -> None:
    outcome = unfixed.apply(unfixed.dry_run())
    assert outcome.code == 0, outcome.err
    assert outcomes(outcome) == dict.fromkeys(EXPECTED, "applied")
    assert outcome.stats["refused"] == outcome.stats["already_applied"] == 0
    assert end_state(unfixed.settings) == end_state(fixed.settings)
    is_green(unfixed.settings)


def test_drivers_that_are_not_in_the_plan_are_not_touched(unfixed: Town) -> None:
    report = edit(unfixed.dry_run(), lambda rows: keep(rows, "ana", "julia"))
    outcome = unfixed.apply(report)
    assert outcome.code == 0, outcome.err
    assert outcomes(outcome) == {"ana": "applied", "julia": "applied"}
    others = set(EXPECTED) - {"ana", "julia"}
    assert {NAME[driver] for driver in plan(unfixed.settings)} == others
    assert [unfixed.entries(name) for name in others - {"lola"}] == [0] * (len(others) - 1)


def edit(report: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Path:
    """The report as a reviewer leaves it."""
    read = json.loads(report.read_text("utf-8"))
    read["drivers"] = change(read["drivers"])
    edited = report.with_name("edited.json")
    edited.write_text(json.dumps(read), "utf-8")
    return edited


def keep(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [row for row in rows if NAME[row["driver_id"]] in names]


def test_one_of_two_drivers_of_a_person_in_the_plan_leaves_the_other_alone(unfixed: Town) -> None:
    unfixed.apply(edit(unfixed.dry_run(), lambda rows: keep(rows, "carla")))
    assert unfixed.entries("carla2") == 0
    assert not criterion(unfixed.settings, "criterion_5_relinks_and_ledger_disagree")


def test_a_plan_without_drivers_changes_nothing(unfixed: Town) -> None:
    report = edit(unfixed.dry_run(), lambda rows: [])
    before = unfixed.state()
    outcome = unfixed.apply(report)
    assert outcome.code == 0, outcome.err
    assert unfixed.state() == before


def test_the_plan_of_a_limited_dry_run_is_of_those_drivers(unfixed: Town) -> None:
    report = unfixed.dry_run("--limit", "2")
    outcome = unfixed.apply(report)
    assert outcome.code == 0, outcome.err
    assert set(outcomes(outcome).values()) == {"applied"}
    assert len(outcomes(outcome)) == 2
    assert len(plan(unfixed.settings)) == len(EXPECTED) - 2


def test_a_plan_can_hold_rows_of_drivers_looked_at_again(fixed: Town) -> None:
    report = fixed.dry_run("--reprocess-quarantined")
    outcome = fixed.apply(report)
    assert outcome.code == 0, outcome.err
    assert outcomes(outcome) == {"kiko": "applied", "otto": "applied"}
    assert fixed.status("kiko") == "resolved_relinked"
    assert plan(fixed.settings, reprocess=True) == []
    before = fixed.state()
    again = fixed.apply(report)
    assert (again.code, again.stats["already_applied"]) == (0, 2)
    assert fixed.state() == before


def test_a_second_application_changes_nothing_and_says_so(unfixed: Town) -> None:
    report = unfixed.dry_run()
    assert unfixed.apply(report).code == 0
    before = unfixed.state()
    again = unfixed.apply(report)
    assert again.code == 0, again.err
    assert outcomes(again) == dict.fromkeys(EXPECTED, "already applied")
    assert {row["outcome"] for row in again.csv_rows} == {"already applied"}
    assert again.stats["already_applied"] == len(EXPECTED)
    assert again.stats["links_created"] == again.stats["errors"] == again.stats["refused"] == 0
    assert unfixed.state() == before


def test_a_plan_that_was_undone_is_not_said_to_be_applied_already(unfixed: Town) -> None:
    report = unfixed.dry_run()
    unfixed.undone(str(unfixed.apply(report).report["run_id"]))
    again = unfixed.apply(report)
    assert "already applied" not in outcomes(again).values()
    applied = [name for name, outcome in outcomes(again).items() if outcome == "applied"]
    assert sorted(applied + [NAME[driver] for driver in plan(unfixed.settings)]) == sorted(EXPECTED)


def test_applied_by_a_plain_execute_meanwhile_changes_nothing(unfixed: Town) -> None:
    report = unfixed.dry_run()
    unfixed.execute()
    before = unfixed.state()
    assert set(outcomes(unfixed.apply(report)).values()) <= {"already applied", "refused"}
    assert unfixed.state() == before


# What happened between review and application: statements, and whom it concerns.
SINCE: dict[str, tuple[list[str], set[str]]] = {
    "CT4 linked a lead to a person to be relinked": (
        [f"lead {KEY['ana']} {CABINET_LEADS} other"],
        {"ana"},
    ),
    "CT4 linked the very lead that the plan would": (
        [f"lead {KEY['ana']} {MIGRATIONS} L1"],
        {"ana"},
    ),
    "CT4 linked a lead to a person to be quarantined": (
        [f"lead {KEY['ivan']} {CABINET_LEADS} other"],
        {"ivan"},
    ),
    "CT4 linked the lead to somebody else": ([f"lead {KEY['hugo']} {MIGRATIONS} L1"], {"ana"}),
    "the lead of a driver to be released is gone": (
        ["delete from canon.identity_links where source_pk = 'L12'"],
        {"lola"},
    ),
    "a driver to be relinked moved to another person": (
        [f"move ana {EMPTY}"],
        {"ana"},
    ),
    "a driver to be quarantined moved to another person": (
        [f"move ivan {EMPTY}"],
        {"ivan"},
    ),
    "a driver moved to a person with a lead": (
        [f"move ivan {KEY['hugo']}"],
        {"ivan"},
    ),
    "the driver link is gone": (
        [f"delete from canon.identity_links where source_pk = '{ID['ana']}'"],
        {"ana"},
    ),
    "the payload names nobody any more": (
        ["update observational.lead_events set payload_json = '{}' where id = 1"],
        {"ana"},
    ),
    "the payload names the driver, which was only of the same licence": (
        [
            "update observational.lead_events set payload_json ="
            f' payload_json || \'{{"driver_id": "{ID["carla"]}"}}\' where id = 3'
        ],
        {"carla", "carla2"},
    ),
    "the event has another date": (
        ["update observational.lead_events set event_date = '2025-02-01' where id = 2"],
        {"beto"},
    ),
    "the driver has another licence": (
        [f"update canon.drivers_index set license_norm = 'X1' where driver_id = '{ID['carla']}'"],
        {"carla", "carla2"},
    ),
    "a second event speaks for the same driver": (
        ["event SCOUTING new {'driver_license': 'Q10000002', 'driver_phone': '987000002'}"],
        {"beto"},
    ),
    "a rival of a driver to be relinked": (
        ["event SCOUTING new {'driver_license': 'Q10000002', 'driver_phone': '987000007'}"],
        {"beto", "gina"},
    ),
    "the event speaks for somebody else too": (
        [
            "update observational.lead_events set payload_json ="
            ' payload_json || \'{"driver_phone": "987000007"}\' where id = 3'
        ],
        {"carla", "carla2", "gina"},
    ),
    "a rival of drivers to be quarantined": (
        ["event SCOUTING new {'driver_phone': '987000005'}"],
        {"eva", "fito"},
    ),
    "a reviewer quarantined the driver by hand": (
        [f"resolve ivan {QUARANTINED}"],
        {"ivan"},
    ),
    "a reviewer quarantined by hand whom the plan would relink": (
        [f"resolve ana {QUARANTINED}"],
        {"ana"},
    ),
    "a reviewer purged the driver": ([f"resolve julia {PURGED}"], {"julia"}),
    "another service quarantined the driver under the old name": (
        [
            "insert into canon.driver_orphan_quarantine (driver_id, detected_reason)"
            f" values ('{ID['ivan']}', 'manual_detection')"
        ],
        {"ivan"},
    ),
}


@pytest.mark.parametrize("since", SINCE)
def test_a_driver_is_refused_by_name_and_the_others_are_applied_when(
    unfixed: Town, since: str
) -> None:
    happened, concerned = SINCE[since]
    report = unfixed.dry_run()
    for what in happened:
        let_happen(unfixed, what)
    before = {name: (unfixed.entries(name), unfixed.status(name)) for name in concerned}
    outcome = unfixed.apply(report)
    assert outcomes(outcome) == {
        name: "refused" if name in concerned else "applied" for name in EXPECTED
    }
    line = one_error_line(outcome, 1)
    assert {name for name in EXPECTED if ID[name] in line} == concerned
    assert outcome.stats["refused"] == len(concerned)
    assert outcome.stats["errors"] == outcome.stats["already_applied"] == 0
    assert before == {name: (unfixed.entries(name), unfixed.status(name)) for name in concerned}
    refused_rows = [row for row in outcome.csv_rows if row["outcome"] == "refused"]
    assert {NAME[row["driver_id"]] for row in refused_rows} == concerned


def let_happen(place: Town, what: str) -> None:
    """One line of SINCE."""
    words = what.split(maxsplit=3)
    if words[0] == "lead":
        add_link(place.settings, uuid.UUID(words[1]), words[2], words[3])
    elif words[0] == "event":
        place.add_event(SCOUTING, words[2], json.loads(words[3].replace("'", '"')))
    elif words[0] == "resolve":
        place.resolved(words[1], words[2])
    elif words[0] == "move":
        place.move(words[1], uuid.UUID(words[2]))
    else:
        place.sql(what)


def test_what_concerns_others_refuses_nobody(unfixed: Town) -> None:
    report = unfixed.dry_run()
    stranger = uuid.uuid4().hex
    for statement in (
        # An orphan that was not there at the review, and one whom nobody planned to touch.
        "insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date,"
        f" match_rule, match_score, confidence_level) values ('{EMPTY}', 'drivers', '{stranger}',"
        " now(), 'RULE', 90, 'HIGH')",
        "update canon.driver_orphan_quarantine set resolution_notes = 'seen'"
        f" where driver_id = '{ID['nora']}'",
        "update canon.identity_registry set updated_at = now() + interval '1 day'",
        "update canon.drivers_index set updated_at = now() + interval '1 day'",
        f"insert into public.summary_daily values ('{ID['ana']}', '20-03-2025', 7, 3600)",
    ):
        unfixed.sql(statement)
    unfixed.add_event(CABINET_LEADS, "new", {"park_phone": "999111222"})
    unfixed.resolved("hugo", PURGED)
    outcome = unfixed.apply(report)
    assert outcome.code == 0, outcome.err
    assert outcomes(outcome) == dict.fromkeys(EXPECTED, "applied")
    assert plan(unfixed.settings) == [stranger]


@pytest.mark.parametrize("what", ["moved", "unlinked", "quarantined by hand", "purged"])
def test_a_change_of_one_of_two_drivers_of_a_person_leaves_no_contradiction(
    unfixed: Town, what: str
) -> None:
    report = unfixed.dry_run()
    if what == "moved":
        unfixed.move("carla2", EMPTY)
    elif what == "unlinked":
        unfixed.sql("delete from canon.identity_links where source_pk = %s", ID["carla2"])
    else:
        unfixed.resolved("carla2", PURGED if what == "purged" else QUARANTINED)
    outcome = unfixed.apply(report)
    assert outcome.code == 1
    found = outcomes(outcome)
    assert found.pop("carla2") == "refused"
    assert found.pop("carla") in ("refused", "applied")
    assert set(found.values()) == {"applied"}
    for name in (
        "criterion_5_quarantined_drivers_with_a_lead",
        "criterion_5_released_drivers_without_lead",
        "criterion_5_relinks_and_ledger_disagree",
    ):
        assert criterion(unfixed.settings, name) == []
    unfixed.execute()
    is_green(unfixed.settings)


def test_the_refused_stay_refused_and_the_others_are_applied_already_the_second_time(
    unfixed: Town,
) -> None:
    report = unfixed.dry_run()
    add_link(unfixed.settings, KEY["ana"], CABINET_LEADS, "other")
    assert unfixed.apply(report).code == 1
    before = unfixed.state()
    again = unfixed.apply(report)
    assert ID["ana"] in one_error_line(again, 1)
    assert again.stats["refused"] == 1
    assert again.stats["already_applied"] == len(EXPECTED) - 1
    assert unfixed.state() == before


def test_when_all_are_refused_nothing_is_changed_and_nothing_else_is_claimed(
    unfixed: Town,
) -> None:
    report = edit(unfixed.dry_run(), lambda rows: keep(rows, "ana"))
    add_link(unfixed.settings, KEY["ana"], CABINET_LEADS, "other")
    before = unfixed.state()
    outcome = unfixed.apply(report)
    assert ID["ana"] in one_error_line(outcome, 1)
    assert "the changes are in the database" not in outcome.out
    assert "others" not in outcome.err
    assert unfixed.state() == before


def test_more_than_can_be_named_on_a_line_are_all_in_the_report(unfixed: Town) -> None:
    report = unfixed.dry_run()
    unfixed.sql("delete from canon.identity_links where source_table = 'drivers'")
    outcome = unfixed.apply(report)
    line = one_error_line(outcome, 1)
    assert "11" in line or len([name for name in EXPECTED if ID[name] in line]) == len(EXPECTED)
    assert outcomes(outcome) == dict.fromkeys(EXPECTED, "refused")


@pytest.mark.parametrize("column", ["fingerprint", "driver_id"])
def test_a_row_that_no_dry_run_wrote_is_refused(unfixed: Town, column: str) -> None:
    def tamper(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            row | {column: "0" * len(row[column])} if NAME[row["driver_id"]] == "ana" else row
            for row in rows
        ]

    outcome = unfixed.apply(edit(unfixed.dry_run(), tamper))
    assert outcome.code == 1
    assert outcome.stats["refused"] == 1
    assert unfixed.status("ana") is None
    assert unfixed.status("beto") == "resolved_relinked"


def test_a_fingerprint_of_one_driver_is_none_for_another(unfixed: Town) -> None:
    def swap(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        ana, beto = keep(rows, "ana", "beto")
        return [
            ana | {"fingerprint": beto["fingerprint"]},
            beto | {"fingerprint": ana["fingerprint"]},
        ]

    outcome = unfixed.apply(edit(unfixed.dry_run(), swap))
    assert outcomes(outcome) == {"ana": "refused", "beto": "refused"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dry-run"],
        ["--execute", "--limit", "3"],
        ["--execute", "--reprocess-quarantined"],
        ["--execute", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_plan_goes_with_execute_alone(before_fix: Town, arguments: list[str]) -> None:
    report = before_fix.dry_run()
    before = before_fix.state()
    outcome = before_fix.fix(*arguments, "--plan", str(report))
    wrong_usage(outcome, "--")
    assert no_report(outcome)
    assert before_fix.state() == before


def test_the_report_of_an_execute_is_no_plan(after_fix: Town) -> None:
    report = report_of(after_fix.fix("--execute"))
    before = after_fix.state()
    outcome = after_fix.apply(report)
    refused(outcome, "execute")
    assert no_report(outcome)
    assert after_fix.state() == before


def test_the_report_of_an_applied_plan_is_no_plan(unfixed: Town) -> None:
    report = report_of(unfixed.apply(unfixed.dry_run()))
    refused(unfixed.apply(report), "execute")


def test_a_report_of_another_database_is_refused_by_both_names(
    before_fix: Town, after_fix: Town
) -> None:
    report = before_fix.dry_run()
    before = after_fix.state()
    outcome = after_fix.apply(report)
    refused(outcome, before_fix.settings.dbname)
    assert no_report(outcome)
    assert after_fix.state() == before


def broken(text: str | bytes) -> Callable[[Path], Path]:
    def write(report: Path) -> Path:
        path = report.with_name("broken.json")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def changed(**changes: Any) -> Callable[[Path], Path]:
    """A report in which keys are another thing; ... takes the key away."""

    def write(report: Path) -> Path:
        read = json.loads(report.read_text("utf-8")) | changes
        kept = {key: value for key, value in read.items() if value is not ...}
        return broken(json.dumps(kept))(report)

    return write


def changed_row(**changes: Any) -> Callable[[Path], Path]:
    """A report in which the first driver has another value; ... takes the key away."""

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        row = rows[0] | changes
        return [{key: value for key, value in row.items() if value is not ...}, *rows[1:]]

    return lambda report: edit(report, change)


BROKEN: dict[str, Callable[[Path], Path]] = {
    "empty": broken(""),
    "no JSON": broken("driver_id,action\n1,relink\n"),
    "cut off": lambda report: broken(report.read_bytes()[:-500])(report),
    "not UTF-8": broken(b"\xff\xfe{}"),
    "NUL bytes": broken(b"\x00" * 100),
    "a list": broken("[]"),
    "a number": broken("7"),
    "null": broken("null"),
    "another object": broken('{"name": "ct4", "version": 1}'),
    "nested too deep": broken("[" * 100_000 + "]" * 100_000),
    "the CSV": lambda report: report.with_suffix(".csv"),
    "no drivers": changed(drivers=...),
    "drivers of another kind": changed(drivers="all"),
    "drivers that are numbers": changed(drivers=[1, 2]),
    "drivers that are null": changed(drivers=None),
    "no mode": changed(mode=...),
    "no database": changed(database=...),
    "a row without a fingerprint": changed_row(fingerprint=...),
    "a row without a driver": changed_row(driver_id=...),
    "a fingerprint of null": changed_row(fingerprint=None),
    "a fingerprint that is a number": changed_row(fingerprint=7),
    "a driver that is a list": changed_row(driver_id=[]),
    "a driver with NUL": changed_row(driver_id="a\x00b"),
    "a driver with half a character": changed_row(driver_id="\ud800"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_report_is_exit_5_in_one_line(before_fix: Town, how: str) -> None:
    path = BROKEN[how](before_fix.dry_run())
    before = before_fix.state()
    outcome = before_fix.apply(path)
    refused(outcome, path.name, code=5)
    assert no_report(outcome)
    assert before_fix.state() == before


@pytest.mark.parametrize("what", ["missing", "directory"])
def test_a_file_that_is_none_is_one_clear_line(before_fix: Town, what: str) -> None:
    path = before_fix.directory if what == "directory" else before_fix.directory / "no.json"
    before_fix.directory.mkdir()
    outcome = before_fix.apply(path)
    assert outcome.code in (2, 5)
    assert outcome.err.splitlines()[-1].startswith("Error: ")
    assert str(path) in outcome.err.splitlines()[-1]


def test_a_driver_twice_in_a_plan_is_applied_once(unfixed: Town) -> None:
    outcome = unfixed.apply(edit(unfixed.dry_run(), lambda rows: keep(rows, "ana") * 2))
    assert outcome.code in (0, 5), outcome.err
    assert unfixed.entries("ana") == (1 if outcome.code == 0 else 0)


def test_a_plan_is_refused_while_another_execute_is_running(before_fix: Town) -> None:
    report = before_fix.dry_run()
    before = before_fix.state()
    with connect(before_fix.settings) as other, fixing.only_one_execute(other):
        outcome = before_fix.apply(report)
    refused(outcome)
    assert before_fix.state() == before


def test_an_operator_can_apply_a_plan_by_hand(unfixed: Town, run: Run, tmp_path: Path) -> None:
    report = unfixed.dry_run()
    arguments = ("orphans", "fix", "--execute", "--plan", str(report), "--output-dir")
    done = run(*arguments, str(tmp_path / "out"), settings=unfixed.settings)
    assert done.returncode == 0, done.stderr
    again = run(*arguments, str(tmp_path / "again"), settings=unfixed.settings)
    assert again.returncode == 0, again.stderr
    assert re.search(rf"applied already +{len(EXPECTED)}$", again.stdout, re.MULTILINE)
    assert "Nothing was changed." in again.stdout


def test_the_dry_run_tells_how_to_apply_exactly_it(before_fix: Town) -> None:
    outcome = before_fix.fix("--dry-run")
    (line,) = [line for line in outcome.lines if f"--plan {report_of(outcome)}" in line]
    assert "orphans fix --execute" in line


# --- explain --------------------------------------------------------------------------------------


def test_explain_only_reads(fixed: Town) -> None:
    query(
        fixed.settings,
        f"alter database {fixed.settings.dbname} set default_transaction_read_only = on",
    )
    before = fixed.state()
    for name in ("ana", "eva", "nora", "hugo"):
        assert fixed.say("explain", ID[name]).code == 0
        fixed.explain(name)
    assert fixed.state() == before


def that_writes(settings: Settings) -> None:
    """Whoever reads the ledger or the state leaves a row behind, if the server lets him."""
    ledger, view = "canon.driver_orphan_quarantine_ledger", "canon.driver_orphan_quarantine"
    for statement in (
        "create table public.written (at timestamptz default now())",
        "create function public.write() returns boolean language sql volatile"
        " as $$ insert into public.written default values; select true $$",
        f"alter table {ledger} rename to the_ledger",
        f"create view {ledger} as select * from canon.the_ledger where public.write()",
    ):
        query(settings, statement)
    body = query(settings, "select pg_get_viewdef(%s::regclass)", view)[0][0].rstrip().rstrip(";")
    query(settings, f"create or replace view {view} as {body} and public.write()")


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", ID["julia"]],
        ["resolve", ID["julia"], "--status", PURGED, "--note", "x", "--dry-run"],
        ["undo", "RUN", "--dry-run"],
    ],
    ids=["explain", "resolve", "undo"],
)
def test_the_server_lets_nothing_write_in(
    fixed: Town, first_run: str, arguments: list[str]
) -> None:
    that_writes(fixed.settings)
    result = CliRunner(env=fixed.settings.environment()).invoke(
        cli.main, [first_run if word == "RUN" else word for word in arguments]
    )
    said = Said(result.exit_code, result.stdout, result.stderr)
    refused(said, "read-only", code=3)
    assert query(fixed.settings, "select count(*) from public.written") == [(0,)]


@pytest.mark.parametrize("place", ["before_fix", "after_fix"])
def test_explain_says_truly_which_views_show_each_driver(
    request: pytest.FixtureRequest, place: str
) -> None:
    found: Town = request.getfixturevalue(place)
    shown = {
        view: {driver for (driver,) in query(found.settings, f"select driver_id from {view}")}
        for view in VIEWS
    }
    for name, driver in ID.items():
        explained = found.explain(name)
        assert explained["shown_in"] == {view: driver in shown[view] for view in VIEWS}, name
        said = found.say("explain", driver)
        for view in VIEWS:
            (line,) = [line for line in said.out.splitlines() if view in line]
            assert (" shows it" in line) == (driver in shown[view]), line


def test_explain_says_truly_who_is_an_orphan_and_what_a_fix_would_do(before_fix: Town) -> None:
    would = {
        driver: (action, status)
        for driver, action, status in query(
            before_fix.settings, "select driver_id, action, status::text from ops.v_orphan_fix_plan"
        )
    }
    orphans = query(before_fix.settings, "select driver_id from ct4_orphans.int_orphan_drivers")
    for name, driver in ID.items():
        explained = before_fix.explain(name)
        assert explained["is_orphan"] == ((driver,) in orphans), name
        planned = explained["plan"]
        assert (planned and (planned["action"], planned["status"])) == would.get(driver), name
        assert (explained["quarantine"] or {}).get("status") == before_fix.status(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ana", ["An orphan", str(KEY["ana"]), "driver_id_exact", "L1", "would relink"]),
        ("carla2", ["An orphan", "license_exact", "L3", "would relink"]),
        ("eva", ["An orphan", "ambiguous", "L5", str(KEY["fito"]), "would quarantine"]),
        ("gina", ["An orphan", str(KEY["hugo"]), "L7", "would quarantine"]),
        ("julia", ["An orphan", "weak", "L10", "would quarantine"]),
        ("lola", ["No orphan", "L12", "quarantined", "would release"]),
        ("hugo", ["No orphan", "L7", "as it is"]),
        ("kiko", ["An orphan", "quarantined", "L11", "--reprocess-quarantined"]),
        ("mario", ["purged", "manual_detection"]),
        ("nora", ["An orphan", "quarantined", "manual_detection", "as it is"]),
    ],
)
def test_explain_names_verdict_evidence_rivals_and_what_a_fix_would_do(
    before_fix: Town, name: str, words: list[str]
) -> None:
    said = before_fix.say("explain", ID[name])
    assert said.code == 0, said.err
    assert [word for word in words if word not in said.out] == [], said.out


def test_explain_tells_the_whole_history(fixed: Town, first_run: str) -> None:
    purge = fixed.resolved("julia", PURGED, "It's 100 %s a ghost.")
    undo = fixed.undone(purge)
    history = fixed.explain("julia")["history"]
    assert [entry["revision"] for entry in history] == [1, 2, 3]
    assert [entry["run_id"] for entry in history] == [first_run, purge, undo]
    assert [entry["status"] for entry in history] == [QUARANTINED, PURGED, QUARANTINED]
    assert history[2]["undoes_run_id"] == purge
    said = fixed.say("explain", ID["julia"])
    for word in (first_run, purge, undo, "It's 100 %s a ghost.", QUARANTINED, PURGED):
        assert word in said.out


def test_explain_of_a_withdrawn_driver_says_no_state_but_its_history(
    fixed: Town, first_run: str
) -> None:
    fixed.undone(first_run)
    explained = fixed.explain("ana")
    assert explained["quarantine"] is None
    assert [entry["status"] for entry in explained["history"]] == ["resolved_relinked", None]
    assert "would relink" in fixed.say("explain", ID["ana"]).out


@pytest.mark.parametrize("json_option", [[], ["--json"]], ids=["text", "json"])
def test_explain_of_an_unknown_driver_is_exit_1_in_one_line(
    after_fix: Town, json_option: list[str]
) -> None:
    for driver in ("0" * 32, "nobody", "'; drop table x; --", "%s %(a)s {}", "ñ😀", "\u202ex"):
        said = after_fix.say("explain", driver, *json_option)
        refused(said, code=1)
        assert said.out == "", "a verdict about a driver that does not exist"


@pytest.mark.parametrize("driver", ["", "a\nb", "\x1b[31mred"])
def test_explain_of_what_cannot_be_an_id_is_one_clear_line(after_fix: Town, driver: str) -> None:
    said = after_fix.say("explain", driver)
    assert said.code in (1, 2)
    assert said.err.splitlines()[-1].startswith("Error: ")
    assert "\x1b" not in said.out + said.err


def test_explain_shows_no_licence_or_phone_unmasked(before_fix: Town) -> None:
    known = [*LICENCES.values(), *PHONES.values(), "Q10000002", "987000002", "987000004"]
    for name in ("ana", "beto", "carla", "dora", "eva", "gina", "kiko"):
        for arguments in ([], ["--json"]):
            out = before_fix.say("explain", ID[name], *arguments).out
            assert [value for value in known if value in out] == []


def test_explain_works_for_an_operator(after_fix: Town, run: Run) -> None:
    done = run("orphans", "explain", ID["ana"], settings=after_fix.settings)
    assert done.returncode == 0, done.stderr
    assert ID["ana"] in done.stdout
    done = run("orphans", "explain", ID["eva"], "--json", settings=after_fix.settings)
    assert json.loads(done.stdout)["driver_id"] == ID["eva"]
    done = run("orphans", "explain", os.fsdecode(b"\xff\xfe"), settings=after_fix.settings)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


# --- resolve --------------------------------------------------------------------------------------


NOTES = [
    'It\'s a "ghost"; drop table canon.identity_links; --',
    "100 %s %(note)s %% {} {0} \\n \\ $1",
    "=cmd()",
    "ñandú 😀 日本",
    "x" * 10_000,
]


@pytest.mark.parametrize("note", NOTES, ids=lambda note: note[:12])
@pytest.mark.parametrize("status", [QUARANTINED, PURGED])
def test_resolve_appends_one_entry_with_the_note_exactly(
    unfixed: Town, status: str, note: str
) -> None:
    before = unfixed.state()
    run_id = unfixed.resolved("ivan", status, note)
    assert len(unfixed.state().ledger) == len(before.ledger) + 1
    entry = unfixed.newest("ivan")
    assert (entry["status"], entry["revision"]) == (status, 1)
    assert entry["evidence_json"]["note"] == note
    assert entry["person_key"] == KEY["ivan"]
    assert str(entry["run_id"]) == run_id
    if status == PURGED:
        assert note in entry["resolution_notes"]
        assert entry["resolved_at"] is not None
    else:
        assert entry["resolution_notes"] is None
        assert entry["resolved_at"] is None


def test_a_release_by_hand_keeps_the_note_in_the_resolution_notes(fixed: Town) -> None:
    add_link(fixed.settings, KEY["ivan"], CABINET_LEADS, "other")
    detected = fixed.newest("ivan")["detected_at"]
    fixed.resolved("ivan", RELEASED, "Found on paper.")
    entry = fixed.newest("ivan")
    assert entry["status"] == RELEASED
    assert entry["evidence_json"]["note"] == "Found on paper."
    assert "Found on paper." in entry["resolution_notes"]
    assert entry["resolved_at"] is not None
    assert entry["detected_at"] == detected
    assert where_is(fixed.settings, "ivan") == {"funnel"}
    assert plan(fixed.settings) == []


@pytest.mark.parametrize("note", ["", "  ", "two\nlines", "a\rb", "bell\x07", "\x1b[31mred"])
def test_a_note_that_is_no_sentence_is_wrong_usage(after_fix: Town, note: str) -> None:
    before = after_fix.state()
    said = after_fix.resolve("ivan", PURGED, note)
    wrong_usage(said, "note")
    assert "\x1b" not in said.err
    assert after_fix.state() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--status", PURGED],
        ["--note", "x"],
        ["--status", "resolved_relinked", "--note", "x"],
        ["--status", "nonsense", "--note", "x"],
        ["--status", PURGED, "--note", "x", "--reason", "because"],
    ],
    ids=" ".join,
)
def test_resolve_needs_a_status_that_people_may_give_and_a_note(
    after_fix: Town, arguments: list[str]
) -> None:
    wrong_usage(after_fix.say("resolve", ID["ivan"], *arguments), "--")


def test_resolve_works_for_an_operator(fixed: Town, run: Run) -> None:
    def resolve(driver: str, note: str) -> Any:
        return run(
            *("orphans", "resolve", driver, "--status", PURGED, "--note", note),
            settings=fixed.settings,
        )

    done = resolve(ID["julia"], NOTES[0])
    assert done.returncode == 0, done.stderr
    assert fixed.newest("julia")["evidence_json"]["note"] == NOTES[0]
    for driver, note in ((ID["ivan"], "two\nlines"), (ID["ivan"], os.fsdecode(b"\xff"))):
        done = resolve(driver, note)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    done = resolve(os.fsdecode(b"\xff"), "x")
    assert done.returncode in (2, 4)
    assert "Traceback" not in done.stderr
    undone = run("orphans", "undo", str(fixed.newest("julia")["run_id"]), settings=fixed.settings)
    assert undone.returncode == 0, undone.stderr
    assert fixed.status("julia") == QUARANTINED


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("ivan", [], "manual_detection"),
        ("ivan", ["--reason", "legacy_driver_without_origin"], "legacy_driver_without_origin"),
        ("ivan", ["--reason", NO_EVENTS], NO_EVENTS),
    ],
)
def test_a_quarantine_by_hand_has_the_reason_given_or_manual_detection(
    unfixed: Town, name: str, arguments: list[str], reason: str
) -> None:
    unfixed.resolved(name, QUARANTINED, "x", *arguments)
    assert unfixed.newest(name)["detected_reason"] == reason
    assert where_is(unfixed.settings, name) == set()
    unfixed.execute()
    is_green(unfixed.settings)


@pytest.mark.parametrize("reason", BY_HAND)
def test_the_fix_leaves_a_reason_by_hand_alone(unfixed: Town, reason: str) -> None:
    for name in ("ivan", "eva", "ana"):  # no event, an ambiguous one, a proof
        unfixed.resolved(name, QUARANTINED, "x", "--reason", reason)
    unfixed.execute()
    assert [unfixed.entries(name) for name in ("ivan", "eva", "ana")] == [1, 1, 1]
    unfixed.execute("--reprocess-quarantined")
    assert [unfixed.entries(name) for name in ("ivan", "eva", "ana")] == [1, 1, 2]
    assert unfixed.status("ana") == "resolved_relinked"
    assert unfixed.newest("ana")["detected_reason"] == reason


def test_another_reason_for_the_same_quarantine_is_recorded(fixed: Town) -> None:
    fixed.resolved("ivan", QUARANTINED, "An old one.", "--reason", "legacy_driver_without_origin")
    entry = fixed.newest("ivan")
    assert entry["detected_reason"] == "legacy_driver_without_origin"
    assert entry["evidence_json"]["note"] == "An old one."


def test_a_purge_removes_the_driver_link_and_keeps_it_whole(fixed: Town) -> None:
    with connect(fixed.settings) as connection:
        link = connection.execute(
            "select to_jsonb(l) as link from canon.identity_links as l where source_pk = %s",
            [ID["julia"]],
        ).fetchone()
    assert link is not None
    others = [row for row in fixed.state().links if ID["julia"] not in row]
    fixed.resolved("julia", PURGED)
    assert fixed.state().links == others
    assert fixed.newest("julia")["evidence_json"]["driver_link"] == link["link"]
    assert where_is(fixed.settings, "julia") == set()
    assert plan(fixed.settings, reprocess=True) == [
        driver for driver in plan(fixed.settings, reprocess=True) if driver != ID["julia"]
    ]
    is_green(fixed.settings)


def test_a_purged_driver_stays_excluded_through_the_next_fixes(unfixed: Town) -> None:
    unfixed.resolved("ana", PURGED)
    unfixed.execute("--reprocess-quarantined")
    assert unfixed.status("ana") == PURGED
    assert where_is(unfixed.settings, "ana") == set()
    is_green(unfixed.settings)


# A JSON null is not among them: it comes back as SQL's null.
ODD_EVIDENCE = [
    None,
    "{}",
    "[]",
    '{"a": null, "b": [null, {"c": null}]}',
    '"text"',
    '""',
    "1.10",
    "12345678901234567890.000",
    '{"a": "\\"\\\\ %s $$ \\u00f1 \\ud83d\\ude00", "": 1}',
    "false",
]


@pytest.mark.parametrize("evidence", ODD_EVIDENCE, ids=str)
@pytest.mark.parametrize("way", ["resolve", "undo"])
def test_leaving_purged_puts_the_same_link_back(
    fixed: Town, evidence: str | None, way: str
) -> None:
    fixed.sql("insert into ops.ingestion_runs (id) values (77)")
    fixed.sql("alter table canon.identity_links add column added_by_ct4 numeric(9, 3)")
    fixed.sql(
        "update canon.identity_links set evidence = %s::jsonb, run_id = 77, added_by_ct4 = 1.5,"
        " match_rule = %s, linked_at = '2025-01-02 03:04:05.678901+05', snapshot_date = 'infinity'"
        " where source_pk = %s",
        evidence,
        "odd 'rule' %s \\ \"x\"",
        ID["julia"],
    )
    link = fixed.link("julia")
    before = fixed.state()
    run_id = fixed.resolved("julia", PURGED)
    assert fixed.link("julia") == []
    if way == "undo":
        fixed.undone(run_id)
        assert fixed.state().now == before.now
    else:
        fixed.resolved("julia", QUARANTINED)
        assert fixed.state().links == before.links
    assert fixed.link("julia") == link


@pytest.mark.parametrize("zone", ["America/Lima", "Asia/Kolkata"])
def test_a_link_comes_back_whatever_the_sessions_say(fixed: Town, zone: str) -> None:
    before = fixed.state()
    name = fixed.settings.dbname
    fixed.sql(f"alter database {name} set timezone = '{zone}'")
    fixed.sql(f"alter database {name} set datestyle = 'SQL, DMY'")
    fixed.resolved("julia", PURGED)
    fixed.sql(f"alter database {name} set datestyle = 'German'")
    fixed.resolved("julia", QUARANTINED)
    fixed.sql(f"alter database {name} reset all")
    assert fixed.state().links == before.links


def test_releasing_a_purged_driver_puts_its_link_back(fixed: Town) -> None:
    before = fixed.state()
    fixed.resolved("hugo", PURGED)
    assert where_is(fixed.settings, "hugo") == set()
    fixed.resolved("hugo", RELEASED)
    assert fixed.state().links == before.links
    assert "funnel" in where_is(fixed.settings, "hugo")
    is_green(fixed.settings)


@pytest.mark.parametrize("status", [QUARANTINED, "undo"])
def test_a_driver_that_ct4_linked_again_meanwhile_keeps_that_link(fixed: Town, status: str) -> None:
    run_id = fixed.resolved("julia", PURGED)
    fixed.link_again("julia", EMPTY)
    links = fixed.state().links
    if status == "undo":
        fixed.undo(run_id)
    else:
        fixed.resolved("julia", status)
    assert fixed.state().links == links
    assert fixed.status("julia") == QUARANTINED


def test_purging_again_a_driver_that_ct4_linked_again_removes_that_link_too(fixed: Town) -> None:
    fixed.resolved("julia", PURGED)
    fixed.link_again("julia", EMPTY)
    link = fixed.link("julia")
    assert criterion(fixed.settings, "criterion_1_drivers_without_lead_outside_quarantine")
    second = CliRunner(env=fixed.settings.environment()).invoke(
        cli.main, ["resolve", ID["julia"], "--status", PURGED, "--note", "Again."]
    )
    assert second.exit_code == 0, second.stderr
    assert fixed.link("julia") == []
    is_green(fixed.settings)
    fixed.resolved("julia", QUARANTINED)
    assert fixed.link("julia") == link, "the link that was there last"


def test_a_row_that_was_purged_but_is_still_linked_is_put_right_by_resolve(fixed: Town) -> None:
    assert fixed.link("mario")
    fixed.resolved("mario", PURGED)
    assert fixed.link("mario") == []
    assert fixed.status("mario") == PURGED
    assert "driver_link" in fixed.newest("mario")["evidence_json"]


def test_a_driver_without_a_link_but_in_quarantine_can_be_purged_and_taken_back(
    fixed: Town,
) -> None:
    fixed.sql("delete from canon.identity_links where source_pk = %s", ID["julia"])
    before = fixed.state()
    run_id = fixed.resolved("julia", PURGED)
    assert fixed.state().links == before.links
    fixed.undone(run_id)
    assert fixed.state().now == before.now


def test_purging_one_of_two_drivers_of_a_person_leaves_the_other(fixed: Town) -> None:
    other = fixed.link("carla2")
    fixed.resolved("carla", PURGED)
    assert fixed.link("carla2") == other
    assert fixed.status("carla2") == "resolved_relinked"
    assert "funnel" in where_is(fixed.settings, "carla2")
    is_green(fixed.settings)


@pytest.mark.parametrize("name", ["hugo", "ana", "lola"])
def test_quarantining_a_driver_whose_person_has_a_lead_is_refused(
    after_fix: Town, name: str
) -> None:
    before = after_fix.state()
    refused(after_fix.resolve(name, QUARANTINED), ID[name], "lead")
    assert after_fix.state() == before


def test_quarantining_a_purged_driver_whose_person_has_a_lead_is_refused(fixed: Town) -> None:
    fixed.resolved("hugo", PURGED)
    before = fixed.state()
    refused(fixed.resolve("hugo", QUARANTINED), ID["hugo"], "lead")
    assert fixed.state() == before


@pytest.mark.parametrize("purged_first", [False, True], ids=["quarantined", "purged"])
def test_releasing_a_driver_whose_person_has_no_lead_is_refused(
    fixed: Town, purged_first: bool
) -> None:
    if purged_first:
        fixed.resolved("julia", PURGED)
    before = fixed.state()
    refused(fixed.resolve("julia", RELEASED), ID["julia"], "lead")
    assert fixed.state() == before


def test_a_driver_without_a_link_is_neither_released_nor_left_to_operate(fixed: Town) -> None:
    fixed.sql("delete from canon.identity_links where source_pk = %s", ID["julia"])
    before = fixed.state()
    refused(fixed.resolve("julia", RELEASED), ID["julia"])
    assert fixed.state() == before


@pytest.mark.parametrize("status", [QUARANTINED, PURGED, RELEASED])
@pytest.mark.parametrize("driver", ["0" * 32, "nobody", "%s'\"", "ñ😀"])
def test_an_unknown_driver_is_refused(after_fix: Town, status: str, driver: str) -> None:
    before = after_fix.state()
    refused(after_fix.resolve(driver, status))
    assert after_fix.state() == before


@pytest.mark.parametrize(
    ("name", "status"),
    [("ivan", QUARANTINED), ("julia", PURGED), ("hugo", PURGED), ("ana", PURGED)],
)
def test_the_same_decision_twice_says_already_and_changes_nothing(
    unfixed: Town, name: str, status: str
) -> None:
    unfixed.resolved(name, status, "First.")
    before = unfixed.state()
    for note in ("First.", "Second."):
        again = unfixed.resolve(name, status, note)
        assert again.code == 0, again.err
        assert "already" in again.out
        assert A_RUN.findall(again.out) == []
    assert unfixed.state() == before


def test_releasing_twice_says_already_and_changes_nothing(fixed: Town) -> None:
    add_link(fixed.settings, KEY["ivan"], CABINET_LEADS, "other")
    fixed.resolved("ivan", RELEASED)
    before = fixed.state()
    again = fixed.resolve("ivan", RELEASED)
    assert again.code == 0, again.err
    assert "already" in again.out
    assert fixed.state() == before


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("julia", PURGED, 0),
        ("ivan", QUARANTINED, 0),
        ("hugo", PURGED, 0),
        ("hugo", QUARANTINED, 4),
        ("julia", RELEASED, 4),
    ],
)
def test_a_dry_run_of_resolve_foretells_and_writes_nothing(
    fixed: Town, name: str, status: str, code: int
) -> None:
    before = fixed.state()
    foretold = fixed.resolve(name, status, "x", "--dry-run")
    assert foretold.code == code, foretold.err
    assert fixed.state() == before
    assert A_RUN.findall(foretold.out) == []
    if code == 0:
        assert "DRY RUN" in foretold.out
    done = fixed.resolve(name, status, "x")
    assert done.code == code
    assert done.err == foretold.err


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry-run", "for real"])
def test_on_a_read_only_database_only_a_dry_run_of_resolve_and_undo_works(
    fixed: Town, first_run: str, dry_run: list[str]
) -> None:
    fixed.sql(f"alter database {fixed.settings.dbname} set default_transaction_read_only = on")
    before = fixed.state()
    for said in (
        fixed.resolve("julia", PURGED, "x", *dry_run),
        fixed.undo(first_run, *dry_run),
    ):
        if dry_run:
            assert said.code == 0, said.err
        else:
            refused(said, "only reads", code=3)
    assert fixed.state() == before


def test_a_privilege_that_is_missing_is_named_and_nothing_is_changed(
    fixed: Town, first_run: str, make_role: Callable[[Settings], Settings]
) -> None:
    before = fixed.state()
    role = Town(make_role(fixed.settings), fixed.directory)
    for said in (role.resolve("julia", PURGED), role.undo(first_run)):
        refused(said, "identity_links", code=3)
    assert fixed.state() == before
    assert role.resolve("nora", PURGED, "x", "--dry-run").code == 0
    assert role.undo(first_run, "--dry-run").code == 0


@pytest.mark.parametrize("what", ["resolve", "undo"])
def test_while_an_execute_is_running_it_is_refused(
    after_fix: Town, first_run: str, what: str
) -> None:
    before = after_fix.state()
    with connect(after_fix.settings) as other, fixing.only_one_execute(other):
        if what == "resolve":
            said, dry_run = (
                after_fix.resolve("julia", PURGED),
                after_fix.resolve("julia", PURGED, "x", "--dry-run"),
            )
        else:
            said, dry_run = after_fix.undo(first_run), after_fix.undo(first_run, "--dry-run")
        assert after_fix.say("explain", ID["julia"]).code == 0
    refused(said)
    assert dry_run.code == 0, "it only reads"
    assert after_fix.state() == before


@pytest.mark.parametrize("what", ["resolve", "undo"])
def test_a_service_that_changes_the_driver_in_the_same_moment_loses_nothing(
    fixed: Town, first_run: str, what: str
) -> None:
    """The service's transaction is open while the decision is taken, and commits then."""
    said: list[Said] = []
    started = fixed.entries("julia")

    def decide() -> None:
        result = CliRunner(env=fixed.settings.environment()).invoke(
            cli.main,
            ["resolve", ID["julia"], "--status", PURGED, "--note", "x"]
            if what == "resolve"
            else ["undo", first_run],
        )
        assert result.exception is None or isinstance(result.exception, SystemExit)
        said.append(Said(result.exit_code, result.stdout, result.stderr))

    with connect(fixed.settings) as service, service.transaction():
        service.execute(
            "update canon.driver_orphan_quarantine set detected_reason = 'manual_detection'"
            " where driver_id = %s",
            [ID["julia"]],
        )
        deciding = threading.Thread(target=decide)
        deciding.start()
        time.sleep(0.7)
    deciding.join(60)
    (decided,) = said
    assert decided.code in (0, 1, 4), decided.err
    if decided.code:
        refused(decided, ID["julia"], code=decided.code)
    assert criterion(fixed.settings, "criterion_5_ledger_history_has_gaps") == []
    reasons = fixed.sql(
        "select detected_reason::text from canon.driver_orphan_quarantine_ledger"
        " where driver_id = %s order by revision",
        ID["julia"],
    )
    assert ("manual_detection",) in reasons[started:]
    assert (fixed.status("julia") == PURGED) == (fixed.link("julia") == [])


# --- undo -----------------------------------------------------------------------------------------


def same_plan(place: Town) -> list[dict[str, Any]]:
    """What a dry-run proposes, without what counts revisions."""
    rows = place.fix("--dry-run").report["drivers"]
    return [
        {key: value for key, value in row.items() if key not in ("fingerprint",)} for row in rows
    ]


def test_an_undone_fix_leaves_the_state_from_before_it_but_for_the_history(unfixed: Town) -> None:
    before = unfixed.state()
    seen = {name: where_is(unfixed.settings, name) for name in ID}
    proposed = same_plan(unfixed)
    run_id = unfixed.execute()
    after = unfixed.state()
    undo = unfixed.undone(run_id)
    now = unfixed.state()
    assert now.now == before.now
    assert now.ledger[: len(after.ledger)] == after.ledger
    assert len(now.ledger) == len(after.ledger) + len(EXPECTED)
    assert {name: where_is(unfixed.settings, name) for name in ID} == seen
    assert same_plan(unfixed) == proposed
    entries = unfixed.sql(
        "select driver_id, is_withdrawn, undoes_run_id::text"
        " from canon.driver_orphan_quarantine_ledger where run_id = %s",
        uuid.UUID(undo),
    )
    assert {(NAME[driver], withdrawn, run) for driver, withdrawn, run in entries} == {
        (name, name != "lola", run_id) for name in EXPECTED
    }
    assert unfixed.sql("select count(*) from ops.v_driver_orphans where driver_id = %s", ID["ana"])


def test_fixing_again_after_an_undo_ends_green_and_where_it_ended(unfixed: Town) -> None:
    first = unfixed.execute()
    reached = without_evidence(unfixed)
    unfixed.undone(first)
    second = unfixed.execute()
    assert without_evidence(unfixed) == reached
    is_green(unfixed.settings)
    assert unfixed.newest("ana")["revision"] == 3
    unfixed.undone(second)
    unfixed.execute()
    is_green(unfixed.settings)
    assert unfixed.newest("ana")["revision"] == 5


def without_evidence(place: Town) -> list[list[tuple[Any, ...]]]:
    """What a fix comes to, without ids, clocks and what depends on the number of revisions."""
    return [
        place.sql(
            "select person_key, source_table, source_pk, snapshot_date, match_rule, match_score"
            " from canon.identity_links order by source_table, source_pk"
        ),
        place.sql(
            "select driver_id, person_key, detected_reason, creation_rule, status,"
            " resolution_notes from canon.driver_orphan_quarantine order by driver_id"
        ),
    ]


def test_dbt_test_is_green_after_undo_and_a_new_execute(unfixed: Town, run: Run) -> None:
    unfixed.undone(unfixed.execute())
    unfixed.undone(unfixed.resolved("hugo", PURGED))
    unfixed.execute()
    done = run("dbt", "test", "--select", "test_type:data", settings=unfixed.settings)
    assert done.returncode == 0, done.stdout[-3000:]


def test_undoing_twice_changes_nothing_more(unfixed: Town) -> None:
    run_id = unfixed.execute()
    unfixed.undone(run_id)
    before = unfixed.state()
    again = unfixed.undo(run_id)
    assert again.code == 0, again.err
    assert "Nothing was changed." in again.out
    assert unfixed.state() == before


def test_an_undo_cannot_be_undone_by_undo(fixed: Town, first_run: str) -> None:
    undo = fixed.undone(first_run)
    before = fixed.state()
    said = fixed.undo(undo)
    refused(said, "undo", code=1)
    assert fixed.state() == before


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["for real", "dry-run"])
def test_a_run_that_nobody_made_is_refused(after_fix: Town, dry_run: list[str]) -> None:
    before = after_fix.state()
    unknown = str(uuid.uuid4())
    refused(after_fix.undo(unknown, *dry_run), unknown)
    assert after_fix.state() == before


@pytest.mark.parametrize("run_id", ["", "nonsense", "7", "%s", "\x1b[31m"])
def test_a_run_id_that_is_none_is_wrong_usage(after_fix: Town, run_id: str) -> None:
    said = after_fix.undo(run_id)
    wrong_usage(said, "RUN_ID")
    assert "\x1b" not in said.err


def test_a_dry_run_of_undo_foretells_and_writes_nothing(fixed: Town, first_run: str) -> None:
    fixed.resolved("eva", PURGED)
    before = fixed.state()
    foretold = fixed.undo(first_run, "--dry-run")
    assert fixed.state() == before
    assert "Nothing was changed." in foretold.out
    done = fixed.undo(first_run)
    assert foretold.code == done.code == 1
    assert foretold.err == done.err
    assert numbers(foretold.out) == numbers(done.out)


def numbers(out: str) -> list[str]:
    return re.findall(r"  +(\d+)$", out, re.MULTILINE)


def test_a_relink_of_a_person_with_two_drivers_is_undone_for_both(
    fixed: Town, first_run: str
) -> None:
    fixed.undone(first_run)
    assert fixed.status("carla") is fixed.status("carla2") is None
    assert fixed.sql("select 1 from canon.identity_links where source_pk = 'L3'") == []
    assert {ID["carla"], ID["carla2"]} <= set(plan(fixed.settings))


def test_a_release_is_undone(fixed: Town, first_run: str) -> None:
    assert fixed.status("lola") == RELEASED
    fixed.undone(first_run)
    entry = fixed.newest("lola")
    assert (entry["status"], entry["resolved_at"]) == (QUARANTINED, None)
    assert fixed.sql("select 1 from canon.identity_links where source_pk = 'L12'") == [(1,)]


def test_a_run_that_looked_again_at_the_quarantined_is_undone(fixed: Town) -> None:
    before = fixed.state()
    run_id = fixed.execute("--reprocess-quarantined")
    assert fixed.status("kiko") == "resolved_relinked"
    fixed.undone(run_id)
    assert fixed.state().now == before.now
    assert fixed.newest("otto")["detected_reason"] == REPAIR_FAILED


def test_a_purge_that_was_undone_does_not_keep_the_next_run_from_being_undone(
    unfixed: Town,
) -> None:
    unfixed.undone(unfixed.resolved("beto", PURGED))
    before = unfixed.state()
    run_id = unfixed.execute()
    unfixed.undone(run_id)
    assert unfixed.state().now == before.now


def test_of_several_runs_only_the_one_named_is_undone(unfixed: Town) -> None:
    first = unfixed.execute("--limit", "3")
    middle = unfixed.state()
    second = unfixed.execute()
    unfixed.undone(second)
    assert unfixed.state().now == middle.now
    before = unfixed.state()
    unfixed.undone(first)
    assert unfixed.state().now != before.now
    assert len(plan(unfixed.settings)) == len(EXPECTED)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("ivan", QUARANTINED),  # unfixed: in no quarantine
        ("ivan", PURGED),
        ("kiko", PURGED),  # quarantined by the machine
        ("nora", PURGED),  # quarantined by hand
        ("hugo", PURGED),  # with a lead
        ("mario", PURGED),  # purged, but still linked
        ("lola", RELEASED),
        ("mario", RELEASED),
    ],
)
def test_a_decision_is_undone(unfixed: Town, name: str, status: str) -> None:
    before = unfixed.state()
    run_id = unfixed.resolved(name, status)
    assert unfixed.state().now != before.now
    unfixed.undone(run_id)
    assert unfixed.state().now == before.now


def test_leaving_purged_is_undone_and_the_link_goes_again(fixed: Town) -> None:
    fixed.resolved("julia", PURGED)
    before = fixed.state()
    for status in (QUARANTINED,):
        run_id = fixed.resolved("julia", status)
        assert fixed.link("julia")
        fixed.undone(run_id)
        assert fixed.state().now == before.now
    link = fixed.newest("julia")["evidence_json"]["driver_link"]
    assert link["source_pk"] == ID["julia"]
    fixed.resolved("julia", QUARANTINED)
    assert [row[0] for row in fixed.link("julia")] == [link["id"]]


def test_releasing_a_purged_driver_is_undone_and_the_link_goes_again(fixed: Town) -> None:
    fixed.resolved("hugo", PURGED)
    before = fixed.state()
    fixed.undone(fixed.resolved("hugo", RELEASED))
    assert fixed.state().now == before.now


@pytest.mark.parametrize(
    "how", ["resolve", "old name"], ids=["a person decided", "a service wrote the old name"]
)
def test_a_driver_with_a_newer_entry_is_left_alone_by_name_and_the_rest_is_undone(
    unfixed: Town, how: str
) -> None:
    before = unfixed.state()
    run_id = unfixed.execute()
    if how == "resolve":
        unfixed.resolved("ivan", PURGED)
    else:
        unfixed.sql(
            "update canon.driver_orphan_quarantine set detected_reason = 'manual_detection'"
            " where driver_id = %s",
            ID["ivan"],
        )
    newer = unfixed.newest("ivan"), unfixed.link("ivan")
    said = unfixed.undo(run_id)
    refused(said, ID["ivan"], code=1)
    assert [name for name in EXPECTED if ID[name] in said.err] == ["ivan"]
    assert (unfixed.newest("ivan"), unfixed.link("ivan")) == newer
    assert but(unfixed.state(), "ivan") == but(before, "ivan")
    state = unfixed.state()
    again = unfixed.undo(run_id)
    refused(again, ID["ivan"], code=1)
    assert unfixed.state() == state


def but(state: State, *names: str) -> tuple[list[str], list[str]]:
    """All but what is of these drivers."""
    quarantine, links = (
        [row for row in rows if not any(ID[name] in row for name in names)] for rows in state.now
    )
    return quarantine, links


@pytest.mark.parametrize("status", [PURGED])
def test_with_a_driver_every_driver_of_its_person_is_left_alone(unfixed: Town, status: str) -> None:
    before = unfixed.state()
    run_id = unfixed.execute()
    unfixed.resolved("carla2", status)
    said = unfixed.undo(run_id)
    refused(said, ID["carla"], ID["carla2"], code=1)
    assert unfixed.status("carla") == "resolved_relinked"
    assert unfixed.status("carla2") == status
    assert unfixed.sql("select person_key from canon.identity_links where source_pk = 'L3'") == [
        (KEY["carla"],)
    ]
    quarantine, links = but(unfixed.state(), "carla", "carla2")
    assert [row for row in links if ",L3," not in row] == but(before, "carla", "carla2")[1]
    assert quarantine == but(before, "carla", "carla2")[0]


def test_a_driver_released_since_because_of_the_run_keeps_the_lead_of_its_person(
    unfixed: Town,
) -> None:
    """The other driver of the person was not in the run, but has a newer entry since."""
    unfixed.resolved("carla2", PURGED)
    run_id = unfixed.execute()
    unfixed.resolved("carla2", RELEASED)  # its person has a lead: that of the run
    said = unfixed.undo(run_id)
    refused(said, ID["carla"], code=1)
    assert criterion(unfixed.settings, "criterion_5_released_drivers_without_lead") == []
    assert unfixed.status("carla") == "resolved_relinked"


def test_a_lead_that_ct4_added_meanwhile_stays_and_those_of_the_run_go(
    unfixed: Town,
) -> None:
    before = unfixed.state()
    run_id = unfixed.execute()
    add_link(unfixed.settings, KEY["dora"], CABINET_LEADS, "other")
    (other,) = set(unfixed.state().links) - set(before.links) - set(made_by(unfixed, run_id))
    unfixed.undone(run_id)
    assert unfixed.state().now == (before.quarantine, [*before.links, other])
    unfixed.execute()
    is_green(unfixed.settings)


def made_by(place: Town, run_id: str) -> list[str]:
    rows = place.sql(
        "select r::text from canon.identity_links as r where evidence ->> 'run_id' = %s", run_id
    )
    return [row for (row,) in rows]


def test_a_link_that_ct4_made_in_place_of_the_one_of_the_run_stays(unfixed: Town) -> None:
    before = unfixed.state()
    run_id = unfixed.execute()
    unfixed.sql("delete from canon.identity_links where source_pk = 'L1'")
    add_link(unfixed.settings, KEY["ana"], MIGRATIONS, "L1")
    unfixed.undone(run_id)
    assert unfixed.state().quarantine == before.quarantine
    assert unfixed.sql(
        "select person_key, match_rule from canon.identity_links where source_pk = 'L1'"
    ) == [(KEY["ana"], "OTHER")]


def test_an_undo_that_ct4_forbids_is_one_clear_line_and_leaves_everything(
    fixed: Town, first_run: str
) -> None:
    fixed.sql(
        "create function canon.no() returns trigger language plpgsql as"
        " $$ begin raise exception 'links are for ever'; end $$"
    )
    fixed.sql(
        "create trigger no before delete on canon.identity_links"
        " for each row execute function canon.no()"
    )
    before = fixed.state()
    for said in (fixed.undo(first_run), fixed.resolve("julia", PURGED)):
        assert said.code in (1, 3, 4)
        refused(said, "links are for ever", code=said.code)
        assert fixed.state() == before


@pytest.mark.parametrize("gone", ["person", "ingestion run", "id taken"])
def test_a_link_that_cannot_come_back_is_one_clear_line_and_leaves_everything(
    fixed: Town, gone: str
) -> None:
    fixed.sql("insert into ops.ingestion_runs (id) values (77)")
    fixed.sql("update canon.identity_links set run_id = 77 where source_pk = %s", ID["ivan"])
    number = fixed.link("ivan")[0][0]
    run_id = fixed.resolved("ivan", PURGED)
    if gone == "person":
        fixed.sql("delete from canon.identity_registry where person_key = %s", KEY["ivan"])
    elif gone == "ingestion run":
        fixed.sql("delete from ops.ingestion_runs where id = 77")
    else:
        fixed.sql("update canon.identity_links set id = %s where source_pk = 'L7'", number)
    before = fixed.state()
    for said in (fixed.resolve("ivan", QUARANTINED), fixed.undo(run_id)):
        assert said.code in (1, 3, 4), said.out + said.err
        refused(said, code=said.code)
        assert fixed.state() == before


def test_a_person_who_is_gone_does_not_keep_the_others_from_being_undone(unfixed: Town) -> None:
    run_id = unfixed.execute()
    unfixed.sql("delete from canon.identity_links where person_key = %s", KEY["ivan"])
    unfixed.sql("delete from canon.identity_registry where person_key = %s", KEY["ivan"])
    unfixed.undone(run_id)
    assert unfixed.state().quarantine  # kiko, mario, nora, otto, lola
    assert unfixed.status("ivan") is None


def test_a_driver_that_moved_to_another_person_since_is_not_made_an_orphan_silently(
    unfixed: Town,
) -> None:
    before = unfixed.state()
    run_id = unfixed.execute()
    unfixed.move("ana", EMPTY)
    said = unfixed.undo(run_id)
    assert said.code in (0, 1)
    if said.code == 0:
        assert unfixed.state().quarantine == before.quarantine
        assert made_by(unfixed, run_id) == []
    else:
        refused(said, ID["ana"], code=1)


def test_a_service_can_quarantine_a_withdrawn_driver_under_the_old_name(
    fixed: Town, first_run: str
) -> None:
    fixed.undone(first_run)
    fixed.sql(
        "insert into canon.driver_orphan_quarantine (driver_id, person_key, detected_reason)"
        " values (%s, %s, 'manual_detection')",
        ID["ivan"],
        KEY["ivan"],
    )
    entry = fixed.newest("ivan")
    assert (entry["revision"], entry["status"], entry["is_withdrawn"]) == (3, QUARANTINED, False)
    assert fixed.status("ivan") == QUARANTINED
    assert where_is(fixed.settings, "ivan") == set()
    with pytest.raises(psycopg.errors.UniqueViolation):
        fixed.as_a_service(
            "insert into canon.driver_orphan_quarantine (driver_id, detected_reason)"
            " values (%s, 'manual_detection')",
            ID["ivan"],
        )
    fixed.execute()
    is_green(fixed.settings)


def test_inserting_a_driver_that_is_in_a_state_is_a_unique_violation(after_fix: Town) -> None:
    before = after_fix.state()
    for name in ("ana", "ivan", "mario", "lola"):
        with pytest.raises(psycopg.errors.UniqueViolation):
            after_fix.as_a_service(
                "insert into canon.driver_orphan_quarantine (driver_id, detected_reason)"
                " values (%s, 'manual_detection')",
                ID[name],
            )
    assert after_fix.state() == before


def test_two_services_insert_a_withdrawn_driver_and_one_of_them_wins(
    fixed: Town, first_run: str
) -> None:
    fixed.undone(first_run)
    statement = (
        "insert into canon.driver_orphan_quarantine (driver_id, detected_reason)"
        f" values ('{ID['ivan']}', 'manual_detection')"
    )
    failures: list[type[Exception]] = []

    def insert() -> None:
        try:
            fixed.as_a_service(statement)
        except psycopg.Error as error:
            failures.append(type(error))

    with connect(fixed.settings) as one, one.transaction():
        one.execute(statement)  # type: ignore[call-overload]
        other = threading.Thread(target=insert)
        other.start()
        time.sleep(0.3)
    other.join(30)
    assert failures == [psycopg.errors.UniqueViolation]
    assert fixed.newest("ivan")["revision"] == 3


def test_a_withdrawn_driver_can_be_resolved_by_hand_and_that_undone(
    fixed: Town, first_run: str
) -> None:
    fixed.undone(first_run)
    before = fixed.state()
    run_id = fixed.resolved("ivan", QUARANTINED)
    entry = fixed.newest("ivan")
    assert (entry["revision"], entry["detected_reason"]) == (3, "manual_detection")
    fixed.undone(run_id)
    assert fixed.state().now == before.now
    refused(fixed.resolve("ivan", RELEASED))


def test_a_plan_and_a_purge_undone_one_after_the_other_end_at_the_start(unfixed: Town) -> None:
    before = unfixed.state()
    run_id = str(unfixed.apply(unfixed.dry_run()).report["run_id"])
    purge = unfixed.resolved("hugo", PURGED)
    unfixed.undone(purge)
    unfixed.undone(run_id)
    assert unfixed.state().now == before.now


# --- Any sequence of decisions --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_whatever_people_decide_in_whatever_order(unfixed: Town, seed: int) -> None:
    """Fixes, decisions, undos and what CT4 does meanwhile, at random; then one fix more."""
    chance = random.Random(seed)
    unfixed.resolved("mario", PURGED)  # purged before, but still linked
    runs: list[str] = []
    for _ in range(12):
        before = unfixed.state()
        run_id = something(unfixed, chance, runs)
        if run_id is None:
            continue
        runs.append(run_id)
        if chance.random() < 0.5:
            unfixed.undone(run_id)
            assert unfixed.state().now == before.now
    last = unfixed.fix("--execute")
    assert last.code == 0, last.err
    assert plan(unfixed.settings) == []
    assert set(violations(unfixed.settings).values()) == {0}
    for name in (
        "criterion_5_quarantined_drivers_with_a_lead",
        "criterion_5_released_drivers_without_lead",
    ):
        assert criterion(unfixed.settings, name) == []


def something(place: Town, chance: random.Random, runs: Sequence[str]) -> str | None:
    """One thing that happens; the run_id if it is a run that changed something."""
    name = chance.choice(sorted(ID))
    what = chance.choice(["fix", "plan", "resolve", "resolve", "resolve", "undo", "CT4", "CT4"])
    if what in ("fix", "plan"):
        options = ["--reprocess-quarantined"] * chance.randint(0, 1)
        options += ["--limit", str(chance.randint(1, 5))] * chance.randint(0, 1)
        outcome = (
            place.fix("--execute", *options)
            if what == "fix"
            else place.apply(place.dry_run(*options))
        )
        assert outcome.code == 0, outcome.err
        return str(outcome.report["run_id"]) if A_RUN.search(outcome.out) else None
    if what == "resolve":
        was, status = place.status(name), chance.choice([QUARANTINED, PURGED, RELEASED])
        said = place.resolve(name, status)
        assert said.code in (0, 4), said.err
        if was == PURGED:
            return None
        return said.run_id if A_RUN.search(said.out) else None
    if what == "undo" and runs:
        said = place.undo(chance.choice(runs))
        assert said.code in (0, 1), said.err
        return None
    person = KEY[name.rstrip("2")]
    place.sql(
        chance.choice(
            [
                "insert into canon.identity_links (person_key, source_table, source_pk,"
                " snapshot_date, match_rule, match_score, confidence_level)"
                f" values ('{person}', '{CABINET_LEADS}', gen_random_uuid(), now(), 'CT4', 9,"
                " 'LOW')",
                "delete from canon.identity_links where source_table <> 'drivers'"
                f" and person_key = '{person}'",
                "update canon.driver_orphan_quarantine set detected_reason = 'manual_detection'"
                f" where driver_id = '{ID[name]}'",
                f"update canon.identity_links set person_key = '{EMPTY}'"
                f" where source_table = 'drivers' and source_pk = '{ID[name]}'",
            ]
        )
    )
    return None
