"""Load over time: curves and CSV files of rates."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from smartscale.clock import MICROS
from smartscale.errors import ConfigError
from smartscale.producer.rates import RateCurve, from_csv


def write(folder: Path, text: str, name: str = "load.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["load.csv", "load.csv.gz"])
def test_a_csv_is_scaled_so_that_its_largest_rate_is_the_peak(tmp_path: Path, name: str) -> None:
    """Counts 3, 6, 0 a minute and a peak of 10/s: 5, 10 and 0 requests a second."""
    text = "timestamp,requests\n2024-01-01T00:00:00Z,3\n2024-01-01T00:01:00Z,6\n2024-01-01T00:02:00Z,0\n"
    curve = from_csv(write(tmp_path, text, name), peak_per_s=10)
    assert curve.interval_us == 60 * MICROS
    assert curve.rates.tolist() == [5, 10, 0]
    assert curve.peak_per_s == 10


def test_missing_rows_and_empty_cells_are_filled_between_their_neighbours(tmp_path: Path) -> None:
    """10 s rows; 00:20 is missing and 00:40 is empty."""
    text = (
        "timestamp,requests,other\n2024-01-01T00:00:00Z,0,x\n2024-01-01T00:00:10Z,10,\n2024-01-01T00:00:30Z,30,\n"
        "2024-01-01T00:00:40Z,,\n2024-01-01T00:00:50Z,50,\n2024-01-01T00:01:00Z,0,\n"
    )
    assert from_csv(write(tmp_path, text), peak_per_s=50).rates.tolist() == [0, 10, 20, 30, 40, 50, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'timestamp'"),
        ("time,requests\n1,2\n", "no column 'timestamp'"),
        ("timestamp,count\n1,2\n", "no column 'requests'"),
        ("timestamp,requests\n2024-01-01T00:00:00Z,1\n", "at least two rows"),
        ("timestamp,requests\n2024-01-01T00:00:00Z,1\nyesterday,2\n", "line 3"),
        ("timestamp,requests\n2024-01-01T00:00:00Z,1\n2024-01-01T00:00:01Z,many\n", "line 3"),
        ("timestamp,requests\n2024-01-01T00:00:00Z,1\n2024-01-01T00:00:01Z,-1\n", "not negative"),
        ("timestamp,requests\n2024-01-01T00:00:00Z,0\n2024-01-01T00:00:01Z,0\n", "nowhere above 0"),
        ("timestamp,requests\n2024-01-01T00:00:00Z,1\n2024-01-01T00:00:00Z,2\n", "same timestamp"),
    ],
)
def test_a_wrong_csv_is_told_with_file_and_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        from_csv(write(tmp_path, text), peak_per_s=10)
    assert "load.csv" in str(caught.value)


def test_a_missing_or_damaged_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found"):
        from_csv(tmp_path / "none.csv", peak_per_s=10)
    damaged = tmp_path / "load.csv.gz"
    damaged.write_bytes(gzip.compress(b"timestamp,requests\n" + b"2024-01-01T00:00:00Z,1\n" * 9)[:-12])
    with pytest.raises(ConfigError, match="damaged gzip"):
        from_csv(damaged, peak_per_s=10)


def test_outside_the_curve_the_rate_is_zero() -> None:
    curve = RateCurve(10, 5, np.array([1.0, 2.0]))
    assert curve.rate_at(np.array([9, 10, 14, 15, 19, 20])).tolist() == [0, 1, 1, 2, 2, 0]
