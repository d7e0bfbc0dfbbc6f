"""A report is read a driver at a time: as json.loads reads it, and in little memory."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ct4_orphans import fix as fixing
from ct4_orphans import json_text
from ct4_orphans.report import read_digest, read_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MEGABYTE = 1_000_000
DRIVERS = 20_000
REFUSED = "refused"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["\ud800", "\udc7b", 'a\\"', "\x00", '"drivers": [', "é👻"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["drivers", "digest", "a", ""]), inner, max_size=3)
    ),
    max_leaves=10,
)
objects = st.builds(
    lambda members, drivers: members | {"drivers": drivers, "digest": 1.5e-3},
    st.dictionaries(st.text(max_size=3), values, max_size=3),
    st.lists(values, max_size=4) | values,
)
# What a careless hand does to a file: cut it, repeat a piece of it, put something in.
damages: st.SearchStrategy[Callable[[str], str]] = st.one_of(
    st.just(lambda text: text),
    st.floats(0, 1).map(lambda part: lambda text: text[: round(part * len(text))]),
    st.floats(0, 1).map(lambda part: lambda text: text + text[round(part * len(text)) :]),
    st.tuples(
        st.floats(0, 1), st.sampled_from([",", "]", "}", "[", '"', "1", " ", "e", "\ufeff", "null"])
    ).map(
        lambda what: (
            lambda text: (
                text[: round(what[0] * len(text))] + what[1] + text[round(what[0] * len(text)) :]
            )
        )
    ),
)


def as_json_reads(text: str) -> Any:
    """The list and the other members, by json.loads."""
    lists_there = []

    def members(pairs: list[tuple[str, Any]]) -> Any:
        lists_there[:] = [
            value for key, value in pairs if key == "drivers"
        ]  # the outermost is last
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=members)
    except ValueError:
        return REFUSED
    is_right = isinstance(found, dict) and all(isinstance(one, list) for one in lists_there)
    if not is_right or len(lists_there) > 1:
        return REFUSED
    drivers = found.pop("drivers", [])
    return repr((drivers, found))  # NaN is not NaN


def as_we_read(path: Path) -> Any:
    drivers: list[Any] = []
    try:
        found = json_text.read_object(path, "drivers", drivers.append)
    except ValueError:
        return REFUSED
    found.pop("drivers", None)
    return repr((drivers, found))


@given(
    read=objects | values,
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    damage=damages,
    at_once=st.sampled_from([1, 2, 3, 7, 1 << 16]),
)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_file_means_what_json_says_wherever_it_is_cut_in_pieces(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Any,
    indent: int | None,
    ascii_only: bool,
    damage: Callable[[str], str],
    at_once: int,
) -> None:
    text = damage(json.dumps(read, indent=indent, ensure_ascii=ascii_only))
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    monkeypatch.setattr(json_text, "CHARACTERS_AT_ONCE", at_once)
    is_text = not any("\ud800" <= character <= "\udfff" for character in text)
    assert as_we_read(path) == (as_json_reads(text) if is_text else REFUSED)


@pytest.mark.parametrize("number", ["12", "-0.5", "1.25e+10", "1E-7", "-Infinity", "NaN", "true"])
def test_a_value_that_is_cut_in_two_is_one_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setattr(json_text, "CHARACTERS_AT_ONCE", 1)
    path = tmp_path / "report.json"
    path.write_text(f'{{"drivers":[{number},{number}],"a":{number}}}')
    assert as_we_read(path) == as_json_reads(path.read_text())


def test_the_list_twice_is_refused_and_not_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"drivers": [1], "drivers": [2]}')
    assert as_we_read(path) == REFUSED


# --- Memory ---------------------------------------------------------------------------------------


def plan_of(drivers: int, path: Path) -> Path:
    """A dry-run's report with about 1.5 KB a driver, as evidence makes it."""
    events = json.dumps([{"event_id": number, "source_table": "x" * 20} for number in range(25)])
    with path.open("w") as file:
        file.write('{"mode": "dry-run", "database": "d", "drivers": [')
        for number in range(drivers):
            file.write(
                f'{"," if number else ""} {{"driver_id": "{number:032x}",'
                f' "fingerprint": "{number:064x}", "rivals": {events}}}'
            )
        file.write(f'], "stats": {{}}, "digest": "{0:064x}"}}')
    return path


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python had at most while it did the work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_reviewed_plan_of_20_000_drivers_costs_less_than_10_mb(tmp_path: Path) -> None:
    path = plan_of(DRIVERS, tmp_path / "plan.json")
    assert path.stat().st_size > 25 * MEGABYTE
    plan: dict[str, str] = {}
    assert peak(lambda: plan.update(read_plan(path, "d"))) < 10 * MEGABYTE
    assert len(plan) == DRIVERS


def test_the_digest_of_a_report_costs_less_than_a_mb_however_long_it_is(tmp_path: Path) -> None:
    path = plan_of(DRIVERS // 4, tmp_path / "report.json")
    assert path.stat().st_size > 6 * MEGABYTE
    assert peak(lambda: read_digest(path)) < MEGABYTE


def test_counting_drivers_keeps_none_of_them() -> None:
    stats = fixing.Stats()
    row = {
        "outcome": "planned",
        "has_events": True,
        "lead_rows_count": 2,
        "action": "relink",
        "strategy": "phone_exact",
    }

    def count() -> None:
        for _ in range(2_000):
            person = uuid.uuid4()
            for _ in range(2):
                stats.add(row | {"person_key": person})

    assert peak(count) < 10_000
    assert (stats.processed, stats.links_created) == (4_000, 4_000)
