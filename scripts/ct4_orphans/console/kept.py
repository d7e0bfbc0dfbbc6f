"""Answers that are kept for a while.

Own code: the known caches have nobody make the next answer while the old one still serves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ct4_orphans.errors import OrphansError

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_filled: bool = False
    version: Any = None
    until: float = 0.0
    value: Any = None


class Kept:
    """Answers for a while: who asks while the first one is computed waits for it.

    An answer that is too old is given once more for as long, while one who asked has another made
    in the background: nobody waits because of the time alone.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, version: Any, seconds: float, compute: Callable[[], T]) -> T:
        """Return the answer of this version, not older than twice so many seconds."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > self._at_most:
                self._slots.popitem(last=False)

        def refill() -> None:
            value = compute()
            slot.value, slot.version, slot.is_filled = value, version, True
            slot.until = time.monotonic() + seconds

        def refill_later() -> None:
            try:
                refill()
            except OrphansError as error:  # who asks when it is really too old hears of it
                log.warning("%s", error.format_message())
            finally:
                slot.lock.release()

        def is_of_use(until: float) -> bool:
            return slot.is_filled and slot.version == version and time.monotonic() < until

        if not is_of_use(slot.until + seconds):
            with slot.lock:
                if not is_of_use(slot.until):
                    refill()
        elif not is_of_use(slot.until) and slot.lock.acquire(blocking=False):
            threading.Thread(target=refill_later, name=f"read {key}", daemon=True).start()
        value: T = slot.value
        return value
