"""Every forecast of an evaluation in one CSV, so that others can score it.

``file,origin,timestamp,step,q05,…,q95,q99``: one row an origin and step, timestamps as the file writes them, values in the
file's own unit.
"""

from __future__ import annotations

import csv
from typing import IO, Final

from smartscale.evaluate.forecasts.results import Evaluated
from smartscale.evaluate.forecasts.scores import LEVELS

HEADER: Final = ["file", "origin", "timestamp", "step", *(f"q{round(level * 100):02d}" for level in LEVELS)]


def write_header(out: IO[str]) -> None:
    csv.writer(out, lineterminator="\n").writerow(HEADER)


def write(out: IO[str], done: Evaluated) -> None:
    """The forecasts of one file, by origin and step."""
    rows = csv.writer(out, lineterminator="\n")
    stamp = done.history.stamp
    for origin, quantiles in zip(done.origins.tolist(), done.ours.values, strict=True):
        of = stamp(origin)
        for ahead, at_levels in enumerate(quantiles[:, : len(LEVELS)].tolist(), start=1):
            told = [f"{value:.9g}" for value in at_levels]
            rows.writerow([done.result.file, of, stamp(origin + ahead), ahead, *told])
