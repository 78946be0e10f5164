"""The edge's metrics: bounded labels, whatever comes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from smartscale.ingest.metrics import BOUNDS_S, MAX_TENANTS, OTHERS, Metrics


def test_answer_times_are_told_as_the_clients_own_histogram_tells_them() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    metrics = Metrics(ours)
    reference = Histogram(
        "smartscale_ingest_request_seconds", "From the head of a request to its answer", ["format"],
        buckets=BOUNDS_S, registry=theirs,
    )  # fmt: skip
    for seconds in (0.0, 0.001, 0.0011, 0.2, 4.0, 100.0):
        metrics.seconds.observe("json", seconds)
        reference.labels("json").observe(seconds)

    def lines(registry: CollectorRegistry) -> list[str]:
        text = generate_latest(registry).decode().splitlines()
        return [line for line in text if "request_seconds" in line and "_created" not in line]

    assert lines(ours) == lines(theirs)


def test_tenants_beyond_the_first_hundred_are_told_together() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.judged(
        {(f"t{i}", "json", "accepted"): 1 for i in range(MAX_TENANTS + 5)},
        {"far-future": 2},
        {("t1", "json"): 9},
    )
    metrics.judged({("t1", "json", "accepted"): 1}, {}, {})
    text = generate_latest(registry).decode()
    assert f'smartscale_ingest_events_total{{format="json",tenant="{OTHERS}",verdict="accepted"}} 5.0' in text
    assert 'smartscale_ingest_events_total{format="json",tenant="t1",verdict="accepted"} 2.0' in text
    assert 'smartscale_ingest_refused_events_total{reason="far-future"} 2.0' in text
    assert 'smartscale_ingest_body_bytes_total{format="json",tenant="t1"} 9.0' in text
