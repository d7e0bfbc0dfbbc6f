"""JSON files whose long list need not fit into memory: its entries are read one at a time.

By the json module's own rules. (ijson's fast backend reads half a surrogate pair as another
character, and its exact one takes eight times as long.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

CHARACTERS_AT_ONCE = 1 << 16
END_OF_A_NUMBER = len("e+")  # what the decoder leaves of a number that is cut in two
DECODER = json.JSONDecoder()
NO_WHITE_SPACE = re.compile(r"[^ \t\n\r]")


def read_object(path: Path, name: str, each: Callable[[Any], None]) -> dict[str, Any]:
    """Return the members of a file's object, but give the entries of the list `name` to `each`.

    Raises OSError, ValueError or RecursionError if the file is no such object.
    """
    members: dict[str, Any] = {}
    with path.open(encoding="utf-8") as file:
        text = _Text(file)
        for _ in text.entries("{", "}"):
            key = text.value()
            if not isinstance(key, str):
                raise ValueError("the name of a member is no text")
            text.take(":")
            if key != name:
                members[key] = text.value()
                continue
            if name in members:
                raise ValueError("the list is there twice")
            members[name] = None
            for _ in text.entries("[", "]"):
                each(text.value())
        if text.next_character():
            raise ValueError("something follows the object")
    return members


class _Text:
    """The text from where its reader is, of which only a piece is in memory."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._piece = ""
        self._at = 0
        self._has_more = True

    def next_character(self) -> str:
        """Go past white space; return the character there, which is empty at the end."""
        while True:
            found = NO_WHITE_SPACE.search(self._piece, self._at)
            if found:
                self._at = found.start()
                return found[0]
            self._at = len(self._piece)
            if not self._has_more:
                return ""
            self._read_on()

    def take(self, expected: str) -> str:
        """Go past one of the expected characters, and return it."""
        found = self.next_character()
        if not found or found not in expected:
            raise ValueError(f"{found!r} is none of {expected}")
        self._at += 1
        return found

    def entries(self, opening: str, closing: str) -> Iterator[None]:
        """Stop at each entry of an object or a list, for the caller to take it."""
        self.take(opening)
        if self.next_character() == closing:
            self.take(closing)
            return
        yield
        while self.take("," + closing) == ",":
            yield

    def value(self) -> Any:
        """Take a value, whatever it is."""
        self.next_character()
        while True:
            try:
                value, end = DECODER.raw_decode(self._piece, self._at)
            except json.JSONDecodeError:  # perhaps only cut off
                if not self._has_more:
                    raise
            else:
                if not self._has_more or end + END_OF_A_NUMBER < len(self._piece):
                    self._at = end
                    return value
            self._read_on()

    def _read_on(self) -> None:
        """Twice as much each time, so that a long value is not tried again too often."""
        rest = self._piece[self._at :]
        more = self._file.read(max(CHARACTERS_AT_ONCE, len(rest)))
        self._piece, self._at, self._has_more = rest + more, 0, bool(more)
