"""Plans are checked by their shape, not by time: no sequential scan inside a loop, no step that
handles orphans x events, no view evaluated twice.

On a town of 20,000 drivers as scripts/bench/town.sql makes it, before a fix has run, and after one,
when the ledger is full, new orphans have come, and others a lead. Which plan PostgreSQL takes is
its own affair.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, LiteralString, cast

import plans
import psycopg
import pytest
from conftest import ROOT, must_run, open_connection
from ct4_orphans import embedded, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings, connect, statement
from plans import Tree
from psycopg import sql
from psycopg.rows import dict_row

SIZES = {"drivers": 20_000, "orphans": 2_000, "events": 100_000, "days": 5}
TABLES = {
    "identity_links": "canon.identity_links",
    "identity_registry": "canon.identity_registry",
    "drivers_index": "canon.drivers_index",
    "drivers": "public.drivers",
    "lead_events": "observational.lead_events",
    "lead_ledger": "observational.lead_ledger",
    "summary_daily": "public.summary_daily",
    "yango_payments_ledger": "ops.yango_payments_ledger",
    "driver_orphan_quarantine_ledger": "canon.driver_orphan_quarantine_ledger",
}
# A bad plan of this town takes minutes; a good one a second.
TIMEOUT = "120s"


@dataclass(frozen=True)
class Query:
    text: sql.Composable
    parameters: dict[str, Any] = field(default_factory=dict)
    is_plan: bool = False
    """Whether it is run with the settings of fix.plan_for_many."""


LEDGER = "driver_orphan_quarantine_ledger"
# How many times each query may read the large tables; others not at all. A view that is evaluated
# twice reads its tables twice. The newest entries of the quarantine are the ledger, read twice.
QUARANTINE = Counter({LEDGER: 2})
# A conversion is lead events (those with a person, those without: each row is used by one of
# two reads), the links of their lead rows, and for both kinds those of the drivers and of newer
# drivers; the funnel asks for each driver's own link besides.
CONVERSIONS = Counter({"lead_events": 2, "lead_ledger": 1, "identity_links": 5}) + QUARANTINE
PAYMENTS = CONVERSIONS + Counter({"summary_daily": 1})
FUNNEL = PAYMENTS + Counter({"identity_links": 1}) + QUARANTINE
ELIGIBLE = CONVERSIONS + Counter({"yango_payments_ledger": 1})
# Each of three counts starts from the quarantine, so that one driver's is one person's.
ORPHANS = Counter({"identity_links": 2, "identity_registry": 1, "lead_events": 2, LEDGER: 9})
VIEWS: dict[LiteralString, Counter[str]] = {
    "v_driver_orphans": ORPHANS,
    "v_payment_calculation": PAYMENTS,
    "v_cabinet_funnel_status": FUNNEL,
    "v_ct4_eligible_drivers": ELIGIBLE,
}
# Events: those that may speak for an orphan, and those of new leads. What they say, whose they are,
# and what only carries a person is found by indexes. The orphans are found once.
PLAN = Counter({"lead_events": 2, "identity_links": 7, LEDGER: 6}) + Counter(
    dict.fromkeys(["drivers_index", "drivers", "identity_registry"], 3)
)
DRIVERS_AND_LEADS = Counter({"identity_links": 2})
ACCEPTANCE: dict[str, Counter[str]] = {
    "criterion_1_drivers_without_lead_outside_quarantine": DRIVERS_AND_LEADS + QUARANTINE,
    "criterion_2_excluded_drivers_in_eligible": ELIGIBLE + QUARANTINE,
    "criterion_2_excluded_drivers_in_funnel": FUNNEL + QUARANTINE,
    "criterion_2_excluded_drivers_in_payments": PAYMENTS + QUARANTINE,
    "criterion_3_drivers_without_lead_without_record": DRIVERS_AND_LEADS + QUARANTINE,
    "criterion_5_ledger_history_has_gaps": Counter({LEDGER: 1}),
    "criterion_5_quarantined_drivers_with_a_lead": DRIVERS_AND_LEADS + QUARANTINE,
    "criterion_5_released_drivers_without_lead": DRIVERS_AND_LEADS + QUARANTINE,
    "criterion_5_relinks_and_ledger_disagree": Counter({"identity_links": 2, LEDGER: 2}),
    "looked_at_something": Counter(
        dict.fromkeys(["identity_links", "lead_events", "summary_daily"], 1)
    ),
    "warning_malformed_lead_events": Counter({"lead_events": 1}),
    "warning_malformed_summary_rows": Counter({"summary_daily": 2}),
    "warning_payable_without_a_date": PAYMENTS,
}
# Where it looks for single lead rows or events, a batch reads less than a table.
BATCH: dict[str, Counter[str]] = {
    "find_changed": Counter({"identity_links": 3, "lead_events": 1, LEDGER: 1}),
    "insert_links": Counter(),
    "insert_entries": QUARANTINE,
    "postconditions": Counter({"identity_links": 1, LEDGER: 3}),
    "seal": Counter({LEDGER: 1}),
}


# --- The towns ------------------------------------------------------------------------------------


class Town:
    """A database that is only read: what is done in it is rolled back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # A ClientCursor, because EXPLAIN takes no parameters.
        self.connection: Connection = psycopg.connect(
            **settings.connection_parameters(),  # type: ignore[arg-type]
            autocommit=True,
            cursor_factory=psycopg.ClientCursor,
            row_factory=dict_row,
        )
        self.sizes = {name: self.count(table) for name, table in TABLES.items()}

    def count(self, table: str) -> int:
        query = sql.SQL("select count(*) as rows from {}")
        row = self.connection.execute(query.format(sql.Identifier(*table.split(".")))).fetchone()
        assert row
        return int(row["rows"])

    def explain(self, query: sql.Composable, parameters: dict[str, Any] | None = None) -> Tree:
        """Run a query in the transaction that is on."""
        self.connection.execute(
            sql.SQL("set local statement_timeout = {}; set local jit = off").format(TIMEOUT)
        )
        row = self.connection.execute(
            sql.SQL("explain (analyze, timing off, costs off, format json) ") + query, parameters
        ).fetchone()
        assert row
        return cast("Tree", row["QUERY PLAN"][0]["Plan"])

    def plan_of(self, query: Query) -> Tree:
        with self.connection.transaction(force_rollback=True):
            if query.is_plan:
                fixing.plan_for_many(self.connection)
            return self.explain(query.text, query.parameters or None)

    def plans_of_a_batch(self) -> dict[str, Tree]:
        """What the fix runs in each of its transactions, one after the other."""
        run = {"run_id": uuid.uuid4(), "command": "fix", "step": "applied"}
        numbers = {"first": 1, "last": fixing.DRIVERS_PER_TRANSACTION}
        parameters = run | numbers | {"parameters": "{}", "counts": "{}"}
        # Not in one transaction: the plan's settings are not those of the batches.
        assert fixing.prepare(self.connection, fixing.Options()) >= 600
        with self.connection.transaction(force_rollback=True):
            return {name: self.explain(step(name), parameters) for name in BATCH}

    def close(self) -> None:
        self.connection.close()


def step(name: str) -> sql.Composable:
    if name != "seal":
        return statement(name)
    parts = {"entry": "entry_text", "seal": "seal_text", "protection": "protection"}
    return statement(name).format(**{key: statement(part) for key, part in parts.items()})


@pytest.fixture(scope="module")
def towns(server: Settings) -> Iterator[dict[str, Town]]:
    """Before a fix has run; and after one: a full ledger, 500 new orphans, 100 to release."""
    names = [f"test_shapes_{os.getpid()}_{number}" for number in (1, 2)]
    before = embedded.recreate_database(server, names[0], template="template_built")
    with open_connection(before) as connection:
        for name, size in SIZES.items():
            connection.execute("select set_config(%s, %s, false)", [f"bench.{name}", str(size)])
        connection.execute((ROOT / "scripts/bench/town.sql").read_text())  # type: ignore[arg-type]
        connection.execute("analyze")
    after = embedded.recreate_database(server, names[1], template=names[0])
    with connect(after) as connection:
        fixing.prepare(connection, fixing.Options())
        fixing.apply(connection, seals.Run("fix", {}))
        connection.execute(
            "delete from canon.identity_links where source_table <> 'drivers' and person_key in"
            " (select md5('person ' || number)::uuid from generate_series(5001, 5500) as number)"
        )
        connection.execute(
            "insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date,"
            " match_rule, match_score, confidence_level)"
            " select md5('person ' || number)::uuid, 'module_ct_migrations', 'new-' || number,"
            " '2025-08-01+00', 'MANUAL', 100, 'HIGH' from generate_series(7, 1000, 10) as number"
        )
        connection.execute("analyze")
    found = {"before a fix": Town(before), "after a fix": Town(after)}
    assert found["after a fix"].sizes[LEDGER] == SIZES["orphans"]
    yield found
    for town in found.values():
        town.close()
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        for name in names:
            connection.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def acceptance(towns: dict[str, Town], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The SQL of the acceptance tests, as dbt compiles it."""
    target = tmp_path_factory.mktemp("target")
    must_run(
        *("dbt", "compile", "--select", "path:tests/acceptance"),
        settings=towns["before a fix"].settings,
        DBT_TARGET_PATH=str(target),
    )
    nodes = json.loads((target / "manifest.json").read_text())["nodes"].values()
    return {
        node["name"]: node["compiled_code"].replace(f'"{node["database"]}".', "")
        for node in nodes
        if node["name"] in ACCEPTANCE
    }


@pytest.fixture(scope="module")
def batches(towns: dict[str, Town]) -> dict[str, dict[str, Tree]]:
    return {when: town.plans_of_a_batch() for when, town in towns.items()}


WHEN = pytest.mark.parametrize("when", ["before a fix", "after a fix"])


def assert_sound(town: Town, tree: Tree, reads: Counter[str]) -> None:
    found = plans.faults(tree, town.sizes, reads)
    assert not found, "\n" + "\n".join([*found, plans.outline(tree)])


# --- The shapes -----------------------------------------------------------------------------------


@WHEN
@pytest.mark.parametrize(
    "parameters",
    [{"reprocess": False, "limit": None}, {"reprocess": True, "limit": 100}],
    ids=["all", "some"],
)
def test_the_plan_of_a_fix(towns: dict[str, Town], when: str, parameters: dict[str, Any]) -> None:
    text = statement("plan") + sql.SQL(" order by person_no, driver_id")
    tree = towns[when].plan_of(Query(text, parameters, is_plan=True))
    assert_sound(towns[when], tree, PLAN)


@WHEN
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_read_in_full(towns: dict[str, Town], when: str, view: LiteralString) -> None:
    tree = towns[when].plan_of(Query(sql.SQL("select * from ops." + view)))
    assert_sound(towns[when], tree, VIEWS[view])


@WHEN
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("driver", [1, 5_001, 12_345], ids=["orphan", "new orphan", "with lead"])
def test_a_view_read_for_one_driver(
    towns: dict[str, Town], when: str, view: LiteralString, driver: int
) -> None:
    text = sql.SQL("select * from ops." + view + " where driver_id = md5('driver ' || {})")
    tree = towns[when].plan_of(Query(text.format(driver)))
    assert_sound(towns[when], tree, VIEWS[view])
    # No index of ours is needed for that: CT4 has those of a driver's link and a person's events.
    assert plans.passes(tree, towns[when].sizes).get("lead_events", 0) <= plans.TOLERANCE


def test_every_acceptance_test_is_looked_at() -> None:
    """Those against CT4's own views are not: CT4's are as slow as they are."""
    there = {path.stem for path in (ROOT / "tests/acceptance").glob("*.sql")}
    assert {name for name in there if not name.startswith("parity_")} == set(ACCEPTANCE)


@WHEN
@pytest.mark.parametrize("test", sorted(ACCEPTANCE))
def test_an_acceptance_test(
    towns: dict[str, Town], acceptance: dict[str, str], when: str, test: str
) -> None:
    tree = towns[when].plan_of(Query(sql.SQL(cast("LiteralString", acceptance[test]))))
    assert_sound(towns[when], tree, ACCEPTANCE[test])


@WHEN
@pytest.mark.parametrize("name", BATCH)
def test_a_statement_of_each_batch(
    towns: dict[str, Town], batches: dict[str, dict[str, Tree]], when: str, name: str
) -> None:
    assert_sound(towns[when], batches[when][name], BATCH[name])


# --- The checker itself ---------------------------------------------------------------------------

ALL = {"lead_events": 100_000, "identity_links": 40_000, "rules": 10}
ONCE = dict.fromkeys(ALL, 1)


def node(kind: str, *children: Tree, rows: float = 10, loops: float = 1, **more: Any) -> Tree:
    """A step; its keys as in EXPLAIN's JSON, with _ for a blank."""
    keys = {key.replace("_", " "): value for key, value in more.items()}
    counts = {"Node Type": kind, "Actual Rows": rows, "Actual Loops": loops}
    return {**counts, **keys, "Plans": list(children)}


def scan(table: str, loops: float = 1, **more: Any) -> Tree:
    values = {"rows": ALL[table], "kind": "Seq Scan", "Relation_Name": table} | more
    return node(loops=loops, **values)


def join(outer: Tree, inner: Tree, kind: str = "Nested Loop", **more: Any) -> Tree:
    return node(kind, outer | {"Parent Relationship": "Outer"}, inner, **more)


def gather(child: Tree, workers: int = 2) -> Tree:
    return node("Gather", child, Workers_Launched=workers)


SOUND = {
    "each table once": join(scan("lead_events"), scan("identity_links"), "Hash Join"),
    "once by each of three processes": gather(
        join(
            scan("lead_events", 3, rows=33_333, Parallel_Aware=True),
            scan("identity_links", 3),
            "Hash Join",
        )
    ),
    "one of the workers came too late": gather(
        join(
            scan("lead_events", 2, rows=50_000, Parallel_Aware=True),
            scan("identity_links", 2),
            "Hash Join",
        )
    ),
    "a tiny table for each row": join(scan("identity_links"), scan("rules", 40_000)),
    "a join that never asked its other side": join(
        scan("identity_links", rows=0, Rows_Removed_by_Filter=40_000), scan("lead_events", 0)
    ),
    "a lookup for each row": join(
        scan("identity_links"),
        scan("lead_events", 40_000, kind="Index Scan", rows=1, Index_Cond="(id = x)"),
    ),
    "a lookup in a subplan": node(
        "Result",
        scan("lead_events", 900, kind="Index Scan", rows=0, Index_Cond="(id = x)")
        | {"Parent Relationship": "SubPlan"},
    ),
    "what is worked out once before": node(
        "Result", scan("lead_events") | {"Parent Relationship": "InitPlan"}
    ),
    "a part of a table twice": join(
        scan("lead_events", rows=30_000, kind="Bitmap Heap Scan", Index_Cond="(a = 1)"),
        scan("lead_events", rows=30_000, kind="Index Only Scan", Index_Cond="(a = 2)"),
        "Hash Join",
    ),
    "a table that nobody counts": join(scan("lead_events"), scan("rules", Relation_Name="x")),
}
BROKEN = {
    "a scan for each row": (
        join(scan("rules"), scan("lead_events", 10)),
        "Seq Scan lead_events is run 10 times",
    ),
    "a scan for each row of each process": (
        gather(join(scan("rules", 3, Parallel_Aware=True), scan("lead_events", 10))),
        "Seq Scan lead_events is run 10 times",
    ),
    "a parallel scan for each row": (
        gather(scan("identity_links", 12, rows=13_333, Parallel_Aware=True)),
        "Seq Scan identity_links is run 4 times",
    ),
    "a whole index for each row": (
        join(scan("rules"), scan("lead_events", 10, kind="Index Only Scan")),
        "Index Only Scan lead_events is run 10 times",
    ),
    "a scan in a subplan, though a hashed one": (
        node("Result", scan("lead_events") | {"Parent Relationship": "SubPlan"}),
        "Seq Scan lead_events is in a SubPlan",
    ),
    "below a subplan": (
        node(
            "Result",
            node("Aggregate", scan("lead_events")) | {"Parent Relationship": "SubPlan"},
        ),
        "Seq Scan lead_events is in a SubPlan",
    ),
    "a materialized table for each row": (
        join(scan("rules"), node("Materialize", scan("lead_events"), rows=100_000, loops=10)),
        "Materialize handles 1000000 rows; all tables have 140010",
    ),
    "a filtered CTE for each row": (
        join(
            scan("rules"),
            node("CTE Scan", loops=10, rows=0, Rows_Removed_by_Filter=99_000, CTE_Name="cte"),
        ),
        "CTE Scan cte handles 990000 rows; all tables have 140010",
    ),
    "pairs that a join throws away": (
        join(scan("rules"), scan("identity_links"), Rows_Removed_by_Join_Filter=900_000),
        "Nested Loop handles 900010 rows; all tables have 140010",
    ),
    "a join that multiplies": (
        join(scan("rules"), scan("identity_links"), "Hash Join", rows=900_000),
        "Hash Join handles 900000 rows; all tables have 140010",
    ),
    "a join that multiplies, in each process": (
        gather(
            join(scan("rules", 3), scan("identity_links", 3), "Hash Join", rows=300_000, loops=3)
        ),
        "Hash Join handles 900000 rows; all tables have 140010",
    ),
    "lookups without end": (
        join(
            scan("rules"),
            scan("identity_links", 700_000, kind="Index Scan", rows=0, Index_Cond="(a = x)"),
        ),
        "Index Scan identity_links handles 700000 rows; all tables have 140010",
    ),
    "a table twice": (
        join(scan("lead_events"), scan("lead_events"), "Hash Join"),
        "lead_events is read 2.00 times, not 1",
    ),
    "a table twice, once by an index": (
        join(
            scan("lead_events", rows=10, Rows_Removed_by_Filter=99_990),
            scan("lead_events", kind="Index Scan", rows=60_000, Index_Cond="(a = 1)"),
            "Hash Join",
        ),
        "lead_events is read 1.60 times, not 1",
    ),
    "a table twice, in parallel": (
        gather(
            join(
                scan("lead_events", 3, rows=33_333, Parallel_Aware=True),
                scan("lead_events", 3),
                "Hash Join",
            )
        ),
        "lead_events is read 2.00 times, not 1",
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_the_checker_passes(name: str) -> None:
    assert plans.faults(SOUND[name], ALL, ONCE) == []


@pytest.mark.parametrize("name", BROKEN)
def test_the_checker_finds(name: str) -> None:
    tree, fault = BROKEN[name]
    assert fault in plans.faults(tree, ALL, ONCE)


def test_the_checker_finds_a_table_that_has_no_business_there() -> None:
    tree = join(scan("lead_events"), scan("identity_links"), "Hash Join")
    assert plans.faults(tree, ALL, {"lead_events": 1}) == [
        "identity_links is read 1.00 times, not 0"
    ]


# What a server answers today may be called otherwise by the next one.
BAD_QUERIES: dict[str, tuple[LiteralString, str]] = {
    "orphans x events": (
        "select count(*) from observational.lead_events inner join (select * from public.drivers"
        " limit 60) as few on lead_events.payload_json ->> 'driver_id' like few.driver_id || '%'",
        "rows; all tables have",
    ),
    "a question about each row": (
        "select driver_id from public.drivers where driver_id < '001' and not exists (select 1"
        " from public.summary_daily where summary_daily.driver_id || '' = drivers.driver_id"
        " offset 0)",
        "Seq Scan summary_daily is in a SubPlan",
    ),
    "a view twice": (
        "select driver_id from ct4_orphans.int_driver_links as links where length(match_rule) <>"
        " (select count(*) from ct4_orphans.int_driver_links as others where others.match_rule"
        " like 'R%')",
        "identity_links is read 2.00 times, not 1",
    ),
}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_the_checker_finds_on_this_server(towns: dict[str, Town], name: str) -> None:
    text, fault = BAD_QUERIES[name]
    town = towns["before a fix"]
    found = plans.faults(
        town.plan_of(Query(sql.SQL(text))), town.sizes, dict.fromkeys(town.sizes, 1)
    )
    assert any(fault in line for line in found), found
