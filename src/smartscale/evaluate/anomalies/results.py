"""What an evaluation of a detector found, and the figures that show how much of it is chance or overfitting.

The benchmark's own score looks for the best threshold on the very files that it scores, and its windows cover a tenth of
each file. So three more figures stand beside it:

- **halves**: files in the order of their paths, at even and at odd places; the threshold found on one half is used on
  the other;
- **moved**: the score with the windows at random places: what a detector gets whose alerts have nothing to do with them;
- **clock**: the score of an alarm clock, which rings every so many points and looks at nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from smartscale.evaluate.anomalies import nab
from smartscale.evaluate.anomalies.corpus import Corpus, Labelled
from smartscale.evaluate.anomalies.nab import PROFILES, Profile, ProfileScore, Spans, Sweep
from smartscale.evaluate.anomalies.stream import Scores
from smartscale.evaluate.anomalies.vus import LONGEST_BUFFER, vus_pr

BAR: Final = 0.5
"""The alert score at which a detector tells by itself (``ml.anomaly.protocol``)."""
MOVES: Final = 20
SEED: Final = 1
PERIODS: Final = (100, 150, 200, 300, 400, 600, 800)
"""Of the alarm clock, in points; the best one counts, as the best threshold does. A window is some 400 points long."""


class Halves(msgspec.Struct, frozen=True):
    """The score of each half at the threshold that is best for the other, and of all files, each half so."""

    even: float
    odd: float
    both: float
    even_threshold: float
    """Found on the files at odd places."""
    odd_threshold: float


class Moved(msgspec.Struct, frozen=True):
    """The best score with the windows moved, over so many times."""

    mean: float
    low: float
    high: float
    times: int


class Clock(msgspec.Struct, frozen=True):
    """The alarm clock's score at its best period, in points."""

    score: float
    period: int


class ProfileResult(msgspec.Struct, frozen=True):
    """One profile of the Numenta benchmark."""

    score: float
    """By the published rules: at the one threshold that is best for all files."""
    threshold: float
    windows: int
    found: int
    false_alarms: int
    at_bar: ProfileScore
    halves: Halves
    moved: Moved
    clock: Clock


class Volume(msgspec.Struct, frozen=True):
    """VUS-PR of the state score: the mean over the files that have a labelled point."""

    mean: float | None
    files: int
    longest_buffer: int


class FileResult(msgspec.Struct, frozen=True):
    """One file; the benchmark's figures are those of the standard profile at the threshold of all files."""

    file: str
    points: int
    gaps: int
    step_s: float | None
    windows: int | None
    """None: nobody labelled it."""
    found: int | None
    false_alarms: int | None
    raw: float | None
    """What the file adds to the sum behind the score: at most 1 a window, less for lateness, misses and false alarms."""
    alerts: int
    """Points whose alert score reaches the bar."""
    vus_pr: float | None


class Result(msgspec.Struct, frozen=True):
    """All of an evaluation, as ``--json`` prints it."""

    folder: str
    layout: str
    detector: str
    bar: float
    files: list[FileResult]
    nab: dict[str, ProfileResult] | None
    """None where labels are a column: its stretches are no windows in the benchmark's sense."""
    vus_pr: Volume
    problems: list[str]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _File:
    """One scored file: its number of points, its windows as indices, and its alert scores."""

    n: int
    spans: Spans
    alert: nab.Floats


def evaluated(
    corpus: Corpus, scores: Sequence[Scores], detector: str, bar: float = BAR, buffer: int = LONGEST_BUFFER
) -> Result:
    """Everything there is to tell of the corpus' files with these scores, in the same order."""
    labelled = [
        _File(len(one.times_us), [nab.span(one.times_us, *window) for window in one.windows], told.alert)
        for one, told in zip(corpus.files, scores, strict=True)
        if one.windows is not None
    ]
    profiles = None
    threshold = nab.NEVER
    if corpus.layout == "windows" and labelled:
        profiles = _profiles(labelled, bar)
        threshold = profiles[PROFILES[0].name].threshold
    files = [
        _file(one, told, threshold if profiles else None, bar, buffer)
        for one, told in zip(corpus.files, scores, strict=True)
    ]
    volumes = [file.vus_pr for file in files if file.vus_pr is not None]
    return Result(
        str(corpus.folder),
        corpus.layout,
        detector,
        bar,
        files,
        profiles,
        Volume(float(np.mean(volumes)) if volumes else None, len(volumes), buffer),
        corpus.problems,
        corpus.notes,
    )


def _file(one: Labelled, told: Scores, threshold: float | None, bar: float, buffer: int) -> FileResult:
    score = None
    if threshold is not None and one.windows is not None:
        scored = nab.Scored(one.times_us, told.alert, one.windows)
        score = nab.nab_scores([scored], threshold)[PROFILES[0].name]
    start = one.scored_from
    return FileResult(
        one.name,
        len(one.times_us),
        one.gaps,
        one.step_s,
        None if one.windows is None else len(one.windows),
        None if score is None else score.found,
        None if score is None else score.false_alarms,
        None if score is None else score.raw,
        int((told.alert[start:] >= bar).sum()),
        None if one.labels is None else vus_pr(one.labels[start:], told.state[start:], buffer),
    )


def _profiles(files: Sequence[_File], bar: float) -> dict[str, ProfileResult]:
    everything, even, odd = _sweep(files), _sweep(files[::2]), _sweep(files[1::2])
    rng = np.random.default_rng(SEED)
    moved = [
        _sweep([_File(one.n, moved_spans(one.n, one.spans, rng), one.alert) for one in files])
        for _ in range(MOVES)
    ]
    clocks = {period: _sweep([_rung(one, period) for one in files]) for period in PERIODS}
    return {
        profile.name: _profile(profile, everything, even, odd, moved, clocks, bar) for profile in PROFILES
    }


def _profile(
    profile: Profile,
    everything: Sweep,
    even: Sweep,
    odd: Sweep,
    moved: Sequence[Sweep],
    clocks: dict[int, Sweep],
    bar: float,
) -> ProfileResult:
    best = everything.best(profile)
    by_chance = [sweep.best(profile).score for sweep in moved]
    rings = {period: sweep.at(profile, 1.0).score for period, sweep in clocks.items()}
    period = max(rings, key=lambda period: rings[period])
    return ProfileResult(
        best.score,
        best.threshold,
        best.windows,
        best.found,
        best.false_alarms,
        everything.at(profile, bar),
        _halves(profile, even, odd),
        Moved(float(np.mean(by_chance)), min(by_chance), max(by_chance), len(by_chance)),
        Clock(rings[period], period),
    )


def _halves(profile: Profile, even: Sweep, odd: Sweep) -> Halves:
    for_odd, for_even = even.best(profile).threshold, odd.best(profile).threshold
    at_even, at_odd = even.at(profile, for_even), odd.at(profile, for_odd)
    both = nab.normalised(at_even.raw + at_odd.raw, profile, even.n_windows + odd.n_windows)
    return Halves(at_even.score, at_odd.score, both, for_even, for_odd)


def _sweep(files: Sequence[_File]) -> Sweep:
    judged = nab.judged_spans([(one.n, one.spans) for one in files])
    return judged.of(np.concatenate([np.empty(0), *(nab.counted(one.alert) for one in files)]))


def _rung(one: _File, period: int) -> _File:
    return _File(one.n, one.spans, np.where(np.arange(1, one.n + 1) % period == 0, 1.0, 0.0))


def moved_spans(n: int, spans: Spans, rng: np.random.Generator) -> Spans:
    """Windows of the same lengths at random places behind probation, in random order, apart from each other.

    ``n`` is the file's number of points. Windows that fill all of that stay where they are."""
    lengths = [last - first + 1 for first, last in spans if last >= first]
    start = nab.probation(n)
    free = n - start - sum(lengths)
    if free < 0:
        return list(spans)
    before = np.sort(rng.integers(0, free + 1, len(lengths)))
    found, used = [], start
    for at, length in zip(before.tolist(), rng.permutation(lengths).astype(int).tolist(), strict=True):
        found.append((used + at, used + at + length - 1))
        used += length
    return found
