"""The console's runs: what the command does, in a thread, one at a time, and told as it goes on."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from ct4_orphans import cli, execution
from ct4_orphans import fix as fixing
from ct4_orphans.console import runs as console_runs
from ct4_orphans.console.runs import STAMP, Runs
from ct4_orphans.console.schemas import FixRun, RunFixRequest
from ct4_orphans.database import Settings, connect
from ct4_orphans.errors import DatabaseError, OrphansError, OutputError, RefusedError
from reading import World
from test_fix import (
    CABINET_LEADS,
    CROWD_DRIVERS,
    ID,
    KEY,
    MakeTown,
    add_link,
    contents,
    crowd,
    end_state,
    first_batch,
    in_this_process,
    make_town,
    on_link_insert,
    query,
    small_transactions,
    wait_until_blocked,
)

__all__ = ["make_town", "small_transactions"]  # fixtures
SECONDS = 30
ACTOR = "ana.quispe"
TOWN_DRIVERS = 11
SECRET = "Q10000001"


@dataclass
class Console:
    """The runs of a console, and what is behind them."""

    runs: Runs
    settings: Settings
    directory: Path

    def start(self, actor: str = ACTOR, **request: Any) -> FixRun:
        # As it comes, without what the API checks: it must not be all that stands in the way.
        whole = RunFixRequest().model_dump() | request
        return self.runs.start(RunFixRequest.model_construct(**whole), actor)

    def run(self, **request: Any) -> FixRun:
        return self.ended(self.start(**request))

    def ended(self, run: FixRun) -> FixRun:
        run = self.runs.wait(run.id, SECONDS)
        assert run.state != "running", run
        return run

    def plan(self, **request: Any) -> str:
        """The name of the plan that a dry-run makes."""
        return self.run(**request).reports[0]

    def report(self, run: FixRun) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.directory / run.reports[0]).read_text("utf-8"))
        return loaded

    def refused(self, kind: type[OrphansError] = RefusedError, **request: Any) -> str:
        """What is said of a request that is refused, with nothing changed and nothing on."""
        before = contents(self.settings), sealed(self.settings)
        with pytest.raises(kind) as refusal:
            self.start(**request)
        assert self.runs.current() is None
        assert (contents(self.settings), sealed(self.settings)) == before
        return refusal.value.format_message()


MakeConsole = Callable[..., Console]


@pytest.fixture
def make_console(make_town: MakeTown, tmp_path: Path) -> Iterator[MakeConsole]:  # noqa: F811
    """A console of a town of its own."""
    made: list[Console] = []

    def make(world: World | None = None, settings: Settings | None = None) -> Console:
        settings = settings or make_town(world)
        directory = tmp_path / f"console{len(made)}"
        made.append(Console(Runs(settings, directory), settings, directory))
        return made[-1]

    yield make
    for console in made:
        console.runs.close()


@pytest.fixture
def console(make_console: MakeConsole) -> Console:
    return make_console()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[FixRun]:
    """Every state that was told, in its order."""
    states: list[FixRun] = []
    tell = console_runs._Job._tell

    def keep(job: Any, **changes: Any) -> None:
        tell(job, **changes)
        states.append(job.run)

    monkeypatch.setattr(console_runs._Job, "_tell", keep)
    monkeypatch.setattr(console_runs, "DRIVERS_BETWEEN_TOLD", 3)
    return states


@contextmanager
def locked(settings: Settings, mode: str) -> Iterator[None]:
    """Keep whoever reads (access exclusive) or links (exclusive) waiting."""
    with connect(settings) as connection, connection.transaction():
        connection.execute(f"lock table canon.identity_links in {mode} mode")  # type: ignore[call-overload]
        yield


def sealed(settings: Settings) -> list[tuple[Any, ...]]:
    return query(
        settings, "select run_id, step from canon.driver_orphan_quarantine_seals order by seal_no"
    )


def applied_by(settings: Settings, run: FixRun) -> set[str]:
    rows = query(
        settings,
        "select driver_id from canon.driver_orphan_quarantine_ledger where run_id = %s",
        run.run_id,
    )
    return {driver for (driver,) in rows}


def command(settings: Settings, *arguments: str) -> str:
    result = CliRunner(env=settings.environment()).invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


# --- The same as the command ----------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_says_what_the_command_says(
    console: Console, tmp_path: Path
) -> None:
    before = contents(console.settings), sealed(console.settings)
    run = console.run()
    assert (contents(console.settings), sealed(console.settings)) == before
    said = in_this_process(console.settings, tmp_path / "command").report
    assert (run.state, run.mode, run.exit_code, run.message) == ("complete", "dry-run", 0, None)
    assert run.run_id is None
    assert run.stats == said["stats"]
    report = console.report(run)
    del said["at"], report["at"]
    assert report == said
    assert [driver.driver_id for driver in run.drivers] == [
        driver["driver_id"] for driver in said["drivers"]
    ]


def test_the_server_lets_nothing_write_in_the_session_of_a_dry_run(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    dry_run = execution.dry_run

    def look(connection: Any, *arguments: Any) -> Any:
        found.append(connection.execute("show transaction_read_only").fetchone())
        return dry_run(connection, *arguments)

    monkeypatch.setattr(execution, "dry_run", look)
    console.run()
    assert found == [{"transaction_read_only": "on"}]


def test_an_execute_comes_to_what_the_command_comes_to(
    console: Console, make_console: MakeConsole, tmp_path: Path
) -> None:
    other = make_console()
    outcome = in_this_process(other.settings, tmp_path / "command", "--execute")
    run = console.run(execute=True)
    assert (run.state, run.exit_code) == ("complete", 0)
    assert run.stats == outcome.stats
    assert end_state(console.settings) == end_state(other.settings)
    assert run.digest == console.report(run)["digest"]


def test_limit_and_reprocess_are_those_of_the_command(console: Console, tmp_path: Path) -> None:
    for request, arguments in (
        ({"limit": 3}, ["--limit", "3"]),
        ({"reprocess_quarantined": True}, ["--reprocess-quarantined"]),
    ):
        said = in_this_process(console.settings, tmp_path / arguments[0], *arguments)
        assert console.run(**request).stats == said.stats
        assert said.stats["processed"] != TOWN_DRIVERS


# --- Exactly the plan -----------------------------------------------------------------------------


def test_an_execute_of_a_plan_applies_exactly_it(console: Console) -> None:
    planned = console.run(limit=4)
    drivers = {driver.driver_id for driver in planned.drivers}
    assert 0 < len(drivers) < TOWN_DRIVERS
    run = console.run(execute=True, plan=planned.reports[0], expected_drivers=len(drivers))
    assert (run.state, run.drivers_total) == ("complete", len(drivers))
    assert applied_by(console.settings, run) == drivers


def test_drivers_changed_since_the_review_are_refused_and_the_others_done(
    console: Console,
) -> None:
    plan = console.plan()
    add_link(console.settings, KEY["ivan"], CABINET_LEADS, "of Ivan")
    run = console.run(execute=True, plan=plan, expected_drivers=TOWN_DRIVERS)
    assert (run.state, run.exit_code) == ("incomplete", 1)
    assert run.message
    assert f"no longer the reviewed one: {ID['ivan']}. The others are done" in run.message
    assert run.stats
    assert run.stats["refused"] == 1
    done = applied_by(console.settings, run)
    assert len(done) == TOWN_DRIVERS - 1
    assert ID["ivan"] not in done


def renamed(console: Console, name: str, age: timedelta) -> str:
    """A plan as if it had been made so long ago."""
    at = datetime.strptime(name, STAMP) - age
    older = at.strftime(STAMP)
    (console.directory / name).rename(console.directory / older)
    return older


@pytest.mark.parametrize("minutes", [61, -61, 60 * 24 * 365])
def test_a_plan_that_is_too_old_or_of_another_clock_is_refused(
    console: Console, minutes: int
) -> None:
    plan = renamed(console, console.plan(), timedelta(minutes=minutes))
    said = console.refused(execute=True, plan=plan, expected_drivers=TOWN_DRIVERS)
    assert "stale: make a new dry-run (it is more than 60 minutes old)" in said


def test_a_plan_of_59_minutes_is_applied(console: Console) -> None:
    plan = renamed(console, console.plan(), timedelta(minutes=59))
    assert console.run(execute=True, plan=plan).state == "complete"


def test_a_plan_made_before_something_was_executed_is_refused(console: Console) -> None:
    older, plan = console.plan(), console.plan(limit=2)
    assert console.run(execute=True, plan=plan).state == "complete"
    for name in (older, plan):
        said = console.refused(execute=True, plan=name)
        assert "stale: make a new dry-run (something was executed after it)" in said
    assert console.run(execute=True, plan=console.plan()).state == "complete"


def test_a_plan_of_another_console_of_the_directory_is_a_plan(
    console: Console, make_console: MakeConsole
) -> None:
    """The server may have been started again between the review and the execute."""
    again = Console(Runs(console.settings, console.directory), console.settings, console.directory)
    plan = console.plan()
    assert again.run(execute=True, plan=plan).state == "complete"


def test_a_plan_made_while_something_was_executed_is_refused(console: Console) -> None:
    with locked(console.settings, "exclusive"):
        run = console.start(execute=True)
        wait_until_blocked(console.settings)
        in_this_process(console.settings, console.directory)
        (made,) = console.directory.glob("orphans_report_*.json")
    assert console.ended(run).state == "complete"
    assert "executed after it" in console.refused(execute=True, plan=made.name)


NAME = "orphans_report_20250101_000000_000000.json"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        NAME,
        "orphans_report_1.json",
        "orphans_report_20259999_000000_000000.json",
        "orphans_report_20250101_000000_000000.csv",
        f"../{NAME}",
        f"x/../{NAME}",
        f"/{NAME}",
        f"{NAME}\n",
        f"\n{NAME}",
        f"{NAME}\0",
        NAME.replace("1", "١"),
    ],
)
def test_a_name_that_is_that_of_no_plan_is_refused(console: Console, name: str) -> None:
    said = console.refused(execute=True, plan=name)
    assert "stale: make a new dry-run (no dry-run of this console has this name)" in said


def test_a_plan_is_found_by_its_name_only(console: Console, tmp_path: Path) -> None:
    plan = console.plan()
    made = console.directory / plan
    (console.directory / "sub").mkdir()
    for path in (
        str(made),
        f"./{plan}",
        f"sub/../{plan}",
        f"../{console.directory.name}/{plan}",
        f"{plan}/",
    ):
        assert "no dry-run of this console" in console.refused(execute=True, plan=path)
    elsewhere = made.rename(tmp_path / "elsewhere.json")
    made.symlink_to(elsewhere)
    assert "no dry-run of this console" in console.refused(execute=True, plan=plan)


def test_the_report_of_an_execute_is_no_plan(console: Console) -> None:
    run = console.run(execute=True, limit=2)
    assert "is the report of an execute" in console.refused(execute=True, plan=run.reports[0])


@pytest.mark.parametrize("expected", [0, TOWN_DRIVERS - 1, TOWN_DRIVERS + 1])
def test_another_number_of_drivers_than_the_plan_has_is_refused(
    console: Console, expected: int
) -> None:
    plan = console.plan()
    said = console.refused(execute=True, plan=plan, expected_drivers=expected)
    assert f"The plan has {TOWN_DRIVERS} drivers, not {expected}" in said
    assert console.runs.newest_plan() is not None
    assert console.run(execute=True, plan=plan, expected_drivers=TOWN_DRIVERS).state == "complete"


@pytest.mark.parametrize(
    "request_",
    [
        {"execute": False},
        {"execute": True, "limit": 3},
        {"execute": True, "reprocess_quarantined": True},
        {"execute": True, "plan": None, "expected_drivers": TOWN_DRIVERS},
    ],
)
def test_a_request_that_contradicts_itself_is_refused(
    console: Console, request_: dict[str, Any]
) -> None:
    console.refused(**({"plan": console.plan()} | request_))


def test_the_newest_plan_is_that_of_the_last_dry_run_until_something_is_executed(
    console: Console,
) -> None:
    assert console.runs.newest_plan() is None
    console.run()
    last = console.run(limit=2)
    assert console.runs.newest_plan() == last
    console.run(execute=True, plan=last.reports[0])
    assert console.runs.newest_plan() is None
    last = console.run()
    assert console.runs.newest_plan() == last


# --- One at a time --------------------------------------------------------------------------------


def test_eight_starts_at_once_make_one_run_and_the_others_are_told_of_it(
    console: Console,
) -> None:
    barrier = threading.Barrier(8)
    started: list[FixRun] = []
    refused: list[str] = []

    def click() -> None:
        barrier.wait(SECONDS)
        try:
            started.append(console.start(execute=True))
        except RefusedError as error:
            refused.append(error.format_message())

    clicks = [threading.Thread(target=click) for _ in range(8)]
    with locked(console.settings, "exclusive"):  # so that the first has not ended before the last
        for thread in clicks:
            thread.start()
        for thread in clicks:
            thread.join(SECONDS)
        (run,) = started
        assert console.runs.current() == console.runs.get(run.id)
        assert len(refused) == 7
        assert all(f"the execute {run.id} of {ACTOR}" in said for said in refused)
    assert console.ended(run).state == "complete"
    assert {run_id for run_id, _ in sealed(console.settings)} == {console.ended(run).run_id}
    assert console.runs.current() is None


def test_an_execute_elsewhere_is_named_and_a_dry_run_goes_on_beside_it(console: Console) -> None:
    with connect(console.settings) as connection, fixing.only_one_execute(connection):
        said = console.refused(execute=True)
        assert said.startswith("Another execute is running: postgres from ")
        assert console.run().state == "complete"
    assert console.run(execute=True).state == "complete"


def test_what_stands_in_the_way_at_once_is_raised_and_leaves_the_console_free(
    console: Console, make_console: MakeConsole, tmp_path: Path
) -> None:
    nowhere = make_console(settings=replace(console.settings, dbname="no_such_database"))
    for _ in range(2):
        with pytest.raises(DatabaseError, match="no_such_database"):
            nowhere.start()
        assert nowhere.runs.current() is None
    (tmp_path / "file").touch()
    full = Runs(console.settings, tmp_path / "file" / "reports")
    for _ in range(2):
        with pytest.raises(OutputError):
            full.start(RunFixRequest(execute=True), ACTOR)
        assert full.current() is None
    assert sealed(console.settings) == []


def test_an_error_of_the_console_itself_ends_the_run_and_quotes_nothing(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(execution, "dry_run", fail)
    run = console.run()
    assert (run.state, run.exit_code) == ("failed", 1)
    assert run.message
    assert "ValueError" in run.message
    assert SECRET not in run.message
    monkeypatch.undo()
    assert console.run().state == "complete"


def test_the_last_50_runs_are_remembered(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    assert console_runs.RUNS_REMEMBERED == 50
    monkeypatch.setattr(console_runs, "RUNS_REMEMBERED", 2)
    first, second, third = (console.run(limit=1) for _ in range(3))
    assert console.runs.get(first.id) is None
    assert console.runs.get(uuid.uuid4()) is None
    assert console.runs.stop(first.id) is None
    with pytest.raises(KeyError):
        console.runs.wait(first.id, 1)
    assert [console.runs.get(run.id) for run in (second, third)] == [second, third]


def test_only_the_first_drivers_are_kept_and_the_report_has_all(
    make_console: MakeConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert console_runs._Job.sample_size == 200
    monkeypatch.setattr(console_runs._Job, "sample_size", 10)
    console = make_console(crowd())
    for request in ({}, {"execute": True}):
        run = console.run(**request)
        in_report = [driver["driver_id"] for driver in console.report(run)["drivers"]]
        assert len(in_report) == run.drivers_total == CROWD_DRIVERS
        assert [driver.driver_id for driver in run.drivers] == in_report[:10]


# --- As it goes on --------------------------------------------------------------------------------

STEPS = ["planning", "applying", "reporting", "ended"]


@pytest.mark.usefixtures("small_transactions")
@pytest.mark.parametrize("execute", [False, True])
def test_progress_only_grows_and_ends_at_the_total(
    make_console: MakeConsole, told: list[FixRun], execute: bool
) -> None:
    console = make_console(crowd())
    run = console.run(execute=execute)
    done = [state.drivers_done for state in told]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert done[-1] == run.drivers_total == CROWD_DRIVERS
    totals = [state.drivers_total for state in told]
    assert set(totals) <= {None, CROWD_DRIVERS}
    assert totals == sorted(totals, key=lambda total: total is not None)
    steps = [STEPS.index(state.step) for state in told]
    assert steps == sorted(steps)
    assert {state.step for state in told} >= {"reporting", "ended"}
    assert ("applying" in {state.step for state in told}) is execute
    assert [state.state for state in told[:-1]] == ["running"] * (len(told) - 1)
    assert told[-1] == run


@pytest.mark.usefixtures("small_transactions")
def test_what_was_handed_out_of_a_run_does_not_change_any_more(make_console: MakeConsole) -> None:
    console = make_console(crowd())
    run = console.start(execute=True)
    before = run.model_dump_json()
    assert console.ended(run) != run
    assert run.model_dump_json() == before


def test_wait_returns_what_there_is_when_the_time_is_over(console: Console) -> None:
    with locked(console.settings, "access exclusive"):
        run = console.start()
        began = time.monotonic()
        assert console.runs.wait(run.id, 0.1).state == "running"
        assert time.monotonic() - began < SECONDS / 2
    assert console.ended(run).state == "complete"


# --- Stopping -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_transactions")
@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_stop_lets_the_transaction_that_is_on_end_and_says_so(
    make_console: MakeConsole, how: str
) -> None:
    console = make_console(crowd())
    first = first_batch(console.settings, 5)
    with locked(console.settings, "exclusive"):
        run = console.start(execute=True)
        wait_until_blocked(console.settings)
        if how == "stop":
            stopping = console.runs.stop(run.id)
            assert stopping
            assert stopping.state == "running"
        else:
            closing = threading.Thread(target=console.runs.close)
            closing.start()
            closing.join(0.3)
            assert closing.is_alive()  # it waits
    run = console.ended(run)
    assert (run.state, run.exit_code) == ("incomplete", 1)
    assert run.message == (
        "Interrupted. Whole transactions are kept, nothing is half done; "
        "run the same command again."
    )
    assert applied_by(console.settings, run) == first
    assert run.stats
    assert run.stats["not_reached"] == CROWD_DRIVERS - len(first)
    assert run.drivers_done == len(first)
    assert console.report(run)["result"] == "stopped"
    if how == "close":
        closing.join(SECONDS)
        assert not closing.is_alive()
        with pytest.raises(RefusedError, match="shut down"):
            console.start()


@pytest.mark.parametrize("execute", [False, True])
def test_a_stop_while_it_plans_ends_it_at_once_and_nothing_is_changed(
    console: Console, execute: bool
) -> None:
    before = contents(console.settings)
    with locked(console.settings, "access exclusive"):
        run = console.start(execute=execute)
        wait_until_blocked(console.settings)
        console.runs.stop(run.id)
        run = console.ended(run)  # while others still hold the lock
    assert (run.state, run.exit_code) == ("incomplete", 1)
    assert run.message == "Interrupted. Nothing was changed."
    assert (contents(console.settings), sealed(console.settings)) == (before, [])
    assert run.reports == []
    assert list(console.directory.iterdir()) == []
    assert console.run(execute=execute).state == "complete"


def test_a_stop_between_plan_and_report_ends_a_dry_run(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No statement is on then that could be cut off."""
    monkeypatch.setattr(console_runs, "DRIVERS_BETWEEN_TOLD", 3)
    written = console_runs._Job.written

    def stop_at_the_fifth(job: Any, drivers: int) -> None:
        if drivers == 5:
            job.asked = True
        written(job, drivers)

    monkeypatch.setattr(console_runs._Job, "written", stop_at_the_fifth)
    run = console.run()
    assert (run.state, run.message) == ("incomplete", "Interrupted. Nothing was changed.")
    assert console.runs.newest_plan() is None


def test_a_stop_of_a_run_that_has_ended_changes_nothing(console: Console) -> None:
    run = console.run()
    assert console.runs.stop(run.id) == run
    assert console.run().state == "complete"


# --- For whom -------------------------------------------------------------------------------------


def test_the_person_is_in_the_sealed_parameters_in_audit_and_in_explain(console: Console) -> None:
    run = console.run(execute=True, plan=console.plan())
    parameters = query(
        console.settings,
        "select distinct parameters ->> 'actor', parameters ->> 'plan', step"
        " from canon.driver_orphan_quarantine_seals where run_id = %s",
        run.run_id,
    )
    assert sorted(parameters) == [(ACTOR, "true", step) for step in ("applied", "ended", "started")]
    assert f"by postgres for {ACTOR}: {TOWN_DRIVERS} entries" in command(console.settings, "audit")
    said = command(console.settings, "explain", ID["lola"])
    assert "1. " in said
    assert "by postgres for" not in said.split("  2. ")[0]  # of another service
    assert f"by postgres for {ACTOR}, run {run.run_id}" in said.split("  2. ")[1]
    history = json.loads(command(console.settings, "explain", ID["lola"], "--json"))["history"]
    assert [entry["actor"] for entry in history] == [None] * (len(history) - 1) + [ACTOR]


def test_the_command_acts_for_nobody_but_its_user(console: Console, tmp_path: Path) -> None:
    assert in_this_process(console.settings, tmp_path / "command", "--execute").code == 0
    for (parameters,) in query(
        console.settings, "select parameters from canon.driver_orphan_quarantine_runs"
    ):
        assert "actor" not in parameters
    assert "by postgres: " in command(console.settings, "audit")
    assert "by postgres, run " in command(console.settings, "explain", ID["ana"])


# --- A lost connection ----------------------------------------------------------------------------


@pytest.mark.usefixtures("small_transactions")
def test_after_a_loss_the_ledger_is_looked_up_and_nothing_is_repeated(
    make_console: MakeConsole, told: list[FixRun]
) -> None:
    console = make_console(crowd())
    first = first_batch(console.settings, 5)
    on_link_insert(
        console.settings,
        "if new.source_pk = 'L5' then perform pg_terminate_backend(pg_backend_pid()); end if;",
    )
    run = console.run(execute=True)
    assert (run.state, run.exit_code) == ("incomplete", 1)
    assert run.message
    assert run.message.startswith("The connection was lost (")
    assert f"According to the ledger {len(first)} of {CROWD_DRIVERS} drivers are" in run.message
    assert applied_by(console.settings, run) == first
    assert {driver.driver_id for driver in run.drivers} == first
    assert run.drivers_done == len(first)
    assert any(
        state.state == "running" and state.message and "Connecting again" in state.message
        for state in told
    )
    query(console.settings, "drop trigger of_ct4 on canon.identity_links")
    assert console.run(execute=True).state == "complete"


@pytest.mark.usefixtures("small_transactions")
def test_without_a_way_back_the_result_is_unknown_and_plans_are_stale(
    make_console: MakeConsole, server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixing, "PAUSES_BEFORE_CONNECTING_AGAIN", (0.05,))
    console = make_console(crowd())
    plan = console.plan()
    name = console.settings.dbname
    with locked(console.settings, "exclusive"):
        run = console.start(execute=True, plan=plan)
        wait_until_blocked(console.settings)
        with psycopg.connect(**server.connection_parameters(), autocommit=True) as other:  # type: ignore[arg-type]
            other.execute(f"alter database {name} with allow_connections false")  # type: ignore[call-overload]
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = %s and cardinality(pg_blocking_pids(pid)) > 0",
                [name],
            )
            run = console.ended(run)
            other.execute(f"alter database {name} with allow_connections true")  # type: ignore[call-overload]
    assert (run.state, run.exit_code) == ("failed", 3)
    assert run.message
    assert f"run {run.run_id} was committed is unknown" in run.message
    assert run.stats is None
    report = console.report(run)
    assert (report["result"], report["run_id"]) == ("unknown", str(run.run_id))
    assert console.runs.newest_plan() is None
    assert "something was executed after it" in console.refused(execute=True, plan=plan)


def test_what_the_database_refuses_of_a_person_is_left_and_said(console: Console) -> None:
    on_link_insert(
        console.settings,
        f"if new.person_key = '{KEY['ana']}' then raise exception 'not {SECRET}'; end if;",
    )
    run = console.run(execute=True)
    assert (run.state, run.exit_code) == ("incomplete", 1)
    assert run.message
    assert run.message.startswith("1 drivers could not be applied")
    assert run.stats
    assert run.stats["errors"] == 1
    (failed,) = [driver for driver in run.drivers if driver.outcome == "failed"]
    assert failed.driver_id == ID["ana"]
    assert SECRET not in run.model_dump_json()


def test_a_run_without_a_whole_report_says_that_the_changes_are_there(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = console.plan()

    def full(*_: Any) -> None:
        raise OutputError("No report can be written: No space left on device.")

    monkeypatch.setattr(execution.Report, "finish", full)
    run = console.run(execute=True)
    assert (run.state, run.exit_code, run.reports) == ("failed", 5, [])
    assert run.message
    assert "The changes ARE in the database" in run.message
    assert len(applied_by(console.settings, run)) == TOWN_DRIVERS
    monkeypatch.undo()
    assert "something was executed after it" in console.refused(execute=True, plan=plan)
