"""Combinations of metrics that do not belong together: an isolation forest and a sub-space over all services.

Liu, Ting and Zhou, "Isolation forest" (2008): points that few random splits tell apart from the rest are strange. One
forest (scikit-learn's) serves all services, as every metric comes in units of its own service's spread. It is grown
anew every ``EVERY`` steps from a sample of what was quiet, with the step as the seed; the sample it grew from is kept, so
a forest is a pure function of the state and a restart gives the same one.

A combination may also break what usually moves together without being far out: its distance from the sub-space that holds
nine tenths of the sample's variance, the square root of Jackson and Mudholkar's Q (1979), sees that. The rarer of the two
counts, twice, as there were two chances.

How rare a score is follows from the sample's own scores: the share of them as high, and beyond the highest twentieth an
exponential tail (as in ``tails``). Only services with two metrics that are far from the usual are scored: one alone is no
combination, and has evidence of its own; and most services are calm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SAMPLE: Final = 2048
"""Rows kept; each tree grows from 256 of them, as the paper does."""
FEWEST: Final = 512
"""Rows there must be before a forest is grown."""
TREES: Final = 64
EVERY: Final = 360
"""Steps between two forests: an hour of 10 s. A partition with few services takes some hours to fill the sample."""
A_STEP: Final = 16
"""Rows added a step, at most, of services taken in turn."""
APART: Final = 3.0
"""Spreads from the usual at which a metric is part of a strange combination; it takes two of them."""
FARTHEST: Final = 12.0
"""Spreads beyond which further makes no difference."""
OUTER: Final = 0.05
HELD: Final = 0.9
"""Share of the variance within the sub-space; at least one direction is left out of it."""


@dataclass(slots=True)
class State:
    """``rows`` (SAMPLE, features) as they came, ``added`` in all; ``grown`` is the sample the forest of step ``seed`` grew
    from (no rows: there is none yet)."""

    rows: Array
    added: int = 0
    grown: Array = field(default_factory=lambda: np.empty((0, 0)))
    seed: int = 0


def fresh(features: int) -> State:
    return State(np.zeros((SAMPLE, features)))


class Forest:
    """The forest of a state; grown when it is first asked, and again once the state has another sample."""

    def __init__(self) -> None:
        self._grown_from = 0
        self._trees: Any = None
        self._usual: Array = np.empty(0)
        self._outside: Array = np.empty((0, 0))
        self._usual_distance: Array = np.empty(0)

    def judge(self, state: State, scores: Array) -> tuple[Array, Array, float]:
        """Isolation scores (n,) from 0 to 1, and the p-values of the combinations, of rows (n, features) in spreads; and the
        score that half of the sample exceeds. NaN and 1 where there is no combination or no forest."""
        strange, p = np.full(len(scores), np.nan), np.ones(len(scores))
        near = _clipped(scores)
        asked = np.flatnonzero((np.abs(near) > APART).sum(axis=1) >= 2)
        if not len(state.grown):
            return strange, p, np.nan
        self._grow(state)
        if len(asked):
            strange[asked] = -self._trees.score_samples(near[asked])
            isolated = _rarity(self._usual, strange[asked])
            distant = _rarity(self._usual_distance, self._distance(near[asked]))
            p[asked] = np.minimum(2 * np.minimum(isolated, distant), 1.0)
        return strange, p, float(np.median(self._usual))

    def _grow(self, state: State) -> None:
        sample = xxhash.xxh3_64_intdigest(state.grown.tobytes())
        if self._grown_from == sample:
            return
        from sklearn.ensemble import (
            IsolationForest,
        )  # slow to import, and small installations never come here

        trees = IsolationForest(n_estimators=TREES, max_samples=256, random_state=state.seed % 2**32)
        self._trees = trees.fit(state.grown)
        self._usual = np.sort(-trees.score_samples(state.grown))
        self._outside = _outside(state.grown)
        self._usual_distance = np.sort(self._distance(state.grown))
        self._grown_from = sample

    def _distance(self, rows: Array) -> Array:
        """From the sub-space of what usually moves together, in spreads."""
        return np.asarray(np.linalg.norm(rows @ self._outside, axis=1), np.float64)


def learn(state: State, scores: Array, quiet: Mask, step: int) -> None:
    """Add a few quiet rows of a step to the sample; every ``EVERY`` steps it is what the forest grows from. In place."""
    rows = np.flatnonzero(quiet & ~np.isnan(scores).all(axis=1))
    if len(rows):
        taken = rows[(step * A_STEP + np.arange(min(A_STEP, len(rows)))) % len(rows)]
        state.rows[(state.added + np.arange(len(taken))) % SAMPLE] = _clipped(scores[taken])
        state.added += len(taken)
    if step % EVERY == 0 and state.added >= FEWEST:
        state.grown, state.seed = state.rows[: min(state.added, SAMPLE)].copy(), step


def _outside(sample: Array) -> Array:
    """Directions (features, k) of the least variance: those that are left once ``HELD`` of it is explained."""
    variance, directions = np.linalg.eigh(np.cov(sample, rowvar=False))
    share = np.cumsum(variance) / max(float(variance.sum()), 1e-12)
    left = int(np.searchsorted(share, 1 - HELD, side="right"))
    return np.asarray(directions[:, : max(left, 1)], np.float64)


def _clipped(scores: Array) -> Array:
    """What is unknown is as usual."""
    return np.clip(np.nan_to_num(scores, nan=0.0), -FARTHEST, FARTHEST)


def _rarity(usual: Array, strange: Array) -> Array:
    """Chance of a score as high, given the sample's, sorted."""
    count = len(usual)
    from_here = usual[int((1 - OUTER) * count)]
    mean = max(float((usual[usual >= from_here] - from_here).mean()), 1e-3)
    rank = 1 - np.searchsorted(usual, strange) / (count + 1)
    return np.asarray(
        np.where(strange > from_here, OUTER * np.exp((from_here - strange) / mean), rank), np.float64
    )
