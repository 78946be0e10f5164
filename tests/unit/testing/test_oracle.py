"""The oracle finds what it is there to find, and agrees with the pipeline's histogram on every latency."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.records import histogram
from smartscale.records.metrics import Histogram, MetricRow
from smartscale.testing.oracle import Event, differences, expected, finals, slot

S = 1_000_000


@given(st.integers(0, 2**40))
def test_a_latency_is_in_the_slot_that_whole_numbers_say(latency_us: int) -> None:
    """The vectorised logarithm and v**16 <= 2**i agree."""
    assert histogram.slots(np.array([latency_us]))[0] == slot(latency_us)


def test_latencies_beside_every_boundary_are_in_the_slot_that_whole_numbers_say() -> None:
    """Rounding could only go wrong here."""
    near = [round(2 ** (i / 16)) + step for i in range(513) for step in (-1, 0, 1)]
    assert histogram.slots(np.array(near, np.int64)).tolist() == [slot(v) for v in near]


EVENTS = [
    Event("1", 9 * S, "a", name="r", status=200, latency_us=1000),
    Event("2", 10 * S, "a", name="r", status=500, latency_us=1000),
    Event("2", 10 * S, "a", name="r", status=500, latency_us=1000),
    Event("3", 11 * S, "a", kind="log", name="app", severity="error"),
]


def test_windows_are_half_open_repeats_count_once_and_rollups_add_up() -> None:
    """Time 10 s is in the second window of 10 s; id 2 came twice; `*` is there for each kind."""
    windows = expected(EVENTS, [10.0, 20.0])
    counts = {(k.kind, k.name, k.window, k.end_us // S): (t.count, t.errors) for k, t in windows.items()}
    assert counts == {
        ("interaction", "r", "10s", 10): (1, 0),
        ("interaction", "r", "10s", 20): (1, 1),
        ("interaction", "r", "20s", 20): (2, 1),
        ("log", "app", "10s", 20): (1, 1),
        ("log", "app", "20s", 20): (1, 1),
        **{
            (kind, "*", window, end): counted
            for kind, window, end, counted in [
                ("interaction", "10s", 10, (1, 0)),
                ("interaction", "10s", 20, (1, 1)),
                ("interaction", "20s", 20, (2, 1)),
                ("log", "10s", 20, (1, 1)),
                ("log", "20s", 20, (1, 1)),
            ]
        },
    }


def row(
    name: str, count: int = 1, errors: int = 0, slots: Counter[int] | None = None, final: bool = True
) -> MetricRow:
    filled = sorted((slots or Counter({slot(1000): 1})).items())
    return MetricRow(
        "default", "a", "interaction", name, "10s", 0, 10 * S, count, errors, 0.1, 0.0, 1, final, True, 0,
        histogram=Histogram(4, [s for s, _ in filled], [n for _, n in filled]),
    )  # fmt: skip


WANTED = expected(EVENTS[:1], [10.0])
RIGHT = [row("r"), row("*")]


def test_rows_as_wanted_show_no_difference() -> None:
    """Provisional rows before the final one, and final rows of silent keys, are as they should be."""
    silent = msgspec.structs.replace(row("other"), count=0, histogram=None)
    assert not differences(WANTED, finals([row("r", final=False), *RIGHT, silent]))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (RIGHT[:1], "no final row"),
        ([row("r", count=2), RIGHT[1]], "2 events with 0 errors, wanted 1"),
        ([row("r", errors=1), RIGHT[1]], "1 events with 1 errors"),
        ([row("r", slots=Counter({5: 1})), RIGHT[1]], "histogram {5: 1}"),
        ([*RIGHT, row("ghost")], "ghost 10s to 1970-01-01T00:00:10Z: 1 events, wanted none"),
        ([*RIGHT, row("r")], "a final row after the final one"),
        ([*RIGHT, row("r", final=False)], "a provisional row after the final one"),
    ],
    ids=["missing", "count", "errors", "histogram", "too much", "final twice", "revised after final"],
)
def test_each_fault_is_told(rows: list[MetricRow], told: str) -> None:
    """One fault, one line."""
    problems = differences(WANTED, finals(rows))
    assert len(problems) == 1
    assert told in problems[0]
