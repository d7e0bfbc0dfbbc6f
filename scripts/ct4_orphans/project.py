"""The dbt project and Alembic, as the other commands use them: run, and read what they declare."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ct4_orphans.database import Settings
from ct4_orphans.errors import DatabaseError

ROOT = Path(__file__).parents[2]
COLOUR = re.compile(r"\x1b\[\d*m")
TIME = re.compile(r"^\d\d:\d\d:\d\d ")
MODULES = {"dbt": "dbt.cli.main", "alembic": "alembic", "orphans": "ct4_orphans"}


def run(
    *words: str,
    settings: Settings,
    line_by_line: Callable[[str], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run dbt, alembic or orphans in the project; return the exit code and the whole output.

    It reads the DB_ variables of `settings`, never a prompt. Raises DatabaseError where this
    package is not in a clone of its project.
    """
    if not (ROOT / "dbt_project.yml").is_file():
        raise DatabaseError(
            f"{ROOT} is no clone of this project: install with 'pip install -e .' in a clone."
        )
    process = subprocess.Popen(
        [sys.executable, "-m", MODULES[words[0]], *words[1:]],
        cwd=ROOT,
        env={
            **os.environ,
            **settings.environment(),
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            **(environment or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    with process:
        for line in process.stdout or ():
            lines.append(COLOUR.sub("", line))
            line_by_line(lines[-1].rstrip("\n"))
    return process.returncode, "".join(lines)


def target(name: str) -> Path:
    """Return the path of a file that dbt writes, for example manifest.json."""
    return ROOT / os.environ.get("DBT_TARGET_PATH", "target") / name


def artifact(name: str) -> dict[str, Any]:
    """Return what dbt wrote in its last run: manifest.json or run_results.json."""
    content: dict[str, Any] = json.loads(target(name).read_text("utf-8"))
    return content


def last_words(output: str) -> str:
    """Return the line of a tool's output that says best what went wrong."""
    lines = [TIME.sub("", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line]
    for number, line in enumerate(lines):
        if "Database Error in" in line or "Compilation Error in" in line:
            return " ".join(lines[number : number + 2])
    errors = [line for line in lines if "rror" in line]
    return errors[0] if errors else lines[-1] if lines else "it said nothing"
