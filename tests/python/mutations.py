"""`make mutate`: every rule is broken in every small way, and something must turn red each time.

Mutants of the models and of the rule macros are tried as views, in transactions that are rolled
back: against all data tests on a small world that has been fixed, the same world before the fix,
the dbt unit tests, and the plain reading of the rules on random databases. Mutants of the SQL
of the fix, the decisions and the seals are tried by the tests of these statements and of the
commands: of those, by the ones in which the statement comes to something else. Mutants of the
acceptance tests are tried by their cases.

A mutant that survives must be in equivalent_mutants.csv, with the reason why it changes nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import jinja2
import psycopg
import pytest
import yaml
from conftest import ROOT, WORK, build_templates, must_run, open_connection, server_settings
from ct4_orphans import embedded, seals
from ct4_orphans import fix as fixing
from ct4_orphans.database import Connection, Settings
from hypothesis import Phase, given, seed
from hypothesis import settings as hypothesis_settings
from mutants import Mutant, mutants
from psycopg import sql
from psycopg.rows import dict_row, tuple_row
from reading import World
from test_acceptance import (
    CASES,
    HARMLESS,
    SMALL_WORLD,
    is_without_repetition,
    make_fixed_world,
    shows,
)
from test_rules_properties import RARE, RULES, VIEWS, differences
from worlds import insert_world, worlds

EQUIVALENTS = Path(__file__).with_name("equivalent_mutants.csv")
WORKERS = 2
RANDOM_WORLDS = 240
STATEMENT_TIMEOUT = "20s"

# The commands' own SQL, and the tests that may notice. The rest of that folder looks at catalogues.
FIX_SQL = [
    "plan",
    "find_changed",
    "insert_links",
    "insert_entries",
    "postconditions",
    "compare_with_review",
    "refuse_whole_persons",
    "insert_missing_reviewed",
]
DECISION_SQL = [
    "resolve_situation",
    "resolve",
    "undo_drivers",
    "undo_links",
    "undo_purges",
    "undo_entries",
    "person_of_driver",
]
SEAL_SQL = ["seal", "audit_seals", "audit_now"]
# What these three share, each in its place.
OF_SEALS = {"{entry}": "entry_text", "{seal}": "seal_text", "{protection}": "protection"}
COMMAND_TESTS = {
    "tests/python/test_statements.py": [*FIX_SQL, *DECISION_SQL, *SEAL_SQL],
    "tests/python/test_decisions.py": [*DECISION_SQL, *FIX_SQL[5:]],
    "tests/python/test_fix.py": FIX_SQL[:5],
}
TESTS_TO_TRY = 12  # for each mutant, of those that could notice it
OF_ONE_FUNCTION = 2  # of these at most, with other parameters
TIMES_PER_TEST = 3  # that a statement's mutants are tried in one test
# Statements that write, and what a sequence makes different each time.
WRITING = {
    *("insert_links", "insert_entries", "insert_missing_reviewed", "find_changed", "resolve"),
    *("compare_with_review", "refuse_whole_persons", "undo_links", "undo_purges", "undo_entries"),
}
SERIALS = {"id", "entry_id"}
IN_ORDER = {"undo_entries", "insert_entries", "audit_seals"}


@dataclass
class Result:
    """What became of a mutant: `by` is empty if nothing turned red, `invalid` if it is no SQL."""

    mutant: Mutant
    by: list[str] = field(default_factory=list)
    invalid: str = ""

    @property
    def survived(self) -> bool:
        return not self.by and not self.invalid

    @property
    def verdict(self) -> str:
        if self.invalid:
            return "invalid"
        return ", ".join(self.by) if self.by else "SURVIVED"


# --- The project's SQL, without dbt ---------------------------------------------------------------


class Project:
    """Models and acceptance tests as dbt renders them, each in some milliseconds."""

    def __init__(self) -> None:
        self.models = read(ROOT / "models")
        self.macros = read(ROOT / "macros/rules")
        self.tests = read(ROOT / "tests/acceptance")
        self.seeds = {path.stem for path in (ROOT / "seeds").glob("*.csv")}
        self.by_name = {Path(path).stem: path for path in self.models}
        self.environment = jinja2.Environment(  # noqa: S701 - it is SQL
            extensions=["jinja2.ext.do"], undefined=jinja2.StrictUndefined
        )
        rendered = {path: self.render(path) for path in {**self.models, **self.tests}}
        self.code = {path: code for path, (code, _) in rendered.items()}
        self.refs = {path: refs for path, (_, refs) in rendered.items()}

    def relation(self, name: str) -> str:
        if name in self.seeds:
            return f"ct4_orphans.{name}"
        is_ops = self.by_name[name].startswith("models/ops/")
        return f"{'ops' if is_ops else 'ct4_orphans'}.{name}"

    def render(
        self,
        path: str,
        mutant: Mutant | None = None,
        given: Callable[[str], str | None] = lambda _: None,
    ) -> tuple[str, set[str]]:
        """The SQL of a model or test, and what it refers to; `given` replaces relations."""
        refs: set[str] = set()

        def text_of(files: dict[str, str], name: str) -> str:
            return mutant.text if mutant and mutant.path == name else files[name]

        def ref(name: str) -> str:
            refs.add(name)
            return given(f"ref {name}") or self.relation(name)

        def source(schema: str, table: str) -> str:
            return given(f"source {schema}.{table}") or f"{schema}.{table}"

        macros = "".join(text_of(self.macros, name) for name in self.macros)
        template = self.environment.from_string(
            macros + "{#- -#}" + text_of({**self.models, **self.tests}, path)
        )
        code = template.render(
            ref=ref,
            source=source,
            config=lambda **_: "",
            var=lambda *_: True,
            run_query=lambda _: None,
            execute=False,
        )
        return code.strip(), refs

    def dependents(self, names: set[str]) -> set[str]:
        """These models and all above them."""
        found = set(names)
        while True:
            more = {
                name
                for name, path in self.by_name.items()
                if name not in found and self.refs[path] & found
            }
            if not more:
                return found
            found |= more

    def changed(self, mutant: Mutant) -> dict[str, str]:
        """The models that a mutant changes, by name, with their SQL."""
        paths = [mutant.path] if mutant.path in self.models else list(self.models)
        return {
            Path(path).stem: code
            for path in paths
            if (code := self.render(path, mutant)[0]) != self.code[path]
        }


def read(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text("utf-8")
        for path in sorted(directory.rglob("*.sql"))
    }


# --- The dbt unit tests, without dbt --------------------------------------------------------------


@dataclass(frozen=True)
class UnitTest:
    """A unit test of dbt: rows for some inputs, and what the model makes of them."""

    name: str
    model: str
    given: list[dict[str, Any]]
    expect: dict[str, Any]


def unit_tests() -> list[UnitTest]:
    return [
        UnitTest(test["name"], test["model"], test["given"], test["expect"])
        for path in sorted((ROOT / "models").rglob("*unit_tests.yml"))
        for test in yaml.safe_load(path.read_text("utf-8"))["unit_tests"]
    ]


def columns_of(connection: Connection, relation: str) -> dict[str, str]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
            [relation],
        )
        return dict(cursor.fetchall())


def literal(value: Any) -> str:
    if value is None:
        return "null"
    text = json.dumps(value) if isinstance(value, (bool, list, dict)) else str(value)
    return "'" + text.replace("'", "''") + "'"


def rows_as_sql(rows: Any, columns: dict[str, str]) -> str:
    """The rows of a fixture as a query with these columns."""
    if isinstance(rows, str):
        return rows
    selects = [
        "select "
        + ", ".join(
            f"{literal(row.get(name))}::{kind} as {quoted(name)}" for name, kind in columns.items()
        )
        for row in rows
    ]
    if selects:
        return " union all ".join(selects)
    nulls = ", ".join(f"null::{kind} as {quoted(name)}" for name, kind in columns.items())
    return f"select {nulls} where false"


def quoted(name: str) -> str:
    return f'"{name}"'


class Units:
    """The unit tests as queries that return the rows on which model and expectation differ."""

    def __init__(self, project: Project, connection: Connection) -> None:
        self.project = project
        self.connection = connection
        self.tests = unit_tests()
        self.columns: dict[str, dict[str, str]] = {}

    def of(self, models: Iterable[str]) -> list[UnitTest]:
        return [test for test in self.tests if test.model in set(models)]

    def columns_of(self, relation: str) -> dict[str, str]:
        if relation not in self.columns:
            self.columns[relation] = columns_of(self.connection, relation)
        return self.columns[relation]

    def query(self, test: UnitTest, mutant: Mutant | None) -> str:
        inputs = {}
        fixtures = []
        for number, one in enumerate(test.given):
            kind, names = re.fullmatch(r"(\w+)\((.*)\)", one["input"]).groups()  # type: ignore[union-attr]
            names = ".".join(re.findall(r"'(\w+)'", names))
            if "rows" not in one:
                continue  # a seed, as it is
            relation = names if kind == "source" else self.project.relation(names)
            inputs[f"{kind} {names}"] = f"given_{number}"
            rows = rows_as_sql(one["rows"], self.columns_of(relation))
            fixtures.append(f"given_{number} as ({rows})")
        path = self.project.by_name[test.model]
        model = self.project.render(path, mutant, inputs.get)[0]
        columns = self.columns_of(self.project.relation(test.model))
        rows = test.expect["rows"]
        if not isinstance(rows, str):
            names = {name for row in rows for name in row}
            columns = {name: columns[name] for name in columns if not rows or name in names}
        expected = rows_as_sql(rows, columns)
        shown = "*" if isinstance(rows, str) else ", ".join(map(quoted, columns))
        if isinstance(rows, str):
            cursor = self.connection.execute(f"select * from ({rows}) as r limit 0")  # type: ignore[arg-type]
            shown = ", ".join(quoted(column.name) for column in cursor.description or [])
        with_ = ", ".join([*fixtures, f"actual as ({model})", f"expected as ({expected})"])
        return (
            f"with {with_} (select {shown} from actual except all select {shown} from expected)"
            f" union all (select {shown} from expected except all select {shown} from actual)"
        )

    def is_red(self, test: UnitTest, mutant: Mutant | None = None) -> bool:
        return bool(self.connection.execute(self.query(test, mutant)).fetchall())  # type: ignore[arg-type]


# --- Checks of models -----------------------------------------------------------------------------


def some_worlds(count: int) -> list[World]:
    """The rare worlds, then random ones, always the same; every fourth batch has newer rules."""
    found: list[World] = []
    for number in range(-(-count // 20)):

        @seed(number)
        @hypothesis_settings(RULES, max_examples=20, phases=[Phase.generate])
        @given(world=worlds(newer_rules=number % 4 == 1))
        def collect(world: World) -> None:
            found.append(world)

        collect()
    return [*RARE.values(), *found[:count]]


class Checks:
    """Everything that can turn red because of a model, on databases of this worker's own."""

    def __init__(
        self,
        compiled: dict[str, str],
        worlds: list[World],
        fixed: Settings,
        unfixed: Settings,
        built: Settings,
    ) -> None:
        self.project = Project()
        self.compiled = compiled
        self.worlds = worlds
        self.expected: dict[tuple[int, str], list[Any]] = {}
        self.kills: Counter[int] = Counter()
        self.fixed, self.unfixed, self.built = map(open_connection, (fixed, unfixed, built))
        for connection in (self.fixed, self.unfixed, self.built):
            connection.execute(f"set statement_timeout = '{STATEMENT_TIMEOUT}'")  # type: ignore[arg-type]
            connection.execute("set jit = off")
            connection.execute("set client_min_messages = error")
            connection.commit()
        self.units = Units(self.project, self.built)
        self.relations_of_test = {
            name: set(re.findall(r'"\w+"\."(\w+)"', code)) for name, code in compiled.items()
        }

    def close(self) -> None:
        for connection in (self.fixed, self.unfixed, self.built):
            connection.close()

    def results(self, found: list[Mutant], thorough: bool = True) -> list[Result]:
        """Try mutants of models or macros."""
        results = [Result(mutant) for mutant in found]
        changes = {id(result): self.project.changed(result.mutant) for result in results}
        for result in results:
            models = changes[id(result)]
            self.try_acceptance(result, models)
            if not result.invalid and not result.by:
                self.try_units(result, models)
        self.try_worlds([result for result in results if result.survived], changes, thorough)
        return results

    @contextmanager
    def rolled_back(self, connection: Connection) -> Iterator[None]:
        with connection.transaction(force_rollback=True):
            yield

    def replace_views(self, connection: Connection, models: dict[str, str]) -> None:
        for name, code in models.items():
            connection.execute(
                f"create or replace view {self.project.relation(name)} as {code}"  # type: ignore[arg-type]
            )

    def try_acceptance(self, result: Result, models: dict[str, str]) -> None:
        """The data tests, after a fix by the right views, and after one by these."""
        above = self.project.dependents(set(models))
        asked = [name for name, seen in self.relations_of_test.items() if seen & above]
        asked.sort(key=lambda name: "_has_one_row" in name or "_is_known" in name)
        try:
            with self.rolled_back(self.fixed):
                self.replace_views(self.fixed, models)
                result.by += self.reds(self.fixed, asked)
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.QueryCanceled):
                result.by.append("a view that never ends")
            else:
                result.invalid = str(error).splitlines()[0]
            return
        if "v_orphan_fix_plan" in above and not result.by:
            with self.rolled_back(self.unfixed):
                self.replace_views(self.unfixed, models)
                result.by += self.reds_after_a_fix()

    def reds(self, connection: Connection, names: list[str]) -> list[str]:
        """The tests that are red, or that cannot even be run; of the generic ones the first."""
        found: list[str] = []
        for name in names:
            is_generic = "_has_one_row" in name or "_is_known" in name
            if is_generic and found:
                break
            try:
                with connection.transaction():
                    if connection.execute(self.compiled[name]).fetchone():  # type: ignore[arg-type]
                        found.append(name)
            except psycopg.errors.QueryCanceled:
                raise
            except psycopg.Error:
                found.append(f"{name} (error)")
        return found

    def reds_after_a_fix(self) -> list[str]:
        try:
            with self.unfixed.transaction():
                fixing.prepare(self.unfixed, fixing.Options(True))
                fixing.apply(self.unfixed, seals.Run("fix", {}))
                failed = self.unfixed.execute(
                    "select error from pg_temp.planned where outcome is distinct from 'applied'"
                ).fetchone()
                if failed:
                    return [f"the fix fails: {failed['error']}"]
                names = [name for name in self.compiled if name.startswith("criterion_")]
                return [f"{name} after a fix" for name in self.reds(self.unfixed, names)]
        except psycopg.Error as error:
            return [f"the fix fails: {str(error).splitlines()[0]}"]

    def try_units(self, result: Result, models: dict[str, str]) -> None:
        for test in self.units.of(models):
            try:
                with self.rolled_back(self.built):
                    is_red = self.units.is_red(test, result.mutant)
            except psycopg.Error:
                is_red = True
            if is_red:
                result.by.append(f"unit test {test.name}")
                return

    def try_worlds(
        self, results: list[Result], changes: dict[int, dict[str, str]], thorough: bool
    ) -> None:
        """The reading, world by world: those that caught most first."""
        alive = list(results)
        numbers = sorted(range(len(self.worlds)), key=lambda n: (-self.kills[n], n))
        for number in numbers if thorough else numbers[:5]:
            if not alive:
                return
            with self.rolled_back(self.built):
                self.built.execute("set local timezone to 'America/Lima'")
                insert_world(cast("Any", self.built.cursor()), self.worlds[number])
                for result in alive:
                    if line := self.disagreement(number, changes[id(result)]):
                        result.by.append(f"reading: {line}")
                        self.kills[number] += 1
            alive = [result for result in alive if result.survived]

    def disagreement(self, number: int, models: dict[str, str]) -> str:
        above = {self.project.relation(name) for name in self.project.dependents(set(models))}
        try:
            with self.rolled_back(self.built):
                self.replace_views(self.built, models)
                for view, (read_view, expect) in VIEWS.items():
                    if view.split()[-1] not in above:
                        continue
                    if (number, view) not in self.expected:
                        self.expected[number, view] = expect(self.worlds[number])
                    with self.built.cursor(row_factory=tuple_row) as cursor:
                        found = read_view(cursor)
                    if differences(view, found, self.expected[number, view]):
                        return view
        except (psycopg.Error, TypeError) as error:  # TypeError: null where a list should be
            return f"error: {str(error).splitlines()[0]}"
        return ""


# --- Checks of the acceptance tests' own SQL ------------------------------------------------------


def try_acceptance_test(checks: Checks, mutant: Mutant) -> Result:
    """A broken acceptance test is red where all is well, or misses one of its cases."""
    result = Result(mutant)
    name = Path(mutant.path).stem
    try:
        code = checks.project.render(mutant.path, mutant)[0]
        with checks.rolled_back(checks.fixed):
            if checks.fixed.execute(code).fetchone():  # type: ignore[arg-type]
                result.by.append("red where all is well")
    except psycopg.Error as error:
        result.invalid = str(error).splitlines()[0]
        return result
    for case in (*CASES, *HARMLESS):
        if result.by or case.test != name:
            continue
        with checks.rolled_back(checks.fixed):
            checks.fixed.execute(case.statements)  # type: ignore[arg-type]
            found = checks.fixed.execute(code).fetchall()  # type: ignore[arg-type]
            wrong = bool(found)
            if case in CASES:
                wrong = not (shows(found, case.violation) and is_without_repetition(found))
        if wrong:
            result.by.append(f"case: {case.mutation}")
    return result


# --- Checks of the fix's own SQL: the tests of the commands ---------------------------------------

PARAMETERS: dict[str, Any] = {
    "reprocess": False,
    "limit": 1,
    "first": 1,
    "last": 1,
    "run_id": "00000000-0000-4000-8000-000000000000",
    "undo_run_id": "00000000-0000-4000-8000-000000000001",
    "driver_id": "0" * 32,
    "status": "purged",
    "reason": "manual_detection",
    "note": "a note",
    "explanation": "a note",
    "person_key": "00000000-0000-4000-8000-000000000000",
    "command": "fix",
    "step": "ended",
    "parameters": "{}",
    "counts": "{}",
}
TEMPORARY_TABLES = (
    "create temporary table removed_links (person_key uuid, links jsonb)",
    "create temporary table undone as ",
)


class Loop:
    """A pytest plugin that runs the collected tests of one module again and again."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.sql = Path(task["sql"])

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        tests = self.tests_that_differ(items)
        Path(self.task["answer"]).write_text(json.dumps(self.run_mutants(items, tests)))
        session._setupstate.teardown_exact(None)  # noqa: SLF001
        return True

    def is_red(self, item: pytest.Item, items: dict[str, pytest.Item]) -> bool:
        from _pytest.runner import runtestprotocol

        other = next(one for one in items.values() if one is not item)
        item._initrequest()  # type: ignore[attr-defined]  # noqa: SLF001
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(60)
        try:
            reports = runtestprotocol(item, log=False, nextitem=other)
        finally:
            signal.alarm(0)
        return any(report.failed for report in reports)

    def tests_that_differ(self, items: dict[str, pytest.Item]) -> list[list[str]]:
        """For each mutant the first tests in which its statement comes to something else."""
        watch = Watch(self.sql, [(path, text) for path, text in self.task["mutants"]])
        for name, item in items.items():
            watch.begin(name)
            if self.is_red(item, items):
                watch.forget(name)
        watch.is_busy = True  # from now on the mutants are run for good
        return watch.tests

    def run_mutants(self, items: dict[str, pytest.Item], tests_of: list[list[str]]) -> list[str]:
        """For each mutant the test that turns red, or nothing."""
        found: list[str] = []
        for (path, text), tests in zip(self.task["mutants"], tests_of, strict=True):
            target = self.sql / Path(path).name
            right = target.read_text("utf-8")
            try:
                target.write_text(text, "utf-8")
                found.append(next((t for t in tests if self.is_red(items[t], items)), ""))
            finally:
                target.write_text(right, "utf-8")
            Path(self.task["answer"] + ".progress").write_text(json.dumps(found))
        return found


class Watch:
    """Wherever a test runs a statement, its mutants run too, and are rolled back.

    So it is known which tests could notice a mutant at all, and the others need not be run for it.
    """

    def __init__(self, directory: Path, found: list[tuple[str, str]]) -> None:
        self.right = {
            name: whole((directory / f"{name}.sql").read_text("utf-8"))
            for name in {Path(path).stem for path, _ in found}
        }
        self.mutants = {name: list[tuple[int, str]]() for name in self.right}
        for number, (path, text) in enumerate(found):
            self.mutants[Path(path).stem].append((number, whole(text)))
        self.tests: list[list[str]] = [[] for _ in found]
        self.test = ""
        self.seen: Counter[str] = Counter()
        self.is_busy = False
        for kind in (psycopg.Cursor, psycopg.ServerCursor):
            kind.execute = self.watched(kind.execute)  # type: ignore[method-assign]

    def begin(self, test: str) -> None:
        self.test = test
        self.seen.clear()

    def forget(self, test: str) -> None:
        """A test that is red by itself, or takes for ever, tells nothing."""
        for tests in self.tests:
            if test in tests:
                tests.remove(test)

    def watched(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        def method(cursor: psycopg.Cursor[Any], query: Any, params: Any = None, **more: Any) -> Any:
            if not self.is_busy and isinstance(query, (sql.SQL, sql.Composed)):
                self.is_busy = True
                try:
                    self.compare(cursor.connection, query.as_string(cursor.connection), params)
                finally:
                    self.is_busy = False
            return execute(cursor, query, params, **more)

        return method

    def compare(self, connection: psycopg.Connection[Any], text: str, params: Any) -> None:
        for name, right in self.right.items():
            self.seen[name] += right in text
            if right not in text or self.seen[name] > TIMES_PER_TEST:
                continue
            expected = self.outcome(connection, name, right, params)
            for number, mutant in self.mutants[name]:
                tests = self.tests[number]
                if self.has_enough(tests):
                    continue
                if self.outcome(connection, name, mutant, params) != expected:
                    tests.append(self.test)

    def has_enough(self, tests: list[str]) -> bool:
        """Whether this test need not be one of those that are tried."""
        function = self.test.partition("[")[0]
        alike = sum(test.partition("[")[0] == function for test in tests)
        return len(tests) == TESTS_TO_TRY or alike == OF_ONE_FUNCTION or self.test in tests

    def outcome(
        self, connection: psycopg.Connection[Any], name: str, text: str, params: Any
    ) -> object:
        """What a statement gives or writes."""
        try:
            with (
                connection.transaction(force_rollback=True),
                psycopg.Cursor(connection, row_factory=dict_row) as cursor,
            ):
                cursor.execute("set local lock_timeout = '1s'")
                cursor.execute(text + ("returning *" if name in WRITING else ""), params)  # type: ignore[arg-type]
                rows = [
                    {key: value for key, value in row.items() if key not in SERIALS}
                    for row in cursor.fetchall()
                ]
                if name == "resolve":
                    cursor.execute("select * from canon.identity_links")
                    rows += cursor.fetchall()
                return rows if name in IN_ORDER else sorted(map(str, rows))
        except psycopg.Error as error:
            return type(error).__name__


def too_long(*_: object) -> None:
    raise TimeoutError("longer than a minute")


def run_command_tests(module: str, worker: str, task: dict[str, Any]) -> Any:
    """One pytest process on a copy of the package, whose SQL can be broken."""
    directory = WORK / "mutate" / worker
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / "scripts", directory / "scripts")
    answer = directory / "answer.json"
    task |= {"sql": str(directory / "scripts/ct4_orphans/sql"), "answer": str(answer)}
    (directory / "task.json").write_text(json.dumps(task))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(directory / "scripts"), str(Path(__file__).parent)]),
        "ORPHANS_TEST_HOST": server_settings().host,
        "ORPHANS_TEST_KEEP_TEMPLATES": "yes",
        "PGOPTIONS": f"-c statement_timeout={STATEMENT_TIMEOUT}",
    }
    code = (
        "import json, sys, pytest, mutations;"
        "sys.exit(pytest.main(sys.argv[2:], [mutations.Loop(json.load(open(sys.argv[1])))]))"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, str(directory / "task.json"), module, "-q"),
            *("-p", "no:cacheprovider", "--basetemp", str(directory / "tmp")),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if not answer.exists():
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(answer.read_text())


def is_refused(connection: Connection, text: str) -> str:
    """What PostgreSQL says to a statement that is none."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("explain " + without_comments(whole(text)), PARAMETERS)  # type: ignore[arg-type]
    except psycopg.ProgrammingError as error:
        return str(error).splitlines()[0]
    except psycopg.Error:
        pass
    return ""


def whole(text: str) -> str:
    """A statement with what seals share put in."""
    for place, name in OF_SEALS.items():
        text = text.replace(
            place, (ROOT / f"scripts/ct4_orphans/sql/{name}.sql").read_text("utf-8")
        )
    return text


def without_comments(text: str) -> str:
    return re.sub(r"^\s*--.*$", "", text, flags=re.MULTILINE)


@contextmanager
def tables_of_the_commands(settings: Settings) -> Iterator[Connection]:
    """A connection on which every statement of the commands can be explained."""
    with open_connection(settings) as connection:
        fixing.prepare(connection, fixing.Options(True, reviewed={"nobody": ""}))
        undone = (ROOT / "scripts/ct4_orphans/sql/undo_drivers.sql").read_text("utf-8")
        connection.execute(TEMPORARY_TABLES[0])
        connection.execute(TEMPORARY_TABLES[1] + without_comments(undone), PARAMETERS)  # type: ignore[arg-type]
        connection.commit()
        yield connection
        connection.rollback()


# --- The run --------------------------------------------------------------------------------------


@cache
def files_of_models() -> dict[str, list[Mutant]]:
    project = Project()
    files = {**project.models, **project.macros}
    return {path: found for path, text in files.items() if (found := mutants(path, text))}


@cache
def files_of_tests() -> dict[str, list[Mutant]]:
    return {path: mutants(path, text) for path, text in Project().tests.items()}


@cache
def files_of_commands() -> dict[str, list[Mutant]]:
    directory = ROOT / "scripts/ct4_orphans/sql"
    files = {path: text for path, text in read(directory).items()}
    names = {*FIX_SQL, *DECISION_SQL, *SEAL_SQL}
    return {path: mutants(path, text) for path, text in files.items() if Path(path).stem in names}


def prepare_databases() -> dict[str, str]:
    """Templates of the workers' databases; the data tests as dbt compiles them."""
    server = server_settings()
    embedded.recreate_database(server, "mutate_built", "template_built")
    unfixed = embedded.recreate_database(server, "mutate_unfixed", "template_built")
    with open_connection(unfixed) as connection:
        connection.execute(SMALL_WORLD)  # type: ignore[arg-type]
    fixed = embedded.recreate_database(server, "mutate_fixed", "template_built")
    make_fixed_world(fixed, WORK / "mutate" / "reports")
    target = WORK / "mutate" / "target"
    must_run(
        *("dbt", "compile", "--vars", "{parity_with_ct4: true}"),
        settings=fixed,
        DBT_TARGET_PATH=str(target),
    )
    nodes = json.loads((target / "manifest.json").read_text())["nodes"].values()
    return {
        node["name"]: node["compiled_code"].replace(f'"{node["database"]}".', "")
        for node in nodes
        if node["resource_type"] == "test"
    }


CHECKS: Checks | None = None


def start_worker(compiled: dict[str, str], found: list[World]) -> None:
    """Give this worker process databases of its own."""
    global CHECKS
    own = (
        embedded.recreate_database(
            server_settings(), f"mutate_{what}_{os.getpid()}", f"mutate_{what}"
        )
        for what in ("fixed", "unfixed", "built")
    )
    CHECKS = Checks(compiled, found, *own)


def try_models(found: list[Mutant]) -> list[Result]:
    assert CHECKS
    return CHECKS.results(found)


def try_tests(found: list[Mutant]) -> list[Result]:
    assert CHECKS
    return [try_acceptance_test(CHECKS, mutant) for mutant in found]


def try_commands(module: str, found: list[Mutant]) -> list[str]:
    task = {"mutants": [(mutant.path, mutant.text) for mutant in found]}
    return cast("list[str]", run_command_tests(module, f"worker-{os.getpid()}", task))


def accepted() -> dict[tuple[str, str], str]:
    """Mutants that change nothing, with the reason."""
    if not EQUIVALENTS.exists():
        return {}
    with EQUIVALENTS.open(encoding="utf-8", newline="") as file:
        return {(row["file"], row["mutation"]): row["reason"] for row in csv.DictReader(file)}


class Run:
    """All mutants, over two worker processes."""

    def __init__(self, only: str, worlds: int, known: dict[tuple[str, str], str]) -> None:
        self.only = re.compile(only)
        self.worlds = worlds
        self.known = known
        self.results: list[Result] = []
        self.started = time.monotonic()

    def say(self, what: str) -> None:
        seconds = int(time.monotonic() - self.started)
        print(f"[{seconds // 60:02}:{seconds % 60:02}] {what}", flush=True)

    def chosen(self, files: dict[str, list[Mutant]]) -> dict[str, list[Mutant]]:
        found = {path: some for path, some in files.items() if self.only.search(path)}
        return {
            path: asked
            for path, some in found.items()
            if (asked := [mutant for mutant in some if mutant.name not in self.known])
        }

    def models_and_tests(self, compiled: dict[str, str]) -> None:
        models, tests = self.chosen(files_of_models()), self.chosen(files_of_tests())
        if not models and not tests:
            return
        context = get_context("spawn")
        arguments = (compiled, some_worlds(self.worlds))
        self.say(f"{len(arguments[1])} databases made up")
        with ProcessPoolExecutor(WORKERS, context, start_worker, arguments) as pool:
            futures = [pool.submit(try_models, part) for part in parts(models.values(), 25)]
            futures += [pool.submit(try_tests, part) for part in parts(tests.values(), 25)]
            self.collect(futures)

    def commands(self) -> None:
        files = self.chosen(files_of_commands())
        if not files:
            return
        results = [Result(mutant) for some in files.values() for mutant in some]
        settings = replace(server_settings(), dbname="mutate_unfixed")
        with tables_of_the_commands(settings) as connection:
            for path in files:
                text = (ROOT / path).read_text("utf-8")
                assert not is_refused(connection, text), is_refused(connection, text)
            for result in results:
                result.invalid = is_refused(connection, result.mutant.text)
        with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
            for module, names in COMMAND_TESTS.items():
                left = [one for one in results if Path(one.mutant.path).stem in names]
                left = [one for one in left if one.survived]
                random.Random(1).shuffle(left)  # noqa: S311 - so that both have as much to do
                halves = [half for n in range(WORKERS) if (half := left[n::WORKERS])]
                futures = [
                    pool.submit(try_commands, module, [one.mutant for one in half])
                    for half in halves
                ]
                for half, future in zip(halves, futures, strict=True):
                    for result, caught in zip(half, future.result(), strict=True):
                        if caught:
                            result.by.append(caught.removeprefix("tests/python/"))
                self.say(f"{module}: {len(left)} tried, {sum(r.survived for r in left)} left")
        self.results += results

    def collect(self, futures: Iterable[Any]) -> None:
        for future in as_completed(futures):
            results: list[Result] = future.result()
            self.results += results
            self.say(f"{results[0].mutant.path}: {len(results)} mutants")
            for result in results:
                if result.survived:
                    self.say(f"    survived, line {result.mutant.line}: {result.mutant.change}")

    def report(self) -> int:
        """Print the table and the counts; return the exit code."""
        self.results.sort(key=lambda one: (one.mutant.path, one.mutant.line))
        print("\nfile:line | mutation | caught by")
        for one in self.results:
            print(f"{one.mutant.path}:{one.mutant.line} | {one.mutant.change} | {one.verdict}")
        self.report_acceptance()
        invalid = sum(bool(one.invalid) for one in self.results)
        caught = sum(bool(one.by) for one in self.results)
        survived = [one for one in self.results if one.survived]
        print(
            f"\n{len(self.results) + len(self.known)} mutants: {invalid} invalid, {caught} caught, "
            f"{len(self.known)} change nothing (equivalent_mutants.csv), {len(survived)} survived"
        )
        for one in survived:
            print(f"  SURVIVED {one.mutant.path}:{one.mutant.line} | {one.mutant.change}")
        return 1 if survived else 0

    def report_acceptance(self) -> None:
        """Per acceptance test: mutations of the data, of the models, of the test itself."""
        print(
            "\nacceptance test | red by mutations of the data | of models | of its own SQL caught"
        )
        own = Counter(Path(one.mutant.path).stem for one in self.results if one.by)
        models: Counter[str] = Counter()
        for one in self.results:
            models.update({by.split(" ")[0] for by in one.by})
        for path in Project().tests:
            name = Path(path).stem
            data = sum(case.test == name for case in CASES)
            print(f"{name} | {data} | {models[name]} | {own[name]}")


def parts(files: Iterable[list[Mutant]], size: int) -> list[list[Mutant]]:
    """Mutants of one file each, the largest parts first."""
    found = [some[at : at + size] for some in files for at in range(0, len(some), size)]
    return sorted(found, key=len, reverse=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression for the files")
    parser.add_argument("--all", action="store_true", help="try those that change nothing too")
    parser.add_argument("--worlds", type=int, default=RANDOM_WORLDS, help="random databases")
    options = parser.parse_args()
    is_ours = "ORPHANS_TEST_HOST" not in os.environ
    if is_ours:
        os.environ["ORPHANS_TEST_HOST"] = embedded.start_server(WORK / "mutate-server").host
    try:
        if "ORPHANS_TEST_KEEP_TEMPLATES" not in os.environ:
            build_templates(server_settings())
        known = {} if options.all else accepted()
        run = Run(options.only, options.worlds, known)
        compiled = prepare_databases()
        run.say("databases are ready")
        run.models_and_tests(compiled)
        run.commands()
        return run.report()
    finally:
        if is_ours:
            embedded.stop_server(WORK / "mutate-server")


if __name__ == "__main__":
    sys.exit(main())
