"""The ledger: the difference is 0 at every cut, and is not 0 once a record was lost or doubled."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.config import Settings, Time, Topics, Windows
from smartscale.errors import OffsetOutOfRange
from smartscale.ledger.books import Balance, Books, bases_of
from smartscale.ledger.reader import LedgerReader
from smartscale.log.port import Message, Record, TopicPartition
from smartscale.records import metrics, partials, schema, topics
from smartscale.stream.windows import Families
from smartscale.testing.pipeline import Pipeline, Sent

SETTINGS = Settings(
    topics=Topics(events=2, partials=2),
    time=Time(out_of_orderness_s=2, allowed_lateness_s=5, settle_s=1),
    windows=Windows(tumbling_s=[10.0], sliding_s=[[15.0, 5.0]], key_ttl_s=20),
)
DOWNSTREAM_FIRST = (topics.METRICS, topics.DEAD_LETTERS, topics.PARTIALS, topics.EVENTS)
Records = dict[str, list[Record]]


def books() -> Books:
    return Books(SETTINGS.topics.partials, bases_of(Families(SETTINGS.windows)))


def take(into: Books, records: Iterable[Record]) -> Balance:
    """Book records in the order given; the balance then."""
    book = {
        topics.METRICS: into.take_metric,
        topics.DEAD_LETTERS: into.take_dead_letter,
        topics.PARTIALS: into.take_partials,
        topics.EVENTS: into.take_input,
    }
    for record in records:
        book[record.topic](record)
    return into.balance()


def in_order(records: Records) -> list[Record]:
    return [record for topic in DOWNSTREAM_FIRST for record in records[topic]]


@cache
def story() -> tuple[Records, list[dict[TopicPartition, int]]]:
    """A run with repeats, late and unreadable events, and after every step how long each partition was."""
    run, chance = Pipeline(SETTINGS), random.Random(5)
    ats = [TopicPartition(topic, p) for topic in DOWNSTREAM_FIRST for p in range(2)]
    lengths = []
    for _ in range(40):
        for p in range(2):
            now = run.clock.now_us()
            events = [
                Sent(
                    f"s{chance.randrange(5)}",
                    now - chance.randrange(4 * MICROS) - (chance.random() < 0.05) * 20 * MICROS,
                    id=str(chance.randrange(200)) if chance.random() < 0.5 else None,
                )
                for _ in range(chance.randrange(6))
            ]
            run.append(p, events)
        if chance.random() < 0.2:
            run.append_raw(Message(topics.EVENTS, 0, b"?", headers=schema.headers(schema.EVENTS, n=3)))
        run.beat()
        run.clock.advance(chance.choice([0.2, 1, 1, 3]))
        if chance.random() < 0.7:
            run.combine(max_bytes=chance.choice([1, 2000, 1 << 20]))
        if chance.random() < 0.7:
            run.window(max_bytes=chance.choice([1, 2000, 1 << 20]))
        lengths.append({at: bounds.end for at, bounds in run.log.bounds(ats).items()})
    run.append(0, [Sent("s1", run.clock.now_us())])
    run.combine()
    run.append(1, [Sent("s1", run.clock.now_us())])
    lengths.append({at: bounds.end for at, bounds in run.log.bounds(ats).items()})
    return {topic: run.log.records(topic) for topic in DOWNSTREAM_FIRST}, lengths


def test_the_story_has_something_of_everything() -> None:
    """Otherwise the tests below would show little."""
    balance = take(books(), in_order(story()[0]))
    assert min(balance.windowed, balance.late, balance.dead, balance.duplicates) > 0
    assert min(balance.unread, balance.between, balance.open) > 0
    assert balance.in_flight == balance.unread + balance.between + balance.open


def test_all_is_accounted_for_at_the_end_of_the_story() -> None:
    """accepted = windowed + late + dead + duplicates + in flight, accepted counted here from the headers."""
    records, _ = story()
    balance = take(books(), in_order(records))
    accepted = sum(int(r.headers["n"]) for r in records[topics.EVENTS] if "n" in r.headers)
    assert balance.accepted == accepted
    assert balance.difference == 0


@settings(max_examples=40)
@given(st.data())
def test_the_difference_is_0_at_every_cut_taken_downstream_first(data: st.DataObject) -> None:
    """A cut is any number of records of each partition, inside of transactions too: no topic may be cut before what those
    downstream of it have already read."""
    records, lengths = story()
    cut: list[Record] = []
    step = 0
    for topic in DOWNSTREAM_FIRST:
        step = data.draw(st.integers(step, len(lengths) - 1), label=f"after which step {topic} is cut")
        least, step = step, min(step + 1, len(lengths) - 1)
        for p in range(2):
            at = TopicPartition(topic, p)
            end = data.draw(st.integers(lengths[least][at], lengths[step][at]), label=str(at))
            cut += [record for record in records[topic] if record.at == at and record.offset < end]
    assert take(books(), cut).difference == 0


@settings(max_examples=40)
@given(st.data())
def test_a_cut_of_metrics_inside_a_transaction_balances_too(data: st.DataObject) -> None:
    """Rows count once the progress that closes their transaction has been read."""
    records, _ = story()
    ends = [data.draw(st.integers(0, 10_000), label="end") for _ in range(2)]
    cut = [r for r in in_order(records) if r.topic != topics.METRICS or r.offset < ends[r.partition]]
    assert take(books(), cut).difference == 0


@settings(max_examples=40)
@given(st.data())
def test_reading_on_from_a_cut_gives_the_same_balance(data: st.DataObject) -> None:
    """In as many portions as one likes, the books stored and resumed in between."""
    records, lengths = story()
    steps = [*sorted(data.draw(st.sets(st.integers(0, len(lengths) - 1), max_size=6))), len(lengths) - 1]
    kept, done = books(), dict.fromkeys(lengths[0], 0)
    for step in steps:
        portion = [r for r in in_order(records) if done[r.at] <= r.offset < lengths[step][r.at]]
        assert take(kept, portion).difference == 0
        done = lengths[step]
        kept = msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=Books)
    assert kept.balance() == take(books(), in_order(records))


def has_events(record: Record) -> bool:
    """Whether the record stands for any event in the books."""
    if record.topic == topics.METRICS:
        if record.headers != schema.headers(schema.METRIC):
            return False
        row = metrics.decode_row(record.value)
        return row.final and row.count > 0 and row.window == "10s" and not row.is_rollup
    if record.topic == topics.DEAD_LETTERS:
        return b'"stage":"window"' in record.value
    if record.topic == topics.PARTIALS:
        return bool(_rows(record))
    return record.headers.get("n", b"0") != b"0"


def _rows(record: Record) -> int:
    return int(partials.decode(record.value)[1].num_rows)


@cache
def untouched() -> Balance:
    """The balance of the story as it was."""
    return take(books(), in_order(story()[0]))


@cache
def places(topic: str) -> list[int]:
    """Which records of the topic stand for events."""
    return [i for i, record in enumerate(story()[0][topic]) if has_events(record)]


def tampered(topic: str, times: int, chosen: int) -> Balance:
    """The balance with the ``chosen``-th record of a topic that holds events there ``times`` times."""
    records, _ = story()
    with_events = places(topic)
    victim = with_events[chosen % len(with_events)]
    changed = [r for i, r in enumerate(records[topic]) for _ in range(times if i == victim else 1)]
    return take(books(), in_order(records | {topic: changed}))


@pytest.mark.parametrize("times", [0, 2], ids=["removed", "doubled"])
@pytest.mark.parametrize("topic", [topics.PARTIALS, topics.METRICS, topics.DEAD_LETTERS])
@settings(max_examples=20)
@given(chosen=st.integers(0, 10_000))
def test_a_record_removed_or_doubled_shows(topic: str, times: int, chosen: int) -> None:
    """Whichever it is: a record of partials, a final row, a late event's letter. (A missing copy of the last transaction of
    its inputs is as if it had not come yet: the events stay in flight, and show once a further transaction is there.)"""
    plain, changed = untouched(), tampered(topic, times, chosen)
    assert changed.difference != 0 or (times == 0 and changed.unread > plain.unread)


@pytest.mark.parametrize("times", [0, 2], ids=["removed", "doubled"])
@settings(max_examples=20)
@given(chosen=st.integers(0, 10_000))
def test_an_events_record_removed_or_doubled_after_it_was_counted_shows(times: int, chosen: int) -> None:
    """One that combine has not read yet is as if it had come (or not come) that way."""
    plain = untouched()
    changed = tampered(topics.EVENTS, times, chosen)
    unread_changed = plain.unread != changed.unread
    assert (changed.difference != 0) != (unread_changed and times == 0)


def test_all_copies_of_a_transaction_removed_show() -> None:
    """Though every partition looks consistent by itself."""
    records, _ = story()
    offsets = {r.offset for r in records[topics.PARTIALS] if _rows(r)}
    victim = sorted(offsets)[len(offsets) // 2]
    left = [r for r in records[topics.PARTIALS] if r.offset != victim]
    assert take(books(), in_order(records | {topics.PARTIALS: left})).difference != 0


def test_a_record_of_partials_that_cannot_be_read_counts_as_missing() -> None:
    """The ledger goes on, and shows it."""
    records, _ = story()
    victim = [r for r in records[topics.PARTIALS] if _rows(r)][3]
    broken = [
        Record(r.topic, r.partition, r.offset, b"?", None, {}, 0) if r is victim else r
        for r in records[topics.PARTIALS]
    ]
    assert take(books(), in_order(records | {topics.PARTIALS: broken})).difference != 0


def running() -> Pipeline:
    run = Pipeline(SETTINGS)
    for _ in range(10):
        run.append(0, [Sent("a", run.clock.now_us(), id=str(run.clock.now_us()))])
        run.beat()
        run.settle()
        run.clock.advance(3)
    return run


def test_the_reader_resumes_from_the_stored_books() -> None:
    """Even when what was booked is gone by then."""
    run = running()
    first = LedgerReader(run.log, SETTINGS)
    before = first.update()
    first.store()
    again = LedgerReader(run.log, SETTINGS)
    assert again.update() == before
    run.append(0, [Sent("a", run.clock.now_us())])
    assert again.update().accepted == before.accepted + 1
    run.settle()
    balance = again.update()
    assert balance.difference == 0
    assert balance.unread == 0


def test_records_removed_before_they_were_booked_are_an_error() -> None:
    """Books that cannot be closed are not shown as if they were."""
    little = msgspec.structs.replace(SETTINGS, topics=Topics(events=2, partials=2, retention_bytes=3000))
    run = Pipeline(little)
    for _ in range(10):
        run.append(0, [Sent("a", run.clock.now_us())])
    with pytest.raises(OffsetOutOfRange, match="never booked"):
        LedgerReader(run.log, little).update()
