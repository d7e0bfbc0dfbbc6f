"""`dbt test` for people: the criteria of instrucciones-deploy.md as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from ct4_orphans import project
from ct4_orphans.database import Connection, Settings, connect, rows, statement
from ct4_orphans.errors import DatabaseError, some

AUDIT = "ct4_orphans_audit"
SHOWN_PER_CHECK = 5
SAYS = {
    "criterion_1_drivers_without_lead_outside_quarantine": "1  no driver without a lead operates",
    "criterion_2_excluded_drivers_in_funnel": "2  none that is shut out in the funnel",
    "criterion_2_excluded_drivers_in_payments": "2  none that is shut out is paid",
    "criterion_2_excluded_drivers_in_eligible": "2  none that is shut out is eligible",
    "criterion_3_drivers_without_lead_without_record": "3  each driver without a lead is recorded",
    "criterion_5_quarantined_drivers_with_a_lead": "5  nobody with a lead is shut out",
    "criterion_5_released_drivers_without_lead": "5  nobody was let out without a lead",
    "criterion_5_relinks_and_ledger_disagree": "5  links of the fix and ledger agree",
    "criterion_5_ledger_history_has_gaps": "5  the ledger's history is whole",
}
FOR_A_PERSON = (
    "criterion_5_relinks_and_ledger_disagree",
    "criterion_5_ledger_history_has_gaps",
)
CRITERION_4 = "4  the page works"


@dataclass(frozen=True)
class Check:
    """One dbt test: its name, what became of it, and how many rows it looked at, where known."""

    name: str
    status: str
    violations: int | None
    checked: int | None = None

    @property
    def is_green(self) -> bool:
        """Tell whether it passed; a warning is no violation."""
        return self.status in ("pass", "warn")


def refuse_without_rights(connection: Connection) -> None:
    """Raise DatabaseError if this user may not keep violations as views, as dbt does."""
    may_not = rows(
        connection,
        "select 1 where case when to_regnamespace(%(audit)s) is null"
        " then not has_database_privilege(current_database(), 'create')"
        " else not has_schema_privilege(%(audit)s, 'create') end",
        {"audit": AUDIT},
    )
    if may_not:
        raise DatabaseError(
            f"This user may not verify: violations are kept as views in {AUDIT}. Use the user that "
            "deploys (a member of ct4_orphans_migrator, where the roles are)."
        )


def verify(
    settings: Settings, select: str | None = None, line_by_line: Callable[[str], None] = print
) -> list[Check]:
    """Run the data tests and return them, the criteria first.

    `select` narrows them down as dbt's own option does. Raises DatabaseError if dbt could not test,
    or if what was looked at is nothing.
    """
    project.target("run_results.json").unlink(missing_ok=True)
    words = ["dbt", "test", "--exclude-resource-type", "unit_test"]
    _, output = project.run(
        *words,
        *(["--select", select] if select else []),
        settings=settings,
        line_by_line=line_by_line,
    )
    if not project.target("run_results.json").exists():
        raise DatabaseError(f"dbt could not test: {project.last_words(output)}")
    results = {
        result["unique_id"].split(".")[2]: result
        for result in project.artifact("run_results.json")["results"]
        if result["unique_id"].startswith("test.")
    }
    with connect(settings, read_only=True) as connection:
        checked = rows(connection, statement("checked"))[0]
    missing = sorted(_wanted(select) - set(results))
    if missing:
        raise DatabaseError(f"The verification looked at nothing for {', '.join(missing)}.")
    for names in (("criterion_1",), ("criterion_2",), ("criterion_3",)):
        looked_at = [checked[name] for name in SAYS if name.startswith(names)]
        if not sum(looked_at):
            raise DatabaseError(
                f"The verification looked at nothing: no rows for {names[0]}. "
                "Check DB_NAME, and that CT4's loads have run."
            )
    if checked["has_drivers_to_show"] and not checked["criterion_2_excluded_drivers_in_funnel"]:
        raise DatabaseError(
            "The verification looked at nothing: ops.v_cabinet_funnel_status shows nobody at all. "
            "Someone has replaced it:  orphans deploy --only build"
        )
    return sorted(
        (
            Check(name, result["status"], result["failures"], checked.get(name))
            for name, result in results.items()
        ),
        key=lambda check: (list(SAYS).index(check.name) if check.name in SAYS else 99, check.name),
    )


def in_words(checks: list[Check], *, is_whole: bool = True) -> Iterator[str]:
    """Give the table line by line."""
    yield f"  {'criterion':<44}{'checked':>10}{'violations':>12}  rows in"
    for check in checks:
        if check.name in SAYS:
            if is_whole and check.name.startswith("criterion_5_quarantined"):
                yield f"  {CRITERION_4:<44}{'-':>10}{'-':>12}  not by SQL: orphans serve"
            yield (
                f"  {SAYS[check.name]:<44}{check.checked:>10,}{_violations(check):>12}  "
                f"{AUDIT}.{check.name}"
            )
    others = [check for check in checks if check.name not in SAYS]
    if others:
        passed = sum(1 for check in others if check.status == "pass")
        yield f"  other checks (grain, known values, looked at something): {passed} passed"
    for check in others:
        if check.status != "pass":
            kind = "WARNING" if check.is_green else "FAILED"
            yield f"  {kind}: {_violations(check)} rows in {AUDIT}.{check.name}"


def remedies(checks: list[Check]) -> list[str]:
    """Return what to do about what is red, each once."""
    found = []
    for check in checks:
        if check.is_green:
            continue
        if check.violations is None:
            found.append(f"{check.name} could not be carried out: run dbt test to see why.")
        elif check.name.startswith("criterion_2"):
            found.append("Someone has replaced a view:  orphans deploy --only build.")
        elif check.name in FOR_A_PERSON:
            found.append("Links or history were changed by hand: README, The tests.")
        elif check.name in SAYS:
            found.append("See what a fix would do:  orphans fix --dry-run.")
        else:
            found.append(f"{check.name}: README, The tests.")
    return list(dict.fromkeys(found))


def violators(connection: Connection, checks: list[Check]) -> Iterator[str]:
    """Give the first violating rows of every red criterion, and what puts them right."""
    for check in checks:
        if check.is_green or check.violations is None:
            continue
        query = sql.SQL("select * from {} limit %s").format(sql.Identifier(AUDIT, check.name))
        for row in rows(connection, query, [SHOWN_PER_CHECK]):
            # Where a model of identifiers has a row twice, `value` is a licence or a phone.
            facts = ", ".join(f"{name} {row[name]}" for name in row if name != "value")
            yield f"    {check.name.split('_')[1]}: {facts}"
    yield from broken_rules(connection)


def broken_rules(connection: Connection) -> Iterator[str]:
    """Name the drivers whose quarantine state breaks a rule, and who can put it right."""
    for row in rows(connection, statement("broken_rules"), {"lead_sources": lead_sources()}):
        yield f"  {row['problem']}: {some(row['drivers'])}. {row['remedy']}"


def lead_sources() -> list[str]:
    """Return the lead sources, from the seed that every rule reads."""
    lines = (project.ROOT / "seeds/lead_sources.csv").read_text("utf-8").splitlines()
    return [line.split(",")[0] for line in lines[1:] if line]


def _wanted(select: str | None) -> set[str]:
    """Return the acceptance tests that must have run; none may go missing in silence."""
    if select:
        return {name for name in SAYS if name.startswith(select.rstrip("*"))}
    tests = (project.ROOT / "tests/acceptance").glob("*.sql")
    return {path.stem for path in tests if not path.stem.startswith("parity_")}


def _violations(check: Check) -> Any:
    return check.status.upper() if check.violations is None else f"{check.violations:,}"


def is_green(checks: list[Check]) -> bool:
    """Tell whether there is no violation at all."""
    return bool(checks) and all(check.is_green for check in checks)
