"""How much of the detector's score on the Numenta benchmark hangs on these very files.

Run: ``python benchmarks/models/nab_robustness.py FOLDER``, a folder in the benchmark's layout, or to keep the result
``python benchmarks/run.py nab_robustness -- FOLDER``. Prints one JSON value: the score of each profile at the best threshold
and at the detector's own bar,

- ``halves``: of the files at even and at odd places of the sorted paths (constants are chosen on the former);
- ``subsets``: of half as many files drawn at random, 200 times: quantiles;
- ``changes``: of all files after changes that keep what is strange in them. A detector that was fitted to the files loses
  much by them; what it loses is a guess of what unseen files cost.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from smartscale.clock import MICROS
from smartscale.evaluate.anomalies import stream
from smartscale.evaluate.anomalies.corpus import Labelled, read
from smartscale.evaluate.anomalies.nab import Scored, nab_scores
from smartscale.evaluate.anomalies.results import BAR
from smartscale.ml.anomaly.detector import Detector

SEED: Final = 0
SUBSETS: Final = 200
QUANTILES: Final = [0.1, 0.5, 0.9]


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


def judged(files: Sequence[Labelled]) -> list[Scored]:
    scores = stream.scored(files, Detector)
    return [
        Scored(one.times_us, told.alert, one.windows or ()) for one, told in zip(files, scores, strict=True)
    ]


def both(files: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """By profile: at the best threshold and at the bar."""
    best, own = nab_scores(files), nab_scores(files, BAR)
    return {name: {"best": round(best[name].score, 1), "at_bar": round(own[name].score, 1)} for name in best}


def subsets(files: Sequence[Scored]) -> dict[str, dict[str, list[float]]]:
    rng = np.random.default_rng(SEED)
    drawn = [
        both([files[at] for at in rng.permutation(len(files))[: len(files) // 2]]) for _ in range(SUBSETS)
    ]
    return {
        name: {
            at: np.quantile([one[name][at] for one in drawn], QUANTILES).round(1).tolist()
            for at in ("best", "at_bar")
        }
        for name in drawn[0]
    }


def main(folder: Path) -> None:
    files = read(folder).files
    plain = judged(files)
    result = {
        "halves": {"even": both(plain[::2]), "odd": both(plain[1::2])},
        "subsets": {"files": len(plain) // 2, "quantiles": QUANTILES, **subsets(plain)},
        "changes": {name: both(judged([change(one) for one in files])) for name, change in CHANGES.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
