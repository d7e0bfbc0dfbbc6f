"""Who is asking, and what they may do: tokens, sessions, same origin, rate limits, headers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response

from ct4_orphans.errors import OutputError, RefusedError

SESSION_COOKIE = "orphans_session"
SESSION_SECONDS = 12 * 3600
SESSIONS_AT_MOST = 1000
RUNS_PER_MINUTE = 10
SIGN_INS_PER_MINUTE = 10
PERMISSIONS = ("read", "fix", "personal-data")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Person:
    """Who is asking. The name goes into the ledger's runs as the actor."""

    name: str
    may_fix: bool
    may_see_personal_data: bool


LOCAL = Person("local", may_fix=False, may_see_personal_data=False)


@dataclass(frozen=True)
class Tokens:
    """Whose token is whose. Only digests are kept, here and in the file."""

    people: Mapping[str, Person]

    @classmethod
    def from_file(cls, path: Path) -> Tokens:
        """Read a file with a line `name  permissions  sha256-of-token` for each person.

        Raises OutputError if it cannot be read or is malformed, RefusedError if others may read it.
        """
        try:
            is_open = path.stat().st_mode & 0o077
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise OutputError(f"The tokens file {path} cannot be read: {reason}.") from error
        if is_open:
            raise RefusedError(
                f"Others than its owner may read the tokens file {path}:  chmod 600 {path}"
            )
        return cls.from_lines(lines, f"the tokens file {path}")

    @classmethod
    def from_lines(cls, lines: list[str], where: str) -> Tokens:
        """Read such lines; empty ones and those after a # are nothing. Raises OutputError."""
        people: dict[str, Person] = {}
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                digest, person = _person_of_line(line, f"Line {number} of {where}")
                people[digest] = person
        if not people:
            raise OutputError(f"Nobody is named in {where}:  orphans token NAME --fix")
        return cls(people)

    def person(self, token: str) -> Person | None:
        """Return who has this token."""
        digest = digest_of(token)
        return next(
            (person for known, person in self.people.items() if hmac.compare_digest(known, digest)),
            None,
        )


def digest_of(token: str) -> str:
    """Return what a tokens file has of a token. A plain digest will do: tokens are random."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token(name: str, permissions: tuple[str, ...]) -> tuple[str, str]:
    """Return a new token, and its line for the tokens file."""
    token = secrets.token_urlsafe(32)
    return token, f"{name}  {','.join(permissions)}  {digest_of(token)}"


def is_name(text: str) -> bool:
    """Tell whether a person can be called this in a tokens file, and in the ledger."""
    return re.fullmatch(r"[\w.@+-]{1,64}", text) is not None


def _person_of_line(line: str, where: str) -> tuple[str, Person]:
    words = line.split()
    permissions = words[1].split(",") if len(words) == 3 else []
    if (
        not permissions
        or not is_name(words[0])
        or not set(permissions) <= set(PERMISSIONS)
        or not re.fullmatch("[0-9a-f]{64}", words[2])
    ):
        raise OutputError(
            f"{where} is not 'name  permissions  sha256', with permissions of "
            f"{', '.join(PERMISSIONS)}:  orphans token NAME makes one."
        )
    person = Person(words[0], "fix" in permissions, "personal-data" in permissions)
    return words[2], person


class Limiter:
    """At most so many in a minute, for each key. Own code: it is less than calling a library."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def count(self, key: str) -> None:
        """Count one more. Raises HTTPException 429 if that is too many."""
        now = time.monotonic()
        with self._lock:
            for old in [name for name, times in self._times.items() if now - times[-1] > 60]:
                del self._times[old]
            times = self._times[key]
            while times and now - times[0] > 60:
                times.popleft()
            if len(times) >= self._per_minute:
                wait = int(61 - (now - times[0]))
                raise HTTPException(
                    429,
                    f"Too many in a minute (more than {self._per_minute}). Wait {wait} s.",
                    {"Retry-After": str(wait)},
                )
            times.append(now)


class Sessions:
    """Who has signed in with a browser. In memory: they end with the server."""

    def __init__(self) -> None:
        self._people: dict[str, tuple[Person, float]] = {}
        self._lock = threading.Lock()

    def open(self, person: Person) -> str:
        """Return the secret of a new session."""
        secret = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._people) >= SESSIONS_AT_MOST:
                del self._people[next(iter(self._people))]
            self._people[digest_of(secret)] = (person, time.monotonic() + SESSION_SECONDS)
        return secret

    def person(self, secret: str) -> Person | None:
        """Return whose session it is, if it goes on."""
        with self._lock:
            found = self._people.get(digest_of(secret))
        return found[0] if found and found[1] > time.monotonic() else None

    def close(self, secret: str) -> None:
        """End a session."""
        with self._lock:
            self._people.pop(digest_of(secret), None)


class Gate:
    """What the routes ask: one for a server."""

    def __init__(self, tokens: Tokens | None, *, fix_enabled: bool, is_behind_https: bool) -> None:
        self.tokens = tokens
        self.fix_enabled = fix_enabled
        self.is_behind_https = is_behind_https
        self.sessions = Sessions()
        self._runs = Limiter(RUNS_PER_MINUTE)
        self._failed_sign_ins = Limiter(SIGN_INS_PER_MINUTE)

    def reader(self, request: Request) -> Person:
        """Return who is asking. Raises HTTPException 401 if nobody says so."""
        if self.tokens is None:
            return LOCAL
        person = self._by_token(request) or self.sessions.person(
            request.cookies.get(SESSION_COOKIE, "")
        )
        if person is None:
            raise HTTPException(
                401,
                "A token is needed: Authorization: Bearer …, or sign in at /sign-in.",
                {"WWW-Authenticate": "Bearer"},
            )
        return person

    def fixer(self, request: Request) -> Person:
        """Return who wants to run the fix. Raises HTTPException 401, 403 or 429."""
        person = self.stopper(request)
        self._runs.count(person.name)
        return person

    def stopper(self, request: Request) -> Person:
        """Return who wants to stop a run: as who runs one, but never too often.

        Raises HTTPException 401 or 403.
        """
        if self.tokens is None:
            raise HTTPException(
                403,
                "This console only reads: it was started without a tokens file "
                "(orphans serve --tokens FILE).",
            )
        person = self.reader(request)
        self.refuse_other_sites(request, with_cookie=self._by_token(request) is None)
        if not person.may_fix:
            raise HTTPException(403, f"The token of {person.name} has no permission to fix.")
        return person

    def refuse_execute(self) -> None:
        """Raise HTTPException 403 unless the server's environment allows the fix to execute."""
        if not self.fix_enabled:
            raise HTTPException(
                403,
                "Execute is switched off here. Start the server with ENABLE_ORPHANS_FIX=true.",
            )

    def refuse_other_sites(self, request: Request, *, with_cookie: bool) -> None:
        """Raise HTTPException 403 for a request that another site has made the browser send.

        With a session a browser's word is needed that it comes from here; a token is none that a
        browser sends by itself.
        """
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if origin is not None:
            is_ours = _place_of(origin) == request.headers.get("host")
            if self.is_behind_https:
                is_ours = is_ours and origin.startswith("https://")
        else:
            is_ours = site == "same-origin" or (site is None and not with_cookie)
        if not is_ours or site not in (None, "same-origin", "none"):
            raise HTTPException(403, "Refused: this request comes from another site.")

    def sign_in(self, request: Request, response: Response, token: str) -> Person:
        """Start a session. Raises HTTPException 401, 403 or 429."""
        self.refuse_other_sites(request, with_cookie=False)
        person = self.tokens.person(token) if self.tokens else None
        if person is None:
            self._failed_sign_ins.count(request.client.host if request.client else "-")
            raise HTTPException(401, "Nobody has this token.")
        response.set_cookie(
            SESSION_COOKIE,
            self.sessions.open(person),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=self.is_behind_https,
        )
        return person

    def sign_out(self, request: Request, response: Response) -> None:
        """End the session. Raises HTTPException 403."""
        self.refuse_other_sites(request, with_cookie=True)
        self.sessions.close(request.cookies.get(SESSION_COOKIE, ""))
        response.delete_cookie(
            SESSION_COOKIE, httponly=True, samesite="strict", secure=self.is_behind_https
        )

    def refuse_other_names(self, request: Request) -> Response | None:
        """Refuse a request under a name that is not loopback's, where no token is asked for.

        Another site's name can be made to lead here (DNS rebinding).
        """
        if self.tokens is None and not is_loopback(_host_of(request.headers.get("host", ""))):
            return Response(
                '{"detail":"Without a tokens file this console answers as localhost only."}',
                421,
                media_type="application/json",
            )
        return None

    def _by_token(self, request: Request) -> Person | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self.tokens is None:
            return None
        return self.tokens.person(token.strip())


def reader(request: Request) -> Person:
    """Return who is asking, for a route that reads."""
    return _gate(request).reader(request)


def fixer(request: Request) -> Person:
    """Return who wants to run the fix, for a route that does."""
    return _gate(request).fixer(request)


def stopper(request: Request) -> Person:
    """Return who wants to stop a run."""
    return _gate(request).stopper(request)


def sign_in(request: Request, response: Response, token: str) -> Person:
    """Start a session, its cookie in the response. Raises HTTPException 401, 403 or 429."""
    return _gate(request).sign_in(request, response, token)


def sign_out(request: Request, response: Response) -> None:
    """End the session that the request came with. Raises HTTPException 403."""
    _gate(request).sign_out(request, response)


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this machine only."""
    try:
        return host in LOOPBACK_NAMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _place_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host_of(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate
