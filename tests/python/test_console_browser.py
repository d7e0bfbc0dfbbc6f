"""The console as people use it: a real server, a real database, and Debian's Chromium.

Server, database and browser are made once; each test signs in as a person of its own (runs are
limited by person) and looks for errors of the page and requests to other hosts at its end.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import ROOT, open_connection
from ct4_orphans import embedded
from ct4_orphans.console.words import EN, ES
from ct4_orphans.database import Settings
from private_town import PERSONAL, driver, fill_private

try:
    from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
except ImportError:  # pragma: no cover
    pytest.skip(
        "NOT RUN: the browser tests of the console need playwright: pip install '.[dev]'",
        allow_module_level=True,
    )

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if CHROMIUM is None:
    pytest.skip(
        "NOT RUN: the browser tests of the console need a Chromium: apt-get install chromium",
        allow_module_level=True,
    )

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# One may sign in ten times a minute, and start ten runs: five people who take turns.
FIXERS = [f"fixer{number}" for number in range(5)]
PEOPLE = {
    "lena": "read",
    "petra": "read,fix,personal-data",
    "otto": "read",
    **{name: "read,fix" for name in FIXERS},
}
A_MOMENT = 8_000  # milliseconds: far more than anything here takes


def token_of(name: str) -> str:
    return f"token-of-{name}-{'x' * 30}"


class Console:
    """The running server, and the database behind it."""

    def __init__(self, settings: Settings, address: str) -> None:
        self.settings = settings
        self.address = address
        self.fixers = itertools.cycle(FIXERS)
        self.sessions: dict[str, Any] = {}

    def sql(self, query: str, *parameters: Any) -> Any:
        """Return the first value of a query."""
        with open_connection(self.settings) as connection:
            row = connection.execute(query, parameters).fetchone()  # type: ignore[arg-type]
            return next(iter(row.values())) if row else None

    def add_orphans(self, number: int, relinkable: int = 0) -> list[str]:
        """Add drivers without a lead; the first ones are named by an event of a lead source."""
        made = [uuid.uuid4() for _ in range(number)]
        with open_connection(self.settings) as connection:
            for count, key in enumerate(made):
                connection.execute(
                    "insert into canon.identity_registry (person_key, confidence_level)"
                    " values (%s, 'HIGH')",
                    [key],
                )
                connection.execute(
                    "insert into canon.identity_links (person_key, source_table, source_pk,"
                    " snapshot_date, match_rule, match_score, confidence_level)"
                    " values (%s, 'drivers', %s, now(), 'driver_direct', 90, 'HIGH')",
                    [key, key.hex],
                )
                if count < relinkable:
                    connection.execute(
                        "insert into observational.lead_events (source_table, source_pk,"
                        " event_date, payload_json, created_at)"
                        " values ('module_ct_migrations', %s, current_date, %s, now())",
                        [f"of {key.hex}", json.dumps({"driver_id": key.hex})],
                    )
        return [key.hex for key in made]

    def entries(self) -> int:
        return int(self.sql("select count(*) from canon.driver_orphan_quarantine_ledger"))

    def runs_of(self, actor: str) -> int:
        return int(
            self.sql(
                "select count(*) from canon.driver_orphan_quarantine_runs"
                " where parameters ->> 'actor' = %s",
                actor,
            )
        )

    @contextmanager
    def writers_wait(self) -> Iterator[None]:
        """Let nobody write to the ledger for as long as the block lasts; reading goes on."""
        with open_connection(self.settings) as connection:
            connection.execute(
                "lock table canon.driver_orphan_quarantine_ledger in share row exclusive mode"
            )
            yield


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def console(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    work = tmp_path_factory.mktemp("console")
    tokens = work / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(
        "".join(
            f"{who} {may} {hashlib.sha256(token_of(who).encode()).hexdigest()}\n"
            for who, may in PEOPLE.items()
        )
    )
    port = free_port()
    made = Console(settings, f"http://127.0.0.1:{port}")
    fill_private(settings)
    made.sql("select setval(pg_get_serial_sequence('observational.lead_events', 'id'), 1000)")
    made.add_orphans(60, relinkable=6)
    words = [sys.executable, "-m", "ct4_orphans", "serve", "--port", str(port)]
    words += ["--tokens", str(tokens), "--output-dir", str(work / "output")]
    environment = {**os.environ, **settings.environment(), "ENABLE_ORPHANS_FIX": "true"}
    with (work / "log").open("w") as log:
        serving = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(200):
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert serving.poll() is None, (work / "log").read_text()
            time.sleep(0.1)
        yield made
    finally:
        serving.terminate()
        serving.wait(20)
    text = (work / "log").read_text()
    assert "Traceback" not in text, text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


class Visit:
    """A person's browser: pages that note what goes wrong in them."""

    def __init__(self, console: Console, context: BrowserContext, name: str) -> None:
        self.console = console
        self.context = context
        self.name = name
        self.wrong: list[str] = []
        self.posts: list[str] = []

    def tab(self, path: str = "/orphans") -> Page:
        page = self.context.new_page()
        page.set_default_timeout(A_MOMENT)
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("pageerror", lambda error: self.wrong.append(f"error of the script: {error}"))
        page.on("request", lambda request: self._look_at(request.method, request.url))
        page.goto(self.console.address + path)
        return page

    def _note(self, kind: str, text: str) -> None:
        # A refusal that a test asks for is an answer of the server's, no error of the page.
        if kind in ("error", "warning") and not re.search(r"status of (401|404|409)", text):
            self.wrong.append(text)

    def _look_at(self, method: str, url: str) -> None:
        if not url.startswith((self.console.address, "data:", "blob:")):
            self.wrong.append(f"request to another host: {url}")
        if method == "POST" and url.endswith("/run-fix"):
            self.posts.append(url)


MakeVisit = Callable[..., Visit]


@pytest.fixture
def visit(console: Console, browser: Browser) -> Iterator[MakeVisit]:
    made: list[Visit] = []

    def sign_in(name: str | None = None, lang: str = "es", **options: Any) -> Visit:
        name = name or next(console.fixers)
        context = browser.new_context(
            viewport={"width": 1280, "height": 800},
            storage_state=console.sessions.get(name),
            **options,
        )
        made.append(Visit(console, context, name))
        if name not in console.sessions:
            page = made[-1].tab("/sign-in?next=/orphans")
            page.fill("#token", token_of(name))
            page.press("#token", "Enter")
            page.wait_for_url("**/orphans")
            page.close()
            console.sessions[name] = context.storage_state()
        context.add_cookies([{"name": "lang", "value": lang, "url": console.address}])
        return made[-1]

    yield sign_in
    for visited in made:
        visited.context.close()
    assert [visited.wrong for visited in made if visited.wrong] == []


def dry_run(page: Page) -> int:
    """Make a dry-run and return how many drivers its plan has."""
    page.get_by_role("button", name=ES["fix.dry_run"]).click()
    page.wait_for_selector('[data-run][data-mode="dry-run"][data-state="complete"]')
    return int(page.get_attribute("[data-execute]", "data-drivers") or 0)


def execute(page: Page, drivers: int) -> None:
    page.click("[data-execute]")
    page.fill("[data-typed]", str(drivers))
    page.click("[data-confirmed]")


def card(page: Page, label: str) -> int:
    name = page.locator(".card-label").get_by_text(label, exact=True)
    number = page.locator(".card", has=name).locator(".card-number").inner_text()
    return int(number.replace(",", ""))


@pytest.fixture
def quarantined(console: Console, visit: MakeVisit) -> int:
    """Something to look at: everybody is fixed; how many are in the quarantine."""
    if console.sql("select count(*) from ops.v_orphan_fix_plan where not requires_reprocess"):
        page = visit().tab()
        execute(page, dry_run(page))
        page.wait_for_selector('[data-mode="execute"][data-state="complete"]')
    return int(console.sql("select count(*) from ops.v_driver_orphans where status='quarantined'"))


# --- reading ---


def test_the_cards_and_bars_show_what_sql_says(
    console: Console, visit: MakeVisit, quarantined: int
) -> None:
    page = visit("lena").tab()
    total = console.sql("select count(*) from ops.v_driver_orphans")
    resolved = console.sql(
        "select count(*) from ops.v_driver_orphans"
        " where status in ('resolved_relinked', 'resolved_created_lead')"
    )
    events = console.sql("select count(*) from ops.v_driver_orphans where lead_events_count > 0")
    assert quarantined > 50
    assert card(page, ES["card.total"]) == total
    assert card(page, ES["card.quarantined"]) == quarantined
    assert card(page, ES["card.resolved"]) == resolved
    assert card(page, ES["card.events"]) == events
    for column in ("status", "detected_reason"):
        for bar in page.locator(f"a.bar-row[href*='{column}=']").all():
            query = parse_qs(urlsplit(str(bar.get_attribute("href"))).query)
            shown = bar.locator(".bar-number").inner_text().split()[0].replace(",", "")
            counted = console.sql(
                f"select count(*) from ops.v_driver_orphans where {column}::text = %s",
                query[column][0],
            )
            assert int(shown) == counted, query


def test_filters_live_in_the_address(console: Console, visit: MakeVisit, quarantined: int) -> None:
    page = visit("lena").tab("/orphans?page_size=25")
    page.select_option("#f-status", "quarantined")
    page.get_by_role("button", name=ES["filter.apply"]).click()
    page.wait_for_url("**status=quarantined**")
    assert page.locator(".count").inner_text().startswith(f"{quarantined} ")
    assert page.locator("tbody tr").count() == 25
    page.get_by_role("link", name=ES["pager.next"]).click()
    page.wait_for_url("**page=2**")
    expect(page.locator("#f-status")).to_have_value("quarantined")
    second = page.locator("tbody .id").all_inner_texts()
    page.reload()
    assert page.locator("tbody .id").all_inner_texts() == second
    page.locator("tbody .id").first.click()
    page.get_by_role("link", name=ES["driver.back"]).click()
    assert page.locator("tbody .id").all_inner_texts() == second, "the list as it was"
    page.go_back()
    page.go_back()
    page.fill("#f-driver", second[0][:6])
    page.press("#f-driver", "Enter")
    page.wait_for_url(f"**driver_id={second[0][:6]}**")
    assert page.locator("tbody .id").all_inner_texts() == [second[0]]
    page.get_by_role("link", name=ES["filter.clear"]).click()
    page.wait_for_url("**/orphans?page_size=25")


def test_the_list_is_sorted_as_sql_sorts_it(
    console: Console, visit: MakeVisit, quarantined: int
) -> None:
    page = visit("lena").tab("/orphans?page_size=500")
    for direction in ("asc", "desc"):
        page.get_by_role("columnheader", name=ES["col.driver_id"]).get_by_role("link").click()
        page.wait_for_url("**sort=**driver_id**")
        with open_connection(console.settings) as connection:
            query = f"select driver_id from ops.v_driver_orphans order by 1 {direction}"
            found = connection.execute(query).fetchall()  # type: ignore[arg-type]
        assert page.locator("tbody .id").all_inner_texts() == [row["driver_id"] for row in found]


def test_a_driver_has_its_evidence_history_and_views_in_words(
    visit: MakeVisit, quarantined: int
) -> None:
    page = visit("lena").tab(f"/orphans/{driver(4)}")  # shares a phone with another person
    text = page.inner_text("main")
    assert "1 evento de lead coincide, pero no prueba un lead (habla de varias personas)" in text
    assert "Quarantined:" not in text, "English of the ledger"
    assert ES["view.hidden"] in text and "porque está excluido: en cuarentena" in text
    assert page.locator(".timeline li").count() == 1
    missing = visit("lena").tab("/orphans/0000")
    assert ES["driver.unknown.title"] in missing.inner_text("main")


def test_personal_data_is_masked_but_for_who_may_and_asks(
    visit: MakeVisit, quarantined: int
) -> None:
    page = visit("lena").tab("/orphans?page_size=500&personal_data=true")
    assert not PERSONAL.search(page.content())
    assert ES["personal.denied"] in page.inner_text("main")
    page = visit("petra").tab("/orphans?page_size=500")
    assert not PERSONAL.search(page.content())
    page.get_by_role("link", name=ES["personal.show"]).click()
    page.wait_for_url("**personal_data=true**")
    assert PERSONAL.search(page.content())


def test_the_language_is_switched_and_kept(visit: MakeVisit) -> None:
    page = visit("lena").tab("/orphans?status=purged")
    page.get_by_role("link", name="English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(EN["orphans.title"])
    assert "status=purged" in page.url
    page.goto(page.url.split("?")[0])
    expect(page.get_by_role("heading", level=1)).to_have_text(EN["orphans.title"])
    page.get_by_role("link", name="Español").click()
    expect(page.locator("html")).to_have_attribute("lang", "es-PE")


def test_the_dashboard_fetches_its_slow_parts(
    console: Console, visit: MakeVisit, quarantined: int
) -> None:
    page = visit("lena").tab("/")
    page.wait_for_selector(".criterion")
    assert page.locator(".criterion").count() == 5
    page.wait_for_selector(".funnel")
    shown = [
        int(text.split()[0].replace(",", ""))
        for text in page.locator(".funnel .bar-number").all_inner_texts()
    ]
    assert len(shown) == 6
    assert sum(shown) == console.sql("select count(*) from ops.v_cabinet_funnel_status")
    page.wait_for_selector(".table-runs tbody tr")
    assert card(page, ES["card.quarantined"]) == quarantined


def test_a_slow_part_that_fails_says_so_and_is_tried_again(visit: MakeVisit) -> None:
    visited = visit("lena")
    visited.context.route("**/parts/criteria", lambda route: route.abort())
    page = visited.tab("/")
    page.wait_for_selector("[data-later] [role=alert]")
    assert ES["criteria.error"] in page.inner_text("main")
    visited.context.unroute("**/parts/criteria")
    visited.wrong.clear()  # the failure was made by this test
    page.get_by_role("button", name=ES["retry"]).click()
    page.wait_for_selector(".criterion")


def test_without_javascript_everything_is_read_and_the_buttons_say_what_they_need(
    visit: MakeVisit, quarantined: int
) -> None:
    visited = visit("otto", java_script_enabled=False)  # who signs out: a session of one test
    page = visited.tab("/orphans?page_size=25")
    assert ES["fix.needs_script"].split("`")[0] in page.inner_text("main")
    assert page.get_by_role("button", name=ES["fix.dry_run"]).is_disabled()
    assert page.get_by_role("button", name=ES["fix.execute"]).is_disabled()
    page.select_option("#f-status", "quarantined")
    page.get_by_role("button", name=ES["filter.apply"]).click()
    page.wait_for_url("**status=quarantined**")
    page.get_by_role("columnheader", name=ES["col.driver_id"]).get_by_role("link").click()
    page.wait_for_url("**sort=driver_id**")
    page.get_by_role("link", name=ES["pager.last"]).click()
    page.wait_for_url("**page=**")
    page.locator("tbody .id").first.click()
    assert page.locator(".timeline").count() == 1
    page.goto(visited.console.address + "/")
    page.get_by_role("link", name=ES["criteria.without_script"]).first.click()
    assert page.locator(".criterion").count() == 5
    page.get_by_role("link", name="English").click()
    page.get_by_role("button", name=EN["sign_out"]).click()
    page.wait_for_url("**/sign-in**")
    page.goto(visited.console.address + "/orphans")
    assert "/sign-in" in page.url, "the session is over"


def test_a_wrong_token_is_refused_in_words(visit: MakeVisit) -> None:
    page = visit("lena").tab("/sign-in")
    page.fill("#token", "not a token")
    page.press("#token", "Enter")
    assert page.get_by_role("alert").inner_text() == ES["sign_in.wrong"]
    assert page.input_value("#token") == ""


# --- the fix ---


def test_a_dry_run_shows_the_plan_and_changes_nothing(console: Console, visit: MakeVisit) -> None:
    console.add_orphans(5, relinkable=2)
    entries = console.entries()
    visited = visit()
    page = visited.tab()
    drivers = dry_run(page)
    plan = "select count(*) from ops.v_orphan_fix_plan where not requires_reprocess"
    assert drivers == console.sql(plan) >= 5
    for action, stat in (("relink", "resolved_relinked"), ("quarantine", "quarantined")):
        shown = page.inner_text(f"[data-stat={stat}]")
        assert int(shown.replace(",", "")) == console.sql(f"{plan} and action = %s", action)
    assert console.entries() == entries
    assert page.evaluate("document.activeElement.id") == "run-title", "it is read out"
    assert "nombra a este conductor" in page.inner_text(".table-planned")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="JSON", exact=True).click()
    report = json.loads(Path(downloading.value.path()).read_text())
    assert len(report["drivers"]) == drivers


def test_a_limit_narrows_the_plan_down(console: Console, visit: MakeVisit) -> None:
    console.add_orphans(4)
    page = visit().tab()
    page.fill("#fix-limit", "3")
    assert dry_run(page) == 3


def test_execute_needs_the_number_of_drivers_and_does_what_the_plan_says(
    console: Console, visit: MakeVisit
) -> None:
    made = console.add_orphans(4, relinkable=1)
    visited = visit()
    page, runs = visited.tab(), console.runs_of(visited.name)
    drivers = dry_run(page)
    before, entries = card(page, ES["card.total"]), console.entries()
    page.click("[data-execute]")
    confirm = page.locator("[data-confirmed]")
    dialog = page.locator("dialog")
    assert console.settings.dbname in dialog.inner_text()
    assert str(drivers) in dialog.inner_text()
    assert confirm.is_disabled()
    page.fill("[data-typed]", str(drivers + 1))
    page.press("[data-typed]", "Enter")
    assert confirm.is_disabled() and dialog.is_visible()
    page.press("[data-typed]", "Escape")
    assert not dialog.is_visible()
    assert len(visited.posts) == 1, "the dry-run alone"
    execute(page, drivers)
    page.wait_for_selector('[data-mode="execute"][data-state="complete"]')
    assert console.entries() == entries + drivers
    assert console.sql(
        "select count(*) from canon.driver_orphan_quarantine where driver_id = any(%s)", made
    ) == len(made)
    assert console.runs_of(visited.name) == runs + 1, "the ledger knows for whom"
    run_id = console.sql(
        "select run_id from canon.driver_orphan_quarantine_runs"
        " where parameters ->> 'actor' = %s order by started_at desc",
        visited.name,
    )
    assert str(run_id) in page.inner_text("[data-run]")
    # The numbers of the page are those after the run, without a reload.
    page.wait_for_function(
        "before => Number(document.querySelector('.card-number').textContent"
        ".replace(',', '')) > before",
        arg=before,
    )


def test_a_double_click_makes_one_run(console: Console, visit: MakeVisit) -> None:
    console.add_orphans(2)
    visited = visit()
    page, runs = visited.tab(), console.runs_of(visited.name)
    page.locator("[data-dry-run] button").dblclick()
    page.wait_for_selector('[data-mode="dry-run"][data-state="complete"]')
    assert len(visited.posts) == 1
    drivers = page.get_attribute("[data-execute]", "data-drivers")
    page.click("[data-execute]")
    page.fill("[data-typed]", str(drivers))
    page.evaluate(
        "() => { const button = document.querySelector('[data-confirmed]');"
        " button.click(); button.click(); }"
    )
    page.wait_for_selector('[data-mode="execute"][data-state="complete"]')
    assert len(visited.posts) == 2
    assert console.runs_of(visited.name) == runs + 1


def test_a_stale_plan_is_refused_in_words(console: Console, visit: MakeVisit) -> None:
    console.add_orphans(3)
    visited = visit()
    first, second, runs = visited.tab(), visited.tab(), console.runs_of(visited.name)
    drivers = dry_run(first)
    second.reload()  # the plan of the other tab is this one's too
    second.wait_for_selector("[data-execute]:enabled")
    execute(first, drivers)
    first.wait_for_selector('[data-mode="execute"][data-state="complete"]')
    entries = console.entries()
    execute(second, drivers)
    alert = second.locator("[data-problem] .notice")
    alert.wait_for()
    assert ES["problem.409"] in alert.inner_text()
    assert "stale" in alert.inner_text(), "and what the server says"
    assert console.entries() == entries
    assert console.runs_of(visited.name) == runs + 1


def test_one_run_is_shown_in_two_tabs_and_after_a_reload(
    console: Console, visit: MakeVisit
) -> None:
    console.add_orphans(3)
    visited = visit()
    first, runs = visited.tab(), console.runs_of(visited.name)
    drivers = dry_run(first)
    second = visited.tab()
    with console.writers_wait():
        execute(first, drivers)
        first.wait_for_selector('[data-mode="execute"][data-state="running"]')
        run = first.get_attribute("[data-run]", "data-run")
        first.reload()
        assert first.get_attribute("[data-run]", "data-run") == run
        assert first.get_by_role("button", name=ES["fix.dry_run"]).is_disabled()
        execute(second, drivers)
        second.wait_for_selector("[data-problem] .notice")
        second.wait_for_selector('[data-mode="execute"][data-state="running"]')
        assert second.get_attribute("[data-run]", "data-run") == run
    for page in (first, second):
        page.wait_for_selector(f'[data-run="{run}"][data-state="complete"]')
    assert console.runs_of(visited.name) == runs + 1


def test_stop_ends_a_run_and_says_what_is_done(console: Console, visit: MakeVisit) -> None:
    console.add_orphans(2)
    page = visit().tab()
    drivers, entries = dry_run(page), console.entries()
    with console.writers_wait():
        execute(page, drivers)
        page.wait_for_selector("[data-stop]:enabled")
        page.click("[data-stop]")
        page.wait_for_selector('[data-mode="execute"][data-state="incomplete"]')
    assert console.entries() == entries
    assert ES["run.incomplete.says"] in page.inner_text("[data-run]")


def test_where_events_do_not_come_through_the_run_is_asked_for(
    console: Console, visit: MakeVisit
) -> None:
    console.add_orphans(2)
    visited = visit()
    visited.context.route("**/events", lambda route: route.abort())
    page = visited.tab()
    drivers = dry_run(page)
    with console.writers_wait():
        execute(page, drivers)
        page.wait_for_selector('[data-mode="execute"][data-state="running"]')
        page.wait_for_timeout(1500)
    page.wait_for_selector('[data-mode="execute"][data-state="complete"]')
    visited.wrong[:] = [text for text in visited.wrong if "ERR_FAILED" not in text]


def test_dry_run_and_execute_with_the_keyboard_alone(console: Console, visit: MakeVisit) -> None:
    console.add_orphans(2)
    page = visit().tab()

    def tab_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) != "none", f"{selector}: the focus is not seen"
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    tab_to(".skip")
    page.keyboard.press("Enter")
    tab_to("[data-dry-run] button")
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-mode="dry-run"][data-state="complete"]')
    drivers = page.get_attribute("[data-execute]", "data-drivers")
    tab_to("[data-execute]")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "confirm-drivers"
    page.keyboard.type(str(drivers))
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-mode="execute"][data-state="complete"]')


def test_who_may_not_fix_is_told_why(visit: MakeVisit) -> None:
    page = visit("lena").tab()
    assert page.get_by_role("button", name=ES["fix.dry_run"]).is_disabled()
    assert ES["fix.no_permission"].replace("`", "") in page.inner_text("#fix-obstacle")


def test_an_ended_session_leads_to_the_sign_in(visit: MakeVisit) -> None:
    visited = visit()
    page = visited.tab()
    visited.context.clear_cookies()
    page.locator("[data-dry-run] button").click()
    page.wait_for_url("**/sign-in**")


# --- on a phone ---


@pytest.mark.parametrize("lang", ["es", "en"])
def test_nothing_is_wider_than_a_phone(console: Console, visit: MakeVisit, lang: str) -> None:
    console.add_orphans(2, relinkable=1)
    visited = visit(lang=lang)
    page = visited.tab()
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("[data-dry-run] button").click()
    page.wait_for_selector('[data-mode="dry-run"][data-state="complete"]')
    page.click("[data-execute]")

    def is_narrow(where: str) -> None:
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{where}: {width} pixels wide"

    is_narrow("the dialog")
    for path in ("/orphans", "/", f"/orphans/{driver(4)}", "/orphans/zz", "/sign-in"):
        page.goto(console.address + path)
        if path == "/":
            page.wait_for_selector(".funnel")
        is_narrow(path)
        small = page.evaluate(
            "[...document.querySelectorAll('button, .button, select, input:not([type=hidden])')]"
            ".filter(found => found.checkVisibility() && found.type !== 'checkbox'"
            " && found.getBoundingClientRect().height < 24).map(found => found.outerHTML)"
        )
        assert small == [], "too small for a finger"
