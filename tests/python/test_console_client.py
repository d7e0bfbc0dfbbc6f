"""The TypeScript client is that of today's API: made again, it is the same, and its types hold."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, WORK, must_run

CLIENT = ROOT / "clients/typescript"


def test_the_committed_openapi_is_that_of_the_code() -> None:
    made = must_run("python", "-m", "ct4_orphans.console.openapi").stdout
    committed = (CLIENT / "openapi.json").read_text("utf-8")
    assert json.loads(made) == json.loads(committed), "run: make client"


def test_the_functions_that_operators_tools_call_are_in_it() -> None:
    client = (CLIENT / "orphans.ts").read_text("utf-8")
    for name in ("getOrphans", "getOrphansMetrics", "runOrphansFix"):
        assert f"export const {name} = async (" in client


@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here: apt-get install npm")
def test_the_committed_client_is_what_the_openapi_gives_and_its_types_hold() -> None:
    copy = WORK / "client"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(CLIENT, copy, ignore=shutil.ignore_patterns("node_modules"))
    npm(copy, "install", "--no-fund", "--no-audit", "--no-package-lock")
    (copy / "orphans.ts").unlink()
    npm(copy, "run", "generate")
    assert (copy / "orphans.ts").read_text() == (CLIENT / "orphans.ts").read_text(), (
        "run: make client"
    )
    npm(copy, "run", "check")


def npm(directory: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["npm", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"npm {arguments}:\n{done.stdout}\n{done.stderr}"
