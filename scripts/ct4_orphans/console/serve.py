"""`orphans serve`: the console on a port of this machine, or on a socket."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import uvicorn

from ct4_orphans.console.app import ConsoleOptions, create_app
from ct4_orphans.console.reads import Reads
from ct4_orphans.console.security import is_loopback
from ct4_orphans.database import Settings
from ct4_orphans.errors import DatabaseError, OutputError, RefusedError

SECONDS_FOR_OPEN_ANSWERS = 3


def serve(
    settings: Settings, options: ConsoleOptions, host: str, port: int, unix_socket: Path | None
) -> None:
    """Serve until SIGINT or SIGTERM; then a run that is on stops after its transaction.

    Raises RefusedError for an address that others reach while no tokens are asked for, OutputError
    if it cannot listen there, DatabaseError if the database is not ready.
    """
    if options.tokens is None and unix_socket is None and not is_loopback(host):
        raise RefusedError(
            f"{host} can be reached by others, so it needs tokens:  orphans token NAME --fix, then "
            "orphans serve --tokens FILE."
        )
    reads_as = _reads_as(settings)
    with _listening(host, port, unix_socket) as listener:
        where = str(unix_socket) if unix_socket else _url(host, listener.getsockname()[1])
        click.echo(f"CONSOLE of {settings}: {where}")
        click.echo(f"  Reads as {reads_as}. {_writes(options)}")
        click.echo("  Ctrl-C ends it; a run that is on stops after its transaction.")
        config = uvicorn.Config(
            create_app(settings, options),
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=SECONDS_FOR_OPEN_ANSWERS,
            # Whose word it takes for the caller's address: a proxy's, on this machine.
            forwarded_allow_ips="*" if unix_socket else "127.0.0.1,::1",
        )
        with suppress(KeyboardInterrupt), _sigterm_as_ctrl_c():
            uvicorn.Server(config).run(sockets=[listener])
    click.echo("The console has ended.")


def _reads_as(settings: Settings) -> str:
    reads = Reads(settings)
    try:
        health = reads.health()
    finally:
        reads.close()
    if health.message:
        raise DatabaseError(health.message)
    return str(health.reads_as)


def _writes(options: ConsoleOptions) -> str:
    if options.tokens is None:
        return "Nobody can run the fix: there is no tokens file (--tokens FILE)."
    who = [person.name for person in options.tokens.people.values() if person.may_fix]
    if not who:
        return "Nobody can run the fix: no token of the file has the permission."
    if not options.fix_enabled:
        return f"Dry-runs by {', '.join(who)}; to execute, ENABLE_ORPHANS_FIX=true is missing."
    return f"The fix can be executed by {', '.join(who)}."


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Uvicorn ends cleanly at both, and then raises the signal once more for who called it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def _listening(host: str, port: int, unix_socket: Path | None) -> Iterator[socket.socket]:
    """Give a socket that is bound; one of a file is removed at the end."""
    try:
        if unix_socket:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(unix_socket))
            unix_socket.chmod(0o660)
        else:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )[0]
            # With the protocol, or asyncio sets no TCP_NODELAY: 40 ms more for every answer.
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        where = unix_socket or f"{host}:{port}"
        raise OutputError(
            f"The console cannot listen on {where}: {error.strerror or error}. Choose another "
            "with --port, --host or --unix-socket."
        ) from error
    with listener:
        try:
            yield listener
        finally:
            if unix_socket:
                unix_socket.unlink(missing_ok=True)
