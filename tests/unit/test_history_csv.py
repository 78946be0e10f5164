"""CSV histories: whatever the file looks like, one value a step, NaN where nothing is known, timestamps as written."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import MICROS, iso, parse_iso_us
from smartscale.errors import ConfigError
from smartscale.history_csv import History, like, read, read_rows, regular


def write(folder: Path, text: str, name: str = "load.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def rows(*lines: str, header: str = "timestamp,requests") -> str:
    return "\n".join([header, *lines]) + "\n"


def told(history: History) -> list[tuple[str, float | None]]:
    """Each step's timestamp and value; None for a gap."""
    return [
        (history.stamp(at), None if np.isnan(value) else float(value))
        for at, value in enumerate(history.values)
    ]


MESSY = rows(
    "2024-01-01 00:03:00,4",
    "2024-01-01 00:00:00,1",
    "2024-01-01 00:01:00,",
    "2024-01-01 00:00:00,3",
    "",
    "2024-01-01 00:05:00,NaN",
    "2024-01-01 00:06:00,6",
)


@pytest.mark.parametrize("name", ["load.csv", "load.csv.gz", "packed-without-saying-so.csv"])
def test_unsorted_doubled_empty_and_missing_rows(tmp_path: Path, name: str) -> None:
    """::

    row at    0    1    2    3    4    5    6 min
    value    1,3  (empty)    4       NaN    6
    history   2    –    –    4    –    –    6
    """
    path = write(tmp_path, MESSY, name)
    if name.startswith("packed"):
        path.write_bytes(gzip.compress(MESSY.encode()))
    found = read(path)
    assert told(found) == [
        ("2024-01-01 00:00:00", 2), ("2024-01-01 00:01:00", None), ("2024-01-01 00:02:00", None),
        ("2024-01-01 00:03:00", 4), ("2024-01-01 00:04:00", None), ("2024-01-01 00:05:00", None),
        ("2024-01-01 00:06:00", 6),
    ]  # fmt: skip
    assert found.step_s == 60
    assert found.rates[3] == 4 / 60
    assert found.notes == ["1 doubled timestamps averaged", "rows sorted by time", "4 of 7 steps are gaps"]


@pytest.mark.parametrize(
    ("first", "next_ones"),
    [
        ("2024-01-01T00:00:00Z", ["2024-01-01T00:01:00Z", "2024-01-01T00:02:00Z"]),
        ("2024-01-01T02:00:00+02:00", ["2024-01-01T02:01:00+02:00", "2024-01-01T02:02:00+02:00"]),
        ("2024-01-01 00:00", ["2024-01-01 00:01", "2024-01-01 00:02"]),
        ("2024-01-01T00:00:00.000Z", ["2024-01-01T00:01:00.000Z", "2024-01-01T00:02:00.000Z"]),
        ("1704067200", ["1704067260", "1704067320"]),
        ("1704067200000", ["1704067260000", "1704067320000"]),
    ],
)
def test_timestamps_of_every_form_are_read_and_written_as_they_are(
    tmp_path: Path, first: str, next_ones: list[str]
) -> None:
    """The third row is missing, so its timestamp is made in the form of the row before."""
    later = like(first, parse_iso_us("2024-01-01T00:03:00Z"))
    found = read(write(tmp_path, rows(f"{first},1", f"{next_ones[0]},2", f"{later},3")))
    assert found.first_us == parse_iso_us("2024-01-01T00:00:00Z")
    assert told(found) == [(first, 1), (next_ones[0], 2), (next_ones[1], None), (later, 3)]


def test_an_hour_told_twice_when_summer_time_ends(tmp_path: Path) -> None:
    """Without a zone the two passes of the hour cannot be told apart and are averaged; with one they are two hours."""
    plain = ["01:00,1", "01:30,2", "02:00,3", "02:30,4", "02:00,5", "02:30,6", "03:00,7"]
    found = read(write(tmp_path, rows(*(f"2024-10-27 {row}" for row in plain))))
    assert found.values.tolist() == [1, 2, 4, 5, 7]
    zoned = [
        "01:30:00+02:00,2",
        "02:00:00+02:00,3",
        "02:30:00+02:00,4",
        "02:00:00+01:00,5",
        "03:00:00+01:00,7",
    ]
    found = read(write(tmp_path, rows(*(f"2024-10-27T{row}" for row in zoned))))
    assert [stamp[11:] for stamp, _ in told(found)] == [
        "01:30:00+02:00", "02:00:00+02:00", "02:30:00+02:00", "02:00:00+01:00", "02:30:00+01:00", "03:00:00+01:00",
    ]  # fmt: skip
    assert [value for _, value in told(found)] == [2, 3, 4, 5, None, 7]


def test_rows_polled_a_little_off_their_grid_go_to_the_nearest_step(tmp_path: Path) -> None:
    """Every 5.1 s and some milliseconds: after fifty steps a row is missing, none is doubled."""
    late_us = np.random.default_rng(0).integers(0, 40_000, 101).tolist()
    lines = [f"{iso(round((10**6 + k * 5.1) * MICROS) + us)},{k}" for k, us in enumerate(late_us)]
    found = read(write(tmp_path, rows(*lines)))
    assert found.step_s == 5
    assert len(found.values) == 103
    assert np.isnan(found.values).sum() == 2
    assert np.nansum(found.values) == 5050
    assert found.stamp(1) == found.stamp(0).replace(":40.", ":45.")
    assert "nearest step of 5 s" in found.notes[0]


def test_seconds_are_summed_to_ten_seconds_that_begin_where_others_would_begin_them(tmp_path: Path) -> None:
    """::

    rows     :07 :08 :09 │ :10 … :19 (:12 missing) │ :20 :21
    steps        –       │      9 / 9 · 10         │   –         half of a step must be known
    """
    lines = [f"2024-01-01T00:00:{s:02d}Z,1" for s in range(7, 22) if s != 12]
    found = read(write(tmp_path, rows(*lines)))
    assert told(found) == [
        ("2024-01-01T00:00:00Z", None), ("2024-01-01T00:00:10Z", 10), ("2024-01-01T00:00:20Z", None),
    ]  # fmt: skip
    assert found.rates[1] == 1
    means = read(write(tmp_path, rows(*lines)), kind="rates")
    assert (means.values[1], means.rates[1]) == (1, 1)


def test_a_step_can_be_asked_for(tmp_path: Path) -> None:
    lines = [f"2024-01-01T00:{m:02d}:00Z,{m}" for m in range(10)]
    path = write(tmp_path, rows(*lines))
    assert read(path, step_s=300).values.tolist() == [10, 35]
    with pytest.raises(ConfigError, match=r"a step of 90 s is no multiple of the 60 s .* use --step 120"):
        read(path, step_s=90)


def test_a_step_asked_for_that_is_near_to_the_rows_own_is_taken_for_it(tmp_path: Path) -> None:
    """Rows at 0.0, 5.1, 10.2 s, steps of 5 s asked for."""
    path = write(tmp_path, rows(*(f"{10**9 + k * 5.1:.1f},{k}" for k in range(5))))
    assert read(path).step_s == 5.1
    assert read(path, step_s=5).values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("header", "line", "column", "taken"),
    [
        ("timestamp,bytes,requests", "2024-01-01T00:0{}:00Z,9,1", None, "requests"),
        ("timestamp,host,hits", "2024-01-01T00:0{}:00Z,a,1", None, "hits"),
        ("hits,timestamp,bytes", "1,2024-01-01T00:0{}:00Z,9", "hits", "hits"),
    ],
)
def test_the_column_is_named_or_the_only_one_of_numbers(
    tmp_path: Path, header: str, line: str, column: str | None, taken: str
) -> None:
    found = read(write(tmp_path, rows(*(line.format(m) for m in range(3)), header=header)), column)
    assert found.column == taken
    assert found.values.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        (rows("1,2", header="time,requests"), r"no column 'timestamp' in the header \(time, requests\)"),
        (
            rows("2024-01-01T00:00:00Z,1,2", header="timestamp,a,b"),
            "numbers in a, b of timestamp, a, b; say which it is with --column",
        ),
        (rows("2024-01-01T00:00:00Z,x", header="timestamp,a"), "no column of numbers of timestamp, a"),
        (rows("2024-01-01T00:00:00Z,1", "2024-01-01T00:01:00Z,-2"), "line 3: requests is -2: must be finite"),
        (rows("2024-01-01T00:00:00Z,1", "", "2024-01-01T00:01:00Z,many"), "line 4: .*'many'"),
        (rows("2024-01-01T00:00:00Z,1", "2024-01-01T25:00:00Z,1"), "line 3: hour must be in"),
        (rows("2024-01-01T00:00:00Z,1", "now,1"), "line 3: Invalid isoformat"),
        (rows("2024-01-01T00:00:00Z,1", "2024-01-01T00:01:00Z"), "line 3: only 1 cells"),
        (rows("2024-01-01T00:00:00Z,1"), "at least two rows"),
        (rows("2024-01-01T00:00:00Z,1", "2024-01-01T00:00:00Z,2"), "same timestamp"),
        (
            rows(*(f"2022-01-01T00:00:{s:02d}Z,1" for s in range(9)), "2028-12-01T00:00:00Z,1"),
            r"the longest gap is between .* \(line 10\) and 2028-12-01T00:00:00Z \(line 11\): check",
        ),
    ],
)
def test_a_wrong_file_is_told_with_place_and_remedy(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(write(tmp_path, text))
    assert "load.csv" in str(caught.value)


@settings(max_examples=40)
@given(
    values=st.lists(st.integers(0, 1000) | st.none(), min_size=2, max_size=30),
    step=st.sampled_from([5, 60, 600, 3600]),
    start=st.integers(10**8, 10**9),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_order_of_any_rows_gives_the_same_history(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None], step: int, start: int, shuffle: object
) -> None:
    folder = tmp_path_factory.mktemp("h")
    lines = [f"{start + k * step},{'' if value is None else value}" for k, value in enumerate(values)]
    ordered = read(write(folder, rows(*lines), "a.csv"))
    np.testing.assert_array_equal(ordered.values, [np.nan if v is None else v for v in values])
    assert [ordered.stamp(k) for k in range(len(values))] == [
        str(start + k * step) for k in range(len(values))
    ]
    shuffle.shuffle(lines)  # type: ignore[attr-defined]
    mixed = regular(read_rows(write(folder, rows(*lines), "b.csv")))
    np.testing.assert_array_equal(mixed.values, ordered.values)
