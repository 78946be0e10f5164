"""From records to what a person wants to see. Pure: no I/O, no clock.

``Model.apply`` takes in records of ``metrics``, ``forecasts``, ``incidents`` and ``decisions`` in any order of
topics; ``services``, ``incidents`` and ``decisions`` are the rows to show. Memory is bounded: services beyond
``MAX_SERVICES``, closed incidents and decisions beyond ``KEPT`` are let go, the oldest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Final

import msgspec

from smartscale.errors import SchemaError
from smartscale.log.port import Record
from smartscale.records import forecasts, metrics, schema, topics
from smartscale.records.decisions import Decision, decode_decision
from smartscale.records.forecasts import Forecast, Incident
from smartscale.records.metrics import MetricRow

MAX_SERVICES: Final = 1000
KEPT: Final = 200
BAND: Final = (0.05, 0.95)
"""Levels of the forecast band that is shown: the 90 % band whose live coverage ml publishes."""

Key = tuple[str, str]
"""Tenant and service."""


class _Inputs(msgspec.Struct, frozen=True):
    """What of a decision's observation is shown."""

    ready: int = 0


@dataclass(slots=True)
class Service:
    """One service now. ``recent`` holds the last rates for a small chart, oldest first."""

    tenant: str
    name: str
    row: MetricRow | None = None
    forecast: Forecast | None = None
    decision: Decision | None = None
    recent: list[float] = field(default_factory=list)

    @property
    def ready(self) -> int | None:
        """Ready replicas as control last saw them; None without a decision."""
        if self.decision is None:
            return None
        try:
            return msgspec.json.decode(self.decision.inputs, type=_Inputs).ready
        except msgspec.MsgspecError:
            return None

    def band(self, ahead_s: float) -> tuple[float, float, float] | None:
        """Low, middle and high of the demand ``ahead_s`` from the forecast's origin, in events a second."""
        if self.forecast is None or not self.forecast.values:
            return None
        steps = len(self.forecast.values)
        step = min(steps, max(1, ceil(ahead_s / self.forecast.step_s))) - 1
        at = dict(zip(self.forecast.levels, self.forecast.values[step], strict=True))
        return at.get(BAND[0], min(at.values())), at.get(0.5, 0.0), at.get(BAND[1], max(at.values()))


@dataclass(slots=True)
class Model:
    """Everything the view knows. ``window`` is the label of the tumbling window that is shown."""

    window: str
    services: dict[Key, Service] = field(default_factory=dict)
    incidents: dict[str, Incident] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    watermark_us: int | None = None
    missing: list[str] = field(default_factory=list)
    unreadable: int = 0

    def apply(self, records: Iterable[Record]) -> None:
        """Take records in. One that cannot be read is counted in ``unreadable`` and stops nothing."""
        for record in records:
            try:
                self._apply(record)
            except (SchemaError, msgspec.MsgspecError):
                self.unreadable += 1

    def _apply(self, record: Record) -> None:
        match schema.schema_of(record.headers):
            case schema.METRIC:
                self._metric(metrics.decode_row(record.value))
            case schema.PROGRESS:
                progress = metrics.decode_progress(record.value)
                self.watermark_us = max(progress.watermark_us, self.watermark_us or progress.watermark_us)
                self.missing = progress.missing
            case schema.FORECAST:
                self._forecast(forecasts.decode_forecast(record.value))
            case schema.INCIDENT:
                incident = forecasts.decode_incident(record.value)
                self.incidents.pop(incident.id, None)
                self.incidents[incident.id] = incident
                _trim(self.incidents)
            case schema.DECISION:
                self._decision(decode_decision(record.value))

    def _service(self, tenant: str, name: str) -> Service | None:
        found = self.services.get((tenant, name))
        if found is None and len(self.services) < MAX_SERVICES:
            found = self.services[tenant, name] = Service(tenant, name)
        return found

    def _metric(self, row: MetricRow) -> None:
        if row.window != self.window or row.kind != topics.INTERACTION or not row.is_rollup:
            return
        service = self._service(row.tenant, row.service)
        if service is None:
            return
        if service.row is not None and row.end_us < service.row.end_us:
            return
        if service.row is None or row.end_us > service.row.end_us:
            service.recent = [*service.recent, row.rate_per_s][-60:]
        service.row = row

    def _forecast(self, forecast: Forecast) -> None:
        service = self._service(forecast.tenant, forecast.service)
        if service is None:
            return
        held = service.forecast
        preferred = held is None or forecast.series == held.series or forecast.series == forecasts.ARRIVALS
        if preferred and (held is None or forecast.origin_us >= held.origin_us):
            service.forecast = forecast

    def _decision(self, decision: Decision) -> None:
        service = self._service(decision.tenant, decision.service)
        if service is not None:
            service.decision = decision
        if decision.act:
            self.decisions = [*self.decisions, decision][-KEPT:]

    @property
    def open_incidents(self) -> list[Incident]:
        """Those that have not ended, the newest first."""
        return sorted((i for i in self.incidents.values() if i.end_us is None), key=lambda i: -i.start_us)


def _trim(incidents: dict[str, Incident]) -> None:
    while len(incidents) > KEPT:
        incidents.pop(
            next((key for key, i in incidents.items() if i.end_us is not None), next(iter(incidents)))
        )


@dataclass(slots=True)
class Latencies:
    """Real milliseconds from the end of a window to its first result being in the log, as counts.

    Only the first revision of a row counts, and at most ``LIMIT_MS``, so that memory is bounded."""

    counts: Counter[int] = field(default_factory=Counter)

    LIMIT_MS = 600_000

    def add(self, ms: int) -> None:
        self.counts[min(max(ms, 0), self.LIMIT_MS)] += 1

    def quantile(self, level: float) -> int | None:
        """The least latency that a share ``level`` of rows does not exceed; None without any.

        >>> Latencies(Counter([10, 20, 30, 1000])).quantile(0.5)
        20
        """
        total = sum(self.counts.values())
        seen = 0
        for ms in sorted(self.counts):
            seen += self.counts[ms]
            if seen >= ceil(level * total):
                return ms
        return None


def band_text(band: tuple[float, float, float] | None) -> str:
    """A band for people.

    >>> band_text((10.24, 20.0, 30.06))
    '10.2 … 20.0 … 30.1'
    """
    return " … ".join(f"{value:.1f}" for value in band) if band else "–"


_BARS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 24) -> str:
    """A small chart of the last ``width`` values, scaled to their greatest.

    >>> sparkline([0, 4, 8])
    '▁▅█'
    """
    shown = values[-width:]
    top = max(shown, default=0.0)
    return "".join(_BARS[round(v / top * (len(_BARS) - 1))] if top > 0 else _BARS[0] for v in shown)
