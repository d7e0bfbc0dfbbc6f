"""Sealing the ledger: who did what to it, and a digest that shows later whether it is whole.

A seal covers the entries since the one before and that one's digest, so nothing that was sealed can
be changed or left out without another digest. `audit` computes them again.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from ct4_orphans.database import AnyConnection, Row, rows, statement

SEALS = "canon.driver_orphan_quarantine_seals"
RUNS = "canon.driver_orphan_quarantine_runs"


@dataclass(frozen=True)
class Seal:
    """The number of a seal and its digest: 64 hexadecimal characters."""

    seal_no: int
    digest: str

    def __str__(self) -> str:
        """Name it for the last lines of a run."""
        return f"seal {self.seal_no}, digest {self.digest}"


@dataclass(frozen=True)
class Run:
    """One run of a command: what the seals say of it."""

    command: str
    parameters: dict[str, Any]
    run_id: uuid.UUID = field(default_factory=uuid.uuid4)


def seal(
    connection: AnyConnection, run: Run, step: str, counts: dict[str, Any] | None = None
) -> Seal:
    """Seal all entries since the seal before, in the transaction that is on.

    Waits for other writers of the ledger, and keeps them waiting until the transaction ends. `step`
    is started, applied or ended. Raises psycopg.Error.
    """
    connection.execute("select canon.driver_orphan_quarantine_wait_for_writers()")
    parameters = {
        "run_id": run.run_id,
        "command": run.command,
        "step": step,
        "parameters": json.dumps({**run.parameters, "version": version("ct4-orphans")}),
        "counts": json.dumps(counts) if counts is not None else None,
    }
    return Seal(**rows_of(connection, "seal", parameters)[0])


def newest(connection: AnyConnection) -> Seal | None:
    """Return the last seal, None before the first."""
    found = rows(
        connection,
        "select seal_no, digest from canon.driver_orphan_quarantine_seals"
        " order by seal_no desc limit 1",
    )
    return Seal(**found[0]) if found else None


def rows_of(connection: AnyConnection, name: str, parameters: dict[str, Any]) -> list[Row]:
    """Run a statement with what seal and audit share: what the digests are made of.

    Without a search_path, or types would have other names in other sessions.
    """
    query = statement(name).format(
        entry=statement("entry_text"),
        seal=statement("seal_text"),
        protection=statement("protection"),
    )
    with connection.transaction():
        before = rows(connection, "select current_setting('search_path') as path")[0]["path"]
        connection.execute("set local search_path = pg_catalog")
        found = rows(connection, query, parameters)
        connection.execute("select set_config('search_path', %s, true)", [before])
    return found
