"""The reports of a fix: a JSON and a CSV file, streamed, and there only when they are whole."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from ct4_orphans.database import Row
from ct4_orphans.errors import OutputError, RefusedError
from ct4_orphans.json_text import read_object
from ct4_orphans.seals import Seal

# What a spreadsheet would take for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

COLUMNS = (
    "driver_id",
    "person_key",
    "action",
    "status",
    "detected_reason",
    "current_status",
    "outcome",
    "error",
    "has_events",
    "evidence_level",
    "strategy",
    "lead_rows_count",
    "lead_rows",
    "rivals",
    "weak_events",
    "license_masked",
    "phone_masked",
    "creation_rule",
    "explanation",
    "fingerprint",
)

_as_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes an encoder each time


class Report:
    """Two files that get their names only when `finish` has put everything in them."""

    def __init__(self, directory: Path, json_file: IO[str], csv_file: IO[str]) -> None:
        self.directory = directory
        self._json = json_file
        self._csv = csv_file

    def start(self, head: dict[str, Any]) -> None:
        """Write what is known before the first driver, in place of anything written before."""
        self._separator = "\n    "
        with _explained(self.directory):
            for file in (self._json, self._csv):
                file.seek(0)
                file.truncate()
            opening = json.dumps(head, ensure_ascii=False, indent=2).removesuffix("\n}")
            self._json.write(opening + ',\n  "drivers": [')
            self._csv.write(csv_line(COLUMNS))

    def add(self, row: Row) -> None:
        """Write one driver."""
        values = {name: _plain(row[name]) for name in COLUMNS}
        with _explained(self.directory):
            self._json.write(self._separator + _as_json(values))
            self._separator = ",\n    "
            self._csv.write(csv_line(values.values()))

    def finish(
        self, stats: dict[str, Any] | None, at: datetime, result: str, seal: Seal | None
    ) -> tuple[Path, Path]:
        """Write the counts, flush to disk, and name both files after `at` (in UTC).

        `result` is complete, stopped, or unknown (then there are no counts). The seal's digest lets
        `orphans audit` say later whether the ledger still has this history.
        """
        stamp = at.astimezone(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")
        tail = {
            "stats": stats,
            "result": result,
            "seal_no": seal.seal_no if seal else None,
            "digest": seal.digest if seal else None,
        }
        with _explained(self.directory):
            closing = json.dumps(tail, ensure_ascii=False, indent=2).removeprefix("{\n")
            self._json.write("\n  ],\n" + closing + "\n")
            return (
                self._publish(self._json, f"orphans_report_{stamp}.json"),
                self._publish(self._csv, f"orphans_report_{stamp}.csv"),
            )

    def _publish(self, file: IO[str], name: str) -> Path:
        file.flush()
        os.fsync(file.fileno())
        return Path(file.name).replace(self.directory / name)


@contextmanager
def open_report(directory: Path) -> Iterator[Report]:
    """Open both files at once, so that an unwritable directory is noticed before anything is done.

    The directory is made if it is missing (mode 0700); the files have mode 0600. What was not
    finished is removed. Raises OutputError.
    """
    with ExitStack() as stack:
        with _explained(directory):
            _make_private(directory)
            files = [
                stack.enter_context(_partial_file(directory, suffix)) for suffix in ("json", "csv")
            ]
        yield Report(directory, files[0], files[1])


def private_file(directory: Path, name: str) -> Path:
    """Make an empty file that only this user can read, and return its path. Raises OutputError."""
    path = directory / name
    with _explained(directory):
        _make_private(directory)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return path


def _make_private(directory: Path) -> None:
    """Make what is missing of a path for this user only; mkdir leaves parents to the umask."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing or [directory]):
        path.mkdir(exist_ok=True, mode=0o700)


@contextmanager
def _partial_file(directory: Path, suffix: str) -> Iterator[IO[str]]:
    with tempfile.NamedTemporaryFile(  # created with mode 0600
        "w",
        encoding="utf-8",
        newline="",
        prefix=".orphans_report_",
        suffix=f".{suffix}.partial",
        dir=directory,
        delete=False,
    ) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)
            with suppress(OSError):  # what could not be written cannot be flushed either
                file.close()


def read_plan(path: Path, database: str) -> dict[str, str]:
    """Return the fingerprint of each driver in the JSON report of a dry-run.

    Raises OutputError if the file cannot be read or is no report of this version's, RefusedError if
    it was made on another database or is the report of an execute.
    """
    plan: dict[str, str] = {}

    def keep(row: Any) -> None:
        plan[row["driver_id"]] = row["fingerprint"]

    try:
        report = read_object(path, "drivers", keep)
        mode, made_on = report["mode"], report["database"]
        # Its end is there; a reviewer may have left drivers out.
        is_whole = "drivers" in report and "stats" in report and isinstance(made_on, str)
    except OSError as error:
        raise OutputError(f"The plan {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        is_whole = False
    if not is_whole or not all(map(_is_planned_row, plan.items())):
        raise OutputError(
            f"{path} is no whole JSON report of a dry-run of this version. "
            "Make one:  orphans fix --dry-run"
        )
    if mode != "dry-run":
        raise RefusedError(f"{path} is the report of an execute; a plan is that of a dry-run.")
    if made_on != database:
        raise RefusedError(f"{path} was made on database {made_on[:63]}; this one is {database}.")
    return plan


def read_digest(path: Path) -> str:
    """Return the ledger's digest in a JSON report. Raises OutputError if there is none."""
    try:
        digest = read_object(path, "drivers", lambda _: None)["digest"]
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        digest = None
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise OutputError(f"{path} has no digest: it is no whole JSON report, or of a lost run.")
    return digest


def _is_planned_row(row: tuple[Any, Any]) -> bool:
    driver_id, fingerprint = row
    return (
        isinstance(driver_id, str)
        and isinstance(fingerprint, str)
        and "\0" not in driver_id
        and not re.search("[\ud800-\udfff]", driver_id)
        and re.fullmatch("[0-9a-f]{64}", fingerprint) is not None
    )


def csv_cell(value: Any) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    text = _as_json(value) if isinstance(value, (list, dict)) else str(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def csv_line(values: Iterable[Any]) -> str:
    """Return one line of a CSV report."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([csv_cell(value) for value in values])
    return line.getvalue()


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if value is None or isinstance(value, (str, int, list, dict)):
        return value
    return str(value)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"No report can be written to {directory}: {error.strerror or error}. "
            "Choose another directory with --output-dir."
        ) from error
