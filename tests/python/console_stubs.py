"""A console without a database: what its pages show is whatever a test says."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ct4_orphans.console import pages, security
from ct4_orphans.console.reads import Find
from ct4_orphans.console.schemas import (
    Check,
    Criteria,
    DriverLink,
    Entry,
    Evidence,
    Explanation,
    FixRun,
    Funnel,
    Health,
    LeadRow,
    LedgerRun,
    NextStep,
    Orphan,
    OrphansMetrics,
    OrphansPage,
    PlannedDriver,
    Quarantine,
    Reason,
    RunState,
    Stage,
    Status,
)
from ct4_orphans.console.security import Person
from ct4_orphans.errors import DatabaseError
from ct4_orphans.verify import SAYS
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

NOW = datetime(2026, 11, 22, 15, 4, tzinfo=timezone.utc)
AWAY = "connection refused (database ct4 on localhost:5432 as ct4). Check DB_HOST."
FIXER = Person("ana", True, True)
READER = Person("luis", False, False)
STAGES = (
    "registered_incomplete",
    "registered_complete",
    "connected_no_trips",
    "reached_m1",
    "reached_m5",
    "reached_m25",
)


def driver_id(number: int) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex


def person(number: int) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, str(number))


def orphan(number: int = 0, **changes: Any) -> Orphan:
    is_relinked = number % 7 == 3
    facts: dict[str, Any] = {
        "driver_id": driver_id(number),
        "person_key": person(number),
        "detected_at": NOW - timedelta(hours=number),
        "detected_reason": "no_lead_has_events_repair_failed"
        if is_relinked
        else "no_lead_no_events",
        "creation_rule": "driver_direct",
        "evidence_json": {},
        "status": "resolved_relinked" if is_relinked else "quarantined",
        "resolved_at": None,
        "resolution_notes": None,
        "primary_phone": "******804",
        "primary_license": "******579",
        "primary_full_name": "J*** Q***",
        "confidence_level": "HIGH",
        "driver_links_count": 1,
        "lead_events_count": number % 3,
        "last_updated_at": NOW,
    }
    return Orphan(**{**facts, **changes})


def metrics(**changes: Any) -> OrphansMetrics:
    facts: dict[str, Any] = {
        "total_orphans": 886,
        "by_status": {
            "quarantined": 823,
            "resolved_relinked": 60,
            "resolved_created_lead": 3,
            "purged": 0,
        },
        "by_reason": {
            "no_lead_no_events": 766,
            "no_lead_has_events_repair_failed": 120,
            "legacy_driver_without_origin": 0,
            "manual_detection": 0,
        },
        "quarantined": 823,
        "resolved_relinked": 60,
        "resolved_created_lead": 3,
        "purged": 0,
        "with_lead_events": 123,
        "without_lead_events": 763,
        "last_updated_at": NOW,
    }
    return OrphansMetrics(**{**facts, **changes})


def no_metrics() -> OrphansMetrics:
    return metrics(
        total_orphans=0,
        by_status={status: 0 for status in Status},
        by_reason={reason: 0 for reason in Reason},
        quarantined=0,
        resolved_relinked=0,
        resolved_created_lead=0,
        with_lead_events=0,
        without_lead_events=0,
        last_updated_at=None,
    )


def planned(number: int, **changes: Any) -> PlannedDriver:
    facts: dict[str, Any] = {
        "driver_id": driver_id(number),
        "person_key": person(number),
        "action": "quarantine",
        "status": "quarantined",
        "detected_reason": "no_lead_no_events",
        "current_status": None,
        "outcome": "planned",
        "error": None,
        "has_events": False,
        "evidence_level": None,
        "strategy": None,
        "lead_rows_count": 0,
        "lead_rows": [],
        "rivals": [],
        "weak_events": [],
        "license_masked": "******579",
        "phone_masked": "******804",
        "creation_rule": "driver_direct",
        "explanation": "Quarantined: no lead event names the driver or has its licence or phone.",
        "fingerprint": "0" * 64,
    }
    if number % 4 == 1:
        row = {"event_id": 7, "source_table": "module_ct_migrations", "source_pk": f"36{number}"}
        facts |= {
            "action": "relink",
            "status": "resolved_relinked",
            "evidence_level": 1 if number % 8 == 1 else 2,
            "strategy": "driver_id_exact" if number % 8 == 1 else "license_exact",
            "lead_rows_count": 1,
            "lead_rows": [row],
        }
    if number % 4 == 2:
        facts["rivals"] = [rival()]
    return PlannedDriver(**{**facts, **changes})


def rival(**changes: Any) -> dict[str, Any]:
    return {
        "event_id": 48364,
        "source_table": "module_ct_scouting_daily",
        "source_pk": "2633",
        "event_date": "2025-09-12",
        "evidence_level": 2,
        "matched_by": ["license", "phone"],
        "refusal": "ambiguous",
        "persons": [str(person(1)), str(person(2))],
        "lead_row_linked_to": str(person(2)),
        "event_of_person": None,
        **changes,
    }


STATS: dict[str, Any] = {
    "processed": 886,
    "with_events": 120,
    "without_events": 766,
    "links_created": 60,
    "links_skipped": 0,
    "quarantined": 826,
    "resolved_relinked": 60,
    "released": 0,
    "changed": 0,
    "refused": 0,
    "already_applied": 0,
    "not_reached": 0,
    "errors": 0,
    "resolved_relinked_by_strategy": {
        "both_exact": 12,
        "driver_id_exact": 20,
        "license_exact": 14,
        "phone_exact": 14,
    },
    "quarantined_by_reason": {
        "no_lead_has_events_repair_failed": 60,
        "no_lead_no_events": 766,
    },
}


def fix_run(mode: str = "dry-run", state: str = "complete", **changes: Any) -> FixRun:
    is_running = state == "running"
    stamp = "orphans_report_20261122_150400_000000"
    facts: dict[str, Any] = {
        "id": uuid.uuid5(uuid.NAMESPACE_OID, mode + state),
        "run_id": person(99) if mode == "execute" else None,
        "mode": mode,
        "state": state,
        "actor": "ana",
        "started_at": NOW,
        "ended_at": None if is_running else NOW + timedelta(seconds=2.4),
        "step": "applying" if is_running else "ended",
        "drivers_total": 886,
        "drivers_done": 320 if is_running else 886,
        "stats": None if is_running else STATS,
        "drivers": [] if is_running else [planned(number) for number in range(30)],
        "reports": [] if is_running else [f"{stamp}.json", f"{stamp}.csv"],
        "digest": None if is_running or mode == "dry-run" else "1e24dffbf560e136" * 4,
        "message": None,
        "exit_code": None if is_running else 0,
    }
    if mode == "execute" and not is_running:
        facts["drivers"] = [planned(number, outcome="applied") for number in range(30)]
    return FixRun(**{**facts, **changes})


def explanation(**changes: Any) -> Explanation:
    facts: dict[str, Any] = {
        "driver_id": driver_id(0),
        "person_key": person(0),
        "is_orphan": True,
        "is_excluded": True,
        "driver_link": DriverLink(
            match_rule="driver_direct",
            confidence_level="HIGH",
            snapshot_at=NOW,
            linked_at=NOW,
        ),
        "leads": [],
        "quarantine": Quarantine(
            status=Status.quarantined,
            detected_reason=Reason.no_lead_has_events_repair_failed,
            detected_at=NOW,
            resolved_at=None,
            resolution_notes=None,
            explanation=None,
            kept_driver_link=None,
        ),
        "evidence": Evidence(
            is_repairable=False,
            evidence_level=None,
            strategy=None,
            lead_rows=[],
            rivals=[
                rival(),
                rival(
                    source_pk="2634",
                    refusal="event_of_another_person",
                    persons=[],
                    lead_row_linked_to=None,
                    event_of_person=str(person(3)),
                ),
            ],
            weak_events=[
                {
                    "event_id": 1,
                    "source_table": "module_ct_cabinet_leads",
                    "source_pk": "77",
                    "event_date": "2025-07-01",
                }
            ],
        ),
        "plan": None,
        "history": [
            entry(
                1,
                explanation="Quarantined: 2 lead event(s) match, but none proves a lead "
                "(ambiguous, event of another person).",
            ),
            entry(2, status=None, undoes_run_id=person(50), explanation=None),
            entry(
                3,
                detected_reason=Reason.manual_detection,
                actor="ana",
                run_id=None,
                explanation="Revisado en campo, ticket 4711",
            ),
        ],
        "shown_in": {
            "ops.v_driver_orphans": True,
            "ops.v_cabinet_funnel_status": False,
            "ops.v_payment_calculation": False,
            "ops.v_ct4_eligible_drivers": False,
        },
        "sentences": [],
    }
    return Explanation(**{**facts, **changes})


def entry(revision: int = 1, **changes: Any) -> Entry:
    facts: dict[str, Any] = {
        "revision": revision,
        "recorded_at": NOW + timedelta(days=revision),
        "recorded_by": "ct4",
        "actor": None,
        "status": Status.quarantined,
        "detected_reason": Reason.no_lead_has_events_repair_failed,
        "run_id": person(50),
        "undoes_run_id": None,
        "explanation": "Quarantined: no lead event names the driver or has its licence or phone.",
    }
    return Entry(**{**facts, **changes})


def repairable(**changes: Any) -> Explanation:
    rows = [LeadRow(source_table="module_ct_migrations", source_pk=str(pk)) for pk in range(5)]
    return explanation(
        evidence=Evidence(
            is_repairable=True,
            evidence_level=1,
            strategy="driver_id_exact",
            lead_rows=rows,
            rivals=[],
            weak_events=[],
        ),
        plan=NextStep(action="relink", requires_reprocess=True, explanation="Relinked: …"),
        **changes,
    )


def criteria(violations: int | None = 0, is_green: bool | None = True) -> Criteria:
    checks = [
        Check(
            name=name,
            criterion=int(name.split("_")[1]),
            checked=55_200,
            violations=violations if name == next(iter(SAYS)) else 0,
            is_green=is_green if name == next(iter(SAYS)) else True,
        )
        for name in SAYS
    ]
    return Criteria(checks=checks, at=NOW)


def funnel(*drivers: int) -> Funnel:
    counts = drivers or (120, 4_310, 9_870, 12_004, 15_221, 12_849)
    stages = [Stage(funnel_status=name, drivers=n) for name, n in zip(STAGES, counts, strict=True)]
    return Funnel(stages=stages, at=NOW)


def ledger_run(**changes: Any) -> LedgerRun:
    facts: dict[str, Any] = {
        "run_id": person(50),
        "command": "fix",
        "mode": "execute",
        "run_by": "ct4_orphans_fixer",
        "actor": "ana",
        "started_at": NOW,
        "ended_at": NOW,
        "entries": 886,
    }
    return LedgerRun(**{**facts, **changes})


def health(**changes: Any) -> Health:
    facts: dict[str, Any] = {
        "status": "ok",
        "database": "ct4_demo",
        "message": None,
        "reads_as": "ct4_orphans_reader",
        "fix_enabled": True,
        "version": "1.0.0",
    }
    return Health(**{**facts, **changes})


class StubReads:
    """Answers with what it was given; an exception is raised, and what was asked is kept."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "orphans": [orphan(number) for number in range(120)],
            "metrics": metrics(),
            "explanation": explanation(),
            "criteria": criteria(),
            "funnel": funnel(),
            "last_runs": [
                ledger_run(),
                ledger_run(actor=None, command="undo", mode=None, ended_at=None, entries=12_040),
            ],
            "health": health(),
            **answers,
        }
        self.found: list[tuple[Find, bool]] = []

    def _answer(self, name: str) -> Any:
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def page(self, find: Find, *, personal: bool = False) -> OrphansPage:
        self.found.append((find, personal))
        orphans = [
            row
            for row in self._answer("orphans")
            if find.status in (None, row.status)
            and find.detected_reason in (None, row.detected_reason)
            and row.driver_id.startswith(find.driver_id or "")
        ]
        first = (find.page - 1) * find.page_size
        return OrphansPage(
            orphans=orphans[first : first + find.page_size],
            total=len(orphans),
            page=find.page,
            page_size=find.page_size,
            total_pages=-(-len(orphans) // find.page_size),
        )

    def explanation(self, driver_id: str) -> Explanation | None:
        found: Explanation | None = self._answer("explanation")
        return found.model_copy(update={"driver_id": driver_id}) if found else None

    def __getattr__(self, name: str) -> Callable[[], Any]:
        return lambda: self._answer(name)


class StubRuns:
    """The runs that a test says there are."""

    def __init__(
        self, *runs: FixRun, plan: FixRun | None = None, current: FixRun | None = None
    ) -> None:
        known = [run for run in (*runs, plan, current) if run]
        self.runs = {run.id: run for run in known}
        self.plan = plan
        self.on = current

    def get(self, id: uuid.UUID) -> FixRun | None:
        return self.runs.get(id)

    def current(self) -> FixRun | None:
        return self.on

    def newest_plan(self) -> FixRun | None:
        return self.plan


def away() -> StubReads:
    error = DatabaseError(AWAY)
    answers = {
        name: error
        for name in (
            "orphans",
            "metrics",
            "explanation",
            "criteria",
            "funnel",
            "last_runs",
        )
    }
    unavailable = health(status="unavailable", message=AWAY, reads_as=None)
    return StubReads(**answers, health=unavailable)


def stub_app(
    reads: StubReads | None = None,
    runs: StubRuns | None = None,
    who: Person | None = FIXER,
    tokens: bool = True,
    fix_enabled: bool = True,
) -> FastAPI:
    """Make the pages' app; `who` is None: whoever the real `security.reader` says."""
    app = FastAPI()
    app.state.reads = reads or StubReads()
    app.state.runs = runs or StubRuns()
    app.state.options = SimpleNamespace(
        tokens=object() if tokens else None, fix_enabled=fix_enabled, is_behind_https=False
    )
    app.include_router(pages.router)
    static = Path(pages.__file__).parent / "static"
    app.mount("/static", StaticFiles(directory=static))
    if who:
        app.dependency_overrides[security.reader] = lambda: who
    return app


def is_over(run: FixRun) -> bool:
    return run.state is not RunState.running
