"""The console when things go wrong: heavy questions, a server that is away, errors of its own."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from ct4_orphans.console import reads as reading
from ct4_orphans.console import security
from ct4_orphans.console.app import ConsoleOptions, create_app
from ct4_orphans.console.reads import CONNECTIONS, Find, Reads
from ct4_orphans.console.schemas import Funnel
from ct4_orphans.database import Settings, connect
from ct4_orphans.errors import DatabaseError
from fastapi.testclient import TestClient
from psycopg import sql
from test_fix import ID, MakeTown, make_town

__all__ = ["make_town"]  # fixture
API = "/api/v1/identity/orphans"
NOBODY = "00000000-0000-0000-0000-000000000000"
TOKEN, LINE = security.new_token("ana", ("read", "fix"))


@pytest.fixture
def client(built_database: Settings, tmp_path: Path) -> Iterator[TestClient]:
    yield from client_of(built_database, tmp_path)


def client_of(settings: Settings, directory: Path) -> Iterator[TestClient]:
    tokens = security.Tokens.from_lines([LINE], "a test")
    app = create_app(settings, ConsoleOptions(directory, tokens))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def reads(built_database: Settings) -> Iterator[Reads]:
    made = Reads(built_database)
    yield made
    made.close()


def allow_connections(server: Settings, settings: Settings, allow: bool) -> None:
    with connect(server) as connection:
        connection.execute(
            sql.SQL("alter database {} allow_connections {}").format(
                sql.Identifier(settings.dbname), sql.Literal(allow)
            )
        )
        if not allow:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                [settings.dbname],
            )


def test_who_waits_for_a_heavy_answer_takes_no_connection_from_the_list(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_counting, may_end = threading.Event(), threading.Event()

    def slow(_: object) -> Funnel:
        is_counting.set()
        assert may_end.wait(30)
        return Funnel(stages=[], at=datetime.now(timezone.utc))

    monkeypatch.setattr(reading, "_funnel", slow)
    with ThreadPoolExecutor(2 * CONNECTIONS) as pool:
        waiting = [pool.submit(reads.funnel) for _ in range(2 * CONNECTIONS)]
        try:
            assert is_counting.wait(10)
            time.sleep(0.3)  # for all of them to come to wait
            assert reads.page(Find()).total == 0
        finally:
            may_end.set()
        assert len({id(answer.result(10)) for answer in waiting}) == 1, "computed once"


def test_with_every_connection_in_use_it_says_busy_and_not_that_the_server_is_away(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WAIT_SECONDS", 0.2)
    may_end = threading.Event()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            for number in range(1, CONNECTIONS + 1):
                has_one = threading.Event()

                def hold(_: object, has_one: threading.Event = has_one) -> bool:
                    has_one.set()
                    return may_end.wait(30)

                pool.submit(reads._read, hold)
                assert has_one.wait(10), number
            with pytest.raises(DatabaseError, match="busy"):
                reads.page(Find())
        finally:
            may_end.set()


def test_a_server_that_is_away_is_told_in_its_own_words_and_is_read_again_when_it_is_back(
    server: Settings,
    built_database: Settings,
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "WAIT_SECONDS", 1)
    assert reads.health().status == "ok"
    allow_connections(server, built_database, False)
    try:
        said = reads.health().message or ""
        with pytest.raises(DatabaseError):
            reads.page(Find())
    finally:
        allow_connections(server, built_database, True)
    assert "not currently accepting connections" in said
    until = time.monotonic() + 3 * reading.RECONNECT_SECONDS
    while reads.health().status != "ok":
        assert time.monotonic() < until, "it does not come back"


def test_evidence_of_each_level_is_shown_in_the_plan_and_in_the_explanation(
    make_town: MakeTown,  # noqa: F811
    tmp_path: Path,
) -> None:
    for client in client_of(make_town(None), tmp_path):
        plan = client.get(f"{API}/plan")
        assert plan.status_code == 200, plan.text
        levels = {row["driver_id"]: row["evidence_level"] for row in plan.json()["drivers"]}
        assert set(levels.values()) == {1, 2, None}
        for driver_id, level in levels.items():
            found = client.get(f"{API}/{driver_id}")
            assert found.status_code == 200, found.text
            evidence = found.json()["evidence"] or {}  # a release has none
            assert evidence.get("evidence_level") == level
        assert ID["ana"] in levels


@pytest.mark.parametrize("origin", ["http://[::1", "null", "", "http://evil.example"])
def test_an_origin_that_is_none_of_ours_is_refused(client: TestClient, origin: str) -> None:
    answer = client.post(f"{API}/run-fix", json={}, headers={"Origin": origin})
    assert answer.status_code == 403, answer.text
    assert "another site" in answer.json()["detail"]


def test_an_error_of_the_console_is_one_line_with_all_headers_and_no_secret(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a licence: Q10000001")

    monkeypatch.setattr(reading, "_metrics", broken)
    answer = client.get(f"{API}/metrics")
    assert answer.status_code == 500
    assert list(answer.json()) == ["detail"] and "Q1000" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert {name: answer.headers.get(name) for name in security.HEADERS} == security.HEADERS
    assert "ZeroDivisionError" in caplog.text


def test_a_run_can_be_stopped_however_often_one_was_started(client: TestClient) -> None:
    started = [
        client.post(f"{API}/run-fix", json={"expected_drivers": 1}).status_code
        for _ in range(security.RUNS_PER_MINUTE + 1)
    ]
    assert started == [409] * security.RUNS_PER_MINUTE + [429]
    assert client.post(f"{API}/run-fix/{NOBODY}/stop").status_code == 404


def test_a_client_that_hangs_up_half_way_leaves_no_connection_behind(
    built_database: Settings, tmp_path: Path
) -> None:
    app = create_app(built_database, ConsoleOptions(tmp_path))
    has_ended = threading.Event()

    def endless(**_: object) -> Iterator[str]:
        try:
            while True:
                yield "driver_id\n" * 10_000
        finally:
            has_ended.set()

    app.state.reads.plan_csv = endless
    listener = socket.create_server(("127.0.0.1", 0))
    console = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=console.run, args=[[listener]])
    thread.start()
    gc.disable()  # which would come by chance
    try:
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(f"GET {API}/plan.csv HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert has_ended.wait(10)
    finally:
        gc.enable()
        console.should_exit = True
        thread.join(30)
