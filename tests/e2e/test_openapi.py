"""The OpenAPI document held against the running edge: valid and invalid requests made from it, and every answer checked."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from smartscale.ingest.formats import FORMATS
from smartscale.log.port import TopicPartition, read_all
from smartscale.records import topics
from smartscale.records.events import event_count
from smartscale.testing.processes import Pipeline

pytestmark = pytest.mark.e2e

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
"""``positive_data_acceptance`` is left out: that a time is no more than a minute ahead, or that a metric has a value, no
JSON Schema can say. ``negative_data_rejection`` too: a body with a wrong event among good ones is 207, not refused."""

_TEXT = {
    each for types in FORMATS.values() for each in types if "json" in each and not each.endswith("+json")
}


@schemathesis.serializer(*sorted(_TEXT - {"application/json", "text/json"}))
def _as_text(_context: object, value: Any) -> bytes:
    return value.encode(errors="surrogatepass") if isinstance(value, str) else repr(value).encode()


@schemathesis.serializer("application/x-protobuf", "application/vnd.apache.arrow.stream")
def _as_bytes(_context: object, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(f"sqlite:{tmp_path / 'log.db'}", tmp_path, {"ingest.linger_ms": 0}, ["ingest"]) as running:
        yield running


def _events(edge: Pipeline) -> int:
    with edge.log() as log:
        partitions = range(log.topics()[topics.EVENTS].partitions)
        return sum(
            event_count(record.headers)
            for p in partitions
            for record in read_all(log, TopicPartition(topics.EVENTS, p))
        )


POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


def _ask(
    operation: schemathesis.APIOperation[Any, Any, Any, Any],
    session: requests.Session,
    mode: schemathesis.GenerationMode,
    examples: int,
    number: int,
) -> int:
    """Ask many times and check the answers; the events that native answers called accepted."""
    accepted = 0

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        nonlocal accepted
        response = case.call(session=session)
        case.validate_response(response, checks=CHECKS)
        if operation.path == "/v1/events" and response.status_code in (200, 207):
            accepted += response.json()["accepted"]

    ask()
    return accepted


def _fuzz(edge: Pipeline, examples: int, number: int) -> None:
    """Every operation, with data of its schema and with data that breaks it."""
    schema = schemathesis.openapi.from_url(f"{edge.url}/openapi.json", config=SchemathesisConfig())
    with requests.Session() as session:
        accepted = 0
        for found in schema.get_all_operations():
            assert not isinstance(found, Err), found
            operation = found.ok()
            sends = operation.method == "post"
            accepted += _ask(operation, session, POSITIVE, examples if sends else 2, number)
            if sends:  # in a GET without parameters there is nothing to break
                accepted += _ask(operation, session, NEGATIVE, examples, number)
        told = session.get(f"{edge.url}/metrics").text.splitlines()
    counted = sum(
        float(line.rpartition(" ")[2])
        for line in told
        if line.startswith("smartscale_ingest_events_total") and 'verdict="accepted"' in line
    )
    assert accepted > 0
    assert _events(edge) == counted >= accepted


def test_answers_are_as_documented_and_what_was_accepted_is_in_the_log(edge: Pipeline) -> None:
    _fuzz(edge, examples=25, number=20_261_125)
    assert "Traceback" not in edge.text("ingest")


@pytest.mark.soak
def test_answers_are_as_documented_for_long(edge: Pipeline) -> None:
    for _ in range(int(os.environ.get("SMARTSCALE_SOAK_ROUNDS", "3"))):
        _fuzz(edge, examples=1000, number=random.randrange(1 << 32))
    assert "Traceback" not in edge.text("ingest")
