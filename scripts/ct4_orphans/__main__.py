"""python -m ct4_orphans: the `orphans` command."""

from ct4_orphans.cli import main

main(prog_name="orphans")
