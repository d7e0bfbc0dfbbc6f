"""The API keeps to its OpenAPI, whatever it is sent: schemathesis, in both senses.

With a token that may make dry-runs; execute is switched off.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator

import httpx
import hypothesis
import pytest
import schemathesis
import uvicorn
from ct4_orphans import embedded
from ct4_orphans.console import security
from ct4_orphans.console.app import ConsoleOptions, create_app
from ct4_orphans.database import Settings, connect
from fastapi import FastAPI
from psycopg import sql
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from test_fix import fill, town

EXAMPLES = 12  # of each operation, in each sense
load_all_checks()
KEPT = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    )
]
TOKEN, LINE = security.new_token("ana", ("read", "fix"))
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
# Nothing can be wrong with what takes no parameters.
TAKE_NOTHING = {"getHealth", "getOrphansMetrics", "getOrphansCriteria", "getOrphansFunnel"}
TAKE_NOTHING |= {"getOrphansRuns"}
OPERATIONS = {
    *TAKE_NOTHING,
    *("getOrphans", "getOrphansPlan", "getOrphansPlanCsv", "getOrphan", "getOrphansReport"),
    *("runOrphansFix", "getOrphansFixRun", "watchOrphansFixRun", "stopOrphansFixRun"),
}
CASES = [
    (operation, mode)
    for operation in sorted(OPERATIONS)
    for mode in GenerationMode
    if mode.is_positive or operation not in TAKE_NOTHING
]


@pytest.fixture(scope="module")
def app(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    fill(settings, town())
    tokens = security.Tokens.from_lines([LINE], "a test")
    app = create_app(settings, ConsoleOptions(tmp_path_factory.mktemp("reports"), tokens))
    app.state.gate._runs = security.Limiter(10**6)
    listener = socket.create_server(("127.0.0.1", 0))
    app.state.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    console = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=console.run, args=[[listener]])
    thread.start()
    try:
        yield app
    finally:
        console.should_exit = True
        thread.join(30)
    with connect(server) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def schema(app: FastAPI) -> schemathesis.BaseSchema:
    url = f"{app.state.url}/openapi.json"
    return schemathesis.openapi.from_url(url, headers=HEADERS, wait_for_schema=10)


def test_every_operation_is_tried(schema: schemathesis.BaseSchema) -> None:
    found = {result.ok().definition.raw["operationId"] for result in schema.get_all_operations()}
    assert found == OPERATIONS


@pytest.mark.parametrize(
    ("operation_id", "mode"), CASES, ids=[f"{name}-{mode.value}" for name, mode in CASES]
)
def test_an_operation_answers_as_the_openapi_says(
    schema: schemathesis.BaseSchema, operation_id: str, mode: GenerationMode
) -> None:
    operation = schema.find_operation_by_id(operation_id)
    sent = Counter[int]()

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def try_it(case: schemathesis.Case) -> None:
        response = case.call(headers=HEADERS, timeout=30)
        sent[response.status_code] += 1
        case.validate_response(response, checks=KEPT, headers=HEADERS)

    try_it()
    assert sent.total() >= 1
    if mode.is_negative:  # whether each was refused is a check; a null that is left out is fine
        assert sent[422] > 0, sent


@pytest.mark.parametrize(
    "body", [b"\x8e\xa6", b"[" * 20_000, b'{"limit": %s}' % (b"9" * 5000), b'{"limit": NaN}', b""]
)
def test_a_body_that_is_no_json_is_malformed(app: FastAPI, body: bytes) -> None:
    headers = {**HEADERS, "Content-Type": "application/json"}
    answer = httpx.post(
        f"{app.state.url}/api/v1/identity/orphans/run-fix", content=body, headers=headers
    )
    assert answer.status_code == 422, answer.text
    assert list(answer.json()) == ["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_check_sees_an_answer_that_the_openapi_does_not_have(
    app: FastAPI, schema: schemathesis.BaseSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.reads, "last_runs", lambda: 1 / 0)
    case = schema.find_operation_by_id("getOrphansRuns").Case()
    with pytest.raises(BaseException, match="Server error"):
        case.validate_response(case.call(headers=HEADERS), checks=KEPT, headers=HEADERS)
