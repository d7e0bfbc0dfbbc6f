"""Break a run of the fix at a place that is known: a wire to the server that counts.

The real command runs in a process of its own, and its connection goes through a Unix socket of
this module, which reads the framing of PostgreSQL's protocol (the client's requests end with Query
or Sync, the server's answers with ReadyForQuery) and can do something before a request goes on and
before its answer does. Own code, because no proxy that can be installed acts on these boundaries.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psycopg
from ct4_orphans import cli, embedded
from ct4_orphans import fix as fixing
from ct4_orphans.database import Settings

ROOT = Path(__file__).parents[2]
Mutilation = Callable[[], AbstractContextManager[Any]]  # of the package, in the command's process
SOCKET = ".s.PGSQL.5432"
TIMEOUT_SECONDS = 40

Side = Literal["before", "after"]  # the request goes on to the server; the answer to the client
CANCEL_REQUEST = struct.pack("!i", 80877102)
ENCRYPTION_REQUESTS = (struct.pack("!i", 80877103), struct.pack("!i", 80877104))


# --- The wire -------------------------------------------------------------------------------------


@dataclass
class Boundary:
    """Where a run is: request `number` of a connection (0 is the start-up), before or after it."""

    line: Line
    side: Side
    number: int
    statement: str

    def __str__(self) -> str:
        return f"{self.side} request {self.number}, {self.statement[:50]!r}"


Fault = Callable[[Boundary], object]


class Line:
    """One connection of the client and the one to the server that belongs to it."""

    def __init__(self, wire: Wire, number: int, client: socket.socket) -> None:
        self.wire = wire
        self.number = number
        self.client = client
        self.server = socket.socket(socket.AF_UNIX)
        self.backend_pid = 0
        self._statements: dict[bytes, str] = {}  # by the name under which they were prepared
        self._sent: list[str] = []

    def open(self) -> None:
        """Carry what comes until one side ends. Runs in a thread."""
        with suppress(OSError):
            first = self._first_packet()
            self.server.connect(str(self.wire.upstream))
            if first[4:8] == CANCEL_REQUEST:
                self.server.sendall(first)
                self.server.recv(1)  # the server says nothing, and closes when it is done
                self.cut()
                self.wire.cancelled.set()
                return
            threading.Thread(target=self._carry_answers, daemon=True).start()
            self._carry_requests(first)
            self.server.shutdown(socket.SHUT_WR)  # it answers what it has been asked, and ends
            return
        self.cut()

    def cut(self) -> None:
        """End both connections, at once."""
        self.cut_client()
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)

    def cut_client(self) -> None:
        """End the client's connection; the server knows nothing of it yet."""
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)

    def _first_packet(self) -> bytes:
        while True:
            head = _read(self.client, 8)
            if head[4:] not in ENCRYPTION_REQUESTS:
                return head + _read(self.client, int.from_bytes(head[:4], "big") - 8)
            self.client.sendall(b"N")

    def _carry_requests(self, first: bytes) -> None:
        self._pass_request(first, "connect")
        pending, statement, simple = b"", "copied rows", False
        for kind, body, message in _messages(self.client):
            pending += message
            statement = self._statement(kind, body) or statement
            if kind in (b"QSXcf" if simple else b"QSX"):  # c, f: the end of copied rows
                simple = kind == b"Q"
                self._pass_request(pending, "terminate" if kind == b"X" else statement)
                pending, statement = b"", "copied rows"

    def _pass_request(self, request: bytes, statement: str) -> None:
        self._sent.append(statement)
        self.wire.reach(Boundary(self, "before", len(self._sent) - 1, statement))
        self.server.sendall(request)

    def _carry_answers(self) -> None:
        answered, pending = 0, b""
        with suppress(OSError):
            for kind, body, message in _messages(self.server):
                pending += message
                if kind == b"K":
                    self.backend_pid = int.from_bytes(body[:4], "big")
                if kind in b"ZG":  # ReadyForQuery; or CopyIn, which asks for more first
                    self.wire.reach(Boundary(self, "after", answered, self._sent[answered]))
                    self.client.sendall(pending)
                    answered, pending = answered + 1, b""
            self.client.sendall(pending)  # what the server said before it hung up
        self.cut()

    def _statement(self, kind: bytes, body: bytes) -> str:
        """Return the statement of a message: Query, Parse, or Bind of what was parsed before."""
        if kind == b"Q":
            return _one_line(body.split(b"\0")[0])
        if kind == b"P":
            name, text = body.split(b"\0")[:2]
            self._statements[name] = _one_line(text)
            return self._statements[name]
        if kind == b"B":
            return self._statements.get(body.split(b"\0")[1], "")
        return ""


class Wire:
    """A socket directory to connect to instead of the server's; every boundary is told."""

    def __init__(self, server: Settings, tell: Callable[[Boundary], object]) -> None:
        self.server = server
        self.command: Future[Command] = Future()  # who is at the client's end
        self.upstream = Path(server.host) / SOCKET
        self.directory = Path(tempfile.mkdtemp(prefix="wire"))  # short: a socket's path is limited
        self.settings = replace(server, host=str(self.directory))
        self.cancelled = threading.Event()
        self.boundaries: list[Boundary] = []
        self.lines: list[Line] = []
        self.error: BaseException | None = None
        self._tell = tell
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.directory / SOCKET))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def reach(self, boundary: Boundary) -> None:
        self.boundaries.append(boundary)
        self.told(self._tell, boundary)

    def told(self, do: Callable[..., object], boundary: Boundary, *more: object) -> None:
        """Do something in one of the wire's threads; `close` raises what goes wrong."""
        try:
            do(boundary, *more)
        except BaseException as error:
            self.error = error
            boundary.line.cut()

    def refuse(self) -> None:
        """Let nobody connect any more; who is connected stays."""
        shutil.rmtree(self.directory, ignore_errors=True)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """End everything. Raises what a fault has raised."""
        self.refuse()
        for line in self.lines:
            line.cut()
            line.client.close()
            line.server.close()
        if self.error:
            raise self.error

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.lines.append(Line(self, len(self.lines), client))
                threading.Thread(target=self.lines[-1].open, daemon=True).start()


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def _messages(source: socket.socket) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Give type, body and the whole of every message, until the other side ends."""
    with suppress(ConnectionResetError):
        while True:
            head = _read(source, 5)
            body = _read(source, int.from_bytes(head[1:], "big") - 4)
            yield head[:1], body, head + body


def _one_line(statement: bytes) -> str:
    return " ".join(re.sub(r"--.*", "", statement.decode()).split())


# --- The command, in a process of its own ---------------------------------------------------------


@dataclass
class Outcome:
    """What a command left behind; a negative code is the signal that ended it."""

    code: int
    out: str
    err: str
    directory: Path

    @property
    def reports(self) -> list[dict[str, Any]]:
        paths = sorted(self.directory.glob("orphans_report_*.json"))
        return [json.loads(path.read_text("utf-8")) for path in paths]

    @property
    def report(self) -> dict[str, Any]:
        (report,) = self.reports
        return report


@dataclass
class Command:
    """A command that was started; it may be running."""

    process: Any
    directory: Path
    log: Path

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def finish(self) -> Outcome:
        self.process.join(TIMEOUT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {TIMEOUT_SECONDS} s: {self.directory}")
        out, err = (self.log.with_suffix(name).read_text() for name in (".out", ".err"))
        return Outcome(self.process.exitcode, out, err, self.directory)


def start(
    settings: Settings,
    directory: Path,
    *arguments: str,
    batch: int = 5_000,
    patient: bool = False,
    reports: Path | None = None,
    mutilated: Mutilation = nullcontext,
) -> Command:
    """Start `orphans …` with transactions of `batch` drivers. It writes into the directory.

    Forked from a server that has imported the package: as real a process as any other, and half a
    second sooner. Unless it is patient, it tries to connect again for 3 s only.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ct4_orphans.cli", "pytest"])
    directory.parent.mkdir(parents=True, exist_ok=True)
    reports = reports or directory
    words = [*arguments, *(["--output-dir", str(reports)] if arguments[0] == "fix" else [])]
    process = context.Process(
        target=_run,
        args=(words, settings.environment(), directory, batch, patient, mutilated),
        daemon=True,
    )
    process.start()
    return Command(process, reports, directory)


def _run(
    arguments: list[str],
    environment: dict[str, str],
    directory: Path,
    batch: int,
    patient: bool,
    mutilated: Mutilation,
) -> None:
    for number, name in ((1, ".out"), (2, ".err")):
        file = os.open(directory.with_suffix(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.chdir(ROOT)
    os.environ.update(environment)
    fixing.DRIVERS_PER_TRANSACTION = batch
    if not patient:
        fixing.PAUSES_BEFORE_CONNECTING_AGAIN = (0.1, 0.2, 0.4, 0.8, 1.5)  # type: ignore[assignment]
    with mutilated():
        cli.main(arguments, prog_name="orphans")


@contextmanager
def every_statement_commits() -> Iterator[None]:
    """Mutilate the command: what should be one transaction is as many as there are statements."""
    psycopg.Connection.transaction = lambda *_: nullcontext()  # type: ignore[method-assign,assignment]
    yield


# --- Disks and servers that can be broken ---------------------------------------------------------


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of a few pages. Raises OSError where this user may not mount one."""
    directory = Path(tempfile.mkdtemp(prefix="small"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        directory.rmdir()
        raise OSError(f"no small disk can be mounted: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        directory.rmdir()


def fill_up(disk: Path) -> Path:
    """Leave no room; return the file to remove."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return disk / "filler"


@contextmanager
def server_of_its_own(data_directory: Path) -> Iterator[Settings]:
    """A server that can be broken, as others of this session may not be."""
    try:
        yield embedded.start_server(data_directory)
    finally:
        embedded.stop_server(data_directory)
        shutil.rmtree(data_directory, ignore_errors=True)


def copy_database(source: Settings, server: Settings) -> Settings:
    """Copy a database to another server."""
    target = embedded.recreate_database(server, source.dbname)
    binaries = Path(embedded.binaries())
    dump = subprocess.run(
        [binaries / "pg_dump", "-h", source.host, "-U", source.user, source.dbname],
        stdout=subprocess.PIPE,
        check=True,
    )
    subprocess.run(
        [binaries / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-h", target.host, "-U", target.user]
        + [target.dbname],
        input=dump.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return target


def restart(data_directory: Path, how: signal.Signals) -> Fault:
    """The server stops (SIGINT: it ends all sessions; SIGQUIT: as if it crashed) and starts."""

    def do(_: Boundary) -> None:
        pid = int((data_directory / "postmaster.pid").read_text().split()[0])
        os.kill(pid, how)
        with suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                time.sleep(0.02)
        embedded.start_server(data_directory)

    return do


# --- Faults: what can be done at a boundary -------------------------------------------------------


def kill(boundary: Boundary) -> None:
    """SIGKILL; the server notices at once."""
    boundary.line.wire.command.result(TIMEOUT_SECONDS).signal(signal.SIGKILL)
    boundary.line.cut()


def send(number: signal.Signals, settle: float = 0.02) -> Fault:
    """Send a signal; what was held goes on when the command has asked the server to cancel.

    After `settle` seconds the command waits for an answer. At once, it may still be on its way
    from sending to waiting, which takes microseconds.
    """

    def do(boundary: Boundary) -> None:
        wire = boundary.line.wire
        time.sleep(settle)
        wire.cancelled.clear()
        wire.command.result(TIMEOUT_SECONDS).signal(number)
        wire.cancelled.wait(0.3)

    return do


def cut(boundary: Boundary) -> None:
    """Both directions end, at once."""
    boundary.line.cut()


def cut_for_good(boundary: Boundary) -> None:
    """Both directions end, and nobody can connect any more."""
    boundary.line.wire.refuse()
    boundary.line.cut()


def deliver_late(seconds: float) -> Fault:
    """The client is cut off, and its request is still under way for a while."""

    def do(boundary: Boundary) -> None:
        boundary.line.cut_client()
        time.sleep(seconds)

    return do


def terminate(boundary: Boundary) -> None:
    """An administrator ends the server's process; it has gone when this returns."""
    _on_backend(boundary, "pg_terminate_backend")
    wait_until_gone(boundary.line.wire.server, boundary.line.backend_pid)


def cancel(boundary: Boundary) -> None:
    """An administrator cancels the statement that is running."""
    _on_backend(boundary, "pg_cancel_backend")


def while_blocked(do: Fault, hold: float = 0.3) -> Fault:
    """Do it while the statement runs: another session locks the links, until `hold` s after."""

    def lock(boundary: Boundary) -> None:
        wire = boundary.line.wire
        locker = connection_to(wire.server)
        locker.autocommit = False
        locker.execute("lock table canon.identity_links in exclusive mode")
        threading.Thread(target=wire.told, args=(blocked, boundary, locker), daemon=True).start()

    def blocked(boundary: Boundary, locker: psycopg.Connection[Any]) -> None:
        with locker:
            wait_until_blocked(boundary.line.wire.server, boundary.line.backend_pid)
            do(boundary)
            time.sleep(hold)

    return lock


def connection_to(settings: Settings) -> psycopg.Connection[Any]:
    """A session that is none of the command's."""
    parameters = settings.connection_parameters() | {"application_name": "faults"}
    return psycopg.connect(**parameters, autocommit=True)  # type: ignore[arg-type]


def wait_until_blocked(server: Settings, pid: int) -> None:
    _wait_for(
        server, "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'", pid
    )


def wait_until_gone(server: Settings, pid: int | None = None) -> None:
    """Wait for the end of a server process, or of all of the commands in this database."""
    _wait_for(
        server,
        "select 1 where not exists (select 1 from pg_stat_activity"
        " where application_name = 'ct4-orphans'"
        " and datname = current_database() and pid = coalesce(%s::int, pid))",
        pid,
    )


def _on_backend(boundary: Boundary, function: str) -> None:
    with connection_to(boundary.line.wire.server) as connection:
        connection.execute(f"select {function}(%s)", [boundary.line.backend_pid])  # type: ignore[arg-type]


def _wait_for(server: Settings, query: str, parameter: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with connection_to(server) as connection:
        while not connection.execute(query, [parameter]).fetchone():  # type: ignore[arg-type]
            if time.monotonic() > deadline:
                raise AssertionError(f"not so after {TIMEOUT_SECONDS} s: {query}")
            time.sleep(0.005)
