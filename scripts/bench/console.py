"""The console under load: pages of the list, asked for at a steady rate."""

from __future__ import annotations

import asyncio
import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from ct4_orphans.console.schemas import Reason, Status
from ct4_orphans.database import Settings
from ct4_orphans.demo import job
from ct4_orphans.errors import DatabaseError

REQUESTS_A_SECOND = 50
SECONDS = 40
PAGE_SIZE = 50
LIST = "/api/v1/identity/orphans"


def latencies(settings: Settings, orphans: int, output_dir: Path) -> list[float]:
    """Return the seconds from the moment each request was due to its whole answer.

    Infinitely many where it was refused: too many waited for a connection.
    """
    with _console(settings, output_dir) as url:
        return asyncio.run(_ask(url, _questions(orphans)))


def p95(seconds: list[float]) -> float:
    """Return what 95 of 100 requests stay below."""
    return sorted(seconds)[int(len(seconds) * 0.95)]


def _questions(orphans: int) -> list[str]:
    """Give any page of the list as operators ask for it, the same ones in every run."""
    choose = random.Random(50)  # noqa: S311 - no secret
    pages = max(1, orphans // PAGE_SIZE)
    filters = ["", *(f"&status={status.value}" for status in Status)]
    filters += [f"&detected_reason={reason.value}" for reason in Reason]
    sorts = ("-detected_at", "driver_id", "last_updated_at", "status")
    return [
        f"{LIST}?page={choose.randint(1, pages)}&page_size={PAGE_SIZE}"
        f"{choose.choice(filters)}&sort={choose.choice(sorts)}"
        if choose.random() < 0.9
        else f"{LIST}/metrics"
        for _ in range(REQUESTS_A_SECOND * SECONDS)
    ]


async def _ask(url: str, questions: list[str]) -> list[float]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(client.get(question) for question in (LIST, f"{LIST}/metrics")))
        start = time.monotonic()

        async def ask(number: int, question: str) -> float:
            due = start + number / REQUESTS_A_SECOND
            await asyncio.sleep(due - time.monotonic())
            answer = await client.get(question)
            return time.monotonic() - due if answer.status_code == 200 else math.inf

        return await asyncio.gather(
            *(ask(number, question) for number, question in enumerate(questions))
        )


@contextmanager
def _console(settings: Settings, output_dir: Path) -> Iterator[str]:
    """Serve the console on a free port of this machine, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "ct4_orphans",
        *("serve", "--port", "0", "--output-dir", str(output_dir)),
    ]
    with subprocess.Popen(
        command,
        env=job.environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            says = server.stdout.readline() if server.stdout else ""
            found = re.search(r"http://\S+", says)
            if not found:
                raise DatabaseError(f"The console did not start: {says}")
            yield found[0]
        finally:
            server.terminate()
            server.wait(30)
