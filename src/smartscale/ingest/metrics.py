"""What the edge counts, by format, tenant and verdict; every label has few values, whatever clients send.

Counted in rounds, not by event. Tenants come from the file of tokens; the first ``MAX_TENANTS`` seen are told by name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

MAX_TENANTS: Final = 100
OTHERS: Final = "(others)"
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of answer times, in seconds: those of the Prometheus clients, from a millisecond on."""


class Latencies(Collector):
    """Histograms of seconds by one label. Cheaper than the client's own, because nothing is locked: it is written on one
    thread, and a scrape may miss what is being added."""

    def __init__(self, name: str, text: str, label: str) -> None:
        self._name, self._text, self._label = name, text, label
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, value: str, seconds: float) -> None:
        counts = self._counts.get(value)
        if counts is None:
            counts = self._counts[value] = [0] * (len(BOUNDS_S) + 1)
            self._sums[value] = 0.0
        counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sums[value] += seconds

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        for value, counts in list(self._counts.items()):
            total, buckets = 0, []
            for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], list(counts), strict=True):
                total += count
                buckets.append((bound, float(total)))
            family.add_metric([value], buckets, self._sums[value])
        yield family


class Metrics:
    """The edge's metrics. Belongs to the event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._tenants: set[str] = set()
        self.seconds = Latencies(
            "smartscale_ingest_request_seconds", "From the head of a request to its answer", "format"
        )
        registry.register(self.seconds)
        self._requests = Counter(
            "smartscale_ingest_requests", "Requests with events", ["format", "status"], registry=registry
        )
        self._events = Counter(
            "smartscale_ingest_events",
            "Events by tenant, format and verdict",
            ["tenant", "format", "verdict"],
            registry=registry,
        )
        self._refused = Counter(
            "smartscale_ingest_refused_events", "Refused events by reason", ["reason"], registry=registry
        )
        self._bytes = Counter(
            "smartscale_ingest_body_bytes",
            "Bytes of bodies whose events have their verdicts, as they came",
            ["tenant", "format"],
            registry=registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is asked for at each scrape."""
        Gauge(f"smartscale_ingest_{name}", text, registry=self._registry).set_function(value)

    def answered(self, requests: Mapping[tuple[str, int], int]) -> None:
        """Numbers of requests by format and status."""
        for (form, status), count in requests.items():
            self._requests.labels(form, str(status)).inc(count)

    def judged(
        self,
        events: Mapping[tuple[str, str, str], int],
        refused: Mapping[str, int],
        sizes: Mapping[tuple[str, str], int],
    ) -> None:
        """Numbers of events by (tenant, format, verdict), of refused ones by reason, and bytes by (tenant, format)."""
        for (tenant, form, verdict), count in events.items():
            self._events.labels(self._tenant(tenant), form, verdict).inc(count)
        for reason, count in refused.items():
            self._refused.labels(reason).inc(count)
        for (tenant, form), size in sizes.items():
            self._bytes.labels(self._tenant(tenant), form).inc(size)

    def _tenant(self, tenant: str) -> str:
        if tenant not in self._tenants and len(self._tenants) >= MAX_TENANTS:
            return OTHERS
        self._tenants.add(tenant)
        return tenant
