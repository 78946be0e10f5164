"""What control knows of the services of one partition: newest load, newest forecast, open incidents.

Of the rows of a window, the one with the later end wins, and of one end the higher revision. Only what a policy asks
for is kept, so memory is bounded by the policies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from smartscale.clock import MICROS, iso
from smartscale.control.decide import OpenIncident
from smartscale.control.demand import DemandRow, Peaks
from smartscale.control.policy import Policy, Spec
from smartscale.records.forecasts import ARRIVALS, RATE, Forecast, Incident
from smartscale.records.metrics import MetricRow
from smartscale.records.topics import ALL_NAMES, INTERACTION, METRIC

MAX_INCIDENTS = 100
"""Open incidents kept per service; the alert rules of ml open one at a time for a service."""


class Series(NamedTuple):
    """Where a load is read: key and window of metric rows, and the forecast's name for it."""

    tenant: str
    service: str
    kind: str
    name: str
    window: str
    forecast: str


def series_of(spec: Spec) -> list[Series]:
    """The series that may tell a policy's load, the best first."""
    arrivals = Series(spec.tenant, spec.service, METRIC, ARRIVALS, spec.window, ARRIVALS)
    finished = Series(spec.tenant, spec.service, INTERACTION, ALL_NAMES, spec.window, RATE)
    if spec.demand is None:
        return [arrivals, finished]
    if spec.demand.metric is not None:
        return [arrivals._replace(name=spec.demand.metric, forecast=spec.demand.metric)]
    kind = spec.demand.rate or INTERACTION
    return [finished._replace(kind=kind, forecast=RATE if kind == INTERACTION else kind)]


class Evidence:
    """Rows, forecasts and incidents as they come in."""

    def __init__(self) -> None:
        self._wanted: frozenset[tuple[str, str, str, str, str]] = frozenset()
        self._rows: dict[tuple[str, str, str, str, str], MetricRow] = {}
        self._forecasts: dict[tuple[str, str, str], Forecast] = {}
        self._incidents: dict[tuple[str, str], dict[str, Incident]] = {}

    def want(self, policies: Iterable[Policy]) -> None:
        """Keep what these policies ask for, and forget the rest."""
        series = [each for policy in policies for each in series_of(policy.spec)]
        self._wanted = frozenset(each[:5] for each in series)
        self._rows = {key: row for key, row in self._rows.items() if key in self._wanted}

    def add_row(self, row: MetricRow) -> None:
        key = row.tenant, row.service, row.kind, row.name, row.window
        if key not in self._wanted:
            return
        known = self._rows.get(key)
        if known is None or (row.end_us, row.revision) >= (known.end_us, known.revision):
            self._rows[key] = row

    def add_forecast(self, forecast: Forecast) -> None:
        key = forecast.tenant, forecast.service, forecast.series
        known = self._forecasts.get(key)
        if known is None or forecast.origin_us >= known.origin_us:
            self._forecasts[key] = forecast

    def add_incident(self, incident: Incident) -> None:
        of_service = self._incidents.setdefault((incident.tenant, incident.service), {})
        if incident.end_us is not None:
            of_service.pop(incident.id, None)
            return
        of_service[incident.id] = incident
        if len(of_service) > MAX_INCIDENTS:
            del of_service[min(of_service, key=lambda i: of_service[i].updated_us)]

    def demand(self, spec: Spec) -> DemandRow | None:
        """The newest load of the best series that has been reported."""
        for series in series_of(spec):
            row = self._rows.get(series[:5])
            if row is not None:
                return DemandRow(
                    series=series.forecast,
                    row=f"{row.kind}/{row.name}/{row.window}@{iso(row.end_us)}",
                    load=_load(row),
                    end_us=row.end_us,
                    revision=row.revision,
                    complete=row.complete,
                    final=row.final,
                )
        return None

    def peaks(self, spec: Spec) -> Peaks | None:
        """The newest forecast of the series that ``demand`` reads."""
        row = self.demand(spec)
        if row is None:
            return None
        forecast = self._forecasts.get((spec.tenant, spec.service, row.series))
        if forecast is None:
            return None
        return Peaks(
            forecast.series,
            forecast.origin_us,
            forecast.step_s,
            forecast.levels,
            forecast.peaks,
            influence=forecast.influence,
            coverage=forecast.coverage,
            skill=forecast.skill,
        )

    def open_incidents(self, spec: Spec) -> list[OpenIncident]:
        of_service = self._incidents.get((spec.tenant, spec.service), {})
        return [OpenIncident(i.id, i.class_, i.start_us) for i in of_service.values()]


def _load(row: MetricRow) -> float:
    """Events a second: the metric's sum over the window, or the rate of events themselves."""
    if row.kind == METRIC:
        return max(0.0, row.value_sum or 0.0) * MICROS / (row.end_us - row.start_us)
    return row.rate_per_s
