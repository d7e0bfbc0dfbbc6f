"""What the guard costs: the table of the README, measured anew. No test: it takes minutes.

    python tests/python/bench_guard.py [LINKS]

On ORPHANS_TEST_HOST, or an embedded server of its own.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import uuid

import psycopg
from conftest import ROOT, WORK, build_templates, open_connection
from ct4_orphans import embedded, guard
from ct4_orphans.database import Settings, connect

LINK = "(person_key, source_table, source_pk, snapshot_date, match_rule, match_score,"
LINK += " confidence_level)"
FILL = """
insert into canon.identity_registry (person_key)
select md5('p' || i)::uuid from generate_series(1, {n} + 100) as i;
insert into canon.identity_links {columns}
select md5('p' || i)::uuid, 'module_ct_migrations', i::text, now(), 'R', 100, 'HIGH'
from generate_series(1, {n} + 100) as i;
"""
ONE = f"insert into canon.identity_links {LINK} values (%s, 'drivers', %s, now(), 'R', 100, 'HIGH')"
ROUNDS = 15


def measure(server: Settings, links: int, mode: str | None, index: bool) -> tuple[float, float]:
    """Seconds of the COPY with its commit, and of a commit of one link afterwards."""
    database = embedded.recreate_database(server, "bench_guard", template="template_built")
    with open_connection(database) as connection:
        connection.execute(FILL.format(n=links, columns=LINK))  # type: ignore[call-overload]
        connection.execute(
            "insert into ct4_orphans.lead_sources values ('x', 'x') on conflict do nothing"
        ) if False else None
        connection.commit()
        persons = [
            row["p"]
            for row in connection.execute(
                "select md5('p' || i)::text as p from generate_series(1, %s) as i", [links + 100]
            )
        ]
    with connect(database) as connection:
        if mode:
            guard.install(connection, mode)
        if index:
            connection.execute(guard.CREATE_INDEX)  # type: ignore[call-overload]
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")
    block = "".join(
        f"{uuid.UUID(person)}\tdrivers\t{person}\t2025-01-01\tR\t100\tHIGH\n"
        for person in persons[:links]
    )
    with psycopg.connect(**database.connection_parameters()) as connection:  # type: ignore[arg-type]
        connection.execute("select 1")
        started = time.monotonic()
        with connection.cursor().copy(f"copy canon.identity_links {LINK} from stdin") as copy:
            copy.write(block)
        copied = time.monotonic()
        connection.commit()
        bulk = time.monotonic() - started
        print(f"    copy {copied - started:.2f} s, commit {bulk - copied + started:.2f} s")
    with connect(database) as connection:
        connection.execute("vacuum analyze canon.identity_links")
        single = []
        for person in persons[links : links + ROUNDS]:
            started = time.monotonic()
            connection.execute(ONE, [uuid.UUID(person), person])
            single.append(time.monotonic() - started)
    return bulk, statistics.median(single)


def main() -> None:
    links = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
    host = os.environ.get("ORPHANS_TEST_HOST")
    server = (
        Settings(host, 5432, "postgres", "postgres", "", "prefer")
        if host
        else embedded.start_server(WORK / "bench")
    )
    try:
        build_templates(server)
        print(f"| {links:,} links | COPY | one link |\n|---|---|---|")
        for mode in (None, "warn", "enforce"):
            for index in (False, True):
                bulk, single = measure(server, links, mode, index)
                print(
                    f"| {mode or 'no guard'}{', index' if index else ''} | {bulk:.1f} s |"
                    f" {single * 1000:.1f} ms |",
                    flush=True,
                )
    finally:
        if not host:
            embedded.stop_server(WORK / "bench")


if __name__ == "__main__":
    assert ROOT.exists()
    main()
