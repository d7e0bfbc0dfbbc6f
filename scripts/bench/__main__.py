"""`make bench`: build a town of any size and of half of it, measure, and judge."""

from __future__ import annotations

import signal
import sys
from datetime import datetime, timezone
from pathlib import Path

import click
from ct4_orphans.database import Settings, connect
from ct4_orphans.errors import IncompleteError

from bench import measure, plot, results, towns

SIZE = click.IntRange(min=1)


@click.command(
    epilog="Example: make bench DRIVERS=1000000 KEEP=1. Exit code 1 if a target is missed."
)
@click.option("--drivers", type=click.IntRange(min=4), default=100_000, show_default=True)
@click.option("--orphans", type=SIZE, help="A tenth of the drivers by default.")
@click.option("--events", type=SIZE, help="Lead events: five per driver by default.")
@click.option("--days", type=SIZE, default=30, show_default=True, help="Daily rows per driver.")
@click.option(
    "--rounds", type=SIZE, default=3, show_default=True, help="Measure so often; the best counts."
)
@click.option(
    "--timeout", type=SIZE, default=1800, show_default=True, help="Seconds for one statement."
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(measure.PARTS),
    multiple=True,
    help="Only this, of the full table. Can be repeated.",
)
@click.option("--no-growth", is_flag=True, help="Without the town of half the size.")
@click.option("--keep", is_flag=True, help="Keep the towns for the next run of these sizes.")
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=towns.ROOT / "output" / "bench",
    help="Where the JSON and the plot go; output/bench by default.",
)
def main(
    drivers: int,
    orphans: int | None,
    events: int | None,
    days: int,
    rounds: int,
    timeout: int,
    parts: tuple[str, ...],
    no_growth: bool,
    keep: bool,
    output_dir: Path,
) -> None:
    """Measure how fast this project is, against floors measured in the same run.

    On an embedded PostgreSQL of its own, with a CT4 database of these sizes and one of half of
    them. Prints a table; writes it as JSON and as a plot.
    """
    full = towns.Sizes(drivers, orphans or max(2, drivers // 10), events or 5 * drivers, days)
    if not 1 < full.orphans < drivers:
        raise click.UsageError("--orphans must be more than 1 and less than --drivers.")
    if full.events < drivers:
        raise click.UsageError("--events must be as many as --drivers: everyone has a lead event.")
    sizes = {"full": full} if no_growth else {"half": full.half(), "full": full}
    at = datetime.now(timezone.utc)
    with towns.bench_server(timeout) as server:
        bench = measure.Bench(server, sizes, rounds, lambda line: click.echo(line, err=True))
        try:
            measure.run(bench, parts or measure.PARTS)
            rows = results.targets(bench)
            content = results.as_json(bench, rows, at, parts or measure.PARTS)
        finally:
            clean_up(server, sizes, keep)
    click.echo(f"{full}; best of {rounds}\n\n{results.table(rows)}\n")
    name = f"bench_{drivers}_{at:%Y%m%dT%H%M%SZ}"
    results.write(content, output_dir / f"{name}.json")
    click.echo(f"Written: {output_dir / name}.json")
    try:
        plot.draw(rows, *headings(content, full), output_dir / f"{name}.png")
        click.echo(f"Written: {output_dir / name}.png")
    except ImportError:
        click.echo("No plot: matplotlib is not installed. Run: pip install '.[bench]'", err=True)
    missed = [row for row in rows if not row.is_met]
    if missed:
        raise IncompleteError(f"{len(missed)} of {len(rows)} targets are missed.")


def headings(content: dict[str, object], full: towns.Sizes) -> tuple[str, str]:
    """Return the two lines above the plot."""
    machine, postgres = content["machine"], content["postgres"]
    assert isinstance(machine, dict) and isinstance(postgres, dict)  # noqa: S101
    return str(full), (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']:g} GB, "
        f"PostgreSQL {postgres['server_version']}, best of {content['rounds']}"
    )


def clean_up(server: Settings, sizes: dict[str, towns.Sizes], keep: bool) -> None:
    """Drop the copies, and the towns of these sizes unless they are to be kept.

    Those of an older town.sql go in any case; towns of other sizes are another run's.
    """
    names = [towns.town_name(size) for size in sizes.values()]
    ours = ("bench_", towns.BUILDING, *(name.rpartition("_")[0] + "_" for name in names))
    with connect(server) as connection:
        rows = connection.execute("select datname from pg_database").fetchall()
    for name in (row["datname"] for row in rows):
        if name.startswith(ours) and not (keep and name in names):
            towns.drop(server, name)


if __name__ == "__main__":
    # Ended from outside, it stops its server too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
