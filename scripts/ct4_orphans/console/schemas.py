"""What the API takes and gives. Times are in UTC; counts are of drivers unless they say otherwise.

The names of the orphan's columns are those of ops.v_driver_orphans.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Status(str, Enum):
    """The type orphan_status."""

    quarantined = "quarantined"
    resolved_relinked = "resolved_relinked"
    resolved_created_lead = "resolved_created_lead"
    purged = "purged"


class Reason(str, Enum):
    """The type orphan_detected_reason."""

    no_lead_no_events = "no_lead_no_events"
    no_lead_has_events_repair_failed = "no_lead_has_events_repair_failed"
    legacy_driver_without_origin = "legacy_driver_without_origin"
    manual_detection = "manual_detection"


Sort = Literal[
    "driver_id",
    "-driver_id",
    "detected_at",
    "-detected_at",
    "status",
    "-status",
    "detected_reason",
    "-detected_reason",
    "last_updated_at",
    "-last_updated_at",
]


class Orphan(BaseModel):
    """A driver who was ever in the quarantine: one row of ops.v_driver_orphans.

    Phone, licence and name are masked, but for who asked for them and may have them.
    """

    driver_id: str
    person_key: uuid.UUID | None
    detected_at: datetime
    detected_reason: Reason
    creation_rule: str | None
    evidence_json: Any
    status: Status
    resolved_at: datetime | None
    resolution_notes: str | None
    primary_phone: str | None
    primary_license: str | None
    primary_full_name: str | None
    confidence_level: str | None
    driver_links_count: int
    lead_events_count: int
    last_updated_at: datetime


class OrphansPage(BaseModel):
    """One page of the list. A page after the last one is empty."""

    orphans: list[Orphan]
    total: int
    page: int
    page_size: int
    total_pages: int


class OrphansMetrics(BaseModel):
    """The counts of the card; every status and reason is there, with 0 too."""

    total_orphans: int
    by_status: dict[Status, int]
    by_reason: dict[Reason, int]
    quarantined: int
    resolved_relinked: int
    resolved_created_lead: int
    purged: int
    with_lead_events: int
    without_lead_events: int
    last_updated_at: datetime | None


class DriverLink(BaseModel):
    """The link of a driver to its person."""

    match_rule: str
    confidence_level: str
    snapshot_at: datetime | None
    linked_at: datetime | None


class LeadRow(BaseModel):
    """A row of a lead source."""

    model_config = ConfigDict(extra="allow")

    source_table: str
    source_pk: str


class Evidence(BaseModel):
    """What the lead events say of an orphan now, and what was refused."""

    is_repairable: bool
    evidence_level: int | None
    strategy: str | None
    lead_rows: list[LeadRow]
    rivals: list[dict[str, Any]]
    weak_events: list[dict[str, Any]]


class NextStep(BaseModel):
    """What a fix would do to the driver."""

    action: str
    requires_reprocess: bool
    explanation: str


class Quarantine(BaseModel):
    """The driver's state: its newest entry in the ledger."""

    status: Status
    detected_reason: Reason
    detected_at: datetime
    resolved_at: datetime | None
    resolution_notes: str | None
    explanation: str | None
    kept_driver_link: dict[str, Any] | None


class Entry(BaseModel):
    """One entry of the ledger. `actor` is the person for whom the console wrote it."""

    revision: int
    recorded_at: datetime
    recorded_by: str
    actor: str | None
    status: Status | None
    detected_reason: Reason
    run_id: uuid.UUID | None
    undoes_run_id: uuid.UUID | None
    explanation: str | None


class Explanation(BaseModel):
    """Why a driver is or is not an orphan; `sentences` are those of `orphans explain`."""

    driver_id: str
    person_key: uuid.UUID | None
    is_orphan: bool
    is_excluded: bool
    driver_link: DriverLink | None
    leads: list[LeadRow]
    quarantine: Quarantine | None
    evidence: Evidence | None
    plan: NextStep | None
    history: list[Entry]
    shown_in: dict[str, bool]
    sentences: list[str]


class RunFixRequest(BaseModel):
    """What to do. Without `execute` it is a dry-run, and nothing can be written."""

    model_config = ConfigDict(extra="forbid")

    execute: bool = False
    limit: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    reprocess_quarantined: bool = False
    plan: Annotated[
        str | None,
        Field(
            description="With execute: the name of the JSON report of a dry-run. Exactly its "
            "drivers are applied, those whose situation has changed since are refused.",
            pattern=r"^orphans_report_[0-9_]+\.json$",
        ),
    ] = None
    expected_drivers: Annotated[
        int | None,
        Field(ge=0, description="With a plan: refused unless it has this many drivers."),
    ] = None


class PlannedDriver(BaseModel):
    """One driver of a run: the columns of the reports."""

    driver_id: str
    person_key: uuid.UUID | None
    action: str | None
    status: Status | None
    detected_reason: Reason | None
    current_status: Status | None
    outcome: str | None
    error: str | None
    has_events: bool | None
    evidence_level: int | None
    strategy: str | None
    lead_rows_count: int | None
    lead_rows: Any
    rivals: Any
    weak_events: Any
    license_masked: str | None
    phone_masked: str | None
    creation_rule: str | None
    explanation: str | None
    fingerprint: str | None


class RunState(str, Enum):
    """Where a run of the console stands."""

    running = "running"
    complete = "complete"
    incomplete = "incomplete"  # ended, but something is left: `message` says what
    failed = "failed"


class FixRun(BaseModel):
    """A run that the console started; `stats` and `drivers` are those of its report.

    `drivers` are the first ones; the reports have all. `seal` is the ledger's digest after it.
    """

    id: uuid.UUID
    run_id: uuid.UUID | None = Field(description="Of the ledger; a dry-run has none.")
    mode: Literal["dry-run", "execute"]
    state: RunState
    actor: str
    started_at: datetime
    ended_at: datetime | None
    step: Literal["planning", "applying", "reporting", "ended"]
    drivers_total: int | None = Field(description="Known once the plan is made.")
    drivers_done: int
    stats: dict[str, Any] | None
    drivers: list[PlannedDriver]
    reports: list[str] = Field(description="Names, to be fetched under /reports/.")
    digest: str | None
    message: str | None = Field(description="What happened and what to do, if not all went well.")
    exit_code: int | None = Field(description="What the command would have ended with.")


class PlanPage(BaseModel):
    """What an execute would do now, read live: nothing is kept of it."""

    drivers: list[PlannedDriver]
    total: int
    at: datetime


class Check(BaseModel):
    """One check of a criterion, counted live. A check that looked at nothing is not green."""

    name: str
    criterion: int
    checked: int | None
    violations: int | None
    is_green: bool | None = Field(description="Unknown (null) before the first `orphans verify`.")


class Criteria(BaseModel):
    """The criteria of instrucciones-deploy.md."""

    checks: list[Check]
    at: datetime


class Stage(BaseModel):
    """One stage of the funnel, and how many drivers v_cabinet_funnel_status has in it."""

    funnel_status: str
    drivers: int


class Funnel(BaseModel):
    """All stages, in the order a driver passes them, with 0 too."""

    stages: list[Stage]
    at: datetime


class LedgerRun(BaseModel):
    """A run that appended to the ledger, of any command."""

    run_id: uuid.UUID
    command: str
    mode: str | None
    run_by: str
    actor: str | None
    started_at: datetime
    ended_at: datetime | None
    entries: int


class Health(BaseModel):
    """Whether the console can work, and what it may do: null for who has no token."""

    status: Literal["ok", "unavailable"]
    database: str | None = None
    message: str | None = None
    reads_as: str | None = Field(default=None, description="The database role of the reads.")
    fix_enabled: bool | None = None
    version: str | None = None


class Problem(BaseModel):
    """What happened and what to do, in one line."""

    detail: str
