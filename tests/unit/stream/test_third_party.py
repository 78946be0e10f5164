"""A third party's JSON values: decoded many at once, judged as if each came alone."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.config import Combine, Dedup, Settings, Topics
from smartscale.log.port import Message, TopicPartition, TopicSpec, read_all
from smartscale.records import dead_letters, topics
from smartscale.records import partials as records
from smartscale.stream.combine.third_party import decoder
from smartscale.testing.pipeline import Pipeline

NOW_US = 1_700_000_000 * MICROS

VALUES = [
    b'{"service":"a"}',
    b'{"service":"b","time":"2023-11-14T22:13:19.5Z","status":500,"latency_ms":1.25,"name":"/"}',
    b'{"service":"b","id":"1","kind":"metric","value":-0.5,"user":"u","attributes":{"k":[1]}}',
    b'{"service":"c","kind":"log","severity":"error"}',
    b' {"service" : "a"} ',
    b'{\n"service": "a"}',
    b'[{"service":"a"}]',
    b'[{"service":"a"},{"service":"b"}]',
    b'{"service":"a"},{"service":"b"}',
    b'{"service":"a"}\n{"service":"b"}',
    b'{"service":"a"',
    b'"name":"x"}',
    b"",
    b" ",
    b"\n",
    b"null",
    b"not json",
    b'{"service":""}',
    b'{"service":"a","more":1}',
    b'{"service":"a","time":"2099-01-01T00:00:00Z"}',
    b'{"service":"\xff"}',
    b'{"service":"a","name":"*"}',
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(VALUES), max_size=12))
def test_each_value_gets_the_verdict_it_gets_alone(values: list[bytes]) -> None:
    """Whatever stands beside it: halves of an object do not become one, two events in a record are not one each."""
    decode = decoder(Settings())
    together = decode(values, NOW_US)
    rows = dict(zip(together.places.tolist(), together.batch.to_pylist(), strict=True))
    refused = {place: (reason, detail) for place, reason, detail in together.refused}
    assert rows.keys() | refused.keys() == set(range(len(values)))
    for place, value in enumerate(values):
        alone = decode([value], NOW_US)
        assert alone.batch.to_pylist() == ([rows[place]] if place in rows else [])
        assert [(reason, detail) for _, reason, detail in alone.refused] == (
            [refused[place]] if place in refused else []
        )


def test_bad_records_are_dead_letters_and_repeats_are_found_across_a_restart() -> None:
    """3 good of which one is a repeat, 1 bad; then, after a crash, a repeat and a new one."""
    orders = TopicPartition("orders", 0)
    run = Pipeline(
        Settings(
            topics=Topics(events=1, partials=1),
            combine=Combine(json_topics=[orders.topic]),
            dedup=Dedup(window_s=60),
        )
    )
    run.log.create([TopicSpec(orders.topic, 1)])

    def write(*values: bytes) -> None:
        for value in values:
            run.append_raw(Message(orders.topic, 0, value))
        while run.combine():
            pass

    write(
        b'{"service":"a","id":"1"}',
        b"oops",
        b'{"service":"a","id":"1"}',
        b'{"service":"a","id":"2"}',
    )
    run.crash_combine()
    write(b'{"service":"a","id":"2"}', b'{"service":"a","id":"3"}')
    envelopes = [
        records.decode(one.value)[0] for one in read_all(run.log, TopicPartition(topics.PARTIALS, 0))
    ]
    parts = [part for envelope in envelopes for part in envelope.inputs if part.topic == orders.topic]
    assert sum(part.read for part in parts) == 6
    assert sum(part.duplicates for part in parts) == 2
    assert sum(part.dead for part in parts) == 1
    assert sum(sum(part.rows) for part in parts) == 3
    letters = [
        msgspec.json.decode(one.value, type=dead_letters.DeadLetter)
        for one in read_all(run.log, TopicPartition(topics.DEAD_LETTERS, 0))
    ]
    assert [(letter.reason, letter.source, letter.offset) for letter in letters] == [
        (dead_letters.MALFORMED, "orders/0", 1)
    ]
