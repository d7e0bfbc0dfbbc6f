"""What linters cannot see by themselves, or need a database for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, must_run
from ct4_orphans.database import Settings

LONGEST_NAME_OF_A_RELATION = 63


@pytest.fixture(scope="module")
def manifest(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict:
    target = tmp_path_factory.mktemp("target")
    must_run(
        *("dbt", "--warn-error-options", '{"error": ["Deprecations"]}', "parse"),
        settings=server,
        DBT_TARGET_PATH=str(target),
    )
    return json.loads((target / "manifest.json").read_text())


def nodes(manifest: dict, *types: str) -> list[dict]:
    return [node for node in manifest["nodes"].values() if node["resource_type"] in types]


def test_sqlfluff_finds_nothing(built_database: Settings, tmp_path: Path) -> None:
    must_run(
        *("sqlfluff", "lint", "models", "tests", "snapshots"),
        settings=built_database,
        DBT_TARGET_PATH=str(tmp_path),
    )


def test_everything_that_is_shown_is_described(manifest: dict) -> None:
    """dbt takes `descrpition:` without a word: an empty description is how it shows."""
    missing = [
        f"{node['name']}.{column['name']}" if column else node["name"]
        for node in nodes(manifest, "model", "seed", "snapshot")
        for column in (None, *node["columns"].values())
        if not (column or node)["description"]
    ]
    undocumented = [node["name"] for node in nodes(manifest, "model") if not node["columns"]]
    assert missing == []
    assert undocumented == []


def test_only_staging_reads_sources(manifest: dict) -> None:
    readers = [
        node["name"]
        for node in nodes(manifest, "model", "snapshot")
        if any(parent.startswith("source.") for parent in node["depends_on"]["nodes"])
        and "/staging/" not in node["original_file_path"]
    ]
    assert readers == []


def test_names_of_tests_fit_into_the_name_of_a_relation(manifest: dict) -> None:
    names = [node["name"] for node in nodes(manifest, "test")]
    names += [test["name"] for test in manifest["unit_tests"].values()]
    assert [name for name in names if len(name) > LONGEST_NAME_OF_A_RELATION] == []
    assert len(names) == len(set(names))


def test_nothing_uses_not_in_with_a_subquery() -> None:
    found = [
        str(path.relative_to(ROOT))
        for folder in ("models", "macros", "tests/acceptance", "tests/generic", "snapshots")
        for path in (ROOT / folder).rglob("*.sql")
        if re.search(r"not\s+in\s*\(\s*select", path.read_text(), re.IGNORECASE)
    ]
    assert found == []


def test_the_lock_file_names_no_registry() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
