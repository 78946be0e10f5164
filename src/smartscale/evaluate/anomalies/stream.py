"""Runs a detector over series, value by value.

Series of one spacing go through one detector as its rows, in step: row r is at its own i-th value in the i-th step, and
has a gap once it has ended. Rows are independent (``protocol.Detector``), so the scores are those of each series alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smartscale.errors import UserError
from smartscale.evaluate.anomalies.corpus import Labelled
from smartscale.ml.anomaly.protocol import Detector
from smartscale.ml.anomaly.together import Together

Floats = npt.NDArray[np.float64]
Make = Callable[[float | None], Detector[Any]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one series at each point, shape (n_points,). Of several metrics of one thing: an alert if any gives one, and the
    state score of all together (``ml.anomaly.together``)."""

    alert: Floats
    state: Floats


class OutOfRange(UserError):
    """A score of the detector that was asked for is no number in [0, 1]."""


def scored(
    series: Sequence[Labelled], make: Make, progress: Callable[[int], None] = lambda _: None
) -> list[Scores]:
    """Each series' scores. ``progress`` is called with the number of points done since the last call.

    Raises ``OutOfRange`` if the detector gives a score that is none."""
    groups: dict[float | None, list[int]] = defaultdict(list)
    for at, one in enumerate(series):
        groups[one.step_s].append(at)
    found: dict[int, Scores] = {}
    for step_s, members in groups.items():
        together = _together([series[at] for at in members], make(step_s), progress)
        found.update(zip(members, together, strict=True))
    return [found[at] for at in range(len(series))]


def _together(
    series: Sequence[Labelled], detector: Detector[Any], progress: Callable[[int], None]
) -> Iterator[Scores]:
    lengths = np.array([len(one.times_us) for one in series])
    widths = [one.values.shape[1] for one in series]
    steps, rows = int(lengths.max()), sum(widths)
    values = np.full((steps, rows), np.nan)
    times_us = np.empty((steps, rows), np.int64)
    edges = np.concatenate([[0], np.cumsum(widths)])
    for one, n, left, right in zip(series, lengths, edges[:-1], edges[1:], strict=True):
        values[:n, left:right] = one.values
        times_us[:n, left:right] = one.times_us[:, None]
        times_us[n:, left:right] = one.times_us[-1]
    alert, state = np.empty((steps, rows)), np.empty((steps, rows))
    kept = detector.fresh(rows)
    for step in range(steps):
        alert[step], state[step] = detector.step(kept, times_us[step], values[step])
        progress(int((lengths > step).sum()))
    for one, n, left, right in zip(series, lengths, edges[:-1], edges[1:], strict=True):
        if right - left > 1:
            told = Scores(alert[:n, left:right].max(axis=1), _state_together(one))
        else:
            told = Scores(alert[:n, left], state[:n, left])
        for scores in (told.alert, told.state):
            bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
            if len(bad):
                raise OutOfRange(
                    f"{one.name}: the detector scores the point at {one.texts[bad[0]]} {scores[bad[0]]}; "
                    "a score is in [0, 1]"
                )
        yield told


def _state_together(one: Labelled) -> Floats:
    together = Together()
    kept = together.fresh(one.values.shape[1])
    return np.array([together.step(kept, values) for values in one.values])
