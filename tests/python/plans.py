"""What PostgreSQL did to answer a query, and whether its work grows with the tables or with their
product: over the tree of EXPLAIN (ANALYZE, FORMAT JSON), from PostgreSQL 13 on.

Nothing here looks at a time, an estimate or the kind of a join: only at who was read how often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Tree = dict[str, Any]

# Below so many rows a table is tiny: it may be read again and again.
TINY = 100
# No step may handle more rows than so many times all tables together. A join of everything with
# everything handles thousands of times as many.
TIMES_ALL_TABLES = 4
# A pass is a pass, also when a few rows are read once more.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Node:
    """A step of a plan with what its place in the tree means."""

    tree: Tree
    participants: int
    """Processes that run this step: a leader and its workers."""
    in_subplan: bool
    """Whether it answers a question about every row, rather than being joined."""

    @property
    def kind(self) -> str:
        return str(self.tree["Node Type"])

    @property
    def table(self) -> str:
        """The table that it reads; empty if it reads none."""
        return str(self.tree.get("Relation Name", ""))

    @property
    def loops(self) -> float:
        """How often it was run; once, if once by each process."""
        loops = float(self.tree["Actual Loops"])
        if loops <= self.participants:
            return min(loops, 1)
        return loops / self.participants if self.tree.get("Parallel Aware") else loops

    @property
    def handled(self) -> float:
        """The rows it looked at, in all its runs and processes: those it let pass and the others.

        A lookup that finds nothing is work too.
        """
        removed = (
            "Rows Removed by Filter",
            "Rows Removed by Join Filter",
            "Rows Removed by Index Recheck",
        )
        rows = self.tree["Actual Rows"] + sum(self.tree.get(name, 0) for name in removed)
        if not self.table or self.tree.get("Parallel Aware"):
            return float(rows * self.tree["Actual Loops"])
        # The others of a group of processes read the same rows of the table.
        return float(max(rows, 1 if self.loops > 1 else 0) * self.loops)

    @property
    def is_scan(self) -> bool:
        """Whether it reads a table without an index condition that could leave most of it out."""
        return bool(self.table) and self.kind.endswith("Scan") and not self.is_lookup

    @property
    def is_lookup(self) -> bool:
        return "Index Cond" in self.tree or self.kind == "Bitmap Heap Scan"

    def __str__(self) -> str:
        named = [self.table, self.tree.get("Alias"), self.tree.get("CTE Name")]
        return " ".join([self.kind, *dict.fromkeys(name for name in named if name)])


def nodes(tree: Tree, participants: int = 1, in_subplan: bool = False) -> Iterator[Node]:
    """All steps of a plan, from the top."""
    yield Node(tree, participants, in_subplan)
    if "Workers Launched" in tree:
        participants = 1 + int(tree["Workers Launched"])
    for child in tree.get("Plans", []):
        # A CTE or a scalar that is worked out once is an InitPlan, not a SubPlan.
        asked_per_row = child.get("Parent Relationship") == "SubPlan"
        yield from nodes(child, participants, in_subplan or asked_per_row)


def passes(tree: Tree, sizes: Mapping[str, int]) -> dict[str, float]:
    """How many times each table was read: 2.0 is as much as reading all of it twice."""
    found: dict[str, float] = {}
    for node in nodes(tree):
        if node.table in sizes and node.kind.endswith("Scan"):
            times = node.handled / max(sizes[node.table], 1)
            found[node.table] = found.get(node.table, 0) + times
    return found


def faults(tree: Tree, sizes: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """What is wrong with a plan, a line each.

    `sizes` has the rows of every table that can be large, `allowed` how many times each may be
    read: a view that is evaluated twice reads its tables twice.
    """
    everything = sum(sizes.values())
    found = []
    for node in nodes(tree):
        large = node.table in sizes and sizes[node.table] > TINY
        if large and node.is_scan and node.loops > 1:
            found.append(f"{node} is run {node.loops:.0f} times")
        if large and node.is_scan and node.in_subplan:
            found.append(f"{node} is in a SubPlan")
        if node.handled > TIMES_ALL_TABLES * everything:
            found.append(f"{node} handles {node.handled:.0f} rows; all tables have {everything}")
    for table, times in passes(tree, sizes).items():
        limit = allowed.get(table, 0)
        if sizes[table] > TINY and times > limit + TOLERANCE:
            found.append(f"{table} is read {times:.2f} times, not {limit}")
    return found


def outline(tree: Tree, depth: int = 0) -> str:
    """The steps of a plan with their rows, for whoever has to find a fault."""
    lines = [
        f"{'  ' * depth}{Node(tree, 1, False)}: {tree['Actual Rows']} rows x {tree['Actual Loops']}"
    ]
    lines += [outline(child, depth + 1) for child in tree.get("Plans", [])]
    return "\n".join(lines)
