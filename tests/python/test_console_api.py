"""The API says what the views say: list, counts, plan, explanation, runs; errors in one line."""

from __future__ import annotations

import csv
import io
import json
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from ct4_orphans import embedded
from ct4_orphans.console import reads as reading
from ct4_orphans.console import security
from ct4_orphans.console.app import ConsoleOptions, create_app
from ct4_orphans.console.schemas import Reason, Sort, Status
from ct4_orphans.database import Settings, connect
from ct4_orphans.report import COLUMNS
from fastapi.testclient import TestClient
from psycopg import sql
from test_audit import command
from test_fix import ID, MakeTown, contents, fill, in_this_process, make_town, query, town

__all__ = ["make_town"]  # fixture
API = "/api/v1/identity/orphans"
TOKEN, LINE = security.new_token("ana", ("read", "fix", "personal-data"))
READER_TOKEN, READER_LINE = security.new_token("luis", ("read",))
ALL = f"{API}?page_size=500"


@pytest.fixture(scope="module")
def fixed(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The town after the fix, and after a person's decision: every status but one is there."""
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    fill(settings, town())
    assert in_this_process(settings, tmp_path_factory.mktemp("fix"), "--execute").code == 0
    purged = ("resolve", ID["dora"], "--status", "purged", "--note", "A ghost, ticket 1")
    assert command(settings, *purged).exit_code == 0
    yield settings
    with connect(server) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def client(fixed: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    yield from client_of(fixed, tmp_path_factory.mktemp("reports"))


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Make a console for a database of the test's own, with execute switched on."""
    made: list[Iterator[TestClient]] = []

    def make(settings: Settings, token: str = TOKEN) -> TestClient:
        made.append(client_of(settings, tmp_path, token))
        return next(made[-1])

    yield make
    for consoles in made:
        assert list(consoles) == []


def client_of(settings: Settings, directory: Path, token: str = TOKEN) -> Iterator[TestClient]:
    tokens = security.Tokens.from_lines([LINE, READER_LINE], "a test")
    app = create_app(settings, ConsoleOptions(directory, tokens, fix_enabled=True))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def got(client: TestClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(page: dict[str, Any]) -> list[str]:
    return [orphan["driver_id"] for orphan in page["orphans"]]


# --- The list and its counts ----------------------------------------------------------------------


def test_the_list_has_every_column_of_the_view_and_masks_three(
    client: TestClient, fixed: Settings
) -> None:
    page = got(client, ALL)
    with connect(fixed) as connection:
        expected = connection.execute("select * from ops.v_driver_orphans").fetchall()
    assert {name for orphan in page["orphans"] for name in orphan} == set(expected[0])
    masked = {"primary_phone", "primary_license", "primary_full_name", "evidence_json"}
    by_id = {row["driver_id"]: row for row in expected}
    for orphan in page["orphans"]:
        row = by_id.pop(orphan["driver_id"])
        for name in set(row) - masked:
            value = row[name].isoformat() if hasattr(row[name], "isoformat") else row[name]
            shown = orphan[name].replace("Z", "+00:00") if name.endswith("_at") and value else None
            assert (shown or orphan[name]) == (str(value) if name == "person_key" else value), name
        for name in masked - {"evidence_json"}:
            assert (orphan[name] is None) == (row[name] is None)
            assert row[name] is None or set(orphan[name][:-3]) <= {"*"}
    assert by_id == {}


def test_personal_data_is_for_who_may_see_it_and_asks(
    client: TestClient, fixed: Settings, make_client: Callable[..., TestClient]
) -> None:
    in_clear = got(client, f"{ALL}&personal_data=true")["orphans"]
    phones = dict(query(fixed, "select driver_id, primary_phone from ops.v_driver_orphans"))
    assert any(phones.values())
    assert {one["driver_id"]: one["primary_phone"] for one in in_clear} == phones
    refused = make_client(fixed, READER_TOKEN).get(f"{API}?personal_data=true")
    assert refused.status_code == 403
    assert refused.json() == {"detail": "luis has no permission to see personal data."}


@pytest.mark.parametrize("status", [None, *Status])
@pytest.mark.parametrize("reason", [None, *Reason])
def test_filters_leave_what_sql_leaves(
    client: TestClient, fixed: Settings, status: Status | None, reason: Reason | None
) -> None:
    asked = {"status": status and status.value, "detected_reason": reason and reason.value}
    given = {name: value for name, value in asked.items() if value}
    page = client.get(API, params={**given, "page_size": 500}).json()
    expected = query(
        fixed,
        "select driver_id from ops.v_driver_orphans where (%s::text is null or status::text = %s)"
        " and (%s::text is null or detected_reason::text = %s)",
        *(status and status.value, status and status.value),
        *(reason and reason.value, reason and reason.value),
    )
    assert sorted(ids(page)) == sorted(driver_id for (driver_id,) in expected)
    assert page["total"] == len(expected)
    assert page["total_pages"] == (1 if expected else 0)


@pytest.mark.parametrize("sort", get_args(Sort))
def test_the_order_is_sql_s_with_ties_by_driver_id(
    client: TestClient, fixed: Settings, sort: str
) -> None:
    column = sort.removeprefix("-")
    as_text = "" if column.endswith("_at") else '::text collate "C"'
    descending = " desc" if sort.startswith("-") else ""
    expected = query(
        fixed,
        f"select driver_id from ops.v_driver_orphans order by {column}{as_text}{descending},"
        ' driver_id collate "C"',
    )
    assert ids(got(client, f"{ALL}&sort={sort}")) == [driver_id for (driver_id,) in expected]


def test_pages_follow_each_other_and_the_one_after_the_last_is_empty(client: TestClient) -> None:
    whole = ids(got(client, ALL))
    pages = [got(client, f"{API}?page={number}&page_size=4") for number in range(1, 6)]
    assert [driver_id for page in pages for driver_id in ids(page)] == whole
    assert {page["total"] for page in pages} == {len(whole)}
    assert {page["total_pages"] for page in pages} == {-(-len(whole) // 4)}
    after = got(client, f"{API}?page=1000000&page_size=4")
    assert after["orphans"] == []
    assert after["total"] == len(whole)


def test_the_beginning_of_an_id_finds_it(client: TestClient) -> None:
    beginning = ID["beto"][:6]
    found = ids(got(client, f"{API}?driver_id={beginning}"))
    assert ID["beto"] in found
    assert all(driver_id.startswith(beginning) for driver_id in found)
    assert ids(got(client, f"{API}?driver_id=%25")) == []  # no pattern


def test_metrics_are_sql_s_with_zeros_for_what_is_not_there(
    client: TestClient, fixed: Settings
) -> None:
    metrics = got(client, f"{API}/metrics")
    rows = query(
        fixed,
        "select status::text, detected_reason::text, lead_events_count > 0, last_updated_at"
        " from ops.v_driver_orphans",
    )
    by_status = Counter(row[0] for row in rows)
    by_reason = Counter(row[1] for row in rows)
    assert metrics["total_orphans"] == len(rows)
    assert metrics["by_status"] == {one.value: by_status[one.value] for one in Status}
    assert metrics["by_reason"] == {one.value: by_reason[one.value] for one in Reason}
    assert 0 in metrics["by_reason"].values()
    for status in Status:
        assert metrics[status.value] == by_status[status.value]
    assert metrics["with_lead_events"] == sum(row[2] for row in rows)
    assert metrics["without_lead_events"] == sum(not row[2] for row in rows)
    newest = max(row[3] for row in rows)
    assert metrics["last_updated_at"].replace("Z", "+00:00") == newest.isoformat()


def test_before_the_first_fix_everything_is_zero(
    built_database: Settings, make_client: Callable[..., TestClient]
) -> None:
    client = make_client(built_database)
    metrics = got(client, f"{API}/metrics")
    assert metrics["total_orphans"] == 0
    assert metrics["last_updated_at"] is None
    assert set(metrics["by_status"].values()) == set(metrics["by_reason"].values()) == {0}
    page = got(client, API)
    assert (page["orphans"], page["total"], page["total_pages"]) == ([], 0, 0)


def test_a_decision_of_somebody_else_shows_at_once(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
    tmp_path: Path,
) -> None:
    settings = make_town(None)
    client = make_client(settings)
    seen = []
    for _ in range(2):
        seen.append(got(client, API)["total"])
        ((drivers,),) = query(settings, "select count(*) from ops.v_driver_orphans")
        assert seen[-1] == got(client, f"{API}/metrics")["total_orphans"] == drivers
        assert in_this_process(settings, tmp_path / "by hand", "--execute").code == 0
    assert seen[0] < seen[1]


def test_the_list_is_the_same_with_an_index_on_the_links(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make_town(None)
    without = got(make_client(settings), ALL)
    assert without["total"] > 1
    query(settings, "create index on canon.identity_links (person_key)")
    used: list[str] = []
    statement = reading.statement
    monkeypatch.setattr(reading, "statement", lambda name: used.append(name) or statement(name))
    assert got(make_client(settings), ALL) == without
    assert "console_orphans_by_index" in used


# --- One driver, the plan, the criteria, the funnel, the runs -------------------------------------


def test_an_explanation_is_that_of_the_command(client: TestClient, fixed: Settings) -> None:
    for driver_id in (*ids(got(client, ALL)), ID["hugo"]):
        found = got(client, f"{API}/{driver_id}")
        said = command(fixed, "explain", driver_id)
        assert said.exit_code == 0
        assert found["sentences"] == said.output.splitlines()
        as_json = json.loads(command(fixed, "explain", driver_id, "--json").output)
        for name in ("is_orphan", "is_excluded", "leads", "shown_in"):
            assert found[name] == as_json[name]
        assert [one["revision"] for one in found["history"]] == [
            one["revision"] for one in as_json["history"]
        ]


def test_a_driver_that_nobody_knows_is_404_in_one_line(client: TestClient) -> None:
    answer = client.get(f"{API}/nobody")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not known here. Check the id."})


@pytest.mark.parametrize("asked", ["", "limit=3", "reprocess_quarantined=true"])
def test_the_plan_is_the_dry_run_s_as_json_and_as_csv(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
    tmp_path: Path,
    asked: str,
) -> None:
    settings = make_town(None)
    before = contents(settings)
    words = {"limit=3": ["--limit", "3"], "reprocess_quarantined=true": ["--reprocess-quarantined"]}
    report = in_this_process(settings, tmp_path / "command", *words.get(asked, [])).report
    client = make_client(settings)
    plan = got(client, f"{API}/plan?{asked}")
    assert plan["drivers"] == report["drivers"]
    assert plan["total"] == len(report["drivers"]) > 1
    answer = client.get(f"{API}/plan.csv?{asked}")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert tuple(rows[0]) == COLUMNS
    assert [row["driver_id"] for row in rows] == [one["driver_id"] for one in report["drivers"]]
    assert contents(settings) == before


def test_criteria_are_unknown_before_the_first_verification_and_red_where_a_rule_is_broken(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
) -> None:
    settings = make_town(None)
    checks = got(make_client(settings), f"{API}/criteria")["checks"]
    assert {one["is_green"] for one in checks} == {None}
    assert {one["criterion"] for one in checks} == {1, 2, 3, 5}
    verified = command(settings, "verify")
    assert verified.exit_code == 1, verified.output  # nothing is fixed yet
    checks = {one["name"]: one for one in got(make_client(settings), f"{API}/criteria")["checks"]}
    first = checks["criterion_1_drivers_without_lead_outside_quarantine"]
    assert first["is_green"] is False
    assert 0 < first["violations"] <= first["checked"]
    assert checks["criterion_5_ledger_history_has_gaps"]["is_green"] is True


def test_the_funnel_has_every_stage(client: TestClient, fixed: Settings) -> None:
    stages = {
        one["funnel_status"]: one["drivers"] for one in got(client, f"{API}/funnel")["stages"]
    }
    counted = query(
        fixed, "select funnel_status, count(*) from ops.v_cabinet_funnel_status group by 1"
    )
    assert set(reading.STAGES) <= set(stages)
    assert {name: drivers for name, drivers in stages.items() if drivers} == dict(counted)


def test_the_last_runs_are_the_ledger_s(client: TestClient, fixed: Settings) -> None:
    runs = got(client, f"{API}/runs")
    expected = query(
        fixed,
        "select run_id::text, command, entries from canon.driver_orphan_quarantine_runs"
        " order by last_seal_no desc",
    )
    assert [(one["run_id"], one["command"], one["entries"]) for one in runs] == expected
    assert "resolve" in {one["command"] for one in runs}


# --- run-fix --------------------------------------------------------------------------------------


def ran(client: TestClient, **request: Any) -> dict[str, Any]:
    answer = client.post(f"{API}/run-fix", json=request)
    assert answer.status_code == 200, answer.text
    run: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{API}/run-fix/{run['id']}"
    assert got(client, answer.headers["Location"]) == run
    return run


def test_a_dry_run_then_exactly_its_plan(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
) -> None:
    settings = make_town(None)
    client = make_client(settings)
    before = contents(settings)
    dry = ran(client)
    assert (dry["mode"], dry["state"], dry["run_id"]) == ("dry-run", "complete", None)
    assert contents(settings) == before
    plan = next(name for name in dry["reports"] if name.endswith(".json"))
    report = got(client, f"{API}/reports/{plan}")
    assert report["stats"] == dry["stats"]
    assert report["drivers"] == dry["drivers"]
    table = client.get(f"{API}/reports/{plan.replace('.json', '.csv')}")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"

    wrong = client.post(
        f"{API}/run-fix", json={"execute": True, "plan": plan, "expected_drivers": 1}
    )
    assert wrong.status_code == 409
    assert contents(settings) == before

    drivers = dry["stats"]["processed"]
    done = ran(client, execute=True, plan=plan, expected_drivers=drivers)
    assert (done["mode"], done["state"], done["exit_code"]) == ("execute", "complete", 0)
    assert {**done["stats"]} == {**dry["stats"]}
    ((actor, command_name),) = query(
        settings,
        "select parameters ->> 'actor', command from canon.driver_orphan_quarantine_runs"
        " where run_id = %s",
        done["run_id"],
    )
    assert (actor, command_name) == ("ana", "fix")
    history = got(client, f"{API}/{dry['drivers'][0]['driver_id']}")["history"]
    assert history[-1]["actor"] == "ana"
    again = client.post(
        f"{API}/run-fix", json={"execute": True, "plan": plan, "expected_drivers": drivers}
    )
    assert again.status_code == 409
    assert "stale" in again.json()["detail"]


def test_limit_and_reprocess_are_the_command_s(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
    tmp_path: Path,
) -> None:
    settings = make_town(None)
    client = make_client(settings)
    limited = in_this_process(settings, tmp_path / "limited", "--limit", "2").report["stats"]
    assert ran(client, limit=2)["stats"] == limited
    ran(client, execute=True)
    again = in_this_process(settings, tmp_path / "again", "--reprocess-quarantined").report
    assert ran(client, reprocess_quarantined=True)["stats"] == again["stats"]


def test_the_events_of_a_run_end_with_its_end(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
) -> None:
    client = make_client(make_town(None))
    run = ran(client)
    with client.stream("GET", f"{API}/run-fix/{run['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert json.loads(events[-1]) == run


def test_what_takes_long_goes_on_and_is_asked_for(
    make_town: MakeTown,  # noqa: F811
    make_client: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = make_client(make_town(None))
    monkeypatch.setattr("ct4_orphans.console.api.ANSWER_WITHIN_SECONDS", 0)
    answer = client.post(f"{API}/run-fix", json={})
    assert answer.status_code == 202
    with client.stream("GET", f"{answer.headers['Location']}/events") as events:
        last = [line for line in events.iter_lines() if line][-1]
    assert json.loads(last.removeprefix("data: "))["state"] == "complete"
    assert got(client, answer.headers["Location"])["state"] == "complete"


# --- What is not right ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "?page_size=501",
        "?page_size=0",
        "?page=0",
        "?page=99999999999999999999",
        "?status=gone",
        "?detected_reason=",
        "?sort=primary_phone",
        "?driver_id=%00",
        f"?driver_id={'9' * 300}",
        "/plan?limit=0",
        "/plan?limit=99999999999",
        "/%00",
        "/run-fix/no-uuid",
        "/reports/..%2f..%2fetc%2fpasswd",
        "/reports/orphans_report_1.json",
    ],
)
def test_a_malformed_question_is_one_line_and_4xx(client: TestClient, path: str) -> None:
    answer = client.get(f"{API}{path}")
    assert 400 <= answer.status_code < 500, answer.text
    assert list(answer.json()) == ["detail"]
    assert answer.json()["detail"].isprintable()


@pytest.mark.parametrize(
    "body",
    [
        {"execute": "perhaps"},
        {"limit": 0},
        {"limit": 2**31},
        {"plan": "../../etc/passwd"},
        {"plan": "orphans_report_1.json\n"},
        {"output_dir": "/tmp/elsewhere"},  # noqa: S108
        [],
    ],
)
def test_a_malformed_order_is_refused_and_nothing_is_run(client: TestClient, body: Any) -> None:
    answer = client.post(f"{API}/run-fix", json=body)
    assert answer.status_code == 422, answer.text
    assert list(answer.json()) == ["detail"]


def test_an_unknown_run_and_an_unknown_report_are_404(client: TestClient) -> None:
    for path in (f"run-fix/{uuid.uuid4()}", "reports/orphans_report_20250101_000000_000000.json"):
        assert client.get(f"{API}/{path}").status_code == 404


def test_a_database_that_is_away_is_503_in_one_line(make_client: Callable[..., TestClient]) -> None:
    nowhere = Settings("localhost", 1, "ct4", "nobody", "", "prefer")
    client = make_client(nowhere)
    for path in ("/health", API):
        answer = client.get(path)
        assert answer.status_code == 503, answer.text
    assert "ct4" in client.get(API).json()["detail"]
    assert client.get("/health").json()["status"] == "unavailable"


def test_the_commands_say_what_is_missing_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, built_database: Settings
) -> None:
    monkeypatch.setitem(sys.modules, "ct4_orphans.console.app", None)
    said = command(built_database, "serve")
    assert said.exit_code == 3
    assert "pip install '.[console]'" in said.output
