"""Real clients against a real ingest process: what they send is in the log, each event once."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from smartscale.log.port import TopicPartition, read_all
from smartscale.records import events, schema, topics
from smartscale.testing.processes import Pipeline, smartscale

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ingest.md").read_text()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("edge")
    with Pipeline(f"sqlite:{folder / 'log.db'}", folder, {}, stages=("ingest",)) as pipeline:
        yield pipeline


def rows(edge: Pipeline, service: str) -> list[dict[str, Any]]:
    """The events of a service in the log."""
    with edge.log() as log:
        partitions = range(log.topics()[topics.EVENTS].partitions)
        return [
            row
            for partition in partitions
            for record in read_all(log, TopicPartition(topics.EVENTS, partition))
            if schema.schema_of(record.headers) == schema.EVENTS
            for row in events.decode(record.value).to_pylist()
            if row["service"] == service
        ]


def post(edge: Pipeline, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{edge.url}{path}", body, named)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


EXAMPLES = {
    "json": 3, "lines": 2, "/shop": 3, "traced": 1, "logged": 1, "measured": 1, "columns": 2, "site": 2,
}  # fmt: skip
"""Services of the page's examples, and how many events each sends."""


def test_every_example_of_the_page_works(edge: Pipeline, tmp_path: Path) -> None:
    """Shell and Python, as they are typed."""
    commands = {"sh": ["bash", "-e", "-o", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        text = block.replace("http://127.0.0.1:8070", edge.url)
        done = subprocess.run(
            [*commands[kind], text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        assert 'refused":1' not in done.stdout, done.stdout
    assert {service: len(rows(edge, service)) for service in EXAMPLES} == EXAMPLES


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_spans_of_the_opentelemetry_sdk_are_interactions(edge: Pipeline, compression: Compression) -> None:
    """A thousand requests, each with a client's span inside; an error by its status, another by an exception."""
    service = f"spans-{compression.value}"
    provider = TracerProvider(resource=Resource({"service.name": service}))
    exporter = OTLPSpanExporter(f"{edge.url}/v1/traces", compression=compression)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=5000))
    tracer = provider.get_tracer("test")
    for number in range(1000):
        with tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as span:
            span.set_attributes(
                {"http.route": "/cart/{id}", "http.response.status_code": 503 if number == 0 else 200}
            )
            if number == 1:
                span.set_status(StatusCode.ERROR, "broken")
            with tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT):
                pass
    provider.shutdown()
    found = rows(edge, service)
    assert Counter((row["kind"], row["name"]) for row in found) == {("interaction", "/cart/{id}"): 1000}
    assert Counter((row["status"], row["error"]) for row in found) == {
        (200, False): 998, (503, True): 1, (200, True): 1,
    }  # fmt: skip
    assert len({row["id"] for row in found}) == 1000
    assert all(row["latency"] is not None for row in found)


def test_logs_of_the_opentelemetry_sdk_are_log_events(edge: Pipeline) -> None:
    """Sent from Python's own logging."""
    provider = LoggerProvider(resource=Resource({"service.name": "sdk-logs"}))
    provider.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(f"{edge.url}/v1/logs", compression=Compression.Gzip))
    )
    logger = logging.getLogger("shop.cart")
    handler = LoggingHandler(logger_provider=provider)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        for number in range(100):
            logger.log(logging.ERROR if number % 4 == 0 else logging.INFO, "line %d", number)
    finally:
        logger.removeHandler(handler)
    provider.shutdown()
    found = rows(edge, "sdk-logs")
    assert Counter((row["kind"], row["name"], row["error"]) for row in found) == {
        ("log", "shop.cart", False): 75, ("log", "shop.cart", True): 25,
    }  # fmt: skip
    assert len({row["id"] for row in found}) == 100


def test_metrics_of_the_opentelemetry_sdk_are_metric_events(edge: Pipeline) -> None:
    """A counter, an up-down counter, and a histogram as its count and its sum."""
    exporter = OTLPMetricExporter(f"{edge.url}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)
    provider = MeterProvider([reader], Resource({"service.name": "sdk-metrics"}))
    meter = provider.get_meter("test")
    meter.create_counter("sold").add(3, {"shop": "a"})
    meter.create_up_down_counter("waiting").add(-2)
    for value in (1.5, 2.5):
        meter.create_histogram("size").record(value)
    provider.shutdown()
    found = {row["name"]: row for row in rows(edge, "sdk-metrics")}
    assert {name: row["value"] for name, row in found.items()} == {
        "sold": 3.0, "waiting": -2.0, "size_count": 2.0, "size_sum": 4.0,
    }  # fmt: skip
    assert {row["kind"] for row in found.values()} == {"metric"}
    assert json.loads(found["sold"]["attributes"]) == {"temporality": "cumulative", "shop": "a"}


def test_an_exporter_is_told_what_was_refused_and_does_not_send_it_again(
    edge: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """The good span is in the log, once; the exporter takes the partial success for a success."""
    provider = TracerProvider(resource=Resource({"service.name": "partial"}))
    exported: list[Any] = []
    processor = BatchSpanProcessor(OTLPSpanExporter(f"{edge.url}/v1/traces"))
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    for name in ("good", "n" * 300):
        span = tracer.start_span(name, kind=SpanKind.SERVER)
        span.end()
        exported.append(span)
    provider.shutdown()
    assert [row["name"] for row in rows(edge, "partial")] == ["good"]
    assert OTLPSpanExporter(f"{edge.url}/v1/traces").export(exported) is SpanExportResult.SUCCESS
    answers = [row["name"] for row in rows(edge, "partial")]
    assert answers == ["good"], "the same span again is a duplicate"


def test_cloudevents_of_the_sdk_in_all_modes(edge: Pipeline) -> None:
    def event(number: int, data: dict[str, Any]) -> CloudEvent:
        about = {
            "id": str(number),
            "source": "/sdk",
            "type": "sold",
            "subject": "Euro € 5",
            "datacontenttype": "application/json",
        }
        return CloudEvent(about, data)

    for message in (to_binary_event(event(1, {"status": 500})), to_structured_event(event(2, {"other": 1}))):
        headers = {name.replace("-", "_"): value for name, value in message.headers.items()}
        assert post(edge, "/v1/events", message.body, **headers)[0] == 200
    batch = b"[" + b",".join(to_structured_event(event(n, {})).body for n in (2, 3)) + b"]"
    status, answer = post(edge, "/v1/events", batch, Content_Type="application/cloudevents-batch+json")
    assert (status, json.loads(answer)["accepted"], json.loads(answer)["duplicate"]) == (200, 1, 1)
    found = sorted(rows(edge, "/sdk"), key=lambda row: str(row["id"]))
    assert [row["id"] for row in found] == ["/sdk 1", "/sdk 2", "/sdk 3"]
    assert [row["status"] for row in found] == [500, None, None]
    assert {json.loads(row["attributes"])["subject"] for row in found} == {"Euro € 5"}


def test_packed_bodies_of_every_format_and_bombs(edge: Pipeline) -> None:
    body, zeros = json.dumps([{"service": "packed"}] * 50).encode(), bytes(100 << 20)
    for encoding, packed in (("gzip", gzip.compress(body)), ("zstd", zstandard.compress(body))):
        status, answer = post(
            edge, "/v1/events", packed, Content_Type="application/json", Content_Encoding=encoding
        )
        assert (status, json.loads(answer)["accepted"]) == (200, 50)
        bomb = gzip.compress(zeros) if encoding == "gzip" else zstandard.compress(zeros)
        for path, media_type in (
            ("/v1/events", "application/json"),
            ("/v1/traces", "application/x-protobuf"),
        ):
            assert post(edge, path, bomb, Content_Type=media_type, Content_Encoding=encoding)[0] == 413
    assert len(rows(edge, "packed")) == 100
    assert post(edge, "/v1/events", body, Content_Type="application/json", Content_Encoding="br")[0] == 415


def test_a_problem_is_told_in_the_exporters_own_form(edge: Pipeline) -> None:
    status, answer = post(edge, "/v1/traces", b"\xff", Content_Type="application/x-protobuf")
    assert (status, answer[:1]) == (400, b"\x12")
    status, answer = post(edge, "/v1/traces", b"{", Content_Type="application/json")
    assert status == 400
    assert "not valid" in json.loads(answer)["message"]


def test_tail_sends_each_line_once_through_a_kill_and_a_rotation(edge: Pipeline, tmp_path: Path) -> None:
    """Killed without warning while lines come in, then the file is rotated, then it is started again."""
    path, state = tmp_path / "access.log", tmp_path / "state.json"
    command = ["ingest", "tail", str(path), "--service", "tailed", "--url", edge.url, "--state", str(state)]
    line = '10.0.0.1 - - [25/Nov/2026:10:05:03 +0000] "GET /item/{} HTTP/1.1" 200 512\n'
    path.write_text("nonsense\n" + "".join(line.format(number) for number in range(2000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "smartscale", *command, "--from-beginning"], stderr=subprocess.PIPE, text=True
    )
    pause = threading.Event()
    while not state.exists():  # it has sent something
        assert process.poll() is None
        pause.wait(0.01)
    process.kill()
    process.communicate()
    with path.open("a") as file:
        file.write("".join(line.format(number) for number in range(2000, 2500)))
    path.rename(tmp_path / "access.log.1")
    path.write_text("".join(line.format(number) for number in range(2500, 3000)))
    done = smartscale(*command, "--no-follow", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["refused"] == 0
    found = rows(edge, "tailed")
    assert len({row["id"] for row in found}) == 3000
    assert {row["name"] for row in found} == {"GET /item/{id}"}
    again = smartscale(*command, "--no-follow", "--json")
    assert json.loads(again.stdout)["lines"] == 0


def test_tail_waits_for_an_edge_that_is_away(tmp_path: Path) -> None:
    """Nothing is lost, and Ctrl-C still ends it in good order."""
    path = tmp_path / "access.log"
    path.write_text('{"time": 1, "status": 200}\n')
    process = subprocess.Popen(
        [
            sys.executable, "-m", "smartscale", "ingest", "tail", str(path), "--from-beginning",
            "--url", "http://127.0.0.1:9", "--state", str(tmp_path / "state.json"), "--json",
        ],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "waiting: no answer from 127.0.0.1:9" in process.stderr.readline()
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["accepted"] == 0
    assert not (tmp_path / "state.json").exists()
