"""The console as one application: routes, what surrounds them, and what they share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from ct4_orphans.console import api, pages
from ct4_orphans.console.reads import NotGrantedError, Reads
from ct4_orphans.console.runs import Runs
from ct4_orphans.console.security import HEADERS, Gate, Tokens
from ct4_orphans.database import Settings
from ct4_orphans.errors import (
    DatabaseError,
    OrphansError,
    OutputError,
    RefusedError,
    printable,
)

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
STATUS_OF = (
    (NotGrantedError, 403),
    (RefusedError, 409),
    (DatabaseError, 503),
    (OutputError, 500),
)
BODY_BYTES_AT_MOST = 64 * 1024


@dataclass(frozen=True)
class ConsoleOptions:
    """How the console was started."""

    output_dir: Path
    tokens: Tokens | None = None
    fix_enabled: bool = False
    is_behind_https: bool = False


def create_app(settings: Settings, options: ConsoleOptions) -> FastAPI:
    """Return the application. It connects when it is asked something, not before."""
    reads = Reads(settings, fix_enabled=options.fix_enabled)
    runs = Runs(settings, options.output_dir)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(runs.close)
        await run_in_threadpool(reads.close)

    app = FastAPI(
        title="ct4-orphans",
        summary="Drivers without a lead: who they are, why, and the fix.",
        version=version("ct4-orphans"),
        docs_url=None,  # their pages take scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.options = options
    app.state.reads = reads
    app.state.runs = runs
    app.state.gate = Gate(
        options.tokens,
        fix_enabled=options.fix_enabled,
        is_behind_https=options.is_behind_https,
    )
    app.middleware("http")(_guarded)
    app.add_exception_handler(OrphansError, _in_one_line)
    app.add_exception_handler(RequestValidationError, _what_is_wrong)
    app.add_exception_handler(404, _unknown_address)
    app.add_exception_handler(HTTPException, _as_it_says)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


async def _guarded(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = _too_large(request) or request.app.state.gate.refuse_other_names(request)
    try:
        response = response or await call_next(request)
    except Exception:  # of this program; the headers and the one line are for it as well
        log.exception("%s %s", request.method, request.url.path)
        response = JSONResponse({"detail": "An error of the console. Its log has more."}, 500)
    for name, value in HEADERS.items():
        response.headers[name] = value
    is_static = request.url.path.startswith("/static/") and response.status_code == 200
    response.headers["Cache-Control"] = "public, max-age=31536000" if is_static else "no-store"
    return response


def _too_large(request: Request) -> Response | None:
    length = request.headers.get("content-length", "0")
    is_known = length.isdecimal() and "transfer-encoding" not in request.headers
    if is_known and int(length[:12]) <= BODY_BYTES_AT_MOST:
        return None
    return JSONResponse({"detail": "The request is too large, or does not say how large."}, 413)


def _in_one_line(request: Request, error: Exception) -> Response:
    """Answer with what a command would have said."""
    status = next((code for kind, code in STATUS_OF if isinstance(error, kind)), 500)
    message = error.format_message() if isinstance(error, OrphansError) else "Something failed."
    return JSONResponse({"detail": message}, status)


async def _as_it_says(request: Request, error: Exception) -> Response:
    """Answer as FastAPI does, but to a body that is no JSON at all as to any malformed one."""
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 400 and request.url.path.startswith(api.PREFIX):
        return JSONResponse({"detail": "body: it is no JSON that can be read."}, 422)
    return await http_exception_handler(request, error)


async def _unknown_address(request: Request, error: Exception) -> Response:
    """Answer a person with a page, a program with one line."""
    if isinstance(error, HTTPException):
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and not request.url.path.startswith(("/api/", "/static/")):
            return pages.unknown_address(request)
        return await http_exception_handler(request, error)
    raise error


def _what_is_wrong(request: Request, error: Exception) -> Response:
    """Answer to a malformed request in one line too, without repeating what was sent."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    says = [
        f"{'.'.join(str(part) for part in problem['loc'][1:]) or 'body'}: {problem['msg']}"
        for problem in problems
    ]
    return JSONResponse({"detail": printable("; ".join(says) or "The request is malformed.")}, 422)
