"""Window, record by record: final windows are those of the raw events, whatever the order, the split or the restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.config import Settings, Time, Windows
from smartscale.log.port import Message, Position, Record
from smartscale.records import dead_letters, events, histogram, metrics, schema, topics
from smartscale.records import partials as records
from smartscale.records.metrics import LiveKey, MetricRow, Progress
from smartscale.records.partials import Envelope, SourceWatermark
from smartscale.stream.aggregates import named
from smartscale.stream.combine import partials
from smartscale.stream.window import core
from smartscale.stream.window.core import Partition, Step
from smartscale.stream.windows import Families
from smartscale.testing.oracle import Key, check_finals, check_revisions, check_row, final_windows, row_key
from smartscale.testing.pipeline import Sent, events_value

BASE_S = 1_000_000
"""The origin of the drawn timelines: a multiple of every window."""
PANE_US = 5 * MICROS
LATENESS_S = 10
SETTINGS = Settings(
    time=Time(allowed_lateness_s=LATENESS_S),
    windows=Windows(tumbling_s=[10.0, 20.0], sliding_s=[[15.0, 5.0]], histogram_from_s=20, key_ttl_s=40),
)
"""Windows 10s, 20s and 15s/5s; panes of 5 s."""


def us(seconds: float) -> int:
    """World time of an instant of a timeline."""
    return round((BASE_S + seconds) * MICROS)


def sent(service: str, at_s: float, name: str = "/", latency_us: int | None = None) -> Sent:
    return Sent(service, us(at_s), name, latency_us=latency_us)


def partials_value(
    events_: Sequence[Sent], watermarks: list[SourceWatermark], sources: int, pane_us: int = PANE_US
) -> bytes:
    """The value of a record of partials as combine writes it."""
    envelope = Envelope(pane_us, histogram.SCALE, sources, [], watermarks)
    aggregations = named(SETTINGS.windows)
    decoded = [events.decode(events_value(events_))] if events_ else []
    if not decoded:
        return records.encode(partials.empty(aggregations), envelope)
    families = Families(Windows(tumbling_s=[pane_us / MICROS], sliding_s=[]))
    columns = partials.columns(decoded, np.ones(len(events_), np.bool_), families)
    result = partials.aggregate(columns, aggregations)
    return records.encode(partials.rows(result, columns, np.ones(len(result.pane), np.bool_)), envelope)


@dataclass
class Driver:
    """One partition of partials and the process that reads it; keeps what was committed."""

    settings: Settings = SETTINGS
    rows_limit: int = core.ROWS_PER_STEP
    log: list[Record] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    committed: Position | None = None
    live: dict[bytes | None, LiveKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.partition = Partition(self.settings, 0)

    def take(
        self,
        events_: Sequence[Sent] = (),
        watermark_s: float | None = None,
        source: int = 0,
        sources: int = 1,
        provisional_s: float | None = None,
    ) -> None:
        """One record: events, then what is known of one source."""
        told = []
        if watermark_s is not None:
            provisional = max(watermark_s, provisional_s or 0)
            state = records.MISSING if provisional > watermark_s else records.LIVE
            told = [SourceWatermark("events", source, us(watermark_s), us(provisional), state)]
        self.take_raw(partials_value(events_, told, sources))

    def take_raw(self, value: bytes) -> None:
        record = Record(
            topics.PARTIALS, 0, 2 * len(self.log), value, None, schema.headers(schema.PARTIALS), 0
        )
        self.log.append(record)
        self.partition.take(record, 0)

    def finish(self) -> list[Step]:
        """Commit transactions until nothing is due."""
        steps = []
        while True:
            steps.append(self.step())
            if not steps[-1].more:
                return steps

    def step(self) -> Step:
        """Commit one transaction."""
        step = self.partition.finish(0, self.rows_limit)
        self.committed = step.position
        for message in step.messages:
            if message.topic == topics.LIVE_KEYS:
                if message.value:
                    self.live[message.key] = metrics.decode_live_key(message.value)
                else:
                    del self.live[message.key]
        self.steps.append(step)
        return step

    def restart(self) -> None:
        """A new process takes over from the committed position and reads up to where it stood."""
        self.partition = Partition(self.settings, 0)
        first = self.partition.assign(self.committed, self.live.values())
        for record in self.log:
            if first is None or record.offset >= first:
                assert self.partition.caught_up == (
                    self.committed is None or record.offset >= self.committed.offset
                )
                self.partition.take(record, 0)
        assert self.partition.caught_up

    @property
    def rows(self) -> list[MetricRow]:
        return [row for step in self.steps for row in rows_of(step)]

    @property
    def progress(self) -> list[Progress]:
        return [metrics.decode_progress(step.messages[-1].value) for step in self.steps]

    @property
    def letters(self) -> list[dead_letters.DeadLetter]:
        return [
            dead_letters.decode(m.value)
            for step in self.steps
            for m in step.messages
            if m.topic == topics.DEAD_LETTERS
        ]

    def latest(self, service: str, window: str, end_s: float, name: str = "/") -> MetricRow:
        """The last row of a window."""
        return [
            row for row in self.rows if row_key(row) == (service, "interaction", name, window, us(end_s), "")
        ][-1]


def rows_of(step: Step) -> list[MetricRow]:
    return [metrics.decode_row(m.value) for m in step.messages if m.headers == schema.headers(schema.METRIC)]


# Examples.


def test_a_window_is_emitted_when_the_watermark_passes_its_end_and_final_after_the_allowed_lateness() -> None:
    """
    ::

        event time  0     5     10        20
        events      *     *
        watermark             9.9  10     20
        10s window            -    row    final      (lateness 10)
    """
    run = Driver()
    run.take([sent("a", 1), sent("a", 6)], watermark_s=9.9)
    run.finish()
    assert "10s" not in {row.window for row in run.rows}
    run.take(watermark_s=10)
    run.finish()
    row = run.latest("a", "10s", 10)
    assert (row.count, row.final, row.complete) == (2, False, True)
    run.take(watermark_s=19.9)
    run.finish()
    assert not run.latest("a", "10s", 10).final
    run.take(watermark_s=20)
    run.finish()
    assert run.latest("a", "10s", 10).final


def test_an_event_within_the_allowed_lateness_gives_its_windows_a_new_revision() -> None:
    """Its key's and the roll-up's rows alone; other keys are not told again."""
    run = Driver()
    run.take([sent("a", 1), sent("b", 1)], watermark_s=10)
    run.finish()
    before = run.latest("a", "10s", 10).revision
    run.take([sent("a", 2)], watermark_s=11)
    (step,) = run.finish()
    assert {(row.service, row.name, row.window, row.count) for row in rows_of(step)} == {
        ("a", name, window, 2) for name in ("/", "*") for window in ("10s", "15s/5s")
    }
    assert run.latest("a", "10s", 10).revision > before


def test_lateness_is_judged_per_pane_so_an_event_is_in_all_its_windows_or_in_none() -> None:
    """
    ::

        panes       [0, 5)  [5, 10)   [10, 15)
        watermark 18, lateness 10: closed up to 8, so [0, 5) takes no more, [5, 10) still does
        an event at 3 is late, though the windows 20s and 15s/5s that contain it are not final
    """
    run = Driver()
    run.take([sent("a", 1), sent("a", 12)], watermark_s=18)
    run.take([sent("a", 3), sent("a", 4), sent("a", 6)], watermark_s=18)
    (step,) = run.finish()
    assert step.late == 2
    (letter,) = run.letters
    assert (letter.reason, letter.count, letter.pane_us) == (dead_letters.LATE, 2, us(0))
    assert (letter.source, letter.offset) == ("partials/0", 2)
    run.take(watermark_s=100)
    run.finish()
    assert run.latest("a", "10s", 10).count == 2
    assert run.latest("a", "20s", 20).count == 3
    assert run.latest("a", "15s/5s", 15).count == 3


def test_the_record_that_moves_the_watermark_is_judged_by_the_one_before_it() -> None:
    """Its rows came before its watermark."""
    run = Driver()
    run.take([sent("a", 1)], watermark_s=50)
    (step,) = run.finish()
    assert step.late == 0
    assert run.latest("a", "10s", 10).final


def test_a_missing_source_gives_incomplete_rows_which_become_complete() -> None:
    """
    ::

        source 0   watermark 30
        source 1   watermark 4, missing, provisional 30    then back: watermark 31
        10s        row, incomplete                         row, complete
    """
    run = Driver()
    run.take([sent("a", 1)], watermark_s=30, source=0, sources=2)
    run.take(watermark_s=4, source=1, sources=2, provisional_s=30)
    run.finish()
    row = run.latest("a", "10s", 10)
    assert (row.complete, row.final, row.count) == (False, False, 1)
    assert run.progress[-1].missing == ["events/1"]
    assert (run.progress[-1].watermark_us, run.progress[-1].provisional_us) == (us(4), us(30))
    run.take([sent("a", 2)], watermark_s=12, source=1, sources=2)
    run.finish()
    row = run.latest("a", "10s", 10)
    assert (row.complete, row.final, row.count) == (True, False, 2)
    assert not run.latest("a", "10s", 30).complete
    assert run.progress[-1].missing == []
    check_revisions(run.rows)


def test_nothing_is_emitted_until_every_source_has_been_heard_of() -> None:
    """Two partitions of input: one alone says nothing."""
    run = Driver()
    run.take([sent("a", 1)], watermark_s=50, source=0, sources=2)
    run.finish()
    assert not run.rows
    run.take(watermark_s=50, source=1, sources=2)
    run.finish()
    assert run.latest("a", "10s", 10).final


def test_a_silent_key_gets_windows_of_count_zero_until_its_time_to_live() -> None:
    """Last pane ends at 10; 40 s later the key is dead: the last window that begins before 50 is its last."""
    run = Driver()
    run.take([sent("a", 6)], watermark_s=500)
    run.finish()
    ends = sorted(row.end_us for row in run.rows if row.window == "10s" and row.name == "/" and row.final)
    assert ends == [us(end) for end in (10, 20, 30, 40, 50)]
    assert run.latest("a", "10s", 50).count == 0
    assert run.latest("a", "10s", 50).revision == 2


def test_a_jump_of_the_watermark_by_years_costs_nothing() -> None:
    """Stretches without keys are jumped over, and the windows beyond it are found."""
    run = Driver()
    run.take([sent("a", 1)], watermark_s=10)
    run.take([sent("a", 10**8 + 1)], watermark_s=10**8 + 30)
    run.finish()
    assert run.latest("a", "10s", 10**8 + 10).final
    assert len(run.rows) < 200


def test_a_window_of_other_settings_is_set_aside() -> None:
    """Panes that do not fit cannot be put into windows; the reason says what to do."""
    run = Driver()
    told = [SourceWatermark("events", 0, us(1), us(1), records.LIVE)]
    run.take_raw(partials_value([sent("a", 1)], told, 1, pane_us=3 * MICROS))
    run.take_raw(b"nonsense")
    run.finish()
    assert [letter.reason for letter in run.letters] == [dead_letters.UNREADABLE] * 2
    assert "same settings" in run.letters[0].detail


def test_a_row_limit_spreads_what_is_due_over_transactions() -> None:
    """Each but the last says there is more; the result is that of one transaction."""
    one, many = Driver(), Driver(rows_limit=1)
    for run in (one, many):
        run.take([sent("a", 1), sent("b", 7), sent("a", 18)], watermark_s=60)
        run.finish()
    assert len(one.steps) == 1
    assert len(many.steps) > 5
    assert [step.more for step in many.steps] == [True] * (len(many.steps) - 1) + [False]
    assert {row_key(row): row for row in one.rows} == {row_key(row): row for row in many.rows}
    assert one.committed is not None
    assert many.committed is not None
    assert one.progress[-1] == many.progress[-1]


def test_keys_long_dead_are_forgotten_with_a_tombstone_and_come_back_as_new() -> None:
    """Two thousand names seen once: memory and the topic ``live-keys`` shrink again."""
    run = Driver()
    run.take([sent("a", 1, name=f"/{i}") for i in range(2000)], watermark_s=10)
    run.finish()
    assert len(run.live) == 2000
    assert len(run.partition.keys) == 2001
    run.take([sent("a", 301, name="/7"), sent("b", 301)], watermark_s=310)
    run.finish()
    assert len(run.partition.keys) == 4
    assert {(key.service, key.name) for key in run.live.values()} == {("a", "/7"), ("b", "/")}
    run.take([sent("a", 311, name="/7"), sent("a", 311, name="/9")], watermark_s=400)
    run.finish()
    assert run.latest("a", "10s", 320, "/9").count == 1
    assert run.latest("a", "10s", 320, "*").count == 2


def test_names_of_late_events_are_forgotten_too() -> None:
    """They never lived: nothing to bury, nothing kept."""
    run = Driver()
    run.take([sent("a", 1001)], watermark_s=1010)
    run.take([sent("a", 1, name=f"/{i}") for i in range(2000)], watermark_s=1010)
    run.finish()
    assert len(run.live) == 1
    assert len(run.partition.keys) == 2


# Properties.


@dataclass(frozen=True)
class Told:
    """A record: its events, one source's watermark, and whether a transaction follows."""

    events: list[Sent]
    source: int
    watermark_s: int
    ahead_s: int
    commit: bool


SENT = st.builds(
    Sent,
    service=st.sampled_from(["a", "b"]),
    time_us=st.integers(us(0), us(40) - 1),
    name=st.sampled_from(["/", "/x"]),
    latency_us=st.none() | st.integers(0, 10**7),
    error=st.booleans(),
    value=st.none() | st.floats(-1e3, 1e3),
)
TOLD = st.builds(
    Told,
    events=st.lists(SENT, max_size=5),
    source=st.integers(0, 1),
    watermark_s=st.integers(0, 60),
    ahead_s=st.just(0) | st.integers(0, 60),
    commit=st.booleans(),
)
STORY = st.lists(TOLD, min_size=1, max_size=12)
END_S = 300


def closed_us(story: Sequence[Told], before: int) -> int:
    """What a plain reading of the first ``before`` records says is closed."""
    least = [max((us(t.watermark_s) for t in story[:before] if t.source == s), default=0) for s in (0, 1)]
    return min(least) - LATENESS_S * MICROS


def is_late(story: Sequence[Told], i: int, one: Sent) -> bool:
    return one.time_us // PANE_US * PANE_US + PANE_US <= closed_us(story, i)


def tell(run: Driver, told: Told) -> None:
    run.take(told.events, told.watermark_s, told.source, 2, told.watermark_s + told.ahead_s)


def end(run: Driver) -> None:
    for source in (0, 1):
        run.take(watermark_s=END_S, source=source, sources=2)
    run.finish()


@settings(max_examples=60)
@given(STORY, st.sampled_from([1, 7, core.ROWS_PER_STEP]))
def test_finals_are_those_of_the_raw_events_however_they_came(story: list[Told], rows_limit: int) -> None:
    """Any order, any split into records and transactions, any interleaving of watermarks: what was not late is in every
    window of its pane, what was late in none; each window of a live key is final once; revisions only grow."""
    run = Driver(rows_limit=rows_limit)
    for told in story:
        tell(run, told)
        if told.commit:
            run.step()
    end(run)
    counted = [one for i, told in enumerate(story) for one in told.events if not is_late(story, i, one)]
    expected = final_windows(counted, SETTINGS.windows, us(END_S - LATENESS_S))
    check_finals(run.rows, expected, SETTINGS.windows)
    check_revisions(run.rows)
    late = sum(is_late(story, i, one) for i, told in enumerate(story) for one in told.events)
    assert sum(step.late for step in run.steps) == sum(letter.count for letter in run.letters) == late


@settings(max_examples=60)
@given(STORY)
def test_what_a_row_says_is_what_had_come_by_then(story: list[Told]) -> None:
    """Every revision, not only the final one: after each commit, the latest row of every window emitted so far."""
    run = Driver()
    so_far: list[Sent] = []
    for i, told in enumerate(story):
        so_far += [one for one in told.events if not is_late(story, i, one)]
        tell(run, told)
        run.finish()
        latest = {row_key(row): row for row in run.rows}
        expected = final_windows(so_far, SETTINGS.windows, us(END_S))
        for key, row in latest.items():
            check_row(row, expected[key], SETTINGS.windows)


@settings(max_examples=60)
@given(STORY)
def test_progress_only_moves_on_and_keeps_its_promises(story: list[Told]) -> None:
    """Watermarks never fall; what is said to be emitted, complete and final is."""
    run = Driver(rows_limit=5)
    for told in story:
        tell(run, told)
        run.step()
    end(run)
    before = Progress(0, 0, 0, 0, -(10**18), 0, 0, [])
    stage: dict[Key, MetricRow] = {}
    for step, progress in zip(run.steps, run.progress, strict=True):
        for field_ in ("position", "watermark_us", "provisional_us", "closed_us", "final_us"):
            assert getattr(progress, field_) >= getattr(before, field_)
        stage |= {row_key(row): row for row in rows_of(step)}
        for key, row in stage.items():
            assert row.complete or row.end_us > progress.watermark_us, (key, progress)
            assert row.final or row.window != "10s" or row.end_us > progress.final_us, (key, progress)
        before = progress


def outcome(step: Step) -> tuple[object, ...]:
    """All that a transaction writes, in an order of its own (the order of rows within one means nothing)."""

    def rest(kind: str) -> list[bytes]:
        return sorted(m.value for m in step.messages if m.topic == kind)

    return (
        sorted((row_key(row), _rounded(row)) for row in rows_of(step)),
        rest(topics.DEAD_LETTERS),
        rest(topics.LIVE_KEYS),
        step.messages[-1].value,
        step.position.offset,
        step.more,
    )


def _rounded(row: MetricRow) -> str:
    """Float sums may differ in their last bits."""
    value_sum = None if row.value_sum is None else round(row.value_sum, 6)
    value_mean = None if row.value_mean is None else round(row.value_mean, 6)
    return repr(msgspec.structs.replace(row, value_sum=value_sum, value_mean=value_mean))


@settings(max_examples=60)
@given(STORY, st.sets(st.integers(0, 13)), st.sampled_from([3, core.ROWS_PER_STEP]))
def test_a_restart_is_invisible(story: list[Told], restarts: set[int], rows_limit: int) -> None:
    """After any transactions, between those of one emission too: rows, revisions, late verdicts, live keys and progress of
    every later transaction are the same as without it."""
    plain, restarted = Driver(rows_limit=rows_limit), Driver(rows_limit=rows_limit)
    for run in (plain, restarted):
        for i, told in enumerate(story):
            tell(run, told)
            if told.commit:
                run.step()
            if run is restarted and i in restarts:
                run.restart()
        for source in (0, 1):
            run.take(watermark_s=END_S, source=source, sources=2)
        while run.step().more:
            if run is restarted and 13 in restarts:
                run.restart()
    assert [outcome(step) for step in restarted.steps] == [outcome(step) for step in plain.steps]


def test_messages_go_to_the_partition_of_their_own() -> None:
    """Rows are keyed by service, and metrics, live keys and dead letters follow the partition of partials."""
    partition = Partition(SETTINGS, 3)
    value = partials_value([sent("a", 1)], [SourceWatermark("events", 0, us(10), us(10), records.LIVE)], 1)
    partition.take(Record(topics.PARTIALS, 3, 0, value, None, schema.headers(schema.PARTIALS), 0), 0)
    messages: list[Message] = partition.finish(0).messages
    assert {message.partition for message in messages} == {3}
    assert {message.key for message in messages if message.topic == topics.METRICS} == {
        b"default\x1fa",
        None,
    }


def test_an_input_partition_that_was_added_holds_the_watermark_until_it_is_heard_of() -> None:
    """
    ::

        sources expected  1    2    2
        source 0          20   40   40
        source 1                    30
        watermark         20   20   30
    """
    run = Driver()
    run.take([sent("a", 1)], watermark_s=20)
    run.take(watermark_s=40, sources=2)
    run.finish()
    assert run.progress[-1].watermark_us == us(20)
    run.take(watermark_s=30, source=1, sources=2)
    run.finish()
    assert run.progress[-1].watermark_us == us(30)
