"""The API under /api/v1/identity/orphans: thin functions over Reads and Runs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Generator
from itertools import chain
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar, cast

from anyio import CancelScope
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import AfterValidator
from starlette.types import Receive, Scope, Send

from ct4_orphans.console import schemas, security
from ct4_orphans.console.reads import Find, Reads
from ct4_orphans.console.runs import Runs
from ct4_orphans.console.schemas import Problem, Reason, RunState, Sort, Status
from ct4_orphans.console.security import Gate, Person

PREFIX = "/api/v1/identity/orphans"
ANSWER_WITHIN_SECONDS = 10
LOOK_AGAIN_SECONDS = 0.25
LONGEST_PAGE = 500
LONGEST_ID = 200
REPORT_NAME = r"^orphans_report_[0-9]{8}_[0-9]{6}_[0-9]{6}\.(json|csv)$"


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    says = {
        401: "No token, or nobody's.",
        403: "Not permitted: the answer says what is missing.",
        404: "Not known.",
        409: "Refused: another run is on, or the plan is stale. Nothing was changed.",
        413: "Larger than any request of this API.",
        415: "Not JSON.",
        422: "Malformed: the answer names the parameter.",
        429: "Too many requests; Retry-After says how long to wait.",
        500: "A report cannot be written.",
        503: "The database cannot be reached, lacks something, or took too long.",
    }
    return {status: {"model": Problem, "description": says[status]} for status in statuses}


def _storable(text: str | None) -> str | None:
    if text is not None and not text.isprintable():
        raise ValueError("an id has no control characters")
    return text


T = TypeVar("T")

router = APIRouter(responses=_problems(422))
READ = _problems(401, 403, 503)
Reader = Annotated[Person, Depends(security.reader)]
Fixer = Annotated[Person, Depends(security.fixer)]
Stopper = Annotated[Person, Depends(security.stopper)]
DriverId = Annotated[
    str,
    Path(max_length=LONGEST_ID, examples=["0123456789abcdef0123456789abcdef"]),
    AfterValidator(_storable),
]
RunId = Annotated[uuid.UUID, Path(description="The id of a run of this console.")]
Limit = Annotated[
    int | None, Query(ge=1, le=2**31 - 1, description="At most so many drivers in the plan.")
]
Reprocess = Annotated[
    bool, Query(description="Look again for a lead of the drivers in quarantine.")
]
PersonalData = Annotated[
    bool, Query(description="Phone, licence and name in clear; needs the permission.")
]


def _reads(request: Request) -> Reads:
    return cast(Reads, request.app.state.reads)


def _runs(request: Request) -> Runs:
    return cast(Runs, request.app.state.runs)


def _refuse_personal_data(who: Person, personal_data: bool) -> None:
    if personal_data and not who.may_see_personal_data:
        raise HTTPException(403, f"{who.name} has no permission to see personal data.")


@router.get(
    "/health",
    operation_id="getHealth",
    responses={503: {"model": schemas.Health, "description": "It cannot work; message says why."}},
)
def health(request: Request, response: Response) -> schemas.Health:
    """Say whether the console can work: 200 or 503. The details are for who may read."""
    found = _reads(request).health()
    if found.status != "ok":
        response.status_code = 503
    try:
        security.reader(request)
    except HTTPException:
        return schemas.Health(status=found.status)
    return found


@router.get(PREFIX, operation_id="getOrphans", responses=READ)
def orphans(
    request: Request,
    who: Reader,
    page: Annotated[int, Query(ge=1, le=10**9)] = 1,
    page_size: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 50,
    status: Status | None = None,
    detected_reason: Reason | None = None,
    driver_id: Annotated[
        str | None,
        Query(max_length=LONGEST_ID, description="The id, or its beginning."),
        AfterValidator(_storable),
    ] = None,
    sort: Annotated[Sort, Query(description="A column; with - descending.")] = "-detected_at",
    personal_data: PersonalData = False,
) -> schemas.OrphansPage:
    """List the drivers ever entered in the quarantine: rows of ops.v_driver_orphans."""
    _refuse_personal_data(who, personal_data)
    find = Find(status, detected_reason, driver_id or None, sort, page, page_size)
    return _reads(request).page(find, personal=personal_data)


@router.get(f"{PREFIX}/metrics", operation_id="getOrphansMetrics", responses=READ)
def metrics(request: Request, who: Reader) -> schemas.OrphansMetrics:
    """Count them."""
    return _reads(request).metrics()


@router.get(f"{PREFIX}/plan", operation_id="getOrphansPlan", responses=READ)
def plan(
    request: Request, who: Reader, limit: Limit = None, reprocess_quarantined: Reprocess = False
) -> schemas.PlanPage:
    """Say what an execute would do now: the first 500 drivers, and how many there are."""
    return _reads(request).plan(limit=limit, reprocess_quarantined=reprocess_quarantined)


@router.get(
    f"{PREFIX}/plan.csv",
    operation_id="getOrphansPlanCsv",
    tags=["files"],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **READ},
)
def plan_csv(
    request: Request, who: Reader, limit: Limit = None, reprocess_quarantined: Reprocess = False
) -> StreamingResponse:
    """Give all of the plan as CSV, with the columns of the reports."""
    lines = _reads(request).plan_csv(limit=limit, reprocess_quarantined=reprocess_quarantined)
    return _Lines(lines, media_type="text/csv; charset=utf-8")


class _Lines(StreamingResponse):
    """What comes from a connection, which is given back at the end, or when the client is gone."""

    def __init__(self, lines: Generator[str, None, None], media_type: str) -> None:
        first = next(lines)  # what fails here is an answer of its own, not half a file
        super().__init__(chain([first], lines), media_type=media_type)
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(self._lines.close)


@router.get(f"{PREFIX}/criteria", operation_id="getOrphansCriteria", responses=READ)
def criteria(request: Request, who: Reader) -> schemas.Criteria:
    """Count the violations of each criterion, live, and the rows that it looks at."""
    return _reads(request).criteria()


@router.get(f"{PREFIX}/funnel", operation_id="getOrphansFunnel", responses=READ)
def funnel(request: Request, who: Reader) -> schemas.Funnel:
    """Count the drivers in each stage of ops.v_cabinet_funnel_status."""
    return _reads(request).funnel()


@router.get(f"{PREFIX}/runs", operation_id="getOrphansRuns", responses=READ)
def runs(request: Request, who: Reader) -> list[schemas.LedgerRun]:
    """List the last runs that the ledger tells of, of any command."""
    return _reads(request).last_runs()


@router.post(
    f"{PREFIX}/run-fix",
    operation_id="runOrphansFix",
    responses={
        202: {"model": schemas.FixRun, "description": "It goes on; Location says where to look."},
        **_problems(401, 403, 409, 413, 415, 429, 500, 503),
    },
)
def run_fix(
    request: Request, response: Response, who: Fixer, body: schemas.RunFixRequest
) -> schemas.FixRun:
    """Run the fix: dry-run, or execute. One run at a time; a long one goes on in the background."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON: Content-Type: application/json.")
    if body.execute:
        cast(Gate, request.app.state.gate).refuse_execute()
    started = _runs(request).start(body, who.name)
    run = _runs(request).wait(started.id, ANSWER_WITHIN_SECONDS)
    if run.state is RunState.running:
        response.status_code = 202
    response.headers["Location"] = f"{PREFIX}/run-fix/{run.id}"
    return run


@router.get(
    f"{PREFIX}/run-fix/{{id}}",
    operation_id="getOrphansFixRun",
    responses={**READ, **_problems(404)},
)
def fix_run(request: Request, who: Reader, id: RunId) -> schemas.FixRun:
    """Say where a run stands."""
    return _known(_runs(request).get(id))


@router.get(
    f"{PREFIX}/run-fix/{{id}}/events",
    operation_id="watchOrphansFixRun",
    tags=["files"],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **READ,
        **_problems(404),
    },
)
def events(request: Request, who: Reader, id: RunId) -> StreamingResponse:
    """Tell of a run as it goes on: server-sent events, each a FixRun; the last one is its end."""
    _known(_runs(request).get(id))
    return StreamingResponse(_events(request, id), media_type="text/event-stream")


async def _events(request: Request, id: uuid.UUID) -> AsyncIterator[str]:
    told = None
    while not await request.is_disconnected():
        # Not here in the loop, where all would wait with it: a stop can hold the runs for seconds.
        run = await run_in_threadpool(_runs(request).get, id)
        if run is None:
            return
        if run != told:
            yield f"data: {run.model_dump_json()}\n\n"
            told = run
        if run.state is not RunState.running:
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


@router.post(
    f"{PREFIX}/run-fix/{{id}}/stop",
    operation_id="stopOrphansFixRun",
    responses={**READ, **_problems(404, 429)},
)
def stop(request: Request, who: Stopper, id: RunId) -> schemas.FixRun:
    """Ask a run to stop after the transaction that is on."""
    return _known(_runs(request).stop(id))


@router.get(
    f"{PREFIX}/reports/{{name}}",
    operation_id="getOrphansReport",
    tags=["files"],
    response_class=FileResponse,
    responses={
        200: {"content": {"application/json": {}, "text/csv": {"schema": {"type": "string"}}}},
        **READ,
        **_problems(404),
    },
)
def report(
    request: Request, who: Reader, name: Annotated[str, Path(pattern=REPORT_NAME)]
) -> FileResponse:
    """Give a report of a run, as it was written."""
    path: FilePath = request.app.state.options.output_dir / name
    if not path.is_file():
        raise HTTPException(404, f"There is no report {name} here.")
    media_type = "text/csv; charset=utf-8" if name.endswith(".csv") else "application/json"
    return FileResponse(path, media_type=media_type, filename=name)


# The last route: a driver's id could be any of the words above, and is none of them.
@router.get(
    f"{PREFIX}/{{driver_id}}",
    operation_id="getOrphan",
    responses={**READ, **_problems(404)},
)
def orphan(request: Request, who: Reader, driver_id: DriverId) -> schemas.Explanation:
    """Say why a driver is or is not an orphan: evidence, rivals, history, views that show it."""
    return _known(_reads(request).explanation(driver_id))


def _known(found: T | None) -> T:
    if found is None:
        raise HTTPException(404, "Not known here. Check the id.")
    return found
