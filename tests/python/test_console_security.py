"""Who may do what in the console: its tokens file and its limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from ct4_orphans.console.security import Limiter, Person, Sessions, Tokens, is_loopback, new_token
from ct4_orphans.errors import OutputError, RefusedError
from fastapi import HTTPException


def tokens_file(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "tokens"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def test_a_token_gives_its_permissions_and_no_others(tmp_path: Path) -> None:
    token, line = new_token("ana", ("read", "fix"))
    tokens = Tokens.from_file(tokens_file(tmp_path, f"# people\n\n{line}\n"))
    assert tokens.person(token) == Person("ana", may_fix=True, may_see_personal_data=False)
    assert tokens.person(token + "x") is None
    assert token not in line


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_tokens_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(RefusedError, match="chmod 600"):
        Tokens.from_file(tokens_file(tmp_path, new_token("ana", ("read",))[1], mode))


@pytest.mark.parametrize("text", ["", "ana read", "ana all " + "0" * 64, "ana read " + "0" * 63])
def test_a_malformed_tokens_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(OutputError):
        Tokens.from_file(tokens_file(tmp_path, text))


def test_a_missing_tokens_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be read"):
        Tokens.from_file(tmp_path / "missing")


def test_more_than_the_limit_is_refused_for_that_person_only() -> None:
    limiter = Limiter(2)
    limiter.count("ana")
    limiter.count("ana")
    limiter.count("eva")
    with pytest.raises(HTTPException) as refused:
        limiter.count("ana")
    assert refused.value.status_code == 429
    assert 1 <= int((refused.value.headers or {})["Retry-After"]) <= 61


def test_a_closed_session_is_nobodys() -> None:
    sessions, ana = Sessions(), Person("ana", may_fix=False, may_see_personal_data=False)
    secret = sessions.open(ana)
    assert sessions.person(secret) == ana
    sessions.close(secret)
    assert sessions.person(secret) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""])
def test_what_others_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
