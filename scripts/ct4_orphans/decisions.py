"""What people decide: a state by hand for one driver, and the reversal of a whole run."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg_errors
from psycopg import sql

from ct4_orphans import guard, seals
from ct4_orphans.database import Connection, Row, rows, statement, what_happened
from ct4_orphans.errors import DRIVER_OR_PERSON, DatabaseError, IncompleteError, RefusedError
from ct4_orphans.fix import only_one_execute

STATUSES = ("quarantined", "purged", "resolved_created_lead")
REASONS = ("manual_detection", "legacy_driver_without_origin", "no_lead_no_events")
UNKNOWN = (
    "and whether the change was committed is unknown: it is there whole, or not at all. "
    "'orphans audit' shows the last runs; or run the same command again: what is done is not done "
    "twice."
)
DID = {
    "quarantined": "Quarantined by hand",
    "purged": "Purged by hand",
    "resolved_created_lead": "Released by hand",
}


@dataclass(frozen=True)
class Decision:
    """A state that a person gives to a driver, with the reason in their own words."""

    driver_id: str
    status: str
    note: str
    reason: str | None = None

    @property
    def parameters(self) -> Row:
        """Return what the statements want to know."""
        return {
            "driver_id": self.driver_id,
            "status": self.status,
            "reason": self.reason,
            "note": self.note,
            "explanation": f"{DID[self.status]}: {self.note}",
        }


def look_at(connection: Connection, decision: Decision) -> tuple[str | None, bool]:
    """Return the driver's status now (None: none), and whether the decision is carried out already.

    Raises RefusedError if the rules forbid it.
    """
    situation = rows(connection, statement("resolve_situation"), decision.parameters)[0]
    if situation["refusal"]:
        raise RefusedError(f"Driver {decision.driver_id}: {situation['refusal']}")
    return situation["current_status"], bool(situation["is_done"])


def resolve(connection: Connection, decision: Decision) -> uuid.UUID | None:
    """Append the decision to the ledger; return the id of this run, None if nothing was to do.

    A purge removes the driver link and keeps it whole in the entry; any other state puts it back.
    Raises RefusedError if the rules forbid it, or someone else did something at the same moment.
    """
    run = seals.Run(
        "resolve",
        {"driver_id": decision.driver_id, "status": decision.status, "note": decision.note},
    )
    with only_one_execute(connection), _all_or_nothing(connection, f"Driver {decision.driver_id}"):
        if look_at(connection, decision)[1]:
            return None
        connection.execute(statement("resolve"), {**decision.parameters, "run_id": run.run_id})
        seals.seal(connection, run, "ended", {"drivers": 1})
    return run.run_id


@dataclass(frozen=True)
class Undo:
    """What can be undone of a run: how many drivers and links, and who is left alone, with why."""

    drivers: int
    links: int
    refused: list[tuple[str, str]]
    undone_before: int


def look_at_run(connection: Connection, run_id: uuid.UUID) -> Undo:
    """Return what an undo of this run would do. Raises RefusedError if there is no such run."""
    found = rows(connection, statement("undo_drivers"), {"run_id": run_id})
    if not found:
        raise RefusedError(
            f"The ledger has no entry of run {run_id}. The reports name the runs (run_id)."
        )
    links = rows(
        connection,
        "select count(*) as links from canon.identity_links where match_rule ="
        " 'LEAD_EVENT_RECONSTRUCTION' and evidence ->> 'run_id' = %s and person_key = any(%s)",
        [str(run_id), [row["person_key"] for row in found if not row["refusal"]]],
    )
    return Undo(
        drivers=sum(1 for row in found if not row["refusal"]),
        links=links[0]["links"],
        refused=[
            (row["driver_id"], row["refusal"])
            for row in found
            if row["refusal"] and not row["is_undone"]
        ],
        undone_before=sum(1 for row in found if row["is_undone"]),
    )


def undo(connection: Connection, run_id: uuid.UUID) -> tuple[uuid.UUID, Undo]:
    """Reverse a run in one transaction: its links go, every driver gets the state before it.

    A person with a driver whose situation changed since is left alone, whole. Returns the id of
    the undo, itself a run, and what was done. Raises RefusedError if the ledger has no such run.
    """
    run = seals.Run("undo", {"run_id": str(run_id)})
    parameters = {"run_id": run_id, "undo_run_id": run.run_id, "note": f"reverses run {run_id}."}
    with only_one_execute(connection), _all_or_nothing(connection, f"Run {run_id}"):
        plan = look_at_run(connection, run_id)
        connection.execute(
            sql.SQL("create temporary table undone on commit drop as {}").format(
                statement("undo_drivers")
            ),
            parameters,
        )
        connection.execute(
            "create temporary table removed_links (person_key uuid, links jsonb) on commit drop"
        )
        for name in ("undo_links", "undo_purges", "undo_entries"):
            connection.execute(statement(name), parameters)
        seals.seal(
            connection,
            run,
            "ended",
            {"drivers": plan.drivers, "links_removed": plan.links, "refused": len(plan.refused)},
        )
    return run.run_id, plan


@contextmanager
def _all_or_nothing(connection: Connection, what: str) -> Iterator[None]:
    """Run a transaction that waits for others 30 s at most, and says what is in its way."""
    try:
        with connection.transaction():
            connection.execute("set local lock_timeout = '30s'")
            yield
    except pg_errors.UniqueViolation as error:
        driver = re.search(DRIVER_OR_PERSON, error.diag.message_detail or "")
        raise RefusedError(
            f"{what}: somebody else changed driver {driver[0] if driver else ''} at the same "
            "moment. Nothing was changed; look at it "
            "(orphans explain), and run the same again."
        ) from error
    except psycopg.OperationalError as error:
        if not connection.closed:
            raise
        raise DatabaseError(
            f"{what}: the connection was lost ({what_happened(error)}), {UNKNOWN}"
        ) from error
    except KeyboardInterrupt:
        raise IncompleteError(f"{what}: interrupted, {UNKNOWN}") from None
    except psycopg.IntegrityError as error:
        if guard.is_refusal(error):
            raise RefusedError(
                f"{what}: {what_happened(error)}. Nothing was changed. If it must be done all the "
                "same, switch the guard to warn first:  orphans guard install --mode warn"
            ) from error
        raise RefusedError(
            f"{what}: the database refuses it: {what_happened(error)}. Nothing was changed. A link "
            "that was removed can be put back only while its person is there."
        ) from error
