"""Load over time: curves, CSV files of rates, and the arrivals drawn from them."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.errors import ConfigError
from smartscale.producer.arrivals import arrivals, by_cell
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
    assert curve.expected == 900


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
    assert [curve.peak_in(0, 10), curve.peak_in(0, 11), curve.peak_in(14, 16), curve.peak_in(20, 30)] == [
        0,
        1,
        2,
        0,
    ]


CURVE = RateCurve(7 * MICROS // 2, MICROS // 2, np.tile([5.0, 40.0, 0.0, 10.0], 20))
"""40 s in half-second intervals, starting at 3.5 s."""


@given(
    st.lists(st.integers(CURVE.start_us - MICROS, CURVE.end_us + MICROS), max_size=6), st.integers(0, 2**62)
)
@settings(max_examples=30)
def test_arrivals_do_not_depend_on_how_time_is_cut(cuts: list[int], seed: int) -> None:
    """Any cuts of the same span give the same arrivals, sorted."""
    edges = [CURVE.start_us - MICROS, *sorted(cuts), CURVE.end_us + MICROS]
    pieces = [arrivals(CURVE, seed, a, b) for a, b in pairwise(edges)]
    whole = arrivals(CURVE, seed, edges[0], edges[-1])
    assert np.concatenate(pieces).tolist() == whole.tolist()
    assert (np.diff(whole) >= 0).all()
    assert np.concatenate(list(by_cell(CURVE, seed))).tolist() == whole.tolist()


def test_a_curve_moved_in_time_has_the_same_arrivals_moved() -> None:
    moved = CURVE.starting_at(CURVE.start_us + 123_456)
    assert (arrivals(moved, 1, 0, moved.end_us) - 123_456).tolist() == arrivals(
        CURVE, 1, 0, CURVE.end_us
    ).tolist()


def test_arrivals_follow_the_curve() -> None:
    """100,000 expected: the count is within five standard deviations, in each interval none where the rate is 0."""
    curve = RateCurve(0, MICROS, np.tile([100.0, 300.0, 0.0, 600.0], 100))
    points = arrivals(curve, 3, 0, curve.end_us)
    assert abs(len(points) - curve.expected) < 5 * curve.expected**0.5
    counts = np.bincount(points // MICROS % 4, minlength=4)
    assert counts[2] == 0
    assert counts[1] / counts[0] == pytest.approx(3, rel=0.05)


def test_another_seed_gives_other_arrivals() -> None:
    assert arrivals(CURVE, 1, 0, CURVE.end_us).tolist() != arrivals(CURVE, 2, 0, CURVE.end_us).tolist()
