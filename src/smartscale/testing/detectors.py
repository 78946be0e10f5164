"""Detectors of a few lines: what a real one is measured against, and what tests of the scorer run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smartscale.ml.anomaly.protocol import Floats, Times


@dataclass
class Blind:
    """Steps seen and the last state score, each of shape (n_series,)."""

    steps: npt.NDArray[np.int64]
    held: Floats


class _BlindDetector:
    """Scores from the step's number alone: no value changes them, but for a gap's."""

    def __init__(self, step_s: float | None = None) -> None:
        self.step_s = step_s

    def fresh(self, n_series: int, /) -> Blind:
        return Blind(np.zeros(n_series, np.int64), np.zeros(n_series))

    def step(self, state: Blind, _times_us: Times, values: Floats, /) -> tuple[Floats, Floats]:
        scores = self._scores(state.steps)
        state.steps += 1
        gap = np.isnan(values)
        state.held = np.where(gap, state.held, scores)
        return np.where(gap, 0.0, scores), state.held.copy()

    def _scores(self, steps: npt.NDArray[np.int64]) -> Floats:
        raise NotImplementedError


class Null(_BlindDetector):
    """Never strange: 0 on every scale."""

    def _scores(self, steps: npt.NDArray[np.int64]) -> Floats:
        return np.zeros(len(steps))


class Random(_BlindDetector):
    """Uniform in [0, 1), from the seed and the step's number."""

    def __init__(self, step_s: float | None = None, seed: int = 42) -> None:
        super().__init__(step_s)
        self._drawn: Floats = np.random.default_rng(seed).random(1 << 16)

    def _scores(self, steps: npt.NDArray[np.int64]) -> Floats:
        return np.take(self._drawn, steps % len(self._drawn))


class AlarmClock(_BlindDetector):
    """Rings at each ``period``-th step and looks at nothing."""

    def __init__(self, step_s: float | None = None, period: int = 200) -> None:
        super().__init__(step_s)
        self.period = period

    def _scores(self, steps: npt.NDArray[np.int64]) -> Floats:
        return np.where((steps + 1) % self.period == 0, 1.0, 0.0)


@dataclass
class Moments:
    """Of each series: values seen, their mean, their sum of squared distances from it, the last state score, and steps
    since a told alert. All of shape (n_series,)."""

    seen: npt.NDArray[np.int64]
    mean: Floats
    squares: Floats
    held: Floats
    since_told: npt.NDArray[np.int64]


class ZScore:
    """How far a value is from the mean of all before it, in their standard deviations: 0.5 at ``bar`` of them.

    An alert of 0.5 or more is told, and silences the next ``quiet`` steps."""

    def __init__(self, step_s: float | None = None, bar: float = 4.0, quiet: int = 50) -> None:
        self.step_s, self.bar, self.quiet = step_s, bar, quiet

    def fresh(self, n_series: int, /) -> Moments:
        zeros = np.zeros(n_series)
        return Moments(
            np.zeros(n_series, np.int64), zeros, zeros.copy(), zeros.copy(), np.full(n_series, self.quiet)
        )

    def step(self, state: Moments, _times_us: Times, values: Floats, /) -> tuple[Floats, Floats]:
        good = np.isfinite(values)
        away = np.where(good, values, state.mean) - state.mean
        variance = state.squares / np.maximum(state.seen - 1, 1)
        z = np.where(variance > 0, np.abs(away) / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
        strange = np.where(state.seen >= 10, z / (z + self.bar), 0.0)
        state.held = np.where(good, strange, state.held)
        alert = np.where(good & (state.since_told >= self.quiet), strange, 0.0)
        state.since_told = np.where(alert >= 0.5, 0, state.since_told + 1)
        state.seen = state.seen + good
        step = away / np.maximum(state.seen, 1)
        state.mean = state.mean + step
        state.squares = state.squares + away * (away - step)
        return alert, state.held.copy()
