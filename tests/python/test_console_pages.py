"""What the console's pages say, in every state: templates over stubs, without a database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from string import Formatter
from urllib.parse import parse_qs, urlsplit

import pytest
from console_stubs import (
    AWAY,
    FIXER,
    NOW,
    READER,
    StubReads,
    StubRuns,
    away,
    criteria,
    driver_id,
    entry,
    explanation,
    fix_run,
    funnel,
    health,
    ledger_run,
    no_metrics,
    orphan,
    planned,
    repairable,
    rival,
    stub_app,
)
from ct4_orphans.console import pages
from ct4_orphans.console.reads import Find
from ct4_orphans.console.schemas import Quarantine, Reason, Status
from ct4_orphans.console.security import Person
from ct4_orphans.console.words import EN, ES, Words
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}
HOSTILE = """"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7*7 }}`"""
LOCAL = Person("local", False, False)


class Page(HTMLParser):
    """A page as its elements: (tag, attributes, text that follows the start tag)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[int, str] = {}
        self._open: list[int] = []
        self.unclosed: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text[len(self.elements) - 1] = ""
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self.elements[self._open.pop()][0] != tag:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.text[number] += data

    def all(self, tag: str, **attributes: str) -> Iterator[dict[str, str | None]]:
        for found, values in self.elements:
            if found == tag and all(
                values.get(name) == value for name, value in attributes.items()
            ):
                yield values

    def words(self) -> str:
        return " ".join(" ".join(self.text[number] for number in [0]).split())


def client(app: FastAPI | None = None, lang: str = "es") -> TestClient:
    made = TestClient(app or stub_app(), follow_redirects=False)
    made.cookies.set("lang", lang)
    return made


def words_of(html: str) -> str:
    return Page(f"<body>{html}</body>").words()


RUNS = {
    "a plan": fix_run(),
    "a plan of nobody": fix_run(drivers_total=0, drivers=[], stats={}),
    "planning": fix_run(state="running", step="planning", drivers_total=None),
    "applying": fix_run("execute", "running"),
    "executed": fix_run("execute"),
    "refused": fix_run(
        "execute",
        "incomplete",
        message="Refused, because …",
        drivers=[
            planned(0, outcome="applied"),
            planned(1, outcome="refused"),
            planned(2, outcome="failed", error="no"),
            planned(3, action=None, status=None, outcome=None),
        ],
    ),
    "failed": fix_run("execute", "failed", stats=None, drivers=[], reports=[], message="Lost."),
}


def states() -> dict[str, tuple[FastAPI, str, int]]:
    """Each state that a page can be in: the app, the address, the status."""
    empty = StubReads(
        orphans=[],
        metrics=no_metrics(),
        last_runs=[],
        criteria=criteria(None, None),
        funnel=funnel(0, 0, 0, 0, 0, 0),
    )
    purged = Quarantine(
        status=Status.purged,
        detected_reason=Reason.manual_detection,
        detected_at=NOW,
        resolved_at=NOW,
        resolution_notes="Confirmado, ticket 4711",
        explanation=None,
        kept_driver_link={"match_rule": "driver_direct"},
    )
    of_lead = explanation(
        is_orphan=False,
        is_excluded=False,
        quarantine=None,
        evidence=None,
        history=[],
        leads=repairable().evidence.lead_rows[:1],  # type: ignore[union-attr]
    )
    of_purged = explanation(is_orphan=False, driver_link=None, quarantine=purged, evidence=None)
    found = {
        "list": (stub_app(), "/orphans", 200),
        "list, filtered and sorted": (
            stub_app(),
            "/orphans?status=quarantined&sort=-status&page=2&page_size=25",
            200,
        ),
        "list, personal data": (stub_app(), "/orphans?personal_data=true", 200),
        "list, personal data denied": (stub_app(who=READER), "/orphans?personal_data=true", 200),
        "list, no match": (stub_app(), "/orphans?driver_id=zz", 200),
        "list, nonsense": (stub_app(), "/orphans?status=x&page=-1&sort=phone", 200),
        "list, no orphans": (stub_app(empty), "/orphans", 200),
        "list, away": (stub_app(away()), "/orphans", 503),
        "list, local": (stub_app(tokens=False, who=LOCAL), "/orphans", 200),
        "list, may not fix": (stub_app(who=READER), "/orphans", 200),
        "list, not enabled": (
            stub_app(runs=StubRuns(plan=fix_run()), fix_enabled=False),
            "/orphans",
            200,
        ),
        "dashboard": (stub_app(), "/", 200),
        "dashboard, full": (stub_app(), "/?full=1", 200),
        "dashboard, red": (
            stub_app(StubReads(criteria=criteria(12, False))),
            "/?full=1",
            200,
        ),
        "dashboard, nothing there": (stub_app(empty), "/?full=1", 200),
        "dashboard, away": (stub_app(away()), "/?full=1", 503),
        "criteria": (stub_app(), "/parts/criteria", 200),
        "criteria, away": (stub_app(away()), "/parts/criteria", 503),
        "funnel": (stub_app(), "/parts/funnel", 200),
        "funnel, away": (stub_app(away()), "/parts/funnel", 503),
        "driver": (stub_app(), f"/orphans/{driver_id(1)}", 200),
        "driver, repairable": (stub_app(StubReads(explanation=repairable())), "/orphans/a", 200),
        "driver, has a lead": (stub_app(StubReads(explanation=of_lead)), "/orphans/a", 200),
        "driver, purged": (stub_app(StubReads(explanation=of_purged)), "/orphans/a", 200),
        "driver, unknown": (stub_app(StubReads(explanation=None)), "/orphans/zz", 404),
        "driver, away": (stub_app(away()), "/orphans/a", 503),
        "run, gone": (stub_app(), f"/runs/{uuid.UUID(int=0)}", 404),
        "run, no id": (stub_app(), "/runs/x", 404),
        "sign-in": (stub_app(), "/sign-in", 200),
        "sign-in, needed": (stub_app(), "/sign-in?why=needed&next=/orphans", 200),
        "sign-in, no tokens": (stub_app(tokens=False), "/sign-in", 200),
    }
    for name, run in RUNS.items():
        is_plan = name.startswith("a plan")
        runs = StubRuns(
            run,
            plan=run if is_plan else None,
            current=run if run.state.value == "running" else None,
        )
        found[f"run, {name}"] = (stub_app(runs=runs), f"/runs/{run.id}", 200)
        found[f"list, {name}"] = (stub_app(runs=runs), "/orphans", 200)
    return found


STATES = states()


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest) -> tuple[FastAPI, str, int]:
    return STATES[request.param]


# --- every page, in every state, in both languages ---


@pytest.mark.parametrize("lang", ["es", "en"])
def test_every_state_is_a_whole_page_that_obeys_the_content_security_policy(
    state: tuple[FastAPI, str, int], lang: str
) -> None:
    app, address, status = state
    answer = client(app, lang).get(address)
    assert answer.status_code == status
    page = Page(answer.text)
    assert page.unclosed == []
    for tag, attributes in page.elements:
        assert tag != "style"
        assert "style" not in attributes, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action"):
            target = urlsplit(attributes.get(name) or "")
            assert not (target.scheme or target.netloc), f"{tag} {attributes}: another host"
    for script in page.all("script"):
        assert (script["src"] or "").startswith("/static/console.js?v=")
    scripts = [page.text[n] for n, (tag, _) in enumerate(page.elements) if tag == "script"]
    assert "".join(scripts) == ""


def test_every_form_field_has_a_label_and_every_id_is_there_once(
    state: tuple[FastAPI, str, int],
) -> None:
    app, address, _ = state
    page = Page(client(app).get(address).text)
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {label.get("for") for label in page.all("label")}
    for tag, attributes in page.elements:
        if tag in ("input", "select", "textarea") and attributes.get("type") != "hidden":
            assert attributes.get("id") in labelled, attributes
        for name in ("aria-labelledby", "aria-describedby"):
            for target in (attributes.get(name) or "").split():
                assert target in ids, f"{tag} {name}={target}: nothing has that id"


@pytest.mark.parametrize("name", [name for name in STATES if not name.startswith(("crit", "fun"))])
def test_every_page_has_landmarks_one_heading_and_a_way_past_the_navigation(name: str) -> None:
    app, address, _ = STATES[name]
    page = Page(client(app).get(address).text)
    assert next(page.all("html"))["lang"] == "es-PE"
    for tag in ("main", "header", "footer", "h1"):
        assert len([None for found, _ in page.elements if found == tag]) >= 1, tag
    assert len(list(page.all("h1"))) == 1
    assert next(page.all("a"))["href"] == "#content"
    for table in range(len(list(page.all("table")))):
        assert len(list(page.all("caption"))) > table
    for header in page.all("th"):
        assert header["scope"] in ("col", "row")


# --- words ---


def test_both_languages_say_the_same_things() -> None:
    def fields(text: str) -> set[str | None]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    assert ES.keys() == EN.keys()
    assert {key for key in ES if fields(ES[key]) != fields(EN[key])} == set()
    assert [key for key, text in (ES | EN).items() if not text.strip()] == []


def test_every_value_of_the_data_has_its_words() -> None:
    for status in Status:
        assert f"status.{status.value}" in ES
    for reason in Reason:
        assert f"reason.{reason.value}" in ES
    for check in criteria().checks:
        assert f"check.{check.name}" in ES
    for stage in funnel().stages:
        assert f"stage.{stage.funnel_status}" in ES


def test_spanish_is_the_first_language_and_the_switch_is_kept() -> None:
    visitor = TestClient(stub_app())
    assert "Conductores huérfanos" in visitor.get("/orphans").text
    switched = visitor.get("/orphans?status=purged&lang=en")
    assert "Orphan drivers" in switched.text
    cookie = switched.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert "Orphan drivers" in visitor.get("/orphans").text
    assert "Panel" in visitor.get("/?lang=es").text
    assert "Panel" in visitor.get("/?lang=xx").text


def test_the_language_switch_keeps_the_rest_of_the_address() -> None:
    html = client().get("/orphans?status=purged&page_size=25").text
    (switch,) = Page(html).all("a", hreflang="en")
    assert parse_qs(urlsplit(str(switch["href"])).query) == {
        "status": ["purged"],
        "page_size": ["25"],
        "lang": ["en"],
    }


def test_a_share_of_not_quite_all_is_never_said_to_be_all_or_nothing() -> None:
    words = Words("es")
    assert words.percent(1, 1000) == "<1\u00a0%"
    assert words.percent(999, 1000) == "99\u00a0%"
    assert words.percent(1000, 1000) == "100\u00a0%"
    assert words.percent(0, 0) == "—"


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (
            "Relinked: 1 lead event at evidence level 2; the strongest has the driver's phone "
            "(phone_exact).",
            "Reenlazado con 1 evento de lead, por teléfono.",
        ),
        (
            "Quarantined: 2 lead event(s) match, but none proves a lead (ambiguous, event of "
            "another person).",
            "2 eventos de lead coinciden, pero ninguno prueba un lead (habla de varias personas; "
            "el evento es de otra persona).",
        ),
        (
            "Quarantined: no lead event names the driver or has its licence or phone; 1 carry "
            "only its person_key, which proves nothing.",
            ES["evidence.weak_only.one"].format(n=1),
        ),
        (
            "Quarantined: no lead event names the driver or has its licence or phone.",
            ES["evidence.nothing"],
        ),
        (
            "Released: the person has a lead by now (module_ct_migrations 7 and 2 more).",
            "Liberado: su persona ya tiene un lead (module_ct_migrations 7 and 2 more).",
        ),
        ("Confirmed ghost, ticket 4711", "Confirmed ghost, ticket 4711"),
    ],
)
def test_what_a_fix_recorded_is_said_in_the_language_of_the_page(recorded: str, said: str) -> None:
    assert Words("es").recorded(recorded) == said


def test_the_evidence_sentence_is_of_the_data_not_of_the_english_text() -> None:
    html = words_of(client().get(f"/orphans/{driver_id(1)}").text)
    assert "2 eventos de lead coinciden, pero ninguno prueba un lead" in html
    assert "none proves a lead" not in html
    rows = words_of(client(stub_app(StubReads(explanation=repairable()))).get("/orphans/a").text)
    assert "nombra a este conductor" in rows
    assert "module_ct_migrations 0, module_ct_migrations 1, module_ct_migrations 2 y 2 más" in rows
    assert "Solo si se pide revisar de nuevo" in rows


# --- nothing from the data becomes markup ---


@pytest.mark.parametrize("lang", ["es", "en"])
def test_hostile_ids_notes_and_names_are_text(lang: str) -> None:
    note = entry(explanation=HOSTILE, recorded_by=HOSTILE, actor=HOSTILE)
    hostile = explanation(
        history=[note],
        evidence=explanation().evidence.model_copy(  # type: ignore[union-attr]
            update={"rivals": [rival(source_pk=HOSTILE, refusal=HOSTILE, persons=[HOSTILE] * 2)]}
        ),
    )
    run = fix_run(
        "execute",
        "incomplete",
        actor=HOSTILE,
        message=HOSTILE,
        digest=HOSTILE,
        reports=[HOSTILE],
        drivers=[planned(0, driver_id=HOSTILE, outcome="failed", error=HOSTILE)],
    )
    reads = StubReads(
        explanation=hostile,
        orphans=[orphan(driver_id=HOSTILE, primary_full_name=HOSTILE, primary_phone=HOSTILE)],
        last_runs=[ledger_run(actor=HOSTILE, command=HOSTILE, run_by=HOSTILE)],
        health=health(database=HOSTILE, message=HOSTILE),
    )
    app = stub_app(reads, StubRuns(run, current=run), who=Person(HOSTILE, True, True))
    visitor = client(app, lang)
    for address in ("/", "/orphans", "/orphans?driver_id=%22%3E%3Cscript%3E", f"/runs/{run.id}"):
        page = Page(visitor.get(address).text)
        assert len(list(page.all("script"))) == 1, address
        assert not list(page.all("img", src="x")), address
    answer = visitor.get("/orphans/" + "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert answer.status_code == 200
    assert len(list(Page(answer.text).all("script"))) == 1
    assert "alert(1)" in words_of(answer.text)


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:x", "a", ""],
)
def test_signing_in_never_leads_to_another_host(target: str) -> None:
    (field,) = Page(client().get("/sign-in", params={"next": target}).text).all(
        "input", type="hidden"
    )
    assert field["value"] == "/"


def test_the_way_back_is_a_list_of_ours_whatever_the_address_says() -> None:
    html = client().get("/orphans/a?list=https%3A%2F%2Fevil.example%3F%26status%3Dpurged").text
    back = [a["href"] for a in Page(html).all("a") if "orphans?" in str(a["href"])]
    assert back == ["/orphans?status=purged"]


# --- the list ---


def test_filters_survive_sorting_paging_and_the_way_to_a_driver_and_back() -> None:
    asked = {
        "status": "quarantined",
        "detected_reason": "no_lead_no_events",
        "page_size": "25",
        "page": "2",
    }
    page = Page(client().get("/orphans", params=asked).text)
    links = [urlsplit(str(a["href"])) for a in page.all("a")]
    sorting = [a for a in page.all("a") if (a.get("class") or "").startswith("sort")]
    assert len(sorting) == 5
    for link in sorting:
        query = parse_qs(urlsplit(str(link["href"])).query)
        assert query["status"] == ["quarantined"] and query["page_size"] == ["25"]
        assert "page" not in query, "another order starts at its first page"
    pager = [
        parse_qs(urlsplit(str(a["href"])).query)
        for a in page.all("a", **{"class": "button button-quiet"})
        if "page=" in str(a["href"])
    ]
    assert [query["page"] for query in pager] == [["3"], ["5"]]
    assert all(query["status"] == ["quarantined"] for query in pager)
    drivers = [link for link in links if link.path.startswith("/orphans/")]
    assert len(drivers) == 25
    (back,) = parse_qs(drivers[0].query)["list"]
    detail = Page(client().get(f"{drivers[0].path}?{drivers[0].query}").text)
    assert f"/orphans?{back}" in [a["href"] for a in detail.all("a")]
    assert {name: values[0] for name, values in parse_qs(back).items()} == asked


def test_the_form_keeps_what_was_chosen_and_shows_the_number_of_matches() -> None:
    html = client().get("/orphans?status=resolved_relinked&driver_id=a&sort=driver_id").text
    page = Page(html)
    chosen = [option.get("value") for option in page.all("option") if "selected" in option]
    assert "resolved_relinked" in chosen and "driver_id" in chosen
    assert next(page.all("input", name="driver_id"))["value"] == "a"
    orphans = [orphan(number) for number in range(120)]
    matches = [
        row for row in orphans if row.driver_id[0] == "a" and row.status.value != "quarantined"
    ]
    assert Words("es").many("matches", len(matches)) in words_of(html)


def test_each_bar_sets_its_filter_and_takes_it_away_again() -> None:
    page = Page(client().get("/orphans?status=purged&page_size=100").text)
    bars = [a for a in page.all("a") if (a.get("class") or "").startswith("bar-row")]
    assert len(bars) == len(Status) + len(Reason)
    (chosen,) = [bar for bar in bars if "aria-current" in bar]
    assert chosen["href"] == "/orphans?page_size=100"
    assert "/orphans?status=quarantined&page_size=100" in [bar["href"] for bar in bars]


def test_the_sorted_column_says_so_and_a_click_turns_it_round() -> None:
    page = Page(client().get("/orphans?sort=-status").text)
    (header,) = [th for th in page.all("th") if "aria-sort" in th]
    assert header["aria-sort"] == "descending"
    assert any(a["href"] == "/orphans?sort=status" for a in page.all("a"))
    first = Page(client().get("/orphans?sort=driver_id").text)
    # Newest first is what a first click on a date asks for, and the list's own order.
    assert any(a["href"] == "/orphans" for a in first.all("a") if a.get("class") == "sort")


def test_a_page_after_the_last_one_leads_to_the_last_one() -> None:
    answer = client().get("/orphans?page=99&page_size=25&status=quarantined")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/orphans?status=quarantined&page_size=25&page=5"


def test_what_makes_no_sense_in_an_address_is_ignored_and_named() -> None:
    reads = StubReads()
    html = (
        client(stub_app(reads)).get("/orphans?status=x&page=1e3&page_size=501&driver_id=%00").text
    )
    assert reads.found[0][0] == Find()
    assert "status, driver_id, page, page_size" in words_of(html)


def test_personal_data_is_asked_for_only_for_who_may_see_it() -> None:
    for who, may in ((FIXER, True), (READER, False)):
        reads = StubReads()
        html = client(stub_app(reads, who=who)).get("/orphans?personal_data=true").text
        assert [personal for _, personal in reads.found] == [may]
        assert (ES["personal.denied"] in html) is not may
        plain = client(stub_app(who=who)).get("/orphans").text
        assert (ES["personal.show"] in plain) is may


# --- the fix ---


def buttons(html: str) -> dict[str, bool]:
    """Say of each button of the fix whether the script may switch it on."""
    found = {}
    for button in Page(html).all("button"):
        for name in ("data-execute", "data-stop"):
            if name in button:
                found[name] = "data-needs-script" in button
    return found


@pytest.mark.parametrize(
    ("who", "tokens", "enabled", "says"),
    [
        (LOCAL, False, True, "fix.no_tokens"),
        (READER, True, True, "fix.no_permission"),
        (FIXER, True, False, "fix.not_enabled"),
        (FIXER, True, True, None),
    ],
)
def test_execute_is_off_with_the_reason_in_words(
    who: Person, tokens: bool, enabled: bool, says: str | None
) -> None:
    app = stub_app(runs=StubRuns(plan=fix_run()), who=who, tokens=tokens, fix_enabled=enabled)
    html = client(app).get("/orphans").text
    assert buttons(html) == {"data-execute": says is None}
    assert ("data-confirm" in html) is (says is None)
    if says:
        assert ES[says].replace("`", "") in words_of(html)
    (form,) = [form for form in Page(html).all("form") if "data-dry-run" in form]
    assert ("data-off" in form) is (says in ("fix.no_tokens", "fix.no_permission"))


def test_every_button_that_needs_the_script_is_off_without_it_and_says_so() -> None:
    for runs in (StubRuns(plan=fix_run()), StubRuns(current=RUNS["applying"])):
        html = client(stub_app(runs=runs)).get("/orphans").text
        needy = [b for b in Page(html).all("button") if "data-needs-script" in b]
        assert len(needy) == 2
        assert all("disabled" in button for button in needy)
        assert ES["fix.needs_script"].split("`")[0] in words_of(html)


def test_only_the_newest_plan_can_be_executed() -> None:
    old, new = fix_run(id=uuid.UUID(int=1)), fix_run(id=uuid.UUID(int=2))
    visitor = client(stub_app(runs=StubRuns(old, plan=new)))
    assert buttons(visitor.get(f"/runs/{new.id}").text) == {"data-execute": True}
    assert buttons(visitor.get(f"/runs/{old.id}").text) == {}
    assert ES["fix.execute.first"] in words_of(visitor.get(f"/runs/{old.id}").text)


def test_the_dialog_says_database_number_and_what_will_happen() -> None:
    html = client(stub_app(runs=StubRuns(plan=fix_run()))).get("/orphans").text
    page = Page(html)
    number = next(n for n, (tag, _) in enumerate(page.elements) if tag == "dialog")
    says = " ".join(page.text[number].split())
    for words in ("ct4_demo", "886", "60 se reenlazan", "826 entran en cuarentena"):
        assert words in says
    assert "salen de la cuarentena" not in says, "nobody is released by this plan"
    (execute,) = [b for b in page.all("button") if "data-execute" in b]
    assert execute["data-plan"] == fix_run().reports[0]
    assert execute["data-drivers"] == "886"


def test_a_run_that_is_on_is_shown_again_after_a_reload_and_in_another_tab() -> None:
    run = RUNS["applying"]
    visitor = client(stub_app(runs=StubRuns(current=run, plan=fix_run())))
    for address in ("/orphans", "/runs/current?part=1", f"/runs/{run.id}"):
        (article,) = [a for a in Page(visitor.get(address).text).all("article") if "data-run" in a]
        assert (article["data-run"], article["data-state"]) == (str(run.id), "running")
    assert client().get("/runs/current?part=1").status_code == 204


def test_a_result_has_its_counts_reports_run_and_digest() -> None:
    run = RUNS["executed"]
    html = client(stub_app(runs=StubRuns(run))).get(f"/runs/{run.id}").text
    says = words_of(html)
    for words in (str(run.run_id), str(run.digest), "orphans verify", "Vínculos de lead60"):
        assert words in says
    links = [str(a["href"]) for a in Page(html).all("a")]
    assert [link for link in links if "/reports/" in link] == [
        f"{pages.API}/reports/{name}" for name in run.reports
    ]


def test_drivers_that_were_not_applied_are_named_with_their_reason() -> None:
    run = RUNS["refused"]
    says = words_of(client(stub_app(runs=StubRuns(run))).get(f"/runs/{run.id}").text)
    assert f"{driver_id(1)} rechazado: cambió desde la revisión" in says
    assert f"{driver_id(2)} error: no" in says
    assert f"{driver_id(3)} no alcanzado" in says
    assert f"{driver_id(0)} aplicado" not in says


# --- the dashboard ---


def states_of_criteria(html: str) -> list[str]:
    return [
        str(li["class"]).split("criterion-")[1]
        for li in Page(html).all("li")
        if str(li.get("class")).startswith("criterion ")
    ]


@pytest.mark.parametrize(
    ("found", "states"),
    [
        (criteria(), ["green"] * 5),
        (criteria(12, False), ["red", *["green"] * 4]),
        (criteria(None, None), ["unknown", *["green"] * 4]),
        (criteria(0, None), ["unknown", *["green"] * 4]),
        (criteria().model_copy(update={"checks": []}), [*["unknown"] * 3, "green", "unknown"]),
    ],
)
def test_a_criterion_is_green_only_if_each_check_of_it_is(found: object, states: list[str]) -> None:
    html = client(stub_app(StubReads(criteria=found))).get("/parts/criteria").text
    assert states_of_criteria(html) == states


def test_criterion_4_is_red_if_the_list_cannot_be_read() -> None:
    broken = StubReads(orphans=away().answers["orphans"])
    html = client(stub_app(broken)).get("/parts/criteria").text
    assert states_of_criteria(html)[3] == "red"


def test_the_slow_parts_are_not_read_before_they_are_asked_for() -> None:
    class Fast(StubReads):
        def criteria(self) -> None:
            raise AssertionError("asked for the criteria")

        def funnel(self) -> None:
            raise AssertionError("asked for the funnel")

    html = client(stub_app(Fast())).get("/").text
    assert [div["data-later"] for div in Page(html).all("div") if "data-later" in div] == [
        "/parts/criteria",
        "/parts/funnel",
    ]
    assert "/?full=1" in html, "the way without a script"


def test_one_part_that_cannot_be_read_leaves_the_others() -> None:
    reads = StubReads(last_runs=away().answers["orphans"], funnel=away().answers["orphans"])
    answer = client(stub_app(reads)).get("/?full=1")
    says = words_of(answer.text)
    assert answer.status_code == 200
    assert ES["runs.error"] in says and ES["funnel.error"] in says and AWAY in says
    assert states_of_criteria(answer.text) == ["green"] * 5


# --- who is asking ---


def refusing(status: int) -> FastAPI:
    def refuse() -> Person:
        raise HTTPException(status, "a token is needed")

    app = stub_app(who=None)
    app.dependency_overrides[pages.security.reader] = refuse
    return app


def test_who_is_not_signed_in_is_sent_there_and_back_again() -> None:
    answer = client(refusing(401)).get("/orphans?status=purged")
    assert answer.status_code == 303
    target = urlsplit(answer.headers["location"])
    assert target.path == "/sign-in"
    assert parse_qs(target.query)["next"] == ["/orphans?status=purged"]
    assert client(refusing(401)).get("/parts/criteria").status_code == 401


def test_a_failure_still_says_who_is_signed_in() -> None:
    says = words_of(client(stub_app(away())).get("/orphans/a").text)
    assert ES["database.away.title"] in says and ES["sign_out"] in says


def test_an_unforeseen_failure_is_a_page_and_tells_nothing_of_it() -> None:
    answer = client(stub_app(StubReads(explanation=ValueError("secret")))).get("/orphans/a")
    assert answer.status_code == 500
    assert ES["error.title"] in answer.text and "secret" not in answer.text


def test_a_database_that_is_away_is_tried_once_for_a_page() -> None:
    class Counting(StubReads):
        tries = 0

        def _answer(self, name: str) -> object:
            self.tries += 1
            return super()._answer(name)

    for address in ("/", "/?full=1", "/orphans"):
        reads = Counting(**away().answers)
        assert client(stub_app(reads)).get(address).status_code == 503
        assert reads.tries == 1, address


def test_who_may_not_is_told_so_in_words() -> None:
    answer = client(refusing(403)).get("/orphans")
    assert answer.status_code == 403
    assert ES["forbidden.title"] in answer.text
