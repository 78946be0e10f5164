"""The score of the Numenta Anomaly Benchmark, by its published rules.

Source: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark" (2015,
arXiv:1510.03336), and the benchmark's own documentation and configuration (numenta/NAB, version 1.1). The rules:

- The first 15 % of a file, at most 750 points, are the **probationary period**: nothing in it counts.
- A point whose score reaches the threshold is a **detection**. Only the earliest detection in a labelled window counts, and
  earns the weight A_TP times its place in the window, from 1 at the window's first point to nearly 0 at its last. A
  window without a detection costs A_FN.
- Each detection outside every window costs A_FP times its distance from the last window before it: little just behind it,
  all of it from far behind, or where no window came before.
- Both places go through one curve, ``2 / (1 + exp(5 y)) - 1``, where y is -1 at a window's first point, about 0 at its right
  edge and 1 one window's length behind it::

      weight   1 +****                 |
                      ****             |
                          **           |
               0 +--------------*------|-------------------> y
                 window        edge ** |
              -1 +                     ****************
                 y = -1          0     1              3

- A file's score is the sum; the corpus' score the sum over its files, with **one threshold for all files**, the best one of
  all that the scores allow. It is stated on the scale from the detector that never detects (0) to the perfect one (100),
  which detects each window at its first point and nothing else.
- Three profiles weigh the costs, see ``PROFILES``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]
Spans = Sequence[tuple[int, int]]
"""Windows as index of first and last point, in order."""

PROBATION: Final = 0.15
"""Fraction of a file that is for learning alone (NAB white paper, appendix)."""
PROBATION_LONGEST: Final = 5000
"""Points of a file beyond which its probation grows no longer: 15 % of 5,000 is 750."""
STEEPNESS: Final = 5.0
"""Of the sigmoid: a detection at a window's edge is worth 0 and at its start 0.987 before scaling."""
FAR: Final = 3.0
"""Window lengths behind a window beyond which a false detection costs all of A_FP."""
NEVER: Final = 1.1
"""The threshold at which nothing is detected, as scores end at 1."""
OUTSIDE: Final = -1


class Profile(NamedTuple):
    """What each kind of outcome is worth (NAB's ``profiles.json``; a true negative earns nothing in its scorer)."""

    name: str
    true_positive: float
    false_positive: float
    false_negative: float


PROFILES: Final = (
    Profile("standard", 1.0, 0.11, 1.0),
    Profile("reward_low_FP_rate", 1.0, 0.22, 1.0),
    Profile("reward_low_FN_rate", 1.0, 0.11, 2.0),
)


class Scored(NamedTuple):
    """One file as the scorer needs it.

    ``times_us`` and ``scores`` have shape (n,), times rise (equal ones may follow each other). ``windows`` are pairs of
    first and last time, both inclusive, in order and apart from each other."""

    times_us: Times
    scores: Floats
    windows: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ProfileScore:
    """How a detector does in one profile at one threshold, with no threshold given the best one."""

    score: float
    """0 is the detector that never detects, 100 the perfect one; a bad detector is below 0."""
    threshold: float
    raw: float
    """The sum that ``score`` is the scaling of."""
    windows: int
    found: int
    false_alarms: int
    """Detections outside every window, after probation: points, not runs of points."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What each point that counts would be worth if detected, files one after the other; probation is left out.

    ``window`` is the point's window, numbered over all files, or ``OUTSIDE``; ``worth`` in (0, 1] in a window, in [-1, 0)
    outside. Window w counts only if it has a point."""

    worth: Floats
    window: Indices
    n_windows: int

    def of(self, scores: Floats) -> Sweep:
        """Every threshold that ``scores``, shape (n,), allow, with its outcome."""
        return _sweep(scores, self)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The outcome at each distinct threshold, highest first; the first one detects nothing. All of shape (n_thresholds,)."""

    thresholds: Floats
    earned: Floats
    """Sum over the windows found of the earliest detection's worth."""
    found: Indices
    lost: Floats
    """Sum of the worth of false detections, at most 0."""
    false_alarms: Indices
    n_windows: int

    def raw(self, profile: Profile) -> Floats:
        """The profile's sum at each threshold, shape (n_thresholds,)."""
        return (
            profile.true_positive * self.earned
            - profile.false_negative * (self.n_windows - self.found)
            + profile.false_positive * self.lost
        )

    def best(self, profile: Profile) -> ProfileScore:
        """At the threshold with the highest sum; of equal ones the highest threshold."""
        return self._told(profile, int(np.argmax(self.raw(profile))))

    def at(self, profile: Profile, threshold: float) -> ProfileScore:
        """At a threshold from elsewhere."""
        rank = int(np.searchsorted(-self.thresholds[1:], -threshold, side="right"))
        told = self._told(profile, rank)
        return ProfileScore(told.score, threshold, told.raw, told.windows, told.found, told.false_alarms)

    def _told(self, profile: Profile, rank: int) -> ProfileScore:
        raw = float(self.raw(profile)[rank])
        return ProfileScore(
            normalised(raw, profile, self.n_windows),
            float(self.thresholds[rank]),
            raw,
            self.n_windows,
            int(self.found[rank]),
            int(self.false_alarms[rank]),
        )


def nab_scores(files: Iterable[Scored], threshold: float | None = None) -> dict[str, ProfileScore]:
    """Each profile's score over all files, at ``threshold`` or at the best one for all files together.

    Raises ``ValueError`` if a score is NaN. Cost: a sort of all points.

    >>> hour = 3_600_000_000
    >>> times = np.arange(100) * hour
    >>> scores = np.zeros(100)
    >>> scores[50] = 1.0
    >>> found = nab_scores([Scored(times, scores, [(50 * hour, 59 * hour)])])
    >>> found["standard"].score, found["standard"].threshold
    (100.0, 1.0)
    """
    listed = list(files)
    swept = judged([(one.times_us, one.windows) for one in listed]).of(
        np.concatenate([counted(one.scores) for one in listed]) if listed else np.empty(0)
    )
    return {
        profile.name: swept.best(profile) if threshold is None else swept.at(profile, threshold)
        for profile in PROFILES
    }


def probation(n: int) -> int:
    """Points at the start of a file of ``n`` that do not count.

    >>> probation(100), probation(4032), probation(22695)
    (15, 604, 750)
    """
    return int(min(n, PROBATION_LONGEST) * PROBATION)


def counted(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A file's values without those of its probation."""
    return values[probation(len(values)) :]


def judged(files: Sequence[tuple[Times, Sequence[tuple[int, int]]]]) -> Judged:
    """What each point of the files' (times, windows) is worth."""
    return judged_spans(
        [(len(times), [span(times, *window) for window in windows]) for times, windows in files]
    )


def span(times_us: Times, first_us: int, last_us: int) -> tuple[int, int]:
    """Indices of a window's first and last point; the last is before the first if the window has none.

    Of points with the same time the first one is meant, as in the published scorer."""
    first = int(np.searchsorted(times_us, first_us, side="left"))
    last = int(np.searchsorted(times_us, last_us, side="right")) - 1
    if last >= first:
        last = max(first, int(np.searchsorted(times_us, times_us[last], side="left")))
    return first, last


def judged_spans(files: Sequence[tuple[int, Spans]]) -> Judged:
    """What each point is worth in files given as (number of points, windows)."""
    worths, windows = [], []
    n_windows = 0
    for n, spans in files:
        place = np.full(n, np.inf)
        window = np.full(n, OUTSIDE, np.int64)
        start = probation(n)
        for rank, (first, last) in enumerate(spans):
            if last < first:
                continue
            width = last - first + 1
            place[first : last + 1] = (np.arange(first, last + 1) - last - 1) / width
            until = spans[rank + 1][0] if rank + 1 < len(spans) else n
            behind = np.arange(last + 1, until)
            place[last + 1 : until] = (behind - last) / max(width - 1, 1)
            if last >= start:
                window[first : last + 1] = n_windows
                n_windows += 1
        worth = curve(place)
        inside = window != OUTSIDE
        worth[inside] /= curve(np.array([-1.0]))[0]
        worths.append(worth[start:])
        windows.append(window[start:])
    if not worths:
        return Judged(np.empty(0), np.empty(0, np.int64), 0)
    return Judged(np.concatenate(worths), np.concatenate(windows), n_windows)


def curve(place: Floats) -> Floats:
    """The scaled sigmoid: 0.987 at -1, 0 at 0, -1 beyond ``FAR``.

    >>> curve(np.array([-1.0, -0.5, 0.0, 1.0, np.inf])).round(5).tolist()
    [0.98661, 0.84828, 0.0, -0.98661, -1.0]
    """
    near = np.minimum(place, FAR)
    return np.where(place > FAR, -1.0, 2.0 / (1.0 + np.exp(STEEPNESS * near)) - 1.0)


def normalised(raw: float, profile: Profile, n_windows: int) -> float:
    """A sum on the scale from never detecting (0) to perfect (100); without a window, 0 or, with false detections, below it
    by their cost as a part of 100 (there is no scale then)."""
    never = -profile.false_negative * n_windows
    perfect = profile.true_positive * n_windows
    return 100.0 * (raw - never) / ((perfect - never) or 1.0)


def _sweep(scores: Floats, judged: Judged) -> Sweep:
    """Thresholds from high to low; each point adds what it changes, and only the last of equal scores is an outcome."""
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: every point needs a score in [0, 1]")
    order = np.argsort(-scores, kind="stable")
    ranked, window, worth = scores[order], judged.window[order], judged.worth[order]
    outside = window == OUTSIDE
    earned, first = np.zeros(len(order)), np.zeros(len(order), np.int64)
    inside = np.flatnonzero(~outside)
    by_window = inside[np.argsort(window[inside], kind="stable")]
    for ranks in np.split(by_window, np.flatnonzero(np.diff(window[by_window])) + 1):
        if len(ranks):
            best = np.maximum.accumulate(worth[ranks])
            earned[ranks] = np.diff(best, prepend=0.0)
            first[ranks[0]] = 1
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(order) else np.empty(0, np.int64)
    return Sweep(
        np.append(NEVER, ranked[ends]),
        np.append(0.0, np.cumsum(earned)[ends]),
        np.append(0, np.cumsum(first)[ends]),
        np.append(0.0, np.cumsum(np.where(outside, worth, 0.0))[ends]),
        np.append(0, np.cumsum(outside)[ends]),
        judged.n_windows,
    )
