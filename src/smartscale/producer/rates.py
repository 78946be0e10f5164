"""Load over time: how many requests a second are meant to arrive at each instant of world time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from smartscale import history_csv
from smartscale.clock import MICROS
from smartscale.errors import ConfigError

Micros = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]


class RateCurve:
    """Requests a second over world time ``[start_us, end_us)``, constant within intervals of ``interval_us``.

    ``rates[i]`` (requests/s, finite, >= 0) holds from ``start_us + i * interval_us`` on; outside the curve the rate is 0.

    >>> RateCurve(0, 1_000_000, np.array([2.0, 8.0])).rate_at(np.array([-1, 0, 1_500_000, 2_000_000]))
    array([0., 2., 8., 0.])
    """

    def __init__(self, start_us: int, interval_us: int, rates: Rates) -> None:
        """Raises ValueError on a rate that is negative or no number, an empty curve or an interval below 1 us."""
        if interval_us < 1 or not len(rates):
            raise ValueError("a rate curve needs at least one rate and an interval of at least 1 us")
        if not (np.isfinite(rates).all() and (rates >= 0).all()):
            raise ValueError("the rates of a rate curve must be finite and not negative")
        self.start_us = start_us
        self.interval_us = interval_us
        self.rates = rates

    @property
    def end_us(self) -> int:
        """First instant after the curve."""
        return self.start_us + self.interval_us * len(self.rates)

    @property
    def peak_per_s(self) -> float:
        """The highest rate."""
        return float(self.rates.max())

    def rate_at(self, us: Micros) -> Rates:
        """Requests a second at each instant; 0 outside the curve."""
        index = (us - self.start_us) // self.interval_us
        inside = (index >= 0) & (index < len(self.rates))
        return np.where(inside, self.rates[np.clip(index, 0, len(self.rates) - 1)], 0.0)

    def warped(self, speed: float, factor: float) -> RateCurve:
        """The same curve passing ``speed`` times as fast, its rates times ``factor``."""
        return RateCurve(self.start_us, max(1, round(self.interval_us / speed)), self.rates * factor)


def from_csv(path: Path, peak_per_s: float | None, column: str = "requests") -> RateCurve:
    """The curve of a CSV (``.gz`` too) with columns ``timestamp`` (ISO 8601, start of the interval) and ``column``.

    Missing rows and empty cells are filled by linear interpolation, because they mean that nobody counted, not that
    nobody came. The curve is scaled so that its largest rate equals ``peak_per_s``; None: as it was counted. Raises
    ``ConfigError`` naming file, line and remedy.
    """
    if peak_per_s is not None and not peak_per_s > 0:
        raise ConfigError(f"peak of {peak_per_s} requests/s: must be greater than 0 (--peak)")
    rows = history_csv.read_rows(path, column)
    known = ~np.isnan(rows.values)
    if known.sum() < 2:
        raise ConfigError(f"file {path}: needs at least two rows with a value in column {column!r}")
    distinct = np.unique(rows.times_us)
    times, where = np.unique(rows.times_us[known], return_index=True)
    values = rows.values[known][where]
    if len(times) < 2:
        raise ConfigError(f"file {path}: all rows have the same timestamp; give the start of each interval")
    interval_us = history_csv.step_of(distinct)
    grid = np.arange(times[0], times[-1] + 1, interval_us, dtype=np.int64)
    filled = np.interp(grid - times[0], times - times[0], values)
    if not filled.max() > 0:
        raise ConfigError(
            f"file {path}: column {column!r} is nowhere above 0, so it cannot be scaled to a peak"
        )
    counted = filled * (MICROS / interval_us)
    return RateCurve(
        int(times[0]), interval_us, counted if peak_per_s is None else filled * (peak_per_s / filled.max())
    )
