"""The views take the places of CT4's: same columns, replaced in place, nothing of others lost.

Also the rest of what dbt does for an operator: build, test, seed, snapshot, docs, and that the DB_
variables are all it needs. Where many runs are wanted, one process does them (DbtSession).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import BIN, ROOT, must_run, open_connection, profiles_directory, run_command
from ct4_orphans.database import Connection, Settings
from test_acceptance import DRIVER, PERSON, make_fixed_world

FOUR = [
    "v_driver_orphans",
    "v_cabinet_funnel_status",
    "v_payment_calculation",
    "v_ct4_eligible_drivers",
]
SEEDS = ["evidence_strategies", "lead_sources", "payment_terms"]

COLUMNS = {
    "v_driver_orphans": """
        driver_id character varying, person_key uuid, detected_at timestamp with time zone,
        detected_reason orphan_detected_reason, creation_rule character varying,
        evidence_json jsonb, status orphan_status, resolved_at timestamp with time zone,
        resolution_notes text, primary_phone character varying, primary_license character varying,
        primary_full_name character varying, confidence_level confidencelevel,
        driver_links_count bigint, lead_events_count bigint,
        last_updated_at timestamp with time zone
    """,
    "v_cabinet_funnel_status": """
        driver_id character varying, person_key uuid, origin_tag text, funnel_status text,
        connected_flag boolean, connected_date date, trips_total bigint, highest_milestone integer,
        m1_date date, m5_date date, m25_date date
    """,
    "v_payment_calculation": """
        person_key uuid, origin_tag text, scout_id integer, driver_id character varying,
        lead_date date, rule_id integer, rule_scope text, milestone_trips integer,
        window_days integer, currency character varying(3), amount numeric(12,2),
        rule_valid_from date, rule_valid_to date, milestone_achieved boolean, achieved_date date,
        achieved_trips_in_window bigint, is_payable boolean, payable_date date, payment_scheme text
    """,
    "v_ct4_eligible_drivers": """
        driver_id character varying, person_key uuid, origin_tag text, identity_status text,
        match_rule text, match_confidence text, first_seen_at date,
        latest_snapshot_at timestamp with time zone
    """,
    "v_orphan_fix_plan": """
        driver_id character varying, person_key uuid, action text, status orphan_status,
        detected_reason orphan_detected_reason, requires_reprocess boolean,
        current_status orphan_status, next_revision integer, creation_rule character varying,
        has_events boolean, evidence_level integer, strategy text, lead_rows_count integer,
        lead_rows jsonb, rivals jsonb, weak_events jsonb, explanation text, license_masked text,
        phone_masked text
    """,
}

# One process, many runs: dbt is loaded and the project is read once.
DBT_LOOP = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from dbt.cli.main import dbtRunner
manifest = dbtRunner().invoke(["parse", "--quiet"]).result
for line in sys.stdin:
    run = dbtRunner(manifest=manifest).invoke(json.loads(line))
    results = getattr(run.result, "results", None) or []
    statuses = {done.node.name: str(done.status) for done in results if hasattr(done, "node")}
    print(json.dumps([run.success, statuses]), file=answers, flush=True)
"""


class DbtSession:
    """A process that runs one dbt command after the other on one database."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.target = directory / "target"
        self.log = directory / "output.txt"
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("DB_", "DBT_"))}
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DBT_LOOP],
                cwd=ROOT,
                env=keep
                | settings.environment()
                | {
                    "DBT_PROFILES_DIR": str(profiles_directory()),
                    "DBT_TARGET_PATH": str(self.target),
                    "DBT_LOG_PATH": str(directory / "logs"),
                    "NO_COLOR": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def start(self, *arguments: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()

    def finish(self) -> tuple[bool, dict[str, str]]:
        assert self.process.stdout
        answer = self.process.stdout.readline()
        assert answer, self.log.read_text()
        success, statuses = json.loads(answer)
        return success, statuses

    def must(self, *arguments: str) -> dict[str, str]:
        self.start(*arguments)
        success, statuses = self.finish()
        assert success, f"dbt {' '.join(arguments)}: {statuses}\n{self.log.read_text()[-3000:]}"
        return statuses


@contextmanager
def dbt_session(settings: Settings, directory: Path) -> Iterator[DbtSession]:
    session = DbtSession(settings, directory)
    try:
        yield session
    finally:
        assert session.process.stdin and session.process.stdout
        session.process.stdin.close()
        session.process.wait(60)
        session.process.stdout.close()


def execute(settings: Settings, statements: str) -> None:
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(statements)  # type: ignore[arg-type]


def rows(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(**settings.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def identity_of_views(settings: Settings) -> list[tuple[Any, ...]]:
    """What others depend on, of our views and of theirs: the object, its grants, its definition."""
    return rows(
        settings,
        """
        select
            oid::regclass::text, oid::bigint, relowner::bigint, relacl::text,
            pg_get_viewdef(oid), obj_description(oid, 'pg_class'),
            array(
                select attname || ' ' || format_type(atttypid, atttypmod)
                || coalesce(' ' || attacl::text, '')
                from pg_attribute
                where attrelid = pg_class.oid and attnum > 0
                order by attnum
            )
        from pg_class
        where relkind = 'v' and relnamespace in ('ops'::regnamespace, 'claims'::regnamespace)
        order by 1
        """,
    )


@pytest.fixture
def role(server: Settings) -> Iterator[str]:
    """A role of another team; roles belong to the server, so it is dropped after the databases."""
    name = f"test_team_{uuid.uuid4().hex}"
    execute(server, f"create role {name}")
    yield name
    execute(server, f"drop role {name}")


@pytest.fixture
def fixed(role: str, make_database: Callable[[str], Settings], tmp_path: Path) -> Settings:
    """A small world, fixed (and gone before its role)."""
    return make_fixed_world(make_database("template_built"), tmp_path)


def columns_of(view: str) -> list[str]:
    return " ".join(COLUMNS[view].split()).split(", ")


# --- Columns and comments -------------------------------------------------------------------------


@pytest.mark.parametrize("view", COLUMNS)
def test_the_columns_are_ct4s_in_name_order_and_type(
    built_connection: psycopg.Connection[Any], view: str
) -> None:
    found = built_connection.execute(
        "select attname || ' ' || format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 order by attnum",
        [f"ops.{view}"],
    ).fetchall()
    built_connection.rollback()
    assert [name for (name,) in found] == columns_of(view)


def test_every_view_seed_and_column_carries_its_description_in_the_database(
    built_connection: psycopg.Connection[Any],
) -> None:
    ours = """
        from pg_class
        where
            relkind in ('v', 'r')
            and (
                relnamespace = 'ct4_orphans'::regnamespace
                or oid = any (%s::text[]::regclass[])
            )
    """
    names = [[f"ops.{view}" for view in COLUMNS]]
    (relations,) = built_connection.execute(f"select count(*) {ours}", names).fetchone()  # type: ignore[misc]
    without = built_connection.execute(
        f"""
        select oid::regclass::text, null as column {ours}
            and coalesce(obj_description(oid, 'pg_class'), '') = ''
        union all
        select attrelid::regclass::text, attname
        from pg_attribute
        where
            attrelid in (select oid {ours})
            and attnum > 0
            and coalesce(col_description(attrelid, attnum), '') = ''
        """,
        names * 2,
    ).fetchall()
    built_connection.rollback()
    assert relations > 40
    assert without == []


# --- In place -------------------------------------------------------------------------------------


def build_on_them(settings: Settings, role: str) -> None:
    """What another team has: a view on each of the four with its own grants, and grants on ours."""
    execute(settings, f"create schema claims; grant usage on schema claims, ops to {role}")
    for view in FOUR:
        execute(
            settings,
            f"""
            create view claims.{view} as
            select driver_id, person_key, count(*) as found from ops.{view} group by 1, 2;
            comment on view claims.{view} is 'theirs';
            grant select on claims.{view} to {role};
            grant select on ops.{view} to {role} with grant option;
            grant select (driver_id) on ops.{view} to public;
            """,
        )


def test_views_and_grants_of_others_survive_ten_runs_a_full_refresh_and_seeds(
    fixed: Settings, role: str, tmp_path: Path
) -> None:
    """And on the way, on this database that has been fixed: build and test are green."""
    build_on_them(fixed, role)
    before = identity_of_views(fixed)
    assert len([name for name, *_ in before if name.startswith("claims.")]) == 4
    with dbt_session(fixed, tmp_path / "dbt") as dbt:
        for _ in range(9):
            assert set(dbt.must("run", "--select", "ops").values()) == {"success"}
        assert len(dbt.must("run")) > 30
        assert identity_of_views(fixed) == before

        built = dbt.must("build", "--full-refresh", "--exclude", "test_type:unit")
        assert set(built.values()) == {"success", "pass", "no-op"}  # no-op: the exposures
        assert {"v_payment_calculation", "lead_sources", "driver_links_history"} < set(built)
        assert identity_of_views(fixed) == before

        assert sorted(dbt.must("seed", "--full-refresh")) == SEEDS
        assert identity_of_views(fixed) == before

        tested = dbt.must("test", "--exclude", "test_type:unit")
        assert set(tested.values()) == {"pass"}
        assert "criterion_1_drivers_without_lead_outside_quarantine" in tested
    assert rows(fixed, "select count(*) > 0 from claims.v_ct4_eligible_drivers") == [(True,)]
    with open_connection(fixed) as connection:
        connection.execute(f"set role {role}")  # type: ignore[arg-type]
        for view in FOUR:
            connection.execute(f"select * from claims.{view}")  # type: ignore[arg-type]
            connection.execute(f"select * from ops.{view}")  # type: ignore[arg-type]


def test_docs_are_generated_and_a_snapshot_keeps_the_person_that_ct4_overwrote(
    fixed: Settings, tmp_path: Path
) -> None:
    history = (
        "select person_key::text, dbt_valid_to is null, dbt_is_deleted::bool"
        f" from ct4_orphans.driver_links_history where driver_id = '{DRIVER[1]}'"
        " order by dbt_valid_from"
    )
    with dbt_session(fixed, tmp_path / "dbt") as dbt:
        dbt.must("snapshot")
        assert rows(fixed, history) == [(PERSON[1], True, False)]
        dbt.must("snapshot")
        assert rows(fixed, history) == [(PERSON[1], True, False)], "nothing new, nothing recorded"

        where = f"where source_table = 'drivers' and source_pk = '{DRIVER[1]}'"
        execute(fixed, f"update canon.identity_links set person_key = '{PERSON[5]}' {where}")
        dbt.must("snapshot")
        moved = [(PERSON[1], False, False), (PERSON[5], True, False)]
        assert rows(fixed, history) == moved
        dbt.must("build", "--full-refresh", "--select", "driver_links_history")
        assert rows(fixed, history) == moved, "no full refresh forgets it"

        execute(fixed, f"delete from canon.identity_links {where}")
        dbt.must("snapshot")
        assert rows(fixed, history) == [
            (PERSON[1], False, False),
            (PERSON[5], False, False),
            (PERSON[5], True, True),
        ]

        dbt.must("docs", "generate")
        nodes = json.loads((dbt.target / "catalog.json").read_text())["nodes"]
        for view in COLUMNS:
            node = nodes[f"model.ct4_orphans.{view}"]
            assert len(node["columns"]) == len(columns_of(view))
            assert all(column["comment"] for column in node["columns"].values())


def test_a_run_extends_an_older_view_and_refuses_what_it_cannot_replace(
    built_database: Settings, tmp_path: Path
) -> None:
    """One run on four older views: one short of its last columns, one renamed, one retyped, one
    that is a table. Each is somebody's, so only the first may change."""
    execute(
        built_database,
        """
        create schema claims;
        drop view ops.v_ct4_eligible_drivers;
        create view ops.v_ct4_eligible_drivers as
        select
            null::varchar as driver_id, null::uuid as person_key, null::text as origin_tag,
            null::text as identity_status, null::text as match_rule;
        grant select on ops.v_ct4_eligible_drivers to public;
        create view claims.eligible as select * from ops.v_ct4_eligible_drivers;

        do $$ begin execute
            'create view ops.renamed as ' || pg_get_viewdef('ops.v_payment_calculation'::regclass);
        end $$;
        drop view ops.v_payment_calculation;
        alter view ops.renamed rename to v_payment_calculation;
        alter view ops.v_payment_calculation rename column rule_scope to scope;

        drop view ops.v_cabinet_funnel_status;
        create view ops.v_cabinet_funnel_status as
        select
            null::varchar as driver_id, null::uuid as person_key, null::text as origin_tag,
            null::text as funnel_status, null::bool as connected_flag, null::date as connected_date,
            null::int as trips_total;

        drop view ops.v_driver_orphans;
        create table ops.v_driver_orphans (driver_id varchar primary key);
        insert into ops.v_driver_orphans values ('kept');
        """,
    )

    def state() -> dict[str, tuple[Any, ...]]:
        return {name: rest for name, *rest in identity_of_views(built_database)}  # type: ignore[misc]

    before = state()
    done = run_command(
        *("dbt", "run", "--select", "ops"),
        settings=built_database,
        DBT_TARGET_PATH=str(tmp_path),
    )
    results = json.loads((tmp_path / "run_results.json").read_text())["results"]
    assert done.returncode == 1
    assert {result["unique_id"].split(".")[2]: result["status"] for result in results} == {
        "v_ct4_eligible_drivers": "success",
        "v_payment_calculation": "error",
        "v_cabinet_funnel_status": "error",
        "v_driver_orphans": "error",
        "v_orphan_fix_plan": "success",
    }
    after = state()
    extended = "ops.v_ct4_eligible_drivers"
    assert {name for name in after if after[name] != before[name]} == {extended}
    assert after[extended][:3] == before[extended][:3], "same object, owner and grants"
    assert len(after[extended][-1]) == 8
    assert rows(built_database, "select * from ops.v_driver_orphans") == [("kept",)]
    assert 'cannot change name of view column "scope" to "rule_scope"' in done.stdout
    assert 'cannot change data type of view column "trips_total"' in done.stdout
    assert "is a table, not a view. Nothing was changed" in " ".join(done.stdout.split())


# --- Seeds ----------------------------------------------------------------------------------------


def seed_rows(connection: Connection) -> dict[str, list[str]]:
    return {
        seed: [
            str(row["text"])
            for row in connection.execute(
                f"select seed::text as text from ct4_orphans.{seed} as seed order by 1"  # type: ignore[arg-type]
            )
        ]
        for seed in SEEDS
    }


def wait_for_blocked_sessions(observer: Connection, wanted: int) -> None:
    for _ in range(6000):
        row = observer.execute(
            "select count(*) as blocked from pg_stat_activity"
            " where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0"
        ).fetchone()
        if row and row["blocked"] >= wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"never {wanted} sessions waited for the seed's lock")


def test_two_seeds_at_once_leave_no_duplicates_and_no_reader_ever_sees_an_empty_one(
    built_database: Settings, tmp_path: Path
) -> None:
    with (
        open_connection(built_database) as holder,
        open_connection(built_database) as old_reader,
        open_connection(built_database) as new_reader,
        dbt_session(built_database, tmp_path / "one") as one,
        dbt_session(built_database, tmp_path / "two") as two,
    ):
        new_reader.autocommit = True
        expected = seed_rows(new_reader)
        assert all(expected.values())
        for arguments in (["seed"], ["seed", "--full-refresh"]):
            old_reader.execute("set transaction isolation level repeatable read")
            old_reader.execute("select now()")  # its snapshot is taken; it has looked at no seed
            holder.execute("lock table ct4_orphans.lead_sources in share row exclusive mode")
            for session in (one, two):
                session.start(*arguments, "--threads", "1")
            wait_for_blocked_sessions(new_reader, wanted=2)
            holder.rollback()
            seen = [seed_rows(new_reader) for _ in range(50)]
            for session in (one, two):
                success, statuses = session.finish()
                assert success, statuses
            assert seed_rows(old_reader) == expected
            assert seed_rows(new_reader) == expected
            assert all(found == expected for found in seen)
            old_reader.rollback()


# --- The environment alone ------------------------------------------------------------------------


def test_dbt_and_alembic_work_from_a_copy_of_the_example_profile_and_the_db_variables_alone(
    built_database: Settings, tmp_path: Path
) -> None:
    (tmp_path / "profiles.yml").write_text((ROOT / "profiles.example.yml").read_text())
    variables = {
        "DB_HOST": built_database.host,
        "DB_NAME": built_database.dbname,
        "DB_USER": built_database.user,
    }
    paths = {"DBT_PROFILES_DIR": str(tmp_path), "DBT_TARGET_PATH": str(tmp_path / "target")}
    must_run("dbt", "debug", "--connection", **variables, **paths)
    assert "0003 (head)" in must_run("alembic", "current", **variables).stdout
    assert (BIN / "dbt").exists() and (BIN / "alembic").exists()
