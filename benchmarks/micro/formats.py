"""How many events a second one core decodes from each format, beside the limit: only parsing the protobuf message.

Run ``python benchmarks/micro/formats.py``; prints one JSON object. A body of 1,000 events becomes columns with ids, as
the edge's writer does it, twenty bodies a round. Times are CPU seconds of this process, the best of five rounds, so another
process on the machine does not count. Spans are a server's as an SDK sends them: seven attributes, 231 bytes each; half of
them in ``spans, half of a client`` are of kind CLIENT, of which nothing is written.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import zstandard
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from smartscale.clock import iso
from smartscale.ingest.decode import Job, Rules, decode
from smartscale.ingest.formats import FORMATS
from smartscale.ingest.otlp import events as careful
from smartscale.ingest.otlp.spans import prepare
from smartscale.records.events_json import user_hasher

EVENTS = 1000
BODIES = 20
ROUNDS = 5
NOW_US = 1_780_315_200_000_000
CHANCE = random.Random(1)
RULES = Rules(60_000_000, 64 << 10, 20_000, 16 << 20, user_hasher(b"key"))


def attributes(**given: str | int) -> list[dict[str, Any]]:
    return [
        {
            "key": key.replace("_", "."),
            "value": {"int_value" if isinstance(value, int) else "string_value": value},
        }
        for key, value in given.items()
    ]


RESOURCE = {"attributes": attributes(service_name="shop", service_version="1.2.3", host_name="h-1")}


def span(kind: int = 2) -> dict[str, Any]:
    end_ns = (NOW_US - CHANCE.randrange(10_000_000)) * 1000
    return {
        "trace_id": CHANCE.randbytes(16), "span_id": CHANCE.randbytes(8), "name": "GET /cart/{id}", "kind": kind,
        "start_time_unix_nano": end_ns - CHANCE.randrange(500_000_000), "end_time_unix_nano": end_ns,
        "attributes": [
            {"key": "http.response.status_code", "value": {"int_value": 200}},
            *attributes(http_route="/cart/{id}", http_request_method="GET", url_path="/cart/17", server_address="shop",
                        url_scheme="https", network_protocol_version="1.1"),
        ],
    }  # fmt: skip


def traces(kinds: int) -> bytes:
    """``kinds`` 1: all of a server; 2: half of them of a client."""
    made: Any = [span(2 if number % kinds == 0 else 3) for number in range(EVENTS)]
    groups: Any = [{"resource": RESOURCE, "scope_spans": [{"spans": made}]}]
    return ExportTraceServiceRequest(resource_spans=groups).SerializeToString()


def traces_json() -> bytes:
    def one() -> dict[str, Any]:
        made = span()
        kept = [
            {
                "key": each["key"],
                "value": {("intValue" if "int_value" in each["value"] else "stringValue"): value},
            }
            for each in made["attributes"]
            for value in each["value"].values()
        ]
        return {
            "traceId": made["trace_id"].hex(), "spanId": made["span_id"].hex(), "name": made["name"], "kind": 2,
            "startTimeUnixNano": str(made["start_time_unix_nano"]), "endTimeUnixNano": str(made["end_time_unix_nano"]),
            "attributes": kept,
        }  # fmt: skip

    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    groups = [{"resource": resource, "scopeSpans": [{"spans": [one() for _ in range(EVENTS)]}]}]
    return json.dumps({"resourceSpans": groups}).encode()


def logs() -> bytes:
    records: Any = [
        {"time_unix_nano": (NOW_US - number) * 1000, "severity_number": 9, "body": {"string_value": "some text"},
         "attributes": attributes(code_function="f")}
        for number in range(EVENTS)
    ]  # fmt: skip
    groups: Any = [
        {"resource": RESOURCE, "scope_logs": [{"scope": {"name": "cart"}, "log_records": records}]}
    ]
    return ExportLogsServiceRequest(resource_logs=groups).SerializeToString()


def metrics() -> bytes:
    points: Any = [
        {
            "time_unix_nano": (NOW_US - number) * 1000,
            "as_double": 1.5,
            "attributes": attributes(queue=f"q{number}"),
        }
        for number in range(EVENTS)
    ]
    groups: Any = [
        {
            "resource": RESOURCE,
            "scope_metrics": [{"metrics": [{"name": "length", "gauge": {"data_points": points}}]}],
        }
    ]
    return ExportMetricsServiceRequest(resource_metrics=groups).SerializeToString()


def natives() -> list[dict[str, Any]]:
    return [
        {"service": "shop", "time": iso(NOW_US - number), "name": "GET /cart/{id}", "status": 200, "latency_ms": 12.5,
         "id": f"run-{number}"}
        for number in range(EVENTS)
    ]  # fmt: skip


def cloudevents() -> bytes:
    return json.dumps(
        [
            {"specversion": "1.0", "id": each.pop("id"), "source": each.pop("service"), "type": each.pop("name"),
             "time": each.pop("time"), "data": each}
            for each in natives()
        ]
    ).encode()  # fmt: skip


def arrow() -> bytes:
    rows = natives()
    batch = pa.record_batch(
        {
            "service": pa.array([row["service"] for row in rows]).dictionary_encode(),
            "time": pa.array([NOW_US - number for number in range(EVENTS)], pa.timestamp("us", "UTC")),
            "name": pa.array([row["name"] for row in rows]).dictionary_encode(),
            "status": pa.array([row["status"] for row in rows], pa.int16()),
            "latency_ms": [row["latency_ms"] for row in rows],
            "id": [row["id"] for row in rows],
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def best_ns(work: Callable[[], object]) -> float:
    """CPU nanoseconds an event; the first round, which may compile, does not count."""
    work()
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return round(min(spent) / (EVENTS * BODIES) * 1e9)


def decoded(path: str, media_type: str, body: bytes, **more: str) -> float:
    headers: Mapping[str, str] = {"content-type": media_type, **more}
    jobs = [Job(FORMATS[path][media_type], headers, body, NOW_US) for _ in range(BODIES)]
    _, outcomes = decode(jobs, RULES, 1 << 30)
    assert not any(outcome.problem or outcome.error or outcome.refused for outcome in outcomes)
    return best_ns(lambda: decode(jobs, RULES, 1 << 30))


def main() -> None:
    prepare()
    protobuf, spans = "application/x-protobuf", traces(1)
    limits = RULES.limits(NOW_US)
    headers = {"content-type": protobuf}
    native = json.dumps(natives()).encode()
    found = {
        "limit: parsing the protobuf message alone": best_ns(
            lambda: [ExportTraceServiceRequest.FromString(spans) for _ in range(BODIES)]
        ),
        "spans, protobuf": decoded("/v1/traces", protobuf, spans),
        "spans, protobuf, gzip": decoded(
            "/v1/traces", protobuf, gzip.compress(spans), **{"content-encoding": "gzip"}
        ),
        "spans, protobuf, zstd": decoded(
            "/v1/traces", protobuf, zstandard.compress(spans), **{"content-encoding": "zstd"}
        ),
        "spans, half of a client, protobuf": decoded("/v1/traces", protobuf, traces(2)),
        "spans, protobuf, careful path": best_ns(
            lambda: [careful.decode_traces(headers, spans, limits) for _ in range(BODIES)]
        ),
        "spans, JSON": decoded("/v1/traces", "application/json", traces_json()),
        "log records, protobuf": decoded("/v1/logs", protobuf, logs()),
        "data points, protobuf": decoded("/v1/metrics", protobuf, metrics()),
        "CloudEvents, batch": decoded("/v1/events", "application/cloudevents-batch+json", cloudevents()),
        "Arrow": decoded("/v1/events", "application/vnd.apache.arrow.stream", arrow()),
        "native JSON": decoded("/v1/events", "application/json", native),
    }
    result = {
        "benchmark": "formats",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "span_bytes": len(spans) // EVENTS,
        "ns_per_event": found,
        "events_per_s": {name: round(1e9 / ns) for name, ns in found.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
