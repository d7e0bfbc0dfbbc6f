"""The dbt project and Alembic, as the other commands use them: run, and read what they declare."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ct4_orphans.database import Settings
from ct4_orphans.errors import DatabaseError, masked, masked_message

ROOT = Path(__file__).parents[2]
COLOUR = re.compile(r"\x1b\[\d*m")
TIME = re.compile(r"^\d\d:\d\d:\d\d ")
MODULES = {"dbt": "dbt.cli.main", "alembic": "alembic", "orphans": "ct4_orphans"}
# dbt's own log would hold what the server says in full, personal data too.
NO_LOG = ("--log-level-file", "none")
# The server's message in a line of its own, what it adds below, and that dbt goes on.
SERVER_SAYS = re.compile(r"Database Error( in .*)?$")
GOES_ON = re.compile(r"\d\d:\d\d:\d\d |  compiled code at ")


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
        [
            *(sys.executable, "-m", MODULES[words[0]]),
            *(NO_LOG if words[0] == "dbt" else ()),
            *words[1:],
        ],
        cwd=ROOT,
        env={
            **os.environ,
            **settings.environment(),
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            "PGCLIENTENCODING": "UTF8",
            "PGTZ": "UTC",
            "PGDATESTYLE": "ISO",
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
        output = (COLOUR.sub("", line).rstrip("\n") for line in process.stdout or ())
        for line in without_data(output) if words[0] == "dbt" else output:
            lines.append(line)
            line_by_line(line)
    if words[0] == "dbt":
        _clean_results()
    return process.returncode, "".join(f"{line}\n" for line in lines)


def without_data(lines: Iterable[str]) -> Iterator[str]:
    """Give dbt's lines; of what the server says only the message, without the data it quotes."""
    message: list[str] | None = None
    for line in lines:
        if message is not None and not GOES_ON.match(line):
            message.append(line)
            continue
        yield from _server_said(message or [])
        message = [] if SERVER_SAYS.search(line) else None
        yield line
    yield from _server_said(message or [])


def _server_said(message: list[str]) -> Iterator[str]:
    if not message:
        return
    first = message[0]
    if "connection to server" in first:  # host, port and user
        yield masked(first)
    else:
        yield masked_message(first, of_a_trigger=any(" at RAISE" in line for line in message))


def _clean_results() -> None:
    """Take the data out of the server's messages that dbt keeps in run_results.json."""
    path = target("run_results.json")
    if not path.exists():
        return
    content = json.loads(path.read_text("utf-8"))
    said = [result for result in content["results"] if "Error" in (result["message"] or "")]
    for result in said:
        result["message"] = "\n".join(without_data(result["message"].splitlines()))
    if said:
        path.write_text(json.dumps(content), "utf-8")


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
