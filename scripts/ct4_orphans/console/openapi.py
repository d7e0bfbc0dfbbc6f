"""`python -m ct4_orphans.console.openapi`: the API as OpenAPI, from which clients are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ct4_orphans.console.app import ConsoleOptions, create_app
from ct4_orphans.database import Settings


def openapi() -> dict[str, Any]:
    """Return the description of the API. No database is needed."""
    nowhere = Settings("localhost", 5432, "ct4", "orphans", "", "prefer")
    return create_app(nowhere, ConsoleOptions(Path("output"))).openapi()


if __name__ == "__main__":
    print(json.dumps(openapi(), indent=2, ensure_ascii=False))
