"""Answers are made once for all who ask, and never because of the time alone while one waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from ct4_orphans.console.kept import Kept
from ct4_orphans.errors import DatabaseError

LONG = 3600.0


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_all_who_ask_at_once_get_one_answer() -> None:
    kept, made, may_end = Kept(4), [], threading.Event()

    def make() -> int:
        made.append(1)
        assert may_end.wait(10)
        return len(made)

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(kept.get, "key", 1, LONG, make) for _ in range(6)]
        until(lambda: bool(made))
        may_end.set()
        assert {one.result(10) for one in asked} == {1}
    assert len(made) == 1


def test_another_version_is_made_at_once() -> None:
    kept = Kept(4)
    assert kept.get("key", 1, LONG, lambda: "old") == "old"
    assert kept.get("key", 1, LONG, lambda: "new") == "old"
    assert kept.get("key", 2, LONG, lambda: "new") == "new"


def test_what_is_only_old_is_given_once_more_while_the_next_is_made() -> None:
    kept, may_end = Kept(4), threading.Event()
    kept.get("key", 1, 0.2, lambda: "old")
    time.sleep(0.25)

    def make() -> str:
        assert may_end.wait(10)
        return "new"

    assert kept.get("key", 1, 0.2, make) == "old", "nobody waits"
    may_end.set()
    until(lambda: kept.get("key", 1, LONG, lambda: "never") == "new")


def test_what_is_much_too_old_is_not_given_any_more() -> None:
    kept = Kept(4)
    kept.get("key", 1, 0.01, lambda: "old")
    time.sleep(0.05)
    assert kept.get("key", 1, 0.01, lambda: "new") == "new"


def test_an_answer_that_fails_is_told_and_made_again() -> None:
    kept = Kept(4)

    def fail() -> str:
        raise DatabaseError("away")

    for _ in range(2):
        with pytest.raises(DatabaseError):
            kept.get("key", 1, LONG, fail)
    assert kept.get("key", 1, LONG, lambda: "there") == "there"


def test_a_failure_in_the_background_leaves_the_old_answer_until_it_is_too_old() -> None:
    kept, failed = Kept(4), threading.Event()
    kept.get("key", 1, 0.3, lambda: "old")
    time.sleep(0.35)

    def fail() -> str:
        failed.set()
        raise DatabaseError("away")

    assert kept.get("key", 1, 0.3, fail) == "old"
    assert failed.wait(10)
    time.sleep(0.35)
    with pytest.raises(DatabaseError):
        kept.get("key", 1, 0.3, fail)


def test_no_more_are_kept_than_so_many() -> None:
    kept = Kept(2)
    for key in ("a", "b", "c"):
        kept.get(key, 1, LONG, lambda key=key: f"first {key}")  # type: ignore[misc]
    assert kept.get("c", 1, LONG, lambda: "second") == "first c"
    assert kept.get("a", 1, LONG, lambda: "second") == "second"
