"""What people see: the dashboard, the list, a driver, a run, and the sign-in.

Pages read through `Reads` and tell of runs through `Runs`; what starts and stops a run is the API,
called by the script. Whatever fails is said in words, with what to do, in its part of the page.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Annotated, Any, Generic, TypeVar, cast, get_args
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ct4_orphans.console import security
from ct4_orphans.console.reads import Find, NotGrantedError, Reads
from ct4_orphans.console.runs import Runs
from ct4_orphans.console.schemas import (
    Check,
    Criteria,
    FixRun,
    Health,
    OrphansMetrics,
    Reason,
    RunState,
    Sort,
    Status,
)
from ct4_orphans.console.security import Person
from ct4_orphans.console.words import DEFAULT, LANGUAGES, Words
from ct4_orphans.errors import OrphansError

API = "/api/v1/identity/orphans"
PAGE_SIZES = (25, 50, 100, 500)
DRIVERS_SHOWN = 20
LONGEST_ID = 64
A_YEAR = 365 * 24 * 3600
SORTS = get_args(Sort)
NEWEST_FIRST = ("detected_at", "last_updated_at")  # what a first click on a date means
STATS = ("processed", "resolved_relinked", "quarantined", "released", "links_created")
STATS_IF_ANY = ("changed", "refused", "already_applied", "not_reached", "links_skipped", "errors")
VIEWS = (
    "ops.v_driver_orphans",
    "ops.v_cabinet_funnel_status",
    "ops.v_ct4_eligible_drivers",
    "ops.v_payment_calculation",
)
CRITERIA = ("1", "2", "3", "4", "5")

log = logging.getLogger(__name__)

T = TypeVar("T")


# --- what is asked for ---


@dataclass(frozen=True)
class Listing:
    """What an address asks of the list. Whatever makes no sense is ignored, and named."""

    find: Find
    personal: bool = False
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Listing:
        """Read the parameters of an address."""
        given = {name: value.strip() for name, value in asked.items() if value.strip()}
        ignored: list[str] = []

        def one_of(name: str, known: Callable[[str], T], default: T) -> T:
            try:
                return known(given[name]) if name in given else default
            except (ValueError, KeyError):
                ignored.append(name)
                return default

        find = Find(
            status=one_of("status", Status, None),
            detected_reason=one_of("detected_reason", Reason, None),
            driver_id=one_of("driver_id", _part_of_an_id, None),
            sort=one_of("sort", _sort, "-detected_at"),
            page=one_of("page", lambda text: _number(text, 1, 10**9), 1),
            page_size=one_of("page_size", lambda text: _number(text, 1, 500), 50),
        )
        return cls(find, given.get("personal_data") == "true", tuple(ignored))

    def query(self, **changes: Any) -> str:
        """Return the parameters of the same list with something else; page 1 unless it is said."""
        find = replace(self.find, **{"page": 1, **changes})
        values = {
            "status": find.status and find.status.value,
            "detected_reason": find.detected_reason and find.detected_reason.value,
            "driver_id": find.driver_id,
            "sort": find.sort if find.sort != Find.sort else None,
            "page_size": find.page_size if find.page_size != Find.page_size else None,
            "personal_data": "true" if self.personal else None,
            "page": find.page if find.page != 1 else None,
        }
        return urlencode({name: value for name, value in values.items() if value})

    def url(self, **changes: Any) -> str:
        """Return the address of the same list with something else."""
        query = self.query(**changes)
        return f"/orphans?{query}" if query else "/orphans"

    def here(self) -> str:
        """Return the parameters of exactly this page, to come back to it."""
        return self.query(page=self.find.page)

    def with_personal(self, personal: bool) -> Listing:
        """Return the same list with or without personal data."""
        return replace(self, personal=personal)

    def sorted_by(self, column: str) -> str:
        """Return the address of the list sorted by a column, or the other way round if it is."""
        first = f"-{column}" if column in NEWEST_FIRST else column
        other = column if first.startswith("-") else f"-{column}"
        return self.url(sort=other if self.find.sort == first else first)

    def direction(self, column: str) -> str | None:
        """Return `ascending` or `descending` for the column that sorts, as aria-sort says it."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.find.sort)

    @property
    def is_filtered(self) -> bool:
        """Tell whether anything narrows the list down."""
        return bool(self.find.status or self.find.detected_reason or self.find.driver_id)


def _sort(text: str) -> Sort:
    if text not in SORTS:
        raise ValueError(text)
    return cast(Sort, text)


def _part_of_an_id(text: str) -> str:
    if len(text) > LONGEST_ID or not text.isprintable():
        raise ValueError(text)
    return text


def _number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and least <= int(text) <= most):
        raise ValueError(text)
    return int(text)


# --- what is shown ---


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part of a page, or why it could not be read."""

    value: T | None
    error: str | None = None

    @classmethod
    def read(cls, read: Callable[[], T]) -> Part[T]:
        """Read a part; what goes wrong with one leaves the others alone."""
        try:
            return cls(read())
        except NotGrantedError:  # not of a part: of who asks
            raise
        except OrphansError as error:
            return cls(None, error.format_message())


@dataclass(frozen=True)
class Criterion:
    """One of the five criteria: green, red, or unknown (not verified)."""

    number: str
    state: str
    checks: list[Check]


def by_criterion(criteria: Criteria, is_page_working: bool) -> list[Criterion]:
    """Group the checks. One red check is a red criterion; none unknown, or it is not green."""
    found = []
    for number in CRITERIA:
        checks = [check for check in criteria.checks if str(check.criterion) == number]
        if number == "4":  # "the page works": no SQL can tell, whoever reads this can
            state = "green" if is_page_working else "red"
        elif any(check.is_green is False for check in checks):
            state = "red"
        elif not checks or any(check.is_green is None for check in checks):
            state = "unknown"
        else:
            state = "green"
        found.append(Criterion(number, state, checks))
    return found


@dataclass(frozen=True)
class FixPanel:
    """The fix on the page of orphans: what is shown, and what stands in the way (keys of words)."""

    run: FixRun | None
    plan: FixRun | None
    no_dry_run: str | None
    no_execute: str | None
    database: str

    @classmethod
    def of(cls, request: Request, who: Person, run: FixRun | None = None) -> FixPanel:
        """Find out, for a person, what to show: `run`, or what is on, or the newest plan."""
        runs, options = _runs(request), request.app.state.options
        plan = runs.newest_plan()
        no_dry_run = None
        if options.tokens is None:
            no_dry_run = "fix.no_tokens"
        elif not who.may_fix:
            no_dry_run = "fix.no_permission"
        no_execute = no_dry_run or (None if options.fix_enabled else "fix.not_enabled")
        health = Part.read(_reads(request).health).value if plan else None
        return cls(
            run or runs.current() or plan,
            plan,
            no_dry_run,
            no_execute,
            (health.database if health else None) or "",
        )

    @property
    def is_plan(self) -> bool:
        """Tell whether what is shown is the plan that can be executed now."""
        return self.run is not None and self.plan is not None and self.run.id == self.plan.id

    @property
    def drivers(self) -> int:
        """How many drivers the plan has."""
        return (self.plan.drivers_total or 0) if self.plan else 0

    @property
    def report(self) -> str | None:
        """The name by which the plan is executed."""
        names = self.plan.reports if self.plan else []
        return next((name for name in names if name.endswith(".json")), None)


# --- the templates ---


def _code(text: str) -> Markup:
    """Return a text as HTML, with what is between backticks as code."""
    code = Markup("<code>{}</code>").format
    parts = str(text).split("`")
    return Markup("").join(code(part) if n % 2 else part for n, part in enumerate(parts))


def _asset(name: str) -> str:
    """Return the address of a static file, another one for another content."""
    content = resources.files("ct4_orphans.console").joinpath("static", name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


TEMPLATES = Environment(
    loader=PackageLoader("ct4_orphans.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["code"] = _code
TEMPLATES.filters["as_status"] = Status
TEMPLATES.filters["segment"] = lambda text: quote(str(text), safe="")
TEMPLATES.globals |= {
    "api": API,
    "stylesheet": _asset("console.css"),
    "script": _asset("console.js"),
    "icon": _asset("icon.svg"),
    "page_sizes": PAGE_SIZES,
    "sorts": SORTS,
    "statuses": [status.value for status in Status],
    "reasons": [reason.value for reason in Reason],
    "drivers_shown": DRIVERS_SHOWN,
    "views": VIEWS,
    "stats_shown": STATS,
    "stats_if_any": STATS_IF_ANY,
}


def _language(request: Request) -> str:
    for asked in (request.query_params.get("lang"), request.cookies.get("lang")):
        if asked in LANGUAGES:
            return str(asked)
    return DEFAULT


def _render(
    request: Request, template: str, who: Person | None, status: int = 200, **context: Any
) -> Response:
    words = Words(_language(request))
    others = [pair for pair in request.query_params.multi_items() if pair[0] != "lang"]
    body = TEMPLATES.get_template(template).render(
        t=words,
        who=who,
        path=request.url.path,
        other_language=f"?{urlencode([*others, ('lang', words.other)])}",
        has_sessions=request.app.state.options.tokens is not None,
        **context,
    )
    response = HTMLResponse(body, status)
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(
            "lang",
            words.language,
            max_age=A_YEAR,
            httponly=True,
            samesite="lax",
            secure=request.app.state.options.is_behind_https,
        )
    return response


def _problem(
    request: Request, status: int, key: str, who: Person | None = None, detail: str = ""
) -> Response:
    who = who or getattr(request.state, "who", None)
    is_part = request.url.path.startswith("/parts/") or "part" in request.query_params
    template = "_problem.html" if is_part else "problem.html"
    return _render(request, template, who, status, key=key, detail=detail)


def unknown_address(request: Request) -> Response:
    """Say that there is no such page."""
    return _problem(request, 404, "not_found")


class PageRoute(APIRoute):
    """A route whose refusals and failures are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route."""
        handle = super().get_route_handler()

        async def handle_in_words(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                if error.status_code == 401:
                    return _to_sign_in(request)
                key = {403: "forbidden", 404: "not_found"}.get(error.status_code, "error")
                response = _problem(request, error.status_code, key, detail=str(error.detail))
                response.headers.update(error.headers or {})
                return response
            except NotGrantedError as error:
                return _problem(request, 403, "forbidden", detail=error.format_message())
            except OrphansError as error:
                return _problem(request, 503, "database.away", detail=error.format_message())
            except Exception:
                log.exception("%s %s", request.method, request.url.path)
                return _problem(request, 500, "error")

        return handle_in_words


router = APIRouter(
    route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse
)


def _reader(request: Request, person: Annotated[Person, Depends(security.reader)]) -> Person:
    request.state.who = person  # for a page that tells of a failure
    return person


Reader = Annotated[Person, Depends(_reader)]


def _reads(request: Request) -> Reads:
    return cast(Reads, request.app.state.reads)


def _runs(request: Request) -> Runs:
    return cast(Runs, request.app.state.runs)


# --- the pages ---


@router.get("/")
def dashboard(request: Request, who: Reader, full: str = "") -> Response:
    """Show the dashboard; its slow parts only if asked for, the script fetches them."""
    reads = _reads(request)
    health = Part[Health].read(reads.health)
    is_away = health.value is None or health.value.status != "ok"
    away = (health.value.message if health.value else health.error) or "unavailable"
    metrics = Part[OrphansMetrics](None, away) if is_away else Part.read(reads.metrics)
    is_full = full == "1" and not is_away
    return _render(
        request,
        "dashboard.html",
        who,
        503 if metrics.error else 200,
        health=health,
        metrics=metrics,
        runs=Part(None, away) if is_away else Part.read(reads.last_runs),
        **(_criteria(request) | _funnel(request) if is_full else {}),
        is_full=is_full,
        listing=Listing(Find()),
    )


@router.get("/parts/criteria")
def criteria(request: Request, who: Reader) -> Response:
    """Show the five criteria alone, for the script."""
    return _render(request, "_criteria.html", who, **_criteria(request, alone=True))


@router.get("/parts/funnel")
def funnel(request: Request, who: Reader) -> Response:
    """Show the funnel alone, for the script."""
    return _render(request, "_funnel.html", who, **_funnel(request, alone=True))


def _criteria(request: Request, alone: bool = False) -> dict[str, Any]:
    reads = _reads(request)
    part = Part(reads.criteria()) if alone else Part.read(reads.criteria)
    # What /orphans shows is read as it reads it: that is how "the page works" is checked.
    list_page = Part.read(lambda: reads.page(Find(page_size=1)))
    found = by_criterion(part.value, list_page.error is None) if part.value else []
    return {"criteria": part, "by_criterion": found}


def _funnel(request: Request, alone: bool = False) -> dict[str, Any]:
    reads = _reads(request)
    return {"funnel": Part(reads.funnel()) if alone else Part.read(reads.funnel)}


@router.get("/orphans")
def orphans(request: Request, who: Reader) -> Response:
    """Show the summary, the fix and the list."""
    reads, listing = _reads(request), Listing.of(request.query_params)
    is_denied = listing.personal and not who.may_see_personal_data
    if is_denied:
        listing = listing.with_personal(False)
    page = Part.read(lambda: reads.page(listing.find, personal=listing.personal))
    if page.value and 0 < page.value.total_pages < listing.find.page:
        return RedirectResponse(listing.url(page=page.value.total_pages), 303)
    return _render(
        request,
        "orphans.html",
        who,
        503 if page.error else 200,
        listing=listing,
        is_denied=is_denied,
        page=page,
        # Each try to reach a database that is away takes seconds: one is enough.
        metrics=Part(None, page.error) if page.error else Part.read(reads.metrics),
        fix=None if page.error else FixPanel.of(request, who),
        is_alone=False,
    )


@router.get("/orphans/{driver_id:path}")
def orphan(request: Request, who: Reader, driver_id: str) -> Response:
    """Show one driver."""
    back = Listing.of(dict(parse_qsl(request.query_params.get("list", ""))))
    is_id = bool(driver_id) and driver_id.isprintable()
    found = _reads(request).explanation(driver_id) if is_id else None
    return _render(
        request,
        "orphan.html" if found else "unknown.html",
        who,
        200 if found else 404,
        driver_id=driver_id,
        found=found,
        back=back.url(page=back.find.page),
    )


@router.get("/runs/current")
def current_run(request: Request, who: Reader) -> Response:
    """Show the run that is on, if there is one: for the script, and another tab."""
    run = _runs(request).current()
    if run is None:
        return Response(status_code=204)
    return _show_run(request, who, run)


@router.get("/runs/{run_id}")
def run(request: Request, who: Reader, run_id: str) -> Response:
    """Show one run of the console, alone on a page or as a part of one."""
    try:
        found = _runs(request).get(uuid.UUID(run_id))
    except ValueError:
        found = None
    if found is None:
        return _problem(request, 404, "run.gone", who)
    return _show_run(request, who, found)


def _show_run(request: Request, who: Person, found: FixRun) -> Response:
    is_alone = "part" not in request.query_params
    return _render(
        request,
        "run.html" if is_alone else "_run.html",
        who,
        fix=FixPanel.of(request, who, found),
        is_running=found.state is RunState.running,
        is_alone=is_alone,
    )


# --- signing in ---


@router.get("/sign-in")
def sign_in(request: Request) -> Response:
    """Ask for the token."""
    return _sign_in_page(request, notice=request.query_params.get("why", ""))


@router.post("/sign-in")
def signed_in(
    request: Request, token: Annotated[str, Form()] = "", next: Annotated[str, Form()] = ""
) -> Response:
    """Take the token, start a session."""
    response = RedirectResponse(_own_path(next), 303)
    try:
        security.sign_in(request, response, token.strip())
    except HTTPException as error:
        key = {401: "wrong", 429: "too_many"}.get(error.status_code, "other_site")
        page = _sign_in_page(request, error.status_code, key, next)
        page.headers.update(error.headers or {})
        return page
    return response


@router.post("/sign-out")
def signed_out(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse("/sign-in?why=signed_out", 303)
    security.sign_out(request, response)
    return response


def _sign_in_page(
    request: Request, status: int = 200, notice: str = "", next: str | None = None
) -> Response:
    asked = request.query_params.get("next", "") if next is None else next
    is_error = status != 200
    known = notice if is_error or notice in ("needed", "signed_out") else ""
    return _render(
        request,
        "sign_in.html",
        None,
        status,
        notice=known,
        is_error=is_error,
        next=_own_path(asked),
    )


def _to_sign_in(request: Request) -> Response:
    if "part" in request.query_params or request.url.path.startswith("/parts/"):
        return _problem(request, 401, "sign_in")
    path = request.url.path
    here = f"{path}?{request.url.query}" if request.url.query else path
    return RedirectResponse(f"/sign-in?{urlencode({'why': 'needed', 'next': here})}", 303)


def _own_path(address: str) -> str:
    """Return the path of an address of ours; anything else is the dashboard, never another host."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    is_ours = not (parts.scheme or parts.netloc) and address.startswith("/")
    is_plain = address.isprintable() and "\\" not in address and not address.startswith("//")
    return address if is_ours and is_plain else "/"
