"""Whether the ledger still is what was sealed: every digest computed again, read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psycopg

from ct4_orphans import seals
from ct4_orphans.database import Connection, Row, rows
from ct4_orphans.errors import DatabaseError, RefusedError, some
from ct4_orphans.fix import plan_for_many

# What these commands seal, they may have changed in the ledger's protection.
MAY_CHANGE_PROTECTION = ("migration", "guard")
RUNS_SHOWN = 10


@dataclass(frozen=True)
class Audit:
    """What an audit has found. `remembered` says where each digest of earlier was found."""

    entries: int
    seals_count: int
    newest: seals.Seal | None
    runs: list[Row]
    problems: list[str]
    notes: list[str]
    remembered: list[str]


def audit(connection: Connection, digests: Mapping[str, str]) -> Audit:
    """Compute all seals again, in one snapshot that nothing is written in.

    `digests` are those of earlier, each with where it was read: without one a ledger whose newest
    part was cut off, or that was rewritten as a whole, is consistent in itself.
    Raises DatabaseError if there are no seals, RefusedError if the ledger has lost columns, so
    that nothing can be computed.
    """
    if not rows(connection, "select 1 where to_regclass(%s) is not null", [seals.SEALS]):
        raise DatabaseError(
            f"{seals.SEALS} is missing. If it was never there: orphans deploy (by hand: alembic "
            "upgrade head). If it was, it was dropped: restore it from the backup."
        )
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        plan_for_many(connection)
        return examine(connection, digests)


def examine(connection: Connection, digests: Mapping[str, str]) -> Audit:
    """Do the same in the transaction that is on."""
    try:
        chain = seals.rows_of(connection, "audit_seals", {})
        now = seals.rows_of(connection, "audit_now", {})[0]
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
        raise RefusedError(
            "The ledger or its seals have lost something, so their history cannot be audited: "
            f"{error.diag.message_primary}. Restore them from the backup."
        ) from error
    runs = last_runs(connection)
    newest = seals.Seal(chain[-1]["seal_no"], chain[-1]["digest"]) if chain else None
    known = {row["digest"]: row for row in chain}
    broken = next((row["seal_no"] for row in chain if _is_broken(row)), None)
    return Audit(
        entries=now["entries"],
        seals_count=len(chain),
        newest=newest,
        runs=runs,
        problems=[*_chain_problems(chain), *_problems_now(now, newest), *_cut(known, digests)],
        notes=list(_notes(now)),
        remembered=[
            _remembered(known[digest], where, broken)
            for digest, where in digests.items()
            if digest in known
        ],
    )


def in_words(found: Audit) -> Iterator[str]:
    """Give the audit line by line: counts, the last runs, what was found."""
    yield f"  {'ledger entries':<44}{found.entries:>9,}"
    yield f"  {'seals':<44}{found.seals_count:>9,}"
    if found.runs:
        yield "Last runs (times in UTC):"
    for run in found.runs:
        end = "" if run["ended_at"] else ", no end: it was killed, or goes on"
        others = run["entries_sealed"] - run["entries"]
        with_others = f", and {others:,} of others sealed with them" if others > 0 else ""
        mode = f" {run['mode']}" if run["mode"] else ""
        for_actor = f" for {run['actor']}" if run["actor"] else ""
        yield (
            f"  {run['started_at']:%Y-%m-%d %H:%M:%S}  {run['command'] + mode:<14} "
            f"by {run['run_by']}{for_actor}: "
            f"{run['entries']:,} entries{with_others}{end}  ({run['run_id']})"
        )
    for line in found.remembered:
        yield f"  {line}"
    for line in found.notes:
        yield f"  note: {line}"
    for line in found.problems:
        yield f"  PROBLEM: {line}"
    yield f"Ledger: {found.newest or 'not sealed yet'}"


def _remembered(row: Row, where: str, broken: int | None) -> str:
    """Say what an earlier digest tells, where the first broken seal is `broken`."""
    if broken is None or broken > row["seal_no"]:
        what = "All up to it is as it was then."
    else:
        what = f"What it stands on is not as it was: see seal {broken}."
    return f"{where}: seal {row['seal_no']} of {row['sealed_at']} UTC is there. {what}"


def _is_broken(row: Row) -> bool:
    return (
        row["previous_seal_no"] + 1 != row["seal_no"]
        or row["entries"] != row["entries_found"]
        or not row["is_intact"]
    )


def _chain_problems(chain: list[Row]) -> Iterator[str]:
    for row in chain:
        name = f"seal {row['seal_no']} ({row['command']} by {row['sealed_by']}, {row['sealed_at']})"
        first_gone = row["previous_seal_no"] + 1
        if first_gone != row["seal_no"]:
            yield f"{name}: the seals before it are gone, from {first_gone} on"
        elif row["entries"] != row["entries_found"]:
            yield (
                f"{name}: {row['entries']:,} entries were sealed, and {row['entries_found']:,} are "
                "there: entries were removed or put in afterwards"
            )
        elif not row["is_intact"]:
            yield f"{name}: its entries, its own facts or the digest before it were changed"
        if row["protection_changes"] and row["command"] not in MAY_CHANGE_PROTECTION:
            yield (
                f"{name}: since the seal before, the ledger's protection was changed: "
                f"{some(row['protection_changes'], 5)}"
            )


def _problems_now(now: Row, newest: seals.Seal | None) -> Iterator[str]:
    if newest is None and now["entries_of_runs"]:
        yield "there are entries of runs and no seal of them: the seals were removed"
    if now["protection_changes"]:
        yield (
            "since the last seal the ledger's protection was changed: "
            f"{some(now['protection_changes'], 5)}"
        )
    if now["drivers_shown_otherwise"]:
        yield (
            "canon.driver_orphan_quarantine does not show the newest entry of: "
            f"{some(now['drivers_shown_otherwise'])}"
        )


def _cut(known: Mapping[str, Row], digests: Mapping[str, str]) -> Iterator[str]:
    for digest, where in digests.items():
        if digest not in known:
            yield (
                f"{where}: this digest is not in the ledger any more: its newest part was cut off, "
                "or it was rewritten (or the digest is of another database)"
            )


def _notes(now: Row) -> Iterator[str]:
    if now["entries_not_sealed"]:
        yield (
            f"{now['entries_not_sealed']:,} entries since the last seal, of other services or by "
            "hand: the next run of a fix seals them"
        )


def last_runs(connection: Connection) -> list[Row]:
    """Return the last runs, the newest first."""
    return rows(
        connection,
        "select run_id, command, run_by, entries, entries_sealed, started_at, ended_at,"
        " parameters ->> 'mode' as mode, parameters ->> 'actor' as actor"
        " from canon.driver_orphan_quarantine_runs order by last_seal_no desc limit %s",
        [RUNS_SHOWN],
    )
