"""What can go wrong for a user, and the exit code that says so (documented in the README)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

DRIVER_OR_PERSON = r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
LIKE_A_LICENCE_OR_PHONE = r"\d(?:[ .()-]?\d){5,}"


def printable(text: Any) -> str:
    """Return text from outside without control or direction characters, for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def some(names: Sequence[str], at_most: int = 10) -> str:
    """Return the first names of a list and how many more there are, for a message."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(map(printable, names[:at_most])) + more


def masked(text: str) -> str:
    """Return a server's message with whatever looks like a licence or phone cut to three digits.

    Triggers of other services quote data. Ids of drivers and persons are left as they are.
    """
    return re.sub(
        f"({DRIVER_OR_PERSON})|{LIKE_A_LICENCE_OR_PHONE}",
        lambda found: found[1] or f"***{found[0][-3:]}",
        text,
    )


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
