"""The harness of `make mutate` itself, on a sample: the whole takes its time and runs by itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mutations
import psycopg
import pytest
from conftest import ROOT, open_connection
from ct4_orphans import embedded
from ct4_orphans.database import Settings
from mutants import Mutant, mutants
from mutations import Checks, Result
from psycopg import sql
from test_acceptance import (  # noqa: F401 - fixtures
    SMALL_WORLD,
    Node,
    compiled,
    fixed_world,
    green_run,
)

QUERY = """
{{ config(x=1) }}
-- where nothing = nothing
select distinct on (a.id)
    a.id,
    coalesce(a.name, b.name) as name
from {{ ref('a') }} as a
left join {{ ref('b') }} as b
    on
        a.id = b.id
        and b.day between '2025-01-01' and '2025-12-31'
where
    a.kind in ('x', 'y')
    and (a.n < 5 or a.kind is distinct from 'x')
    and not exists (
        select 1
        from c
        where c.id = a.id
    )
order by a.id, b.day desc
"""
CHANGES = """
dropped: distinct on (a.id)
coalesce without a.name
coalesce without b.name
left -> inner join: left join {{ ref('b') }} as
dropped: a.id = b.id
negated: a.id = b.id
and -> or: b.id and b.day
dropped: b.day between '2025-01-01' and '2025-12-31'
negated: b.day between '2025-01-01' and '2025-12-31'
dropped: a.kind in ('x', 'y')
negated: a.kind in ('x', 'y')
in without 'x'
in without 'y'
and -> or: ('x', 'y') and (a.n < 5 or a.kind is distinct from 'x')
dropped: (a.n < 5 or a.kind is distinct from 'x')
negated: (a.n < 5 or a.kind is distinct from 'x')
dropped: a.n < 5
negated: a.n < 5
< -> <=: a.n < 5
5 + 1: < 5 or
or -> and: 5 or a.kind
dropped: a.kind is distinct from 'x'
negated: a.kind is distinct from 'x'
and -> or: (a.n < 5 or a.kind is distinct from 'x') and not
dropped: not exists ( select 1 from c where c.id = a.id )
negated: not exists ( select 1 from c where c.id = a.id )
dropped: c.id = a.id
negated: c.id = a.id
order by without a.id
order by without b.day desc
desc -> asc: order by b.day desc
""".strip().splitlines()


def test_every_predicate_join_operator_and_list_of_a_query_has_its_mutants() -> None:
    assert sorted(mutant.change for mutant in mutants("a.sql", QUERY)) == sorted(CHANGES)


def test_a_mutant_is_the_text_with_one_place_changed() -> None:
    (mutant,) = (one for one in mutants("a.sql", QUERY) if one.change == "negated: a.n < 5")
    assert mutant.text == QUERY.replace("a.n < 5", "not (a.n < 5)")
    assert mutant.line == QUERY[: QUERY.index("a.n < 5")].count("\n") + 1


def test_every_rule_file_has_mutants_and_no_two_have_the_same_name() -> None:
    files = all_mutants()
    rules = ["int_orphan_drivers", "int_rule_outcomes", "v_ct4_eligible_drivers", "window_end"]
    rules += ["find_changed", "resolve", "criterion_1_drivers_without_lead_outside_quarantine"]
    assert {*rules} <= {Path(path).stem for path in files}
    for path, found in files.items():
        names = {mutant.name for mutant in found}
        assert len(names) == len(found), path


def all_mutants() -> dict[str, list[Mutant]]:
    return {
        **mutations.files_of_models(),
        **mutations.files_of_tests(),
        **mutations.files_of_commands(),
    }


def test_every_accepted_mutant_exists_and_has_a_reason() -> None:
    existing = {mutant.name for found in all_mutants().values() for mutant in found}
    accepted = mutations.accepted()
    assert [name for name in accepted if name not in existing] == []
    assert [name for name, reason in accepted.items() if len(reason.split()) < 5] == []


@pytest.fixture(scope="module")
def databases(server: Settings) -> Iterator[dict[str, Settings]]:
    """The small world before a fix, and an empty database with the views."""
    made = {
        what: embedded.recreate_database(server, f"test_{uuid.uuid4().hex}", "template_built")
        for what in ("unfixed", "built")
    }
    with open_connection(made["unfixed"]) as connection:
        connection.execute(SMALL_WORLD)  # type: ignore[arg-type]
    yield made
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type,assignment]
        for settings in made.values():
            name = sql.Identifier(settings.dbname)
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


@pytest.fixture(scope="module")
def checks(
    databases: dict[str, Settings],
    fixed_world: Settings,  # noqa: F811
    compiled: dict[str, Node],  # noqa: F811
) -> Iterator[Checks]:
    codes = {name: node["compiled_code"] for name, node in compiled.items()}
    found = Checks(codes, mutations.some_worlds(0), fixed_world, **databases)
    yield found
    found.close()


def test_the_sql_that_is_broken_is_the_sql_that_dbt_makes(
    checks: Checks,
    compiled: dict[str, Node],  # noqa: F811
) -> None:
    for path in checks.project.tests:
        of_dbt = compiled[Path(path).stem]["compiled_code"].replace('"', "")
        assert checks.project.code[path].split() == of_dbt.split(), path


def test_nothing_is_red_as_long_as_nothing_is_broken(checks: Checks) -> None:
    result = Result(Mutant("models/none.sql", 1, "nothing", ""))
    every = {
        Path(path).stem: code for path, code in checks.project.code.items() if "models" in path
    }
    checks.try_acceptance(result, every)
    checks.try_units(result, every)
    checks.try_worlds([result], {id(result): every}, thorough=True)
    assert (result.by, result.invalid) == ([], "")
    with checks.rolled_back(checks.unfixed):
        assert checks.reds_after_a_fix() == []


@pytest.mark.parametrize(
    ("path", "change", "by"),
    [
        (
            "models/intermediate/int_excluded_drivers.sql",
            "in without 'purged'",
            "criterion_2_excluded_drivers_in_funnel",
        ),
        (
            "models/ops/v_cabinet_funnel_status.sql",
            "dropped: not exists ( select 1 from excluded_drivers"
            " where excluded_drivers.driver_id = driver_activity.driver_id )",
            "criterion_2_excluded_drivers_in_funnel",
        ),
        (
            "macros/rules/rule_applies.sql",
            "<= -> <: lead_date <= {{ rules }}",
            "unit test",
        ),
        (
            "models/intermediate/int_conversions.sql",
            "group by without person_key",
            "invalid",
        ),
    ],
)
def test_a_broken_model_is_caught(checks: Checks, path: str, change: str, by: str) -> None:
    (mutant,) = (one for one in mutations.files_of_models()[path] if one.change == change)
    (result,) = checks.results([mutant])
    assert by in result.verdict


def test_a_broken_model_is_caught_by_the_reading(checks: Checks) -> None:
    path = "models/intermediate/int_lead_links.sql"
    result = Result(next(one for one in mutations.files_of_models()[path]))
    checks.try_worlds([result], {id(result): checks.project.changed(result.mutant)}, thorough=True)
    assert "reading: ops.v_orphan_fix_plan" in result.verdict


def test_a_change_that_changes_nothing_survives(checks: Checks) -> None:
    path = "models/intermediate/int_lead_links.sql"
    text = (ROOT / path).read_text().replace("select 1", "select 2")
    (result,) = checks.results([Mutant(path, 1, "another constant", text)])
    assert result.verdict == "SURVIVED"


def test_a_broken_acceptance_test_is_caught_by_a_case(checks: Checks) -> None:
    path = "tests/acceptance/criterion_5_ledger_history_has_gaps.sql"
    found: dict[str, Any] = {
        mutant.change: mutations.try_acceptance_test(checks, mutant).verdict
        for mutant in mutations.files_of_tests()[path]
    }
    assert found.pop("negated: count(*) <> max(revision)") == "red where all is well"
    assert any(verdict.startswith("case: ") for verdict in found.values())
    assert "SURVIVED" not in found.values()


def test_a_statement_that_postgresql_refuses_is_told_from_one_that_it_takes(
    databases: dict[str, Settings],
) -> None:
    with mutations.tables_of_the_commands(databases["unfixed"]) as connection:
        for name in (*mutations.FIX_SQL, *mutations.DECISION_SQL, *mutations.SEAL_SQL):
            text = (ROOT / f"scripts/ct4_orphans/sql/{name}.sql").read_text()
            assert mutations.is_refused(connection, text) == "", name
        assert "nowhere" in mutations.is_refused(connection, "select * from nowhere")
