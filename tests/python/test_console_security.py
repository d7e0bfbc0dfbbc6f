"""Who may do what in the console, and who may not: tokens, sites, headers, limits, roles."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from conftest import ROOT
from ct4_orphans.console import reads as reading
from ct4_orphans.console.app import ConsoleOptions, create_app
from ct4_orphans.console.reads import Reads
from ct4_orphans.console.security import (
    HEADERS,
    RUNS_PER_MINUTE,
    SESSION_COOKIE,
    SIGN_INS_PER_MINUTE,
    Limiter,
    Person,
    Sessions,
    Tokens,
    is_loopback,
    new_token,
)
from ct4_orphans.database import Settings, connect
from ct4_orphans.errors import OutputError, RefusedError
from fastapi import HTTPException
from fastapi.testclient import TestClient
from psycopg import sql
from test_audit import command
from test_fix import ID, MakeTown, contents, make_town, query

__all__ = ["make_town"]  # fixture
API = "/api/v1/identity/orphans"
RUN_FIX = f"{API}/run-fix"
TOKEN, LINE = new_token("ana", ("read", "fix"))
READER_TOKEN, READER_LINE = new_token("luis", ("read",))
AS_ANA = {"Authorization": f"Bearer {TOKEN}"}
AS_LUIS = {"Authorization": f"Bearer {READER_TOKEN}"}
OURS = {"Origin": "http://testserver"}


def tokens_file(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "tokens"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def test_a_token_gives_its_permissions_and_no_others(tmp_path: Path) -> None:
    token, line = new_token("ana", ("read", "fix"))
    tokens = Tokens.from_file(tokens_file(tmp_path, f"# people\n\n{line}\n"))
    assert tokens.person(token) == Person("ana", may_fix=True, may_see_personal_data=False)
    assert tokens.person(token + "x") is None
    assert token not in line


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_tokens_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(RefusedError, match="chmod 600"):
        Tokens.from_file(tokens_file(tmp_path, new_token("ana", ("read",))[1], mode))


@pytest.mark.parametrize("text", ["", "ana read", "ana all " + "0" * 64, "ana read " + "0" * 63])
def test_a_malformed_tokens_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(OutputError):
        Tokens.from_file(tokens_file(tmp_path, text))


def test_a_missing_tokens_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be read"):
        Tokens.from_file(tmp_path / "missing")


def test_more_than_the_limit_is_refused_for_that_person_only() -> None:
    limiter = Limiter(2)
    limiter.count("ana")
    limiter.count("ana")
    limiter.count("eva")
    with pytest.raises(HTTPException) as refused:
        limiter.count("ana")
    assert refused.value.status_code == 429
    assert 1 <= int((refused.value.headers or {})["Retry-After"]) <= 61


def test_a_closed_session_is_nobodys() -> None:
    sessions, ana = Sessions(), Person("ana", may_fix=False, may_see_personal_data=False)
    secret = sessions.open(ana)
    assert sessions.person(secret) == ana
    sessions.close(secret)
    assert sessions.person(secret) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""])
def test_what_others_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


# --- Over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def make_console(built_database: Settings, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Make a console; by default one with tokens, in which nobody may execute."""
    made: list[TestClient] = []

    def make(settings: Settings = built_database, **options: object) -> TestClient:
        tokens = Tokens.from_lines([LINE, READER_LINE], "a test")
        app = create_app(
            settings,
            ConsoleOptions(tmp_path, **{"tokens": tokens, **options}),  # type: ignore[arg-type]
        )
        made.append(TestClient(app, follow_redirects=False, base_url="http://testserver"))
        return made[-1].__enter__()

    yield make
    for client in made:
        client.__exit__(None, None, None)


@pytest.fixture
def console(make_console: Callable[..., TestClient]) -> TestClient:
    return make_console()


def sign_in(console: TestClient, token: str = TOKEN, **headers: str) -> httpx.Response:
    return console.post("/sign-in", data={"token": token}, headers={**OURS, **headers})


READS = [API, f"{API}/metrics", f"{API}/plan", f"{API}/plan.csv", f"{API}/criteria"]
READS += [f"{API}/funnel", f"{API}/runs", f"{API}/x", f"{API}/run-fix/{uuid.uuid4()}"]
READS += [f"{API}/reports/orphans_report_20250101_000000_000000.json"]
PAGES = ["/", "/orphans", "/orphans/x", "/parts/funnel", f"/runs/{uuid.uuid4()}"]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x"}, {"Cookie": "orphans_session=x"}]
)
def test_without_a_token_nothing_is_shown(console: TestClient, headers: dict[str, str]) -> None:
    for path in READS:
        answer = console.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert list(answer.json()) == ["detail"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in PAGES:
        answer = console.get(path, headers=headers)
        asks = answer.status_code == 401 or answer.headers.get("Location", "").startswith(
            "/sign-in"
        )
        assert asks, path
    health = console.get("/health", headers=headers).json()
    assert {name: value for name, value in health.items() if value is not None} == {"status": "ok"}


@pytest.mark.parametrize("body", [{}, {"execute": True}])
def test_who_may_not_fix_cannot_even_plan_a_run(console: TestClient, body: dict[str, bool]) -> None:
    assert console.post(RUN_FIX, json=body).status_code == 401
    refused = console.post(RUN_FIX, json=body, headers=AS_LUIS)
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "The token of luis has no permission to fix.",
    )


def test_nobody_executes_where_it_is_not_switched_on(
    make_town: MakeTown,  # noqa: F811
    make_console: Callable[..., TestClient],
) -> None:
    settings = make_town(None)
    before = contents(settings)
    console = make_console(settings)
    refused = console.post(RUN_FIX, json={"execute": True}, headers=AS_ANA)
    assert refused.status_code == 403
    assert "ENABLE_ORPHANS_FIX=true" in refused.json()["detail"]
    assert contents(settings) == before
    assert console.post(RUN_FIX, json={}, headers=AS_ANA).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver.elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {**OURS, "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_site_cannot_write_or_sign_in(console: TestClient, headers: dict[str, str]) -> None:
    assert console.post(RUN_FIX, json={}, headers={**AS_ANA, **headers}).status_code == 403
    assert console.post("/sign-in", data={"token": TOKEN}, headers=headers).status_code == 403
    sign_in(console)
    assert console.post(RUN_FIX, json={}, headers=headers).status_code == 403
    assert console.post("/sign-out", headers=headers).status_code == 403
    assert console.get(API).status_code == 200, "the session goes on"


def test_a_session_needs_the_browser_s_word_that_it_comes_from_here(console: TestClient) -> None:
    sign_in(console)
    assert console.post(RUN_FIX, json={}).status_code == 403
    assert console.post(RUN_FIX, json={}, headers=OURS).status_code == 200
    site = {"Sec-Fetch-Site": "same-origin"}
    assert console.post(RUN_FIX, json={}, headers=site).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_starts_a_run(console: TestClient, kind: str) -> None:
    answer = console.post(RUN_FIX, content="{}", headers={**AS_ANA, "Content-Type": kind})
    assert 400 <= answer.status_code < 500
    assert not console.app.state.runs.newest_plan()  # type: ignore[attr-defined]


def test_the_cookie_is_out_of_reach_and_ends_with_the_session(
    make_console: Callable[..., TestClient],
) -> None:
    console = make_console()
    cookie = sign_in(console).headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    secret = console.cookies[SESSION_COOKIE]
    assert console.post("/sign-out", headers=OURS).status_code == 303
    again = console.get(API, headers={"Cookie": f"{SESSION_COOKIE}={secret}"})
    assert again.status_code == 401
    behind = make_console(is_behind_https=True)
    https = {"Origin": "https://testserver"}
    assert sign_in(behind).status_code == 403, "the page is HTTPS, so its origin is"
    assert "Secure" in sign_in(behind, **https).headers["Set-Cookie"]


def test_a_session_ends_by_itself(console: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ct4_orphans.console.security.SESSION_SECONDS", 0)
    sign_in(console)
    assert console.get(API).status_code == 401


def test_too_many_runs_and_too_many_wrong_tokens_have_to_wait(console: TestClient) -> None:
    runs = [console.post(RUN_FIX, json={}, headers=AS_ANA) for _ in range(RUNS_PER_MINUTE + 1)]
    assert {answer.status_code for answer in runs[:-1]} == {200}
    assert runs[-1].status_code == 429
    assert 0 < int(runs[-1].headers["Retry-After"]) <= 61
    wrong = [sign_in(console, "wrong") for _ in range(SIGN_INS_PER_MINUTE + 1)]
    assert [answer.status_code for answer in wrong] == [401] * SIGN_INS_PER_MINUTE + [429]
    assert "Retry-After" in wrong[-1].headers


def test_every_answer_has_the_headers_and_no_page_has_a_script_of_its_own(
    console: TestClient,
) -> None:
    sign_in(console)
    static = console.get("/sign-in").text
    assets = re.findall(r'(?:src|href)="(/static/[^"]+)"', static)
    assert len(assets) >= 2
    paths = [*READS, *PAGES, *assets, "/sign-in", "/health", "/openapi.json", "/nothing"]
    for path in [*paths, f"{API}?page=0", f"{API}/x/y/z"]:
        answer = console.get(path, headers={"Accept": "text/html"})
        for name, value in HEADERS.items():
            assert answer.headers.get(name) == value, (path, name)
        is_asset = path in assets
        assert ("no-store" in answer.headers["Cache-Control"]) != is_asset, path
        if answer.headers["content-type"].startswith("text/html"):
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", answer.text)
            hosts = re.findall(r'(?:src|href|action)="(https?://[^"]*)', answer.text)
            assert hosts == [], path


# --- Without tokens, and where it listens ---------------------------------------------------------


def test_without_tokens_it_only_reads_and_only_as_localhost(
    make_console: Callable[..., TestClient],
) -> None:
    console = make_console(tokens=None, fix_enabled=True)
    local = {"Host": "localhost:8000"}
    assert console.get(API, headers=local).status_code == 200
    for body in ({}, {"execute": True}):
        answer = console.post(RUN_FIX, json=body, headers={**local, **AS_ANA})
        assert answer.status_code == 403
        assert "--tokens" in answer.json()["detail"]
    assert console.get(f"{API}?personal_data=true", headers=local).status_code == 403
    for host in ("elsewhere.example", "localhost.elsewhere.example", "10.0.0.5:8000", ""):
        answer = console.get(API, headers={"Host": host})
        assert answer.status_code == 421, host
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_it_refuses_to_be_reached_by_others_without_tokens(built_database: Settings) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):  # noqa: S104
        said = command(built_database, "serve", "--host", host, "--port", "0")
        assert said.exit_code == 4, said.output
        assert "orphans token NAME --fix" in said.output


def test_a_port_that_is_taken_is_one_line(built_database: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = command(built_database, "serve", "--port", port)
    assert said.exit_code == 5, said.output
    assert said.output.strip().splitlines()[-1].startswith("Error: The console cannot listen on")


def test_a_database_that_is_not_ready_is_one_line(ct4_database: Settings) -> None:
    said = command(ct4_database, "serve", "--port", "0")
    assert said.exit_code == 3, said.output
    assert len(said.output.strip().splitlines()) == 1


def test_the_server_says_where_it_is_answers_and_ends(
    built_database: Settings, tmp_path: Path
) -> None:
    file = tokens_file(tmp_path, f"{LINE}\n{READER_LINE}\n")
    with subprocess.Popen(
        [sys.executable, "-m", "ct4_orphans", "serve", "--port", "0", "--tokens", str(file)],
        cwd=tmp_path,
        env={**os.environ, **built_database.environment(), "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout
        url = server.stdout.readline().split(": ")[-1].strip()
        who = server.stdout.readline()
        assert "Dry-runs by ana; to execute, ENABLE_ORPHANS_FIX=true is missing." in who
        assert httpx.get(f"{url}{API}", headers=AS_LUIS).json()["total"] == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert server.stdout.read().endswith("The console has ended.\n")


def test_a_socket_is_removed_at_the_end(built_database: Settings, tmp_path: Path) -> None:
    path = tmp_path / "console.sock"
    path.touch()
    said = command(built_database, "serve", "--unix-socket", str(path))
    assert said.exit_code == 5, "it is there already"
    assert path.exists()


def test_a_new_token_is_shown_once_and_its_line_is_what_the_file_wants(
    built_database: Settings, tmp_path: Path
) -> None:
    said = command(built_database, "token", "ana", "--fix", "--personal-data").output.splitlines()
    token = said[0].rsplit(" ", 1)[-1]
    tokens = Tokens.from_file(tokens_file(tmp_path, said[-1]))
    assert tokens.person(token) == Person("ana", may_fix=True, may_see_personal_data=True)
    assert command(built_database, "token", "two words").exit_code == 2


# --- The role of the reads ------------------------------------------------------------------------


@pytest.fixture
def as_reader(
    server: Settings,
    make_town: MakeTown,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Settings]:
    """A town with roles, and a user who is a member of the fixer only."""
    prefix, user = f"test_{uuid.uuid4().hex[:8]}", f"user_{uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(reading, "PREFIX", prefix)
    settings = make_town(None)
    done = command(settings, "fix", "--execute", "--output-dir", str(ROOT / ".embedded/reports"))
    assert done.exit_code == 0, done.output
    done = command(settings, "roles", "install", "--prefix", prefix)
    assert done.exit_code == 0, done.output
    fixer = sql.Identifier(f"{prefix}_fixer")
    with connect(server) as connection:
        connection.execute(
            sql.SQL("create role {} login in role {}").format(sql.Identifier(user), fixer)
        )
    yield Settings(settings.host, settings.port, settings.dbname, user, "", "prefer")
    with connect(server) as connection:
        connection.execute(sql.SQL("drop role {}").format(sql.Identifier(user)))
    assert command(settings, "roles", "remove", "--prefix", prefix).exit_code == 0


def test_reads_go_under_the_role_that_sees_no_personal_data(as_reader: Settings) -> None:
    reads = Reads(as_reader)
    try:
        assert reads.health().reads_as == f"{reading.PREFIX}_reader"
        found = reads.page(reading.Find(page_size=500))
        assert found.total == len(found.orphans) > 1
        assert reads.metrics().total_orphans == found.total
        assert reads.explanation(ID["beto"])
        assert reads.plan(reprocess_quarantined=True).at
        assert reads.funnel().stages
        assert reads.last_runs()
        assert reads.criteria().checks[0].checked
        with reads._connection() as connection:
            for statement in (
                "select * from canon.identity_links",
                "select * from public.drivers",
                "select primary_phone from ops.v_driver_orphans",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)  # type: ignore[call-overload]
        with pytest.raises(reading.NotGrantedError, match="grant select on ops.v_driver_orphans"):
            reads.page(reading.Find(), personal=True)
    finally:
        reads.close()


@pytest.mark.parametrize("as_role", [True, False])
def test_no_read_can_write(built_database: Settings, as_role: bool) -> None:
    reads = Reads(built_database)
    statement = "insert into canon.driver_orphan_quarantine (driver_id) values ('x')"
    try:
        with (
            reads._connection(as_reader=as_role) as connection,
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        ):
            connection.execute(statement)
    finally:
        reads.close()
    assert query(built_database, "select * from canon.driver_orphan_quarantine") == []
