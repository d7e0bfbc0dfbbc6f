"""What can go wrong for a user, and the exit code that says so (documented in the README)."""

from __future__ import annotations

import click


class OrphansError(click.ClickException):
    """A failure that a user can understand: one line, what happened, what to do.

    Control characters in the message are replaced, since it can quote data or a server's words.
    """

    exit_code = 1

    def format_message(self) -> str:
        """Return the message on one line."""
        return " ".join(self.message.split())


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
