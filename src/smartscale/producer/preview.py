"""What a scenario would send, before it sends anything."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from smartscale.producer import labels
from smartscale.producer.labels import TrueFault
from smartscale.producer.load import Load, Source
from smartscale.producer.rates import Rates

BARS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 24
_INSTANTS: Final = 6000
"""At which rates are looked at: an hour by 0.6 s, a week by 100 s."""


class ServicePreview(msgspec.Struct, frozen=True):
    """One service: requests a second on average and at the highest, retries included; requests, log events and metric
    events over the whole load; the share that fails; latencies at the mean load. ``sparkline`` is the rate over time, from
    0 to its peak."""

    service: str
    arrivals: str
    mean_per_s: float
    peak_per_s: float
    requests: float
    logs: float
    metrics: float
    error_rate: float
    latency_p50_ms: float
    latency_p99_ms: float
    sparkline: str


class Preview(msgspec.Struct, frozen=True):
    """A whole scenario. ``peak_per_s``: requests a second of all services together at the busiest instant."""

    about: str
    scenario: str
    seed: int
    start_us: int
    duration_s: float
    events: float
    peak_per_s: float
    services: list[ServicePreview]
    faults: list[TrueFault]


def preview(load: Load) -> Preview:
    """What the load comes to. Fast, whatever its length: rates are looked at in 6,000 instants."""
    together = np.zeros(_INSTANTS)
    services = []
    for source in load.sources:
        shown, rate = _service(source, load)
        services.append(shown)
        together += rate
    return Preview(
        load.about,
        load.digest,
        load.seed,
        load.start_us,
        load.duration_s,
        sum(each.requests + each.logs + each.metrics for each in services),
        float(together.max()),
        services,
        labels.true_faults(load),
    )


def _service(source: Source, load: Load) -> tuple[ServicePreview, Rates]:
    spec, course = source.spec, source.course(load.middles(_INSTANTS))
    mean = float(course.rate.mean())
    requests = mean * load.duration_s
    weights = course.rate / max(course.rate.sum(), 1e-12)
    p50, p99 = (
        float((source.quantiles.at(np.full(_INSTANTS, share), course.load) * course.stretch * weights).sum())
        for share in (0.5, 0.99)
    )
    shown = ServicePreview(
        source.name,
        str(spec.arrivals.__struct_config__.tag),
        mean,
        float(course.rate.max()),
        requests,
        requests * spec.logs.per_request if spec.logs else 0.0,
        load.duration_s // spec.metrics.interval * 3 if spec.metrics else 0.0,
        float((source.failing(course) * weights).sum()),
        p50,
        p99,
        sparkline(course.rate),
    )
    return shown, course.rate


def sparkline(rate: Rates) -> str:
    """The course of a rate as a line of bars, from 0 to its highest; a dot where it is 0.

    >>> sparkline(np.repeat([0.0, 1.0, 4.0, 8.0], 6))
    '······▁▁▁▁▁▁▄▄▄▄▄▄██████'
    """
    means = np.array([part.mean() for part in np.array_split(rate, _WIDTH)])
    highest = means.max()
    return "".join(
        "·" if mean <= 0 else BARS[max(int(np.ceil(mean / highest * len(BARS))) - 1, 0)]
        for mean in means.tolist()
    )
