"""Watermarks of input partitions: what counts as evidence, and that they never fall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.config import Time
from smartscale.records.events import Heartbeat
from smartscale.records.partials import IDLE, LIVE, MISSING
from smartscale.stream.combine import watermark
from smartscale.stream.combine.watermark import Source

LIMITS = Time(out_of_orderness_s=2, idle_after_s=1.5, settle_s=5, heartbeat_timeout_s=4, missing_after_s=10)


def events(source: Source, at_s: float, greatest_s: float) -> Source:
    """Events written at ``at_s``, the latest of which happened at ``greatest_s``."""
    return watermark.on_events(source, round(greatest_s * MICROS), round(at_s * 1000), LIMITS)


def beat(
    source: Source, at_s: float, oldest_s: float | None = None, process: str = "a", leaving: bool = False
) -> Source:
    """A heartbeat at ``at_s``; the process holds back what happened since ``oldest_s``, or nothing."""
    clock_us = round(at_s * MICROS)
    oldest_us = clock_us if oldest_s is None else round(oldest_s * MICROS)
    return watermark.on_heartbeat(
        source, Heartbeat(process, clock_us, oldest_us, leaving), round(at_s * 1000), LIMITS
    )


def look(source: Source, at_s: float) -> Source:
    """The end of the partition is seen at ``at_s``."""
    return watermark.at_end(source, round(at_s * MICROS), round(at_s * 1000), LIMITS)


def watermark_s(source: Source) -> float:
    return source.watermark_us / MICROS


def provisional_s(source: Source) -> float:
    return source.provisional_us / MICROS


def test_events_move_it_to_the_greatest_less_the_bound() -> None:
    """
    ::

        wall       0   1   2   3
        event of   5       4   9
        watermark  3   3   3   7     (bound 2)
    """
    source = events(Source(), 0, 5)
    assert (watermark_s(source), source.state) == (3, LIVE)
    source = events(source, 2, 4)
    assert watermark_s(source) == 3
    assert watermark_s(events(source, 3, 9)) == 7


def test_heartbeats_move_an_idle_partition() -> None:
    """
    ::

        wall       100 101 102 103 104 105 106
                   h   he  h   h   h   h   h        settle 5, idle after 1.5, bound 2
        watermark  0   99  99  99  99  103 104      settled at 105; quiet since 102.5
    """
    source = beat(Source(), 100)
    source = events(beat(source, 101), 101, 101)
    for at_s in (102, 103, 104):
        source = beat(source, at_s)
        assert (watermark_s(source), source.state) == (99, LIVE)
    source = beat(source, 105)
    assert (watermark_s(source), source.state) == (103, IDLE)
    assert watermark_s(beat(source, 106)) == 104


def test_events_that_flow_keep_heartbeats_from_moving_it() -> None:
    """Each event within the last 1.5 s: the partition is not idle, however long the process has been beating."""
    source = Source()
    for at_s in range(100, 120):
        source = events(beat(source, at_s), at_s, 50)
    assert (watermark_s(source), source.state) == (48, LIVE)


def test_what_a_process_holds_back_holds_the_watermark() -> None:
    """The oldest event taken in but not yet in the log bounds it; so does the slowest of several processes."""
    source = Source()
    for at_s in range(100, 107):
        source = beat(source, at_s, oldest_s=101, process="slow")
        source = beat(source, at_s, process="fast")
    assert watermark_s(source) == 99


def test_a_process_that_is_new_holds_the_watermark_until_it_has_settled() -> None:
    """Clients cut off by a restart come back within ``settle_s``, with events from before it."""
    source = Source()
    for at_s in range(100, 107):
        source = beat(source, at_s, process="old")
    assert watermark_s(source) == 104
    for at_s in range(107, 112):
        source = beat(beat(source, at_s, process="old"), at_s, process="new")
        assert (watermark_s(source), source.state) == (105, LIVE)
    source = beat(beat(source, 112, process="old"), 112, process="new")
    assert (watermark_s(source), source.state) == (110, IDLE)


def test_a_process_that_is_gone_no_longer_holds_it() -> None:
    """Silent for more than ``heartbeat_timeout_s``: the other's heartbeats count alone."""
    source = Source()
    for at_s in range(100, 106):
        source = beat(beat(source, at_s, process="a"), at_s, process="gone")
    for at_s in range(106, 110):
        source = beat(source, at_s)
        assert watermark_s(source) == 103
    assert watermark_s(beat(source, 110)) == 108


def test_a_process_that_says_good_bye_no_longer_holds_it() -> None:
    """No need to wait for its time-out."""
    source = Source()
    for at_s in range(100, 106):
        source = beat(beat(source, at_s, process="a"), at_s, oldest_s=100, process="leaves")
    source = beat(source, 106, process="leaves", leaving=True)
    assert watermark_s(beat(source, 107)) == 105


def test_without_heartbeats_it_holds_and_the_provisional_one_follows_the_clock_after_a_time_out() -> None:
    """
    ::

        wall         100    104.1     110.1     120
                     h      missing   time-out
        watermark    98     98        98        98
        provisional  98     98        108.1     118
    """
    source = beat(events(Source(), 100, 100), 100)
    assert look(source, 104).state == LIVE
    source = look(source, 104.1)
    assert (source.state, watermark_s(source), provisional_s(source)) == (MISSING, 98, 98)
    source = look(source, 110.1)
    assert (source.state, watermark_s(source), provisional_s(source)) == (MISSING, 98, 108.1)
    assert provisional_s(look(source, 120)) == 118


def test_a_partition_that_was_never_heard_of_gets_the_same_time_out() -> None:
    """It counts from the first look: a start-up is no outage."""
    source = look(Source(), 100)
    assert provisional_s(look(source, 109)) == 0
    assert provisional_s(look(source, 110.1)) == 108.1


def test_after_the_last_process_has_left_the_time_out_runs_from_its_good_bye() -> None:
    """A rolling restart of the edge marks nothing incomplete, however long the partition has been idle."""
    source = events(Source(), 0, 0)
    for at_s in range(100, 110):
        source = beat(source, at_s)
    source = look(beat(source, 110, leaving=True), 113)
    assert (source.state, provisional_s(source)) == (IDLE, 107)
    source = look(source, 115)
    assert (source.state, provisional_s(source)) == (MISSING, 107)
    assert look(beat(source, 115.5), 115.5).state == LIVE


def test_the_clock_serves_a_third_partys_topic_once_it_is_read_to_its_end_and_quiet() -> None:
    """There are no heartbeats to wait for."""
    source = events(Source(beats=False), 100, 90)
    assert look(source, 101).watermark_us == source.watermark_us
    source = look(source, 101.5)
    assert (watermark_s(source), provisional_s(source), source.state) == (99.5, 99.5, IDLE)


def test_reading_again_leaves_the_watermark_where_it_was_committed() -> None:
    """Only who beats, and when the last events came, is learnt from records that were read before."""
    committed = Source(watermark_us=50 * MICROS, provisional_us=60 * MICROS)
    again = committed
    for at_s in range(100, 110):
        again = watermark.replayed(again, beat(again, at_s))
    again = watermark.replayed(again, events(again, 110, 0))
    assert (watermark_s(again), provisional_s(again)) == (50, 60)
    assert again.processes.keys() == {"a"}
    assert beat(again, 111).watermark_us == committed.watermark_us  # events flowed a second ago
    assert watermark_s(beat(again, 112)) == 110


def _call(data: st.DataObject, source: Source) -> Source:
    at_s = data.draw(st.integers(0, 60), label="at_s")
    then_s = data.draw(st.integers(0, 60), label="event or oldest, s")
    process = data.draw(st.sampled_from("ab"), label="process")
    calls = {
        "events": lambda: events(source, at_s, then_s),
        "heartbeat": lambda: beat(source, at_s, then_s, process),
        "good-bye": lambda: beat(source, at_s, then_s, process, leaving=True),
        "end": lambda: look(source, at_s),
        "replay": lambda: watermark.replayed(source, beat(source, at_s, then_s, process)),
    }
    return calls[data.draw(st.sampled_from(sorted(calls)), label="call")]()


@pytest.mark.parametrize("beats", [True, False])
@given(data=st.data())
def test_it_never_falls_and_the_provisional_one_is_never_below_it(beats: bool, data: st.DataObject) -> None:
    """Whatever comes in whatever order."""
    source = Source(beats=beats)
    for _ in range(data.draw(st.integers(1, 20), label="calls")):
        after = _call(data, source)
        assert after.watermark_us >= source.watermark_us
        assert after.provisional_us >= source.provisional_us
        assert after.provisional_us >= after.watermark_us
        source = after
