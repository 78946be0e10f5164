"""Load over time: how many requests a second are meant to arrive at each instant of world time."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from smartscale.clock import MICROS, parse_iso_us
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

    The interval is the most frequent distance between neighbouring rows; missing rows and empty cells are filled
    by linear interpolation, because they mean that nobody counted, not that nobody came. The curve is scaled so that its
    largest rate equals ``peak_per_s``; None: as it was counted. Raises ``ConfigError`` naming file, line and remedy.
    """
    if peak_per_s is not None and not peak_per_s > 0:
        raise ConfigError(f"peak of {peak_per_s} requests/s: must be greater than 0 (--peak)")
    times, values = _read_rates(path, column)
    if len(times) < 2:
        raise ConfigError(f"file {path}: needs at least two rows with a value in column {column!r}")
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    steps, counts = np.unique(np.diff(times), return_counts=True)
    steps, counts = steps[steps > 0], counts[steps > 0]
    if not len(steps):
        raise ConfigError(f"file {path}: all rows have the same timestamp; give the start of each interval")
    interval_us = int(steps[counts.argmax()])
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


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text file for a ``with`` block, decompressed if it is gzip. Raises ``ConfigError``, there and in the block, if
    it cannot be read."""
    try:
        with path.open("rb") as probe:
            packed = probe.read(2) == b"\x1f\x8b"
        text: IO[str] = (gzip.open if packed else open)(
            path, "rt", encoding="utf-8-sig", errors="replace", newline=""
        )
        with text:
            yield text
    except FileNotFoundError:
        raise ConfigError(f"file {path}: not found; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"file {path}: damaged gzip data: {error}; fetch the file again") from error
    except OSError as error:
        raise ConfigError(f"file {path}: cannot be read: {error}") from error


def _read_rates(path: Path, column: str) -> tuple[Micros, Rates]:
    times, values = [], []
    with open_text(path) as text:
        rows = csv.DictReader(text)
        for name in ("timestamp", column):
            if name not in (rows.fieldnames or ()):
                raise ConfigError(
                    f"file {path}: no column {name!r} in the header {rows.fieldnames}; "
                    "a CSV of rates needs timestamp and a count"
                )
        for row in rows:
            if not row[column]:
                continue
            try:
                times.append(parse_iso_us(row["timestamp"] or ""))
                values.append(float(row[column]))
            except ValueError as error:
                raise ConfigError(
                    f"file {path}, line {rows.line_num}: {error}; mend or remove the line"
                ) from error
            if not 0 <= values[-1] < float("inf"):
                raise ConfigError(
                    f"file {path}, line {rows.line_num}: {column} must be finite and not negative"
                )
    return np.array(times, dtype=np.int64), np.array(values, dtype=np.float64)
