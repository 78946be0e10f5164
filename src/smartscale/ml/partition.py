"""Everything ml knows of one partition of ``metrics``, moved on by its records one at a time.

::

    row       ──▶ waits under its step, the highest revision wins
    progress  ──▶ for every step the windows have reached:
                    learn   steps that are closed, from final and complete rows only, once
                    view    provisional steps on top of what is learned
                    judge   the new step against the forecast made before it  ──▶ incidents
                  and, if a step was reached: forecast every series from it   ──▶ forecasts

Invariants: ``learned <= newest``; rows wait only for steps above ``learned``; what a progress record leads to
depends on the records before it alone, never on how they were batched, on the time or on chance. So replaying
the records after a snapshot gives the same state, forecasts and incidents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale.clock import MICROS
from smartscale.ml.anomaly import evidence, incidents
from smartscale.ml.forecast import ensemble
from smartscale.ml.forecast.ensemble import LEVELS, Forecaster
from smartscale.ml.forecast.mixture import WARM_UP
from smartscale.ml.series import table
from smartscale.ml.series.history import Past
from smartscale.ml.series.rows import Row
from smartscale.records import forecasts
from smartscale.records.forecasts import Forecast, Incident
from smartscale.records.metrics import Progress

Array = npt.NDArray[np.float64]

DAY_US: Final = 86_400 * MICROS
ROSE: Final = 1.25
"""Demand has risen when it is this many times its mean of 10 to 40 steps ago: overload is then its consequence."""
Name = tuple[str, str]
"""Tenant and service."""
Key = tuple[str, str, str]
"""Tenant, service and series."""


class Budget(msgspec.Struct, frozen=True):
    """Notifications made on a day (days since the epoch)."""

    day: int = -1
    used: int = 0


@dataclass(slots=True)
class State:
    """See the module. ``services`` and ``series`` give the rows of ``usual`` and ``models``."""

    models: ensemble.State
    usual: evidence.Baseline
    services: list[Name] = field(default_factory=list)
    series: list[Key] = field(default_factory=list)
    last_row: dict[Name, int] = field(default_factory=dict)
    """Latest step a service had a row for."""
    waiting: dict[int, dict[Key, Row]] = field(default_factory=dict)
    begin: int | None = None
    """The first step there was anything for."""
    learned: int | None = None
    newest: int | None = None
    tracks: dict[Name, incidents.Track] = field(default_factory=dict)
    """Of services that are not calm."""
    unquiet: dict[int, list[Name]] = field(default_factory=dict)
    """Services that were not calm at a step not yet learned: such steps do not become usual."""
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a progress record led to. ``forecasts`` is empty unless a new step was reached."""

    forecasts: list[Forecast] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)


class Models:
    """What is done with a ``State``: the plan made from settings, without data of its own.

    ``alerts_per_day`` is this partition's share of the budget."""

    def __init__(self, step_s: float, horizon: int, history_steps: int, alerts_per_day: int) -> None:
        self.step_s = step_s
        self.step_us = round(step_s * MICROS)
        self.history_steps = history_steps
        self.alerts_per_day = alerts_per_day
        self.forecaster = Forecaster(step_s, horizon, history_steps)

    def fresh(self) -> State:
        return State(self.forecaster.fresh(0), evidence.fresh(0))

    def take(self, state: State, row: Row) -> None:
        """Keep a row until its step is reached; ``state`` is changed in place. A row of a step that is learned
        already is a repeat and changes nothing."""
        at = row.end_us // self.step_us
        if state.learned is not None and at <= state.learned:
            return
        rows = state.waiting.setdefault(at, {})
        key = (row.tenant, row.service, row.series)
        known = rows.get(key)
        if known is None or (row.revision, row.final) >= (known.revision, known.final):
            rows[key] = row

    def advance(self, state: State, progress: Progress) -> Outcome:
        """Move to where the windows are; ``state`` is changed in place."""
        certain = progress.watermark_us // self.step_us
        reached = max(certain, progress.provisional_us // self.step_us)
        closed = min(progress.final_us // self.step_us, reached)
        if not any(at <= reached for at in state.waiting) and not state.series:
            return Outcome()
        if state.newest is None or state.learned is None:
            state.begin = min(state.waiting)
            state.newest = state.learned = state.begin - 1
        self._welcome(state, reached)
        told: list[Incident] = []
        before = state.newest
        score = np.zeros(len(state.services))
        while state.newest < reached:
            self._pass_over(state, reached, closed)
            at = state.newest + 1
            self._learn_until(state, min(closed, at - 1))
            memory = self._view(state)
            score = np.zeros(len(state.services))
            if at <= certain:
                score, found = self._judge(state, memory, at)
                told += found
            state.newest = at
        self._learn_until(state, closed)
        reached_new = state.newest > before
        made = (
            self._forecast(state, dict(zip(state.services, score.tolist(), strict=True)))
            if reached_new
            else []
        )
        return Outcome(made, told + self._retire(state))

    # --- members --------------------------------------------------------------------------------------------

    def _welcome(self, state: State, reached: int) -> None:
        """Rows for services and series seen for the first time, in the order of their records."""
        known, series = set(state.services), set(state.series)
        for at in sorted(state.waiting):
            if at > reached:
                break
            for key in state.waiting[at]:
                name = key[:2]
                if name not in known:
                    known.add(name)
                    state.services.append(name)
                if key not in series:
                    series.add(key)
                    state.series.append(key)
                state.last_row[name] = max(at, state.last_row.get(name, at))
        if len(state.series) > len(state.models.seen):
            table.join(state.models, self.forecaster.fresh(len(state.series) - len(state.models.seen)))
            table.join(state.usual, evidence.fresh(len(state.services) - len(state.usual.seen)))

    def _retire(self, state: State) -> list[Incident]:
        """Forget services without a row for the whole history, so that memory follows the living."""
        newest = state.newest or 0
        gone = {n for n, at in state.last_row.items() if at < newest - self.history_steps}
        if not gone:
            return []
        told = []
        for name in gone:
            track = state.tracks.pop(name, None)
            if track is not None and track.open is not None:
                end_us = newest * self.step_us
                told.append(msgspec.structs.replace(track.open.told, end_us=end_us, updated_us=end_us))
            del state.last_row[name]
        table.keep(state.models, np.array([key[:2] not in gone for key in state.series], np.bool_))
        table.keep(state.usual, np.array([name not in gone for name in state.services], np.bool_))
        state.series = [key for key in state.series if key[:2] not in gone]
        state.services = [name for name in state.services if name not in gone]
        return told

    # --- learning -------------------------------------------------------------------------------------------

    def _pass_over(self, state: State, reached: int, closed: int) -> None:
        """Skip a long stretch without a single row in one go: an outage of the pipeline, not of the services."""
        assert state.newest is not None
        following = min([at for at in state.waiting if at > state.newest], default=reached)
        last = min(following - 1, closed, reached - 1)
        if last - state.newest <= 4 * self.forecaster.horizon:
            return
        self._learn_until(state, state.newest)
        self.forecaster.skip(state.models, state.newest + 1, last)
        state.newest = state.learned = last
        state.unquiet.clear()

    def _learn_until(self, state: State, last: int) -> None:
        assert state.learned is not None
        while state.learned < last:
            at = state.learned + 1
            rows = state.waiting.pop(at, {})
            sure = {key: row for key, row in rows.items() if row.final and row.complete}
            self.forecaster.learn(state.models, at, self._rates(state, sure))
            quiet = np.ones(len(state.services), np.bool_)
            for name in state.unquiet.pop(at, []):
                if name in state.last_row:
                    quiet[state.services.index(name)] = False
            state.usual = evidence.learn(state.usual, self._observed(state, sure, set()), quiet)
            state.learned = at

    def _view(self, state: State) -> Array:
        """The methods' memories with the provisional steps on top."""
        assert state.newest is not None
        assert state.learned is not None
        memory = state.models.memory
        for at in range(state.learned + 1, state.newest + 1):
            sure = {key: row for key, row in state.waiting.get(at, {}).items() if row.complete}
            memory = self.forecaster.view(state.models, memory, at, self._rates(state, sure))
        return memory

    def _rates(self, state: State, rows: dict[Key, Row]) -> Array:
        """A step's values of all series, NaN where there is no row."""
        return np.array([rows[key].value if key in rows else np.nan for key in state.series], np.float64)

    # --- judging --------------------------------------------------------------------------------------------

    def _judge(self, state: State, memory: Array, at: int) -> tuple[Array, list[Incident]]:
        """The score of every service at step ``at``, and the incidents to be told."""
        rows = {key: row for key, row in state.waiting.get(at, {}).items() if row.complete}
        surprise = self.forecaster.surprise(state.models, memory, at - 1, self._rates(state, rows))
        main = self._demand(state)
        observed = self._observed(state, rows, present={key[:2] for key in state.waiting.get(at, {})})
        demand = evidence.Demand(
            surprise.expected[main],
            surprise.low[main],
            surprise.high[main],
            surprise.p_low[main],
            surprise.p_high[main],
        )
        found = evidence.judge(state.usual, observed, demand, self.step_s, state.models.seen[main] >= WARM_UP)
        return found.score, self._incidents(state, found, main, at)

    def _incidents(
        self, state: State, found: evidence.Evidence, main: npt.NDArray[np.int64], at: int
    ) -> list[Incident]:
        raised = np.logical_or.reduce([found.raised[kind] for kind in evidence.KINDS])
        index = {name: i for i, name in enumerate(state.services)}
        busy = {*np.flatnonzero(raised).tolist(), *(index[name] for name in state.tracks if name in index)}
        risen = self._risen(state, found.seen[evidence.SURGE], main, at) if busy else raised
        told: list[Incident] = []
        for i in sorted(busy):
            name = state.services[i]
            service = incidents.Service(*name, state.series[main[i]][2], bool(risen[i]))
            sights = [
                incidents.Sight(
                    kind=kind,
                    seen=float(found.seen[kind][i]),
                    expected=float(found.expected[kind][i]),
                    low=float(found.low[kind][i]),
                    high=float(found.high[kind][i]),
                    effect=float(found.effect[kind][i]),
                    raised=bool(found.raised[kind][i]),
                )
                for kind in evidence.KINDS
                if not np.isnan(found.seen[kind][i])
            ]
            day = at * self.step_us // DAY_US
            used = state.budget.used if state.budget.day == day else 0
            before = state.tracks.get(name, incidents.Track())
            track, incident = incidents.step(
                before, service, sights, at, self.step_us, used < self.alerts_per_day
            )
            state.tracks[name] = track
            if incident is not None:
                told.append(incident)
                if before.open is None and incident.notify:
                    state.budget = Budget(day, used + 1)
            if track.is_calm and at > max(track.calm_until, track.surge_until):
                del state.tracks[name]
            elif not track.is_calm:
                state.unquiet.setdefault(at, []).append(name)
        return told

    def _demand(self, state: State) -> npt.NDArray[np.int64]:
        """The row of each service's demand: its arrivals, once there are enough of them to judge by, else its
        rate."""
        rows = {key: i for i, key in enumerate(state.series)}
        seen = state.models.seen
        main = []
        for tenant, service in state.services:
            arrivals = rows.get((tenant, service, forecasts.ARRIVALS))
            rate = rows.get((tenant, service, forecasts.RATE))
            if rate is None or (arrivals is not None and seen[arrivals] >= min(WARM_UP, seen[rate])):
                assert arrivals is not None
                main.append(arrivals)
            else:
                main.append(rate)
        return np.array(main, np.int64)

    def _observed(self, state: State, rows: dict[Key, Row], present: set[Name]) -> evidence.Observed:
        """``present``: services with any row at this step, uncertain ones too; the others are missing."""
        main = self._demand(state)
        demand = self._rates(state, rows)[main]
        interactions = [rows.get((*name, forecasts.RATE)) for name in state.services]
        known = [row if row is not None and row.count else None for row in interactions]
        return evidence.Observed(
            demand=demand,
            missing=np.array([name not in present for name in state.services], np.bool_),
            count=np.array([row.count if row else np.nan for row in known], np.float64),
            errors=np.array([row.errors if row else np.nan for row in known], np.float64),
            p99_ms=np.array(
                [
                    np.nan if row is None or row.latency_p99_ms is None else row.latency_p99_ms
                    for row in known
                ],
                np.float64,
            ),
        )

    def _risen(
        self, state: State, seen: Array, main: npt.NDArray[np.int64], at: int
    ) -> npt.NDArray[np.bool_]:
        earlier = Past(state.models.past[main], at - 1).between(at - 40, at - 10)
        known = ~np.isnan(earlier)
        mean = (np.where(known, earlier, 0.0) ** 2).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return np.asarray(known.any(axis=1) & (seen >= ROSE * mean), np.bool_)

    # --- forecasting ----------------------------------------------------------------------------------------

    def _forecast(self, state: State, score: dict[Name, float]) -> list[Forecast]:
        assert state.newest is not None
        plan, origin = self.forecaster, state.newest
        found = plan.forecast(state.models, self._view(state), origin)
        coverage, skill = plan.coverage(state.models), plan.skill(state.models)
        stages, names = plan.stage(state.models), [method.name for method in plan.methods]
        values, peaks = _round(found.values), _round(found.peaks)
        sound = ~np.isnan(found.values[:, 0, 0] + found.peaks[:, -1, -1])
        levels = LEVELS.tolist()
        return [
            Forecast(
                tenant=tenant,
                service=service,
                series=series,
                origin_us=origin * self.step_us,
                step_s=self.step_s,
                levels=levels,
                values=values[i].tolist(),
                peaks=peaks[i].tolist(),
                stage=stages[i],
                coverage=_known(coverage[i]),
                skill=_known(skill[i]),
                models={
                    n: round(float(w), 3) for n, w in zip(names, found.weights[i], strict=True) if w >= 0.0005
                },
                anomaly=round(score[(tenant, service)], 4),
            )
            for i, (tenant, service, series) in enumerate(state.series)
            if sound[i]
        ]


def _round(rates: Array) -> Array:
    """To 1e-4 a second: short on the wire, finer than one event an hour."""
    return np.asarray(np.round(rates, 4), np.float64)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
