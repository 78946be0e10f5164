"""Volume under the precision-recall surface: how well a continuous score marks labelled stretches, with no threshold and
with no one width of tolerance.

Source: Paparrizos, Boniol, Palpanas, Tsay, Elmore and Franklin, "Volume Under the Surface: a New Accuracy Evaluation Measure
for Time-Series Anomaly Detection" (PVLDB 15(11), 2022), in the form of its optimised algorithm; the conventions that the
paper leaves open (buffers cut at the ends, thresholds at evenly spaced ranks) are those of the authors' TSB-AD.

Labels get soft edges: with a buffer of l points, one that lies d <= l/2 points outside a labelled stretch is anomalous to
the degree ``sqrt(1 - d / l)``; degrees of several stretches add up, at most to 1. ::

    degree   1        ********************
                  ***|                    |***
           0.7  **   |                    |   **
             0 --------------------------------------->
                l/2      labelled stretch      l/2

At a threshold, with ``TP`` the sum of degrees over the detected points:

- precision = TP / points detected,
- recall = TP / (labelled points + half the degrees detected in buffers), at most 1, times the share of stretches (with their
  buffers; those that touch are one) that hold a detection: a stretch that is missed whole costs more than its points.

The area under their curve, over thresholds from the highest score down, averaged over the buffers l = 0 to L, is the volume:
1 for a score that ranks every labelled point first, about the share of labelled points for a score that knows nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

LONGEST_BUFFER: Final = 100
"""Points, L. TSB-AD's default where no period is given."""
THRESHOLDS: Final = 250
"""Ranks at which the curve is evaluated (TSB-AD)."""


def vus_pr(
    labels: npt.NDArray[np.bool_],
    scores: Floats,
    longest_buffer: int = LONGEST_BUFFER,
    n_thresholds: int = THRESHOLDS,
) -> float | None:
    """The volume for one series, in [0, 1]; None without a labelled point, as recall has no meaning then.

    ``labels`` and ``scores`` have shape (n,); higher scores are stranger, only their order matters. Raises ``ValueError``
    if a score is NaN or the shapes differ. Cost: one sort, and for each buffer length a pass over the points within
    reach of a stretch.

    >>> labels = np.array([0, 0, 1, 1, 0, 0, 0, 0], bool)
    >>> round(vus_pr(labels, labels.astype(float), longest_buffer=0), 3)
    1.0
    """
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}: one of each for every point")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: every point needs a score")
    if not labels.any():
        return None
    stretches = runs(labels)
    levels = np.sort(scores)[::-1][np.linspace(0, len(scores) - 1, n_thresholds).astype(np.int64)]
    rank = np.searchsorted(-levels, -scores)  # the first threshold that detects the point
    near, nearest, second = _reach(stretches, len(labels), longest_buffer // 2)

    def up_to(points: Indices | slice, degrees: Floats | None = None) -> Floats:
        """Sum of the points' degrees (1 each without) at each threshold, shape (n_thresholds,)."""
        return np.cumsum(np.bincount(rank[points], degrees, n_thresholds).astype(np.float64))

    detected, inside, n_labelled = up_to(slice(None)), up_to(np.flatnonzero(labels)), int(labels.sum())
    areas = []
    for buffer in range(longest_buffer + 1):
        around = up_to(near, _degrees(nearest, second, buffer))
        true = inside + around
        peaks = np.sort(_peaks(scores, stretches, buffer // 2))
        found = 1.0 - np.searchsorted(peaks, levels, side="left") / len(peaks)
        recall = np.minimum(true / (n_labelled + around / 2), 1.0) * found
        areas.append(np.dot(np.diff(recall, prepend=0.0), true / detected))
    return float(np.mean(areas))


def runs(labels: npt.NDArray[np.bool_]) -> Indices:
    """Stretches of True as rows of first and last index, shape (n_stretches, 2).

    >>> runs(np.array([1, 1, 0, 1], bool)).tolist()
    [[0, 1], [3, 3]]
    """
    edges = np.flatnonzero(np.diff(labels.astype(np.int8), prepend=0, append=0))
    return np.stack([edges[::2], edges[1::2] - 1], axis=1)


def _reach(stretches: Indices, n: int, reach: int) -> tuple[Indices, Indices, Indices]:
    """The unlabelled points within ``reach`` of a stretch, and their distances to the nearest and the second nearest one
    (``reach`` + 1 where none is within reach)."""
    at, distance = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for away in range(1, reach + 1):
        for points in (stretches[:, 0] - away, stretches[:, 1] + away):
            points = points[(points >= 0) & (points < n)]
            at.append(points)
            distance.append(np.full(len(points), away))
    points, distances = np.concatenate(at), np.concatenate(distance)  # nearest first: distances rise
    order = np.argsort(points, kind="stable")
    points, distances = points[order], distances[order]
    first = np.flatnonzero(np.diff(points, prepend=-1))
    follower = np.minimum(first + 1, max(len(points) - 1, 0))
    second = np.where(points[follower] == points[first], distances[follower], reach + 1)
    second[follower == first] = reach + 1
    near, nearest = points[first], distances[first]
    labelled = np.zeros(n, bool)
    for a, b in stretches:
        labelled[a : b + 1] = True
    outside = ~labelled[near]
    return near[outside], nearest[outside], second[outside]


def _degrees(nearest: Indices, second: Indices, buffer: int) -> Floats:
    """How anomalous points are that lie so far from the two nearest stretches. Two within reach are 0.7 each: together 1."""
    if buffer == 0:
        return np.zeros(len(nearest))
    one = np.sqrt(np.maximum(1.0 - nearest / buffer, 0.0))
    return np.where(nearest > buffer // 2, 0.0, np.where(second <= buffer // 2, 1.0, one))


def _peaks(scores: Floats, stretches: Indices, reach: int) -> Floats:
    """The highest score of each stretch with its buffer; stretches whose buffers touch or overlap are one."""
    first = stretches[:, 0] - reach
    last = stretches[:, 1] + reach
    apart = np.append(True, first[1:] > last[:-1])
    starts = np.maximum(first[apart], 0)
    ends = np.minimum(last[np.append(apart[1:], True)] + 1, len(scores))
    edges = np.stack([starts, ends], axis=1).ravel()
    if edges[-1] == len(scores):
        edges = edges[:-1]
    return np.asarray(np.maximum.reduceat(scores, edges)[::2])
