"""What can go wrong for a user, and the exit code that says so (documented in the README)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

DRIVER_OR_PERSON = r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
LIKE_A_LICENCE_OR_PHONE = (
    r"\d(?:[ .()-]?\d){5,}|\b(?:[A-Z]{1,4} ?|[A-Za-z]{1,4}-?)\d{3,}[A-Za-z0-9]*"
)
# PostgreSQL quotes names and values alike; in Spanish with «». A value stands after a colon.
QUOTED = r"""(?:(: |\bvalue )["«„“].*["»“”])|["«„“]([^"»“”]*)["»“”]"""
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*"
IN_A_TRIGGERS_WORDS = r"(?<!\w)'[^']*'(?!\w)|(?<![\w.])[^\W\d_a-zß-öø-ÿ][^\W_]*"
SQL_WORDS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "NULL", "CT4")


def printable(text: Any) -> str:
    """Return text from outside without control or direction characters, for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def some(names: Sequence[str], at_most: int = 10) -> str:
    """Return the first names of a list and how many more there are, for a message."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(map(printable, names[:at_most])) + more


def masked(text: str) -> str:
    """Return a text with whatever looks like a licence, plate or phone cut to three characters.

    Ids of drivers and persons are left as they are.
    """
    return re.sub(
        f"({DRIVER_OR_PERSON})|{LIKE_A_LICENCE_OR_PHONE}",
        lambda found: found[1] or f"***{found[0][-3:]}",
        text,
    )


def masked_message(text: str, *, of_a_trigger: bool = False) -> str:
    """Return a server's message without the data that it quotes; names of columns and such stay.

    In the words of somebody's trigger every word with a capital may be a person's name.
    """

    def quote(found: re.Match[str]) -> str:
        is_name = found[2] and re.fullmatch(IDENTIFIER, found[2]) and not of_a_trigger
        return found[0] if is_name else f'{found[1] or ""}"***"'

    def word(found: re.Match[str]) -> str:
        return found[0] if found[0] in SQL_WORDS else "***"

    text = re.sub(QUOTED, quote, text)
    return masked(re.sub(IN_A_TRIGGERS_WORDS, word, text) if of_a_trigger else text)


class OrphansError(click.ClickException):
    """A failure that a user can understand: one line, what happened, what to do.

    Control characters in the message are replaced, since it can quote data or a server's words.
    """

    exit_code = 1

    def format_message(self) -> str:
        """Return the message on one line."""
        return printable(" ".join(self.message.split()))


class IncompleteError(OrphansError):
    """The run ended, but not everything that was planned could be applied."""

    exit_code = 1


class DatabaseError(OrphansError):
    """The database cannot be reached, or lacks something that the command needs."""

    exit_code = 3


class RefusedError(OrphansError):
    """The command could run but must not: another run holds the lock, or a check said no."""

    exit_code = 4


class OutputError(OrphansError):
    """The reports cannot be written; nothing was changed in the database because of it."""

    exit_code = 5
