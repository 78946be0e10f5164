"""Which rows of ``metrics`` feed the models, and where they belong.

Of every service: the roll-up of its interactions over tumbling windows of the models' step (series ``rate``, and the
error rate and latency), and its metric ``arrivals`` (series ``arrivals``), which is demand where it is told. Its other
metrics are **gauges** (CPU, memory, a queue): they are watched, not forecast.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from smartscale.clock import MICROS
from smartscale.errors import SchemaError
from smartscale.records import forecasts
from smartscale.records.topics import ALL_NAMES, INTERACTION, METRIC

MOST_RATE: Final = 1e15
"""A second. More is a mistake of the sender, and squares of it would soon be no numbers."""
ARRIVALS_METRIC: Final = "arrivals"


class Row(msgspec.Struct, frozen=True):
    """The part of a ``MetricRow`` that the models read; the rest (histograms above all) is not decoded."""

    tenant: str
    service: str
    kind: str
    name: str
    window: str
    start_us: int
    end_us: int
    count: int
    errors: int
    rate_per_s: float
    revision: int
    final: bool
    complete: bool
    latency_p99_ms: float | None = None
    value_sum: float | None = None
    latency_p50_ms: float | None = None
    value_mean: float | None = None
    group: str = ""

    @property
    def is_gauge(self) -> bool:
        return self.kind == METRIC and self.name != ARRIVALS_METRIC

    @property
    def series(self) -> str:
        return forecasts.RATE if self.kind == INTERACTION else forecasts.ARRIVALS

    @property
    def value(self) -> float:
        """In events a second."""
        if self.kind == INTERACTION:
            return self.rate_per_s
        return (self.value_sum or 0.0) * MICROS / (self.end_us - self.start_us)


_decode = msgspec.json.Decoder(Row).decode


def read(value: bytes, window: str) -> Row | None:
    """The row, or None for one that the models do not use. ``window`` is the label wanted, ``10s``.

    Raises ``SchemaError`` for a row that cannot be read or whose numbers make no sense."""
    try:
        row = _decode(value)
    except msgspec.MsgspecError as error:
        raise SchemaError(f"a metric row cannot be read: {error}") from error
    feeds = (row.kind == INTERACTION and row.name == ALL_NAMES) or (
        row.kind == METRIC and row.name != ALL_NAMES and (row.name == ARRIVALS_METRIC or not row.group)
    )
    if row.window != window or not feeds:
        return None
    sound = (
        row.end_us > row.start_us
        and math.isfinite(row.value)
        and (0 <= row.value <= MOST_RATE or row.is_gauge)
        and 0 <= row.errors <= row.count
        and (row.value_mean is None or math.isfinite(row.value_mean))
        and all(
            ms is None or (math.isfinite(ms) and ms >= 0) for ms in (row.latency_p50_ms, row.latency_p99_ms)
        )
    )
    if not sound:
        raise SchemaError(
            f"the {row.kind} row of {row.tenant}/{row.service} ending at {row.end_us} makes no sense: "
            f"{row.value} events a second, {row.errors} errors of {row.count}, p50 {row.latency_p50_ms} ms, "
            f"p99 {row.latency_p99_ms} ms, mean value {row.value_mean}"
        )
    return row


def window_label(step_s: float) -> str:
    """As the window stage writes it.

    >>> window_label(10.0), window_label(0.5)
    ('10s', '0.5s')
    """
    return f"{step_s:g}s"
