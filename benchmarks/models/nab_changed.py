"""How much of the detector's score on the Numenta benchmark hangs on these very files: the score after changes of the data
that keep what is strange in them.

    python -m benchmarks.models.nab_changed ../shared/data/anomalies/nab

A detector that was fitted to the files loses much by them; what it loses is a guess of what unseen files cost. Prints for
each change and profile the score at the best threshold and at the detector's own bar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from smartscale.clock import MICROS
from smartscale.evaluate.anomalies import stream
from smartscale.evaluate.anomalies.corpus import Labelled, read
from smartscale.evaluate.anomalies.nab import PROFILES, Scored, nab_scores
from smartscale.evaluate.anomalies.results import BAR
from smartscale.ml.anomaly.detector import Detector

SEED: Final = 0


def every_second(one: Labelled, first: int) -> Labelled:
    at = np.arange(first, len(one.times_us), 2)
    labels = None if one.labels is None else one.labels[at]
    return replace(
        one,
        times_us=one.times_us[at],
        texts=[one.texts[place] for place in at],
        values=one.values[at],
        labels=labels,
    )


def noisy(one: Labelled) -> Labelled:
    rng = np.random.default_rng(SEED)
    return replace(one, values=one.values + rng.normal(0, 0.05 * np.nanstd(one.values), one.values.shape))


def gappy(one: Labelled) -> Labelled:
    gone = np.random.default_rng(SEED).random(one.values.shape) < 0.1
    return replace(one, values=np.where(gone, np.nan, one.values))


def later(one: Labelled) -> Labelled:
    by_us = 7 * 3600 * MICROS
    windows = tuple((first + by_us, last + by_us) for first, last in one.windows or ())
    return replace(one, times_us=one.times_us + by_us, windows=windows)


CHANGES: Final[dict[str, Callable[[Labelled], Labelled]]] = {
    "as they are": lambda one: one,
    "upside down": lambda one: replace(one, values=-one.values),
    "square root above the least value": lambda one: replace(
        one, values=np.sqrt(one.values - np.nanmin(one.values))
    ),
    "logarithm above the least value": lambda one: replace(
        one, values=np.log1p(one.values - np.nanmin(one.values))
    ),
    "noise of 5 % of the deviation": noisy,
    "a tenth of the values missing": gappy,
    "seven hours later": later,
    "every second value": lambda one: every_second(one, 0),
    "the other values": lambda one: every_second(one, 1),
}


def main(folder: Path) -> None:
    files = read(folder).files
    for name, change in CHANGES.items():
        changed = [change(one) for one in files]
        scored = [
            Scored(one.times_us, told.alert, one.windows or ())
            for one, told in zip(changed, stream.scored(changed, Detector), strict=True)
        ]
        best, own = nab_scores(scored), nab_scores(scored, BAR)
        cells = (f"{best[profile.name].score:6.1f} {own[profile.name].score:6.1f}" for profile in PROFILES)
        print(f"{name:36}" + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
