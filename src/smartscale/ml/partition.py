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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, overload

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale import calendars
from smartscale.clock import MICROS
from smartscale.config import CalendarRule
from smartscale.errors import SchemaError
from smartscale.ml import past, wire
from smartscale.ml.anomaly import calibration, evidence, feedback, forest, incidents
from smartscale.ml.forecast import boosting, ensemble
from smartscale.ml.forecast.boosting import Boosted, Trainer
from smartscale.ml.forecast.calibrate import TAIL_LEVELS
from smartscale.ml.forecast.ensemble import LEVELS, Forecaster
from smartscale.ml.forecast.mixture import WARM_UP
from smartscale.ml.forecast.protocol import to_rate
from smartscale.ml.past import Parts
from smartscale.ml.series import cells, local_time, table
from smartscale.ml.series.cells import Cells
from smartscale.ml.series.history import Past
from smartscale.ml.series.local_time import LocalTime
from smartscale.ml.series.register import Key, Name, Places, Register
from smartscale.ml.series.rows import Row
from smartscale.records import forecasts
from smartscale.records.forecasts import Forecast, Incident
from smartscale.records.metrics import Progress
from smartscale.records.past import PastPart
from smartscale.records.people import Feedback, Mute, Notice, Unmute

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ROSE: Final = 1.25
"""Demand has risen when it is this many times its mean of 10 to 40 steps ago: overload is then its consequence."""
BLOCK: Final = 256
"""Series forecast at once: their arrays fit the cache, and what is needed in passing stays small."""
STANDING: Final = ("coverage", "skill", "influence")
"""What is known of how well a series is forecast: see ``records.forecasts.Forecast``."""


class Reading(NamedTuple):
    """A gauge's mean over a step. ``rank``: twice the row's revision, plus one if it is final."""

    rank: int
    mean: float
    final: bool
    complete: bool


@dataclass(slots=True)
class State:
    """See the module. ``who`` gives the rows of ``usual`` (services) and of ``models`` (series)."""

    models: ensemble.State
    usual: evidence.Baseline
    who: Register = field(default_factory=Register)
    last_row: list[int] = field(default_factory=list)
    """Latest step each service had a row for."""
    waiting: dict[int, Cells] = field(default_factory=dict)
    """Rows of steps not yet learned."""
    gauges: dict[Name, list[str]] = field(default_factory=dict)
    """The system metrics that are watched of each service, in the order of ``evidence.Observed.gauges``."""
    readings: dict[int, dict[Name, list[Reading | None]]] = field(default_factory=dict)
    """Of these, at steps not yet learned."""
    sample: forest.State = field(default_factory=lambda: forest.fresh(evidence.TOGETHER))
    begin: int | None = None
    """The first step there was anything for."""
    learned: int | None = None
    newest: int | None = None
    tracks: dict[Name, incidents.Track] = field(default_factory=dict)
    """Of services that are not calm."""
    unquiet: dict[int, list[Name]] = field(default_factory=dict)
    """Services that had an incident at a step not yet learned: such steps do not become usual."""
    budget: feedback.Budget = field(default_factory=feedback.Budget)
    heard: dict[Name, feedback.Heard] = field(default_factory=dict)
    """What people said of a service's incidents."""
    mutes: dict[str, Mute] = field(default_factory=dict)
    """Made by command, by name."""
    imports: dict[Key, Parts] = field(default_factory=dict)
    """Pasts from outside, until they are whole and their series is there."""
    rewritten: int = 0
    """How often the past of a series was rewritten: by an import, by its calendar, or because the series was forgotten."""

    boosted: Boosted = field(default_factory=Boosted)

    @property
    def services(self) -> list[Name]:
        return self.who.services

    @property
    def series(self) -> list[Key]:
        return self.who.series

    def cells(self, at: int) -> Cells:
        """The rows of a step, a cell a series."""
        return cells.fit(self.waiting.get(at), len(self.series))


@dataclass(frozen=True, slots=True, eq=False)
class Forecasts(Sequence[Forecast]):
    """The forecasts of one origin, made into records one by one: those of thousands of series are millions of floats.

    Arrays have a row a series; ``values`` and ``peaks`` are as in ``ensemble.Quantiles``."""

    origin_us: int
    step_s: float
    series: list[tuple[int, Key]]
    """Those forecast, and their rows."""
    values: Small
    peaks: Small
    weights: Small
    methods: list[str]
    stages: list[str]
    standing: dict[str, Array]
    exceeded: Array
    """As ``Forecaster.exceedance``."""
    anomaly: Array

    def __len__(self) -> int:
        return len(self.series)

    @overload
    def __getitem__(self, at: int) -> Forecast: ...
    @overload
    def __getitem__(self, at: slice) -> list[Forecast]: ...
    def __getitem__(self, at: int | slice) -> Forecast | list[Forecast]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        row, _ = self.series[at]
        return msgspec.structs.replace(
            self._about(at), values=wire.rounded(self.values[row]), peaks=wire.rounded(self.peaks[row])
        )

    def encoded(self) -> Iterator[tuple[Key, bytes]]:
        """Each series and its record as JSON."""
        for at, (row, key) in enumerate(self.series):
            yield key, wire.encode(self._about(at), self.values[row], self.peaks[row])

    def _about(self, at: int) -> Forecast:
        """The record, its quantiles left out."""
        row, (tenant, service, series) = self.series[at]
        used = np.flatnonzero(self.weights[row] >= 0.0005).tolist()
        return Forecast(
            tenant=tenant,
            service=service,
            series=series,
            origin_us=self.origin_us,
            step_s=self.step_s,
            levels=_LEVELS,
            values=[],
            peaks=[],
            stage=self.stages[row],
            coverage=_known(self.standing["coverage"][row]),
            skill=_known(self.standing["skill"][row]),
            influence=round(float(self.standing["influence"][row]), 4),
            models={self.methods[k]: round(float(self.weights[row, k]), 3) for k in used},
            exceeded=_by_level(self.exceeded[row, 0]),
            exceeded_peaks=_by_level(self.exceeded[row, 1]),
            anomaly=round(float(self.anomaly[row]), 4),
        )

    def __iter__(self) -> Iterator[Forecast]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list


NO_FORECASTS: Final = Forecasts(
    0, 0.0, [], np.empty((0, 0, 0), np.float32), np.empty((0, 0, 0), np.float32), np.empty((0, 0), np.float32), [], [],
    {}, np.empty((0, 2, 0)), np.empty(0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a progress record led to. ``forecasts`` is empty unless a new step was reached."""

    forecasts: Forecasts = field(default_factory=lambda: NO_FORECASTS)
    incidents: list[Incident] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    imported: list[Key] = field(default_factory=list)
    """Series that took up a past from outside."""


class Models:
    """What is done with a ``State``: the plan made from settings, without data of its own.

    ``telling``: this partition's share of the alert budget, and the mutes of the settings. ``trainer`` trains the boosting
    of all series in the background; without one there is none. ``local``: calendars of services."""

    def __init__(
        self,
        step_s: float,
        horizon: int,
        history_steps: int,
        telling: feedback.Plan,
        trainer: Trainer | None = None,
        local: Sequence[CalendarRule] = (),
    ) -> None:
        self.step_s = step_s
        self.step_us = round(step_s * MICROS)
        self.history_steps = history_steps
        self.telling = telling
        self.trainer = trainer
        self.forecaster = Forecaster(step_s, horizon, history_steps, boosting=trainer is not None)
        self.local = LocalTime(local, self.step_us, self.forecaster.width)
        self.forest = forest.Forest()

    def fresh(self) -> State:
        return State(self.forecaster.fresh(0), evidence.fresh(0))

    def grow(self, state: State, series: int, services: int) -> None:
        """Make room for so many, in place."""
        missing = series - len(state.models.seen)
        for first in range(0, missing, BLOCK):
            table.join(state.models, self.forecaster.fresh(min(BLOCK, missing - first)))
        table.join(state.usual, evidence.fresh(services - len(state.usual.seen)))

    def standing(self, state: State) -> dict[str, Array]:
        """How each series' forecasts have done lately, by the names of ``STANDING``; NaN where too little is known."""
        plan, models = self.forecaster, state.models
        found = plan.coverage(models), plan.skill(models), plan.influence(models)
        return dict(zip(STANDING, found, strict=True))

    def take(self, state: State, row: Row) -> None:
        """Keep a row until its step is reached; ``state`` is changed in place. A row of a step that is learned
        already is a repeat and changes nothing."""
        at = row.end_us // self.step_us
        if state.learned is not None and at <= state.learned:
            return
        if row.is_gauge:
            self._take_gauge(state, row, at)
            return
        place = state.who.row((row.tenant, row.service, row.series))
        kept = state.waiting.get(at)
        if kept is None:
            kept = cells.fresh(len(state.series))
        state.waiting[at] = cells.put(kept, place, row)

    def _take_gauge(self, state: State, row: Row, at: int) -> None:
        """Keep a gauge's reading if its service is watched already and has room for it."""
        name = (row.tenant, row.service)
        if state.who.place(name) is None or row.value_mean is None:
            return
        known = state.gauges.setdefault(name, [])
        if row.name not in known:
            if len(known) == evidence.GAUGES:
                return
            known.append(row.name)
        slots = state.readings.setdefault(at, {}).setdefault(name, [None] * evidence.GAUGES)
        slot, rank = known.index(row.name), 2 * row.revision + row.final
        before = slots[slot]
        if before is None or rank >= before.rank:
            slots[slot] = Reading(rank, row.value_mean, row.final, row.complete)

    def take_past(self, state: State, part: PastPart) -> None:
        """Keep a part of an imported past until it is whole and its series has been seen; ``state`` is changed in place.

        Raises ``SchemaError`` if its step is not that of the series, or a part before it is missing."""
        if part.step_us != self.step_us:
            raise SchemaError(
                f"the imported past of {part.tenant}/{part.service} has steps of {part.step_us / MICROS:g} s, the series "
                f"{self.step_s:g} s (ml.step_s): import it again with the settings of the ml stage"
            )
        key = (part.tenant, part.service, part.series)
        state.imports[key] = past.gather(state.imports.get(key, ()), part)

    def advance(self, state: State, progress: Progress) -> Outcome:
        """Move to where the windows are; ``state`` is changed in place."""
        certain = progress.watermark_us // self.step_us
        reached = max(certain, progress.provisional_us // self.step_us)
        closed = min(progress.final_us // self.step_us, reached)
        if state.newest is None and not any(at <= reached for at in state.waiting):
            return Outcome()
        if state.newest is None or state.learned is None:
            state.begin = min(state.waiting)
            state.newest = state.learned = state.begin - 1
        self._serve(state)
        self._welcome(state)
        imported = self._adopt(state)
        told: list[Incident | Notice] = []
        before = state.newest
        score = np.zeros(len(state.services))
        while state.newest < reached:
            self._pass_over(state, reached, closed)
            at = state.newest + 1
            self._learn_until(state, min(closed, at - 1))
            score = np.zeros(len(state.services))
            if at <= certain:
                score, found = self._judge(state, self._view(state), at)
                told += found
            state.newest = at
        self._learn_until(state, closed)
        made = self.forecast(state, score) if state.newest > before else NO_FORECASTS
        told += self._retire(state)
        return Outcome(
            made,
            [one for one in told if isinstance(one, Incident)],
            [one for one in told if isinstance(one, Notice)],
            imported,
        )

    def hear(self, state: State, said: Feedback | Mute | Unmute) -> None:
        """What somebody said counts from the next step on; ``state`` is changed in place. Said twice, it counts once."""
        match said:
            case Feedback():
                name = (said.tenant, said.service)
                state.heard[name] = feedback.hear(state.heard.get(name, feedback.Heard()), said)
            case Mute():
                now_us = (state.newest or 0) * self.step_us
                kept = (one for one in state.mutes.values() if not calendars.is_over(one, now_us))
                state.mutes = {one.name: one for one in (*kept, said)}
            case Unmute():
                state.mutes.pop(said.name, None)

    # --- members --------------------------------------------------------------------------------------------

    def _welcome(self, state: State) -> None:
        """Rows for services and series seen for the first time, and when each service was seen last."""
        self.grow(state, len(state.series), len(state.services))
        state.last_row += [-1] * (len(state.services) - len(state.last_row))
        last, owners = np.array(state.last_row, np.int64), state.who.owners
        for at in state.waiting:
            present = owners[state.cells(at)["rank"] >= 0]
            last[present] = np.maximum(last[present], at)
        state.last_row = last.tolist()

    def _adopt(self, state: State) -> list[Key]:
        """Let series that are there take up their imported pasts; which they were."""
        assert state.begin is not None
        assert state.learned is not None
        width, adopted = self.forecaster.width, list[Key]()
        for key, parts in list(state.imports.items()):
            row = state.who.find(key)
            if row is None or not past.is_whole(parts):
                continue
            del state.imports[key]
            begin, told = past.first_step(parts), past.rates(parts)
            first = max(min(begin, state.begin), state.learned + 1 - width)
            steps = np.arange(first, state.learned + 1)
            known = (steps >= begin) & (steps < begin + len(told))
            values = np.full(len(steps), np.nan)
            values[known] = told[steps[known] - begin]
            if (rule := self.local.rule_of(key[1])) is not None:
                values = self.local.moved(rule, steps, values)
            if np.isnan(values).all():
                continue  # it lies behind all that is remembered
            rows = slice(row, row + 1)
            seen = Past(state.models.past[rows], state.learned).between(first, state.learned)[0]
            values = np.where(np.isnan(seen), values, to_rate(seen, self.step_s))
            table.put(state.models, np.array([row]), past.learn(self.forecaster, first, values))
            state.begin = min(state.begin, first)
            state.rewritten += 1
            adopted.append(key)
        return adopted

    def _retire(self, state: State) -> list[Incident]:
        """Forget services without a row for the whole history; newcomers take their rows, so that memory follows the
        living."""
        newest = state.newest or 0
        last, told = np.array(state.last_row, np.int64), []
        for place in np.flatnonzero((last >= 0) & (last < newest - self.history_steps)).tolist():
            name = state.services[place]
            track = state.tracks.pop(name, None)
            if track is not None and track.open is not None:
                end_us = newest * self.step_us
                told.append(msgspec.structs.replace(track.open.told, end_us=end_us, updated_us=end_us))
            state.last_row[place] = -1
            state.rewritten += 1
            state.gauges.pop(name, None)
            freed = np.array(state.who.forget(place), np.int64)
            table.put(state.models, freed, self.forecaster.fresh(len(freed)))
            table.put(state.usual, np.array([place]), evidence.fresh(1))
        return told

    # --- learning -------------------------------------------------------------------------------------------

    def _pass_over(self, state: State, reached: int, closed: int) -> None:
        """Skip a long stretch without a single row in one go: an outage of the pipeline, not of the services."""
        assert state.newest is not None
        following = min([at for at in state.waiting if at > state.newest], default=reached)
        last = min(following - 1, closed, reached - 1)
        if last - state.newest <= self.forecaster.long_gap:
            return
        self._learn_until(state, state.newest)
        for step in range(state.newest + 1, last + 1) if self.local else ():
            self._keep_local_time(state, step)
        self.forecaster.skip(state.models, state.newest + 1, last)
        state.newest = state.learned = last
        state.unquiet.clear()

    def _learn_until(self, state: State, last: int) -> None:
        assert state.learned is not None
        while state.learned < last:
            at = state.learned + 1
            self._reap(state, at)
            self._keep_local_time(state, at)
            now = state.cells(at)
            sure = np.asarray(now["final"] & now["complete"], np.bool_)
            rates = cells.rates(now, sure)
            for rows in _blocks(len(rates)):
                part = table.part(state.models, rows)
                self.forecaster.learn(part, at, rates[rows])
                table.put_back(state.models, rows, part)
            quiet = self._quiet(state, at)
            state.usual = evidence.learn(state.usual, self._observed(state, now, sure, at, final=True), quiet)
            state.waiting.pop(at, None)
            state.readings.pop(at, None)
            state.unquiet.pop(at, None)
            state.learned = at
            self._train(state)

    def _train(self, state: State) -> None:
        """Begin a training of the boosting where one is due."""
        booster, boosted, models = self.forecaster.mixture.booster, state.boosted, state.models
        assert state.learned is not None
        assert state.begin is not None
        if self.trainer is None or booster is None:
            return
        if booster.is_due(boosted, state.learned, state.begin, models.seen):
            job = booster.sample(Past(models.past, state.learned), models.seen)
            boosted.job, boosted.made = job, job.made
            self.trainer.start(job)

    def _reap(self, state: State, at: int) -> None:
        """Take what was trained into use, at its step."""
        job = state.boosted.job
        if self.trainer is not None and job is not None and at >= job.made + boosting.DELAY:
            state.boosted.trees = self.trainer.finish(job) or state.boosted.trees
            state.boosted.job = None
            self._serve(state)

    def _serve(self, state: State) -> None:
        if self.forecaster.mixture.booster is not None:
            self.forecaster.mixture.booster.trees = state.boosted.trees

    def _quiet(self, state: State, at: int) -> Mask:
        """Of every service, whether it had no incident at that step."""
        quiet = np.ones(len(state.services), np.bool_)
        for name in state.unquiet.get(at, []):
            if (place := state.who.place(name)) is not None:
                quiet[place] = False
        return quiet

    def _keep_local_time(self, state: State, step: int) -> None:
        """Move the pasts of series whose clock changes, or whose holiday begins or ends, before ``step``."""
        assert state.newest is not None
        for rule, moved, swaps in self.local.begin(step):
            of_rule = [row for row, key in state.who.known() if self.local.rule_of(key[1]) == rule]
            rows = np.array([row for row in of_rule if row < len(state.models.seen)], np.int64)
            newest = max(state.newest, step - 1)
            if moved:
                local_time.shift(state.models.past, rows, newest, step, moved)
            for one in swaps:
                local_time.swap(state.models.past, rows, newest, one)
            state.rewritten += len(rows)

    def _view(self, state: State) -> Array:
        """The methods' memories with the provisional steps on top."""
        assert state.newest is not None
        assert state.learned is not None
        memory = state.models.memory
        for at in range(state.learned + 1, state.newest + 1):
            now = state.cells(at)
            rates = cells.rates(now, now["complete"])
            moved = np.empty_like(memory)
            for rows in _blocks(len(rates)):
                part = table.part(state.models, rows)
                moved[rows] = self.forecaster.view(part, memory[rows], at, rates[rows])
            memory = moved
        return memory

    # --- judging --------------------------------------------------------------------------------------------

    def _judge(self, state: State, memory: Array, at: int) -> tuple[Array, list[Incident | Notice]]:
        """The score of every service at step ``at``, and what there is to be told."""
        now = state.cells(at)
        rates = cells.rates(now, now["complete"])
        expected = np.full(len(rates), np.nan)
        for rows in _blocks(len(rates)):
            part = table.part(state.models, rows)
            expected[rows] = self.forecaster.surprise(part, memory[rows], at - 1, rates[rows]).expected
        main = self._demand(state)
        known = (main >= 0) & (_at(state.models.seen, main, 0) >= WARM_UP)
        observed = self._observed(state, now, now["complete"], at)
        found = evidence.judge(
            state.usual,
            observed,
            _at(expected, main, np.nan),
            self.step_s,
            known,
            lambda together: self.forest.judge(state.sample, together),
        )
        told = self._incidents(state, found, main, at)
        quiet = self._quiet(state, at)
        steady = quiet.copy()
        # After an incident the forecast is still under its impression.
        for name, track in state.tracks.items():
            if at <= track.calm_until and (place := state.who.place(name)) is not None:
                steady[place] = False
        state.usual = evidence.calibrate(state.usual, found, steady)
        forest.learn(state.sample, evidence.together(found), steady & known, at)
        return found.score, told

    def _incidents(
        self, state: State, found: evidence.Evidence, main: Places, at: int
    ) -> list[Incident | Notice]:
        raised = np.logical_or.reduce([found.raised[kind] for kind in evidence.KINDS])
        tracked = [state.who.place(name) for name in state.tracks]
        busy = {*np.flatnonzero(raised).tolist(), *(place for place in tracked if place is not None)}
        risen = self._risen(state, found.seen[evidence.SURGE], main, at) if busy else raised
        cases: list[feedback.Case] = []
        for i in sorted(busy):
            name = state.services[i]
            service = incidents.Service(*name, state.series[main[i]][2], bool(risen[i]))
            gauges = state.gauges.get(name, [])
            sights = [
                incidents.Sight(
                    kind=kind,
                    seen=float(found.seen[kind][i]),
                    expected=float(found.expected[kind][i]),
                    low=float(found.low[kind][i]),
                    high=float(found.high[kind][i]),
                    effect=float(found.effect[kind][i]),
                    raised=bool(found.raised[kind][i]),
                    strength=float(found.strength[kind][i]),
                    name=gauges[found.gauge[i]] if kind == evidence.GAUGE else "",
                )
                for kind in evidence.KINDS
                if not np.isnan(found.seen[kind][i])
            ]
            before = state.tracks.get(name, incidents.Track())
            track, incident = incidents.step(before, service, sights, at, self.step_us)
            state.tracks[name] = track
            found.score[i] = calibration.probability(
                np.array(incidents.strength_at(track, service, sights, at))
            )
            known = track.open.told if incident is None and track.open is not None else incident
            if known is not None:
                cases.append(feedback.Case(name, known, incident is not None, before.open is None))
            if incident is not None and incidents.is_new_normal(incident):
                table.put(state.usual, np.array([i]), evidence.fresh(1))
            if track.is_calm and at > max(track.calm_until, track.surge_until):
                del state.tracks[name]
            elif track.open is not None:
                state.unquiet.setdefault(at, []).append(name)
        return self._tell(state, cases, at)

    def _tell(self, state: State, cases: list[feedback.Case], at: int) -> list[Incident | Notice]:
        """What is published of incidents at a step, after the decision whether people are told."""
        state.budget, verdicts, notices = feedback.judge(
            self.telling, state.budget, state.heard, list(state.mutes.values()), cases, at * self.step_us
        )
        for name, _, incident in verdicts:
            track = state.tracks.get(name)
            if track is not None and track.open is not None:
                state.tracks[name] = incidents.as_told(track, incident)
            if incident.end_us is not None and name in state.heard:
                state.heard[name] = feedback.ended(state.heard[name], incident)
        return [*(record for _, record, _ in verdicts if record is not None), *notices]

    def _demand(self, state: State) -> Places:
        """The row of each service's demand: its arrivals, once there are enough of them to judge by, else its
        rate; -1 for rows without a service."""
        rate, arrivals = state.who.rows_of(forecasts.RATE), state.who.rows_of(forecasts.ARRIVALS)
        seen_rate, seen_arrivals = _at(state.models.seen, rate, 0), _at(state.models.seen, arrivals, 0)
        told = (arrivals >= 0) & (seen_arrivals >= np.minimum(WARM_UP, seen_rate))
        return np.where(told | (rate < 0), arrivals, rate)

    def _observed(
        self, state: State, now: Cells, certain: Mask, at: int, *, final: bool = False
    ) -> evidence.Observed:
        """What was seen of every service at step ``at``, from the cells that are ``certain`` and from complete readings
        (``final``: only final ones). A service without any row, an uncertain one too, is missing."""
        gauges = np.full((len(state.services), evidence.GAUGES), np.nan)
        for name, slots in state.readings.get(at, {}).items():
            if (place := state.who.place(name)) is not None:
                sure = [r.mean if r and r.complete and (r.final or not final) else np.nan for r in slots]
                gauges[place] = sure
        rate = state.who.rows_of(forecasts.RATE)
        missing = np.ones(len(state.services), np.bool_)
        missing[state.who.owners[now["rank"] >= 0]] = False
        count = _at(np.where(certain, now["count"], np.nan), rate, np.nan)
        some = count > 0
        return evidence.Observed(
            demand=_at(cells.rates(now, certain), self._demand(state), np.nan),
            missing=missing,
            count=np.where(some, count, np.nan),
            errors=np.where(some, _at(now["errors"], rate, np.nan), np.nan),
            p50_ms=np.where(some, _at(now["p50_ms"], rate, np.nan), np.nan),
            p99_ms=np.where(some, _at(now["p99_ms"], rate, np.nan), np.nan),
            gauges=gauges,
        )

    def _risen(self, state: State, seen: Array, main: Places, at: int) -> Mask:
        earlier = Past(state.models.past, at - 1).between(at - 40, at - 10)[main]
        known = ~np.isnan(earlier)
        mean = (np.where(known, earlier, 0.0) ** 2).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return np.asarray(known.any(axis=1) & (seen >= ROSE * mean), np.bool_)

    # --- forecasting ----------------------------------------------------------------------------------------

    def forecast(self, state: State, score: Array) -> Forecasts:
        """``score`` of every service at the newest step."""
        assert state.newest is not None
        plan, origin, memory = self.forecaster, state.newest, self._view(state)
        size, names = len(state.series), [method.name for method in plan.methods]
        values = np.empty((size, plan.horizon, len(LEVELS)), np.float32)
        peaks, weights = np.empty_like(values), np.empty((size, len(names)), np.float32)
        for rows in _blocks(size):
            found = plan.forecast(table.part(state.models, rows), memory[rows], origin)
            values[rows], peaks[rows], weights[rows] = found.values, found.peaks, found.weights
        sound = np.isfinite(values[:, 0, 0]) & np.isfinite(peaks[:, -1, -1])
        return Forecasts(
            origin_us=origin * self.step_us,
            step_s=self.step_s,
            series=[(row, key) for row, key in state.who.known() if sound[row]],
            values=values,
            peaks=peaks,
            weights=weights,
            methods=names,
            stages=plan.stage(state.models),
            standing=self.standing(state),
            exceeded=plan.exceedance(state.models),
            anomaly=_at(score, state.who.owners, 0.0),
        )


_LEVELS: Final[list[float]] = LEVELS.tolist()


def _blocks(size: int) -> Iterator[slice]:
    """Rows in blocks, always at the same borders: what comes out does not depend on how many series there are."""
    return (slice(first, min(first + BLOCK, size)) for first in range(0, size, BLOCK))


def _at(values: Array | npt.NDArray[np.int64], rows: Places, missing: float) -> Array:
    """The value at each of ``rows``, ``missing`` for -1."""
    return np.where(rows >= 0, values[rows], missing)


def _by_level(shares: Array) -> dict[str, float]:
    """Shares above the levels of the tail, those that are known."""
    known = np.flatnonzero(~np.isnan(shares)).tolist()
    return {f"{TAIL_LEVELS[k]:g}": round(float(shares[k]), 5) for k in known}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
