"""Indexes of CT4's tables that help a lot. None is required, and none is made without being asked.

The one home of their statements, and of what each gains (as measured by `make bench`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ct4_orphans.database import AnyConnection, Row, rows, statement

LARGE = 100_000  # rows; what is smaller is read in no time


@dataclass(frozen=True)
class Index:
    """An index of one column. `gain` ends the sentence "With one, …"."""

    name: str
    table: str
    column: str
    gain: str

    def create(self, name: str = "") -> str:
        """Return the statement that makes it without stopping anybody's writes."""
        return f"create index concurrently {name or self.name} on {self.table} ({self.column})"

    def existing(self, connection: AnyConnection) -> list[Row]:
        """Return the indexes that do what it does, whoever made them, and whether they work."""
        return rows(connection, statement("indexes_of_column"), self._where())

    def rows_of_table(self, connection: AnyConnection) -> int:
        """Return about how many rows its table has, 0 if there is no such table."""
        found = rows(connection, statement("rows_of_table"), self._where())
        return int(found[0]["rows_found"]) if found else 0

    def _where(self) -> dict[str, str]:
        return {"table": self.table, "column": self.column}


LINKS_OF_A_PERSON = Index(
    "ct4_orphans_person_key",
    "canon.identity_links",
    "person_key",
    "the guard answers faster at each commit of a link (147 ms -> 0.5 ms), and so do "
    "ops.v_driver_orphans (383 ms -> 3 ms at 1 million drivers) and ops.v_ct4_eligible_drivers "
    "(444 ms -> 37 ms) for one driver, and the list of the console",
)
DAYS_OF_A_DRIVER = Index(
    "ct4_orphans_driver_id",
    "public.summary_daily",
    "driver_id",
    "payments and the funnel answer for one driver faster (1.8 s -> 13 ms at 1 million drivers, "
    "with the index on the links' person_key)",
)


@dataclass(frozen=True)
class Advice:
    """An index that is missing where it would help; `half_made` names those that do not work."""

    index: Index
    rows: int
    half_made: list[str]


def advice(connection: AnyConnection) -> Iterator[Advice]:
    """Give the indexes that large tables lack."""
    for index in (LINKS_OF_A_PERSON, DAYS_OF_A_DRIVER):
        found = index.existing(connection)
        size = index.rows_of_table(connection)
        if size > LARGE and not any(one["is_usable"] for one in found):
            yield Advice(index, size, [one["name"] for one in found])
