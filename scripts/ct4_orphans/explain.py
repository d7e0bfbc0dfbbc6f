"""Why a driver is or is not an orphan, in words and as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ct4_orphans.database import Connection, Row, rows, statement
from ct4_orphans.fix import plan_for_many

EXCLUDED = "does not show it: it is {}"
NOT_SHOWN = {
    "ops.v_driver_orphans": "does not show it: it is in no quarantine",
    "ops.v_cabinet_funnel_status": "does not show it: no driver link, and no trips",
    "ops.v_payment_calculation": "does not show it: no lead event of its person meets a rule",
    "ops.v_ct4_eligible_drivers": "does not show it: no lead event of its person makes it eligible",
}


def explanation(connection: Connection, driver_id: str) -> Row:
    """Return all that is known of a driver: links, leads, evidence, plan, history, views.

    Works for any id: one that the database does not know has no link, no history and no view.
    """
    with connection.transaction():
        connection.execute("set local jit = off")
        parameters: Row = {"driver_id": driver_id}
        parameters |= rows(connection, statement("person_of_driver"), parameters)[0]
        found = rows(connection, statement("explain"), parameters)[0]
        found |= {"evidence": None, "plan": None}
        if found["is_orphan"] or found["quarantine"]:  # nobody else has any
            plan_for_many(connection)
            found |= rows(connection, statement("explain_evidence"), parameters)[0]
    return found


def is_known(found: Row) -> bool:
    """Tell whether the database knows the driver at all."""
    return bool(found["driver_link"] or found["history"] or any(found["shown_in"].values()))


def in_words(found: Row) -> Iterator[str]:
    """Give the explanation line by line."""
    yield f"Driver {found['driver_id']}"
    yield f"  {_verdict(found)}"
    yield f"  {_state(found['quarantine'], bool(found['history']))}"
    yield from _evidence(found["evidence"])
    yield f"  {_next(found['plan'])}"
    yield "  History (times in UTC):" if found["history"] else "  History: no ledger entry."
    for entry in found["history"]:
        yield f"    {_entry(entry)}"
    yield "  Views:"
    for view, is_shown in found["shown_in"].items():
        if is_shown:
            says = "shows it"
        elif found["is_excluded"] and view != "ops.v_driver_orphans":
            says = EXCLUDED.format(found["quarantine"]["status"])
        else:
            says = NOT_SHOWN[view]
        yield f"    {view:<29} {says}"


def _verdict(found: Row) -> str:
    link = found["driver_link"]
    if link is None and found["quarantine"] and found["quarantine"]["kept_driver_link"]:
        return "No orphan: a purge removed its driver link, and keeps it in the ledger."
    if link is None:
        return "No orphan: no driver link, so it belongs to no person."
    person = f"person {found['person_key']} ({link['match_rule']}, {link['confidence_level']})"
    if found["is_orphan"]:
        return f"An orphan: linked to {person}, who has no link to any lead source."
    return f"No orphan: linked to {person}, who has a lead: {_lead_rows(found['leads'])}."


def _state(quarantine: Row | None, has_history: bool) -> str:
    if quarantine is None:
        return (
            f"Quarantine: {'taken out of it again by an undo' if has_history else 'never in it'}."
        )
    why = quarantine["explanation"] or quarantine["resolution_notes"] or "no reason is recorded."
    detected = f"detected {_minute(quarantine['detected_at'])}, {quarantine['detected_reason']}"
    return f"Quarantine: {quarantine['status']} ({detected}): {why}"


def _evidence(evidence: Row | None) -> Iterator[str]:
    if evidence is None:
        return
    if evidence["is_repairable"]:
        yield (
            f"  Evidence now: level {evidence['evidence_level']} ({evidence['strategy']}): "
            f"{_lead_rows(evidence['lead_rows'])}."
        )
    else:
        yield "  Evidence now: none that proves a lead."
    for rival in evidence["rivals"] or []:
        facts = ", ".join(
            f"{name} {' and '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in rival.items()
            if value is not None
        )
        yield f"    refused: {facts}"
    for event in evidence["weak_events"] or []:
        yield f"    weak, only the person_key: {_lead_rows([event])}"


def _next(plan: Row | None) -> str:
    if plan is None:
        return "A fix would leave it as it is."
    when = " with --reprocess-quarantined" if plan["requires_reprocess"] else ""
    return f"A fix{when} would {plan['action']} it. {plan['explanation']}"


def _entry(entry: Row) -> str:
    status = entry["status"] or "(no state)"
    actor = f" for {entry['actor']}" if entry["actor"] else ""
    run = f", run {entry['run_id']}" if entry["run_id"] else ""
    undoes = f", undoes run {entry['undoes_run_id']}" if entry["undoes_run_id"] else ""
    why = f": {entry['explanation']}" if entry["explanation"] else ""
    return (
        f"{entry['revision']}. {_minute(entry['recorded_at'])} {status} "
        f"({entry['detected_reason']}) by {entry['recorded_by']}{actor}{run}{undoes}{why}"
    )


def _lead_rows(lead_rows: list[Any], at_most: int = 5) -> str:
    named = [f"{row['source_table']} {row['source_pk']}" for row in lead_rows[:at_most]]
    more = f" and {len(lead_rows) - at_most} more" if len(lead_rows) > at_most else ""
    return ", ".join(named) + more


def _minute(timestamp: str) -> str:
    return timestamp[:16].replace("T", " ")
