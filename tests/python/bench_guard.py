"""What the guard costs: the table of the README, measured anew. No test: it takes minutes.

    python tests/python/bench_guard.py [LINKS [ROUNDS]]

On ORPHANS_TEST_HOST, or an embedded server of its own. Times are those that the server's process
was on a processor (Linux counts them), the best of the rounds: what else the machine does would
only add to the clock on the wall.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

import psycopg
from conftest import WORK, build_templates, open_connection
from ct4_orphans import embedded, guard
from ct4_orphans.database import Connection, Settings, connect

COLUMNS = (
    "(person_key, source_table, source_pk, snapshot_date, match_rule, match_score,"
    " confidence_level)"
)
FILL = f"""
insert into canon.identity_registry (person_key)
select md5('p' || i)::uuid from generate_series(1, %(persons)s) as i;

insert into canon.identity_links {COLUMNS}
select md5('p' || i)::uuid, 'module_ct_migrations', i::text, now(), 'R', 100, 'HIGH'
from generate_series(1, %(persons)s) as i;
"""
ROWS = """
select md5('p' || i) || e'\\tdrivers\\t' || md5('d' || i) || e'\\t2025-01-01\\tR\\t100\\tHIGH\\n'
from generate_series(1, %s) as i
"""
ONE = f"""
insert into canon.identity_links {COLUMNS}
values (md5('p' || %(i)s)::uuid, 'drivers', md5('d' || %(i)s), now(), 'R', 100, 'HIGH')
"""
COMMITS = 25


def prepare(server: Settings, links: int) -> list[str]:
    """Persons with a lead each, in bench_base; returns the lines of the COPY."""
    base = embedded.recreate_database(server, "bench_base", template="template_built")
    with psycopg.connect(**base.connection_parameters(), cursor_factory=psycopg.ClientCursor) as c:  # type: ignore[arg-type]
        c.execute(FILL, {"persons": links + COMMITS})
        lines = [row[0] for row in c.execute(ROWS, [links])]
    with connect(base) as connection:
        connection.execute("vacuum analyze")
    return lines


def measure(server: Settings, lines: list[str], mode: str, index: bool) -> tuple[float, ...]:
    """Seconds of a COPY, of its commit, and of one link with its commit, afterwards."""
    database = embedded.recreate_database(server, "bench_guard", template="bench_base")
    with connect(database) as connection:
        if index:
            guard.make_index(connection)
        if mode:
            guard.install(connection, mode)
        connection.execute("checkpoint")
    with open_connection(database) as connection:
        started = processor_seconds(connection)
        with connection.cursor().copy(f"copy canon.identity_links {COLUMNS} from stdin") as copy:
            copy.write("".join(lines))
        copied = processor_seconds(connection)
        connection.commit()
        committed = processor_seconds(connection)
    single = []
    with connect(database) as connection:
        connection.execute("vacuum analyze canon.identity_links")
        for person in range(len(lines) + 1, len(lines) + COMMITS + 1):
            before = processor_seconds(connection)
            connection.execute(ONE, {"i": str(person)})
            single.append(processor_seconds(connection) - before)
    return copied - started, committed - copied, statistics.median(single)


def processor_seconds(connection: Connection) -> float:
    """How long the server's process of this connection has been on a processor."""
    counters = Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text()
    return int(counters.split()[0]) / 1e9


def main(links: int = 500_000, rounds: int = 3) -> None:
    """Print a table for each mode, with and without the index."""
    host = os.environ.get("ORPHANS_TEST_HOST")
    server = (
        Settings(host, 5432, "postgres", "postgres", "", "prefer")
        if host
        else embedded.start_server(WORK / "bench")
    )
    try:
        build_templates(server)
        lines = prepare(server, links)
        setups = [(mode, index) for index in (False, True) for mode in ("", *guard.MODES)]
        found: dict[tuple[str, bool], list[tuple[float, ...]]] = {}
        for _ in range(rounds):
            for setup in setups:
                found.setdefault(setup, []).append(measure(server, lines, *setup))
        print(f"| | COPY of {links:,} links | its commit | one link, with its commit |")
        print("|---|---|---|---|")
        for (mode, index), times in found.items():
            copy, commit, single = (min(column) for column in zip(*times, strict=True))
            name = (mode or "no guard") + (", index" if index else "")
            print(f"| {name} | {copy:.1f} s | {commit:.1f} s | {single * 1000:.1f} ms |")
    finally:
        for name in ("bench_guard", "bench_base"):
            embedded.recreate_database(server, name)
        if not host:
            embedded.stop_server(WORK / "bench")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
