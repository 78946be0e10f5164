"""The compiled pass over JSON events: what it takes, ``events_json`` takes too, with the same columns."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smartscale.clock import MICROS, parse_iso_us
from smartscale.records.events_json import Limits, MalformedBody, decode, to_batch, user_hasher
from smartscale.records.events_scan import Bodies, Scanned, scan

NOW_US = parse_iso_us("2026-06-01T12:00:00Z")
LIMITS = Limits(NOW_US, NOW_US + 60 * MICROS, 1 << 16, 20_000)
HASH_USER = user_hasher(b"")


def scanned(bodies: Sequence[bytes], lines: bool = False) -> Scanned:
    count = len(bodies)
    return scan(
        Bodies.of(bodies),
        np.full(count, lines),
        np.full(count, LIMITS.now_us),
        np.full(count, LIMITS.latest_us),
        LIMITS.max_event_bytes,
        LIMITS.max_events,
    )


def columns(found: Scanned) -> pa.RecordBatch:
    count = len(found)
    tenant = pa.array(["default"] * count, pa.string()).dictionary_encode()
    batch = found.columns(HASH_USER, tenant, pa.nulls(count, pa.binary(16)))
    batch.validate(full=True)
    return batch


def check(bodies: Sequence[bytes], lines: bool = False) -> Scanned:
    """What was taken is good for ``events_json`` as well, and the same."""
    found = scanned(bodies, lines)
    wanted = []
    for body, count in zip(bodies, found.counts.tolist(), strict=True):
        if count >= 0:
            decoded = decode(body, LIMITS, lines or None)
            assert (decoded.count, decoded.refused) == (count, [])
            nothing = [None] * count
            wanted += to_batch(decoded.events, decoded.times_us, nothing, HASH_USER).to_pylist()
    assert repr(columns(found).to_pylist()) == repr(wanted)  # -0.0 and 0.0 are not the same
    return found


GOOD = {
    "service": "shop",
    "time": "2026-06-01T11:59:59.123456Z",
    "kind": "log",
    "name": "GET /cart/{id}",
    "status": 503,
    "error": False,
    "severity": "Error",
    "latency_ms": 12.345,
    "value": -1.5e-3,
    "user": "Ada",
    "id": "7e1b-1",
    "attributes": {"a": [1, {"b": '\u00fc " \n'}, [], {}], "c": None, "d": -0.5e10},
}

PLAIN = [
    b'{"service":"a"}',
    b'[{"service":"a"},{"service":"b"}]',
    b' \n[ {"service" : "a" } ,\t{"service":"b"}\r\n] ',
    b"[]",
    b"[ ]",
    b'{"service":"a"}\n{"service":"b"}\n\n{"service":"c"}\r\n',
    b'{\n"service":"a"\n}',
    json.dumps(GOOD).encode(),
    json.dumps([GOOD] * 3, ensure_ascii=False).encode(),
    b'{"service":"a","status":null,"error":null,"latency_ms":null,"value":null,"user":null,"id":null}',
    b'{"service":"a","time":null,"severity":null,"attributes":null}',
    b'{"service":"a","name":"","user":""}',
    b'{"service":"a","kind":"log","severity":"INFO","attributes":{ }}',
    b'{"service":"a","kind":"log","severity":"warning"}',
    b'{"service":"a","kind":"log","severity":"info","attributes":{ "severity":1}}',
    b'{"service":"a","kind":"metric","value":0}',
    '{"service":"\u00fcber","name":"\u65e5\u672c","user":"\U0001f600"}'.encode(),
    b'{"service":"a","name":"%s"}' % ("\u00fc" * 256).encode(),
]


@pytest.mark.parametrize("body", PLAIN)
def test_plain_events_are_taken(body: bytes) -> None:
    assert check([body]).counts[0] >= 0


@pytest.mark.parametrize(
    "value",
    [
        "0", "-0", "-0.0", "0.0", "1e0", "1E+2", "5e-324", "1e308", "0.1", "12.300000000000745058", "9007199254740993",
        "123456789012345678901234567890", "0.000000000000000000000000000001", "2.2250738585072014e-308", "1e22", "1e23",
        "0.1e1", "100000000000000000000000", "0.30000000000000004", "18446744073709551616", "184467440737095516160",
        "0.18446744073709551616", "1.0000000000000000000",
    ],
)  # fmt: skip
def test_every_number_has_the_value_that_is_nearest(value: str) -> None:
    """Whole or not, of any length: as the other path reads it."""
    body = b'{"service":"a","kind":"metric","value":%b}' % value.encode()
    assert check([body]).counts[0] == 1


@pytest.mark.parametrize(
    "time",
    [
        "2026-06-01T11:59:59Z", "2026-06-01T11:59:59.1Z", "2026-06-01T11:59:59.123456Z", "2026-06-01T11:59:59.1234564Z",
        "2026-06-01T11:59:59.1234565Z", "2026-06-01T11:59:59.999999999Z", "2024-02-29T00:00:00Z", "1970-01-01T00:00:00Z",
        "2026-06-01T13:59:59.5+02:00", "2026-06-01T06:29:59-05:30", "2000-12-31T23:59:59+14:00", "1972-03-01T00:00:00Z",
    ],
)  # fmt: skip
def test_every_instant_is_the_same_microsecond(time: str) -> None:
    assert check([b'{"service":"a","time":"%b"}' % time.encode()]).counts[0] == 1


LEFT = [
    b"",
    b" ",
    b"[",
    b"[{}]",
    b"{}",
    b'[{"service":"a"},]',
    b'[{"service":"a"}',
    b'[{"service":"a"}] x',
    b'{"service":"a"',
    b'{"service":"a"} {"service":"b"}',
    b'{"service":"a"}x',
    b'{"service":""}',
    b'{"service":"a","service":"b"}',
    b'{"service":"a","other":1}',
    b'{"service":"\\u0061"}',
    b'{"service":"a\x01"}',
    b'{"service":"a\x7f"}',
    b'{"service":"a","name":"*"}',
    b'{"service":"a","kind":"metric"}',
    b'{"service":"a","kind":null}',
    b'{"service":"a","kind":"other"}',
    b'{"service":"a","severity":"loud"}',
    '{"service":"a","severity":"\u0131nfo"}'.encode(),
    b'{"service":"a","severity":"IN\x06O"}',
    b'{"service":"a","status":99}',
    b'{"service":"a","status":600}',
    b'{"service":"a","status":200.0}',
    b'{"service":"a","status":"200"}',
    b'{"service":"a","status":true}',
    b'{"service":"a","latency_ms":-1}',
    b'{"service":"a","latency_ms":2147483648}',
    b'{"service":"a","latency_ms":-12.300000000000745058}',
    b'{"service":"a","value":1e999}',
    b'{"service":"a","value":01}',
    b'{"service":"a","value":1.}',
    b'{"service":"a","value":.5}',
    b'{"service":"a","value":+1}',
    b'{"service":"a","value":-}',
    b'{"service":"a","value":1e}',
    b'{"service":"a","value":NaN}',
    b'{"service":"a","id":""}',
    b'{"service":"a","time":"2026-06-01T12:02:00Z"}',
    b'{"service":"a","time":"1969-12-31T23:59:59Z"}',
    b'{"service":"a","time":"2026-02-29T12:00:00Z"}',
    b'{"service":"a","time":"2026-06-01 11:00:00Z"}',
    b'{"service":"a","time":"2026-06-01T11:00:00"}',
    b'{"service":"a","time":"2026-06-01T11:00:60Z"}',
    b'{"service":"a","time":"2026-06-01T11:00:00.Z"}',
    b'{"service":"a","attributes":[]}',
    b'{"service":"a","attributes":{"a":}}',
    b'{"service":"a","attributes":{"a":1,}}',
    b'{"service":"a","attributes":{"a" 1}}',
    b'{"service":"a","attributes":{"a":"\\x"}}',
    b'{"service":"a","attributes":{"a":"\\u12g4"}}',
    b'{"service":"a","attributes":{"a":[1 2]}}',
    b'{"service":"a","attributes":{"a":"\xff"}}',
    b'{"service":"a","attributes":{"a":"\xed\xa0\x80"}}',
    b'{"service":"\xc0\x80"}',
    b'{"service":"a","attributes":' + b'{"a":' * 61 + b"1" + b"}" * 61 + b"}",
    b'{"service":"%b"}' % (b"a" * 257),
    b'{"service":"a","attributes":{"a":"%b"}}' % (b"a" * (1 << 16)),
    b'{"service":"a"}\x00',
    b'\xef\xbb\xbf{"service":"a"}',
]


@pytest.mark.parametrize("body", LEFT)
def test_what_is_not_plain_is_left_to_the_other_path_and_only_that(body: bytes) -> None:
    found = check([b'[{"service":"a"}]', body, b'[{"service":"b"},{"service":"c"}]'])
    assert found.counts.tolist() == [1, -1, 2]
    assert found.owners.tolist() == [0, 2, 2]
    assert found.places.tolist() == [0, 0, 1]


def test_lines_are_asked_for_or_found_out() -> None:
    assert scanned([b'[{"service":"a"}]'], lines=True).counts.tolist() == [-1]
    assert check([b'{"service":"a"}\n{"service":"b"}'], lines=True).counts.tolist() == [2]


def test_a_body_has_no_more_events_than_may_be() -> None:
    body = b"[" + b",".join([b'{"service":"a"}'] * 4) + b"]"
    one = np.ones(1, np.int64)
    found = scan(Bodies.of([body]), np.zeros(1, np.bool_), NOW_US * one, NOW_US * one, 1 << 16, 3)
    assert found.counts.tolist() == [-1]


def test_many_distinct_labels_keep_their_events_apart() -> None:
    """More than the tables of distinct texts hold at first; those of a body that is left are not in the columns."""
    bodies = [
        json.dumps(
            [{"service": f"s{i}-{j}", "name": f"n{j}", "user": f"u{i * j}"} for j in range(300)]
        ).encode()
        for i in range(20)
    ]
    found = check([bodies[0], bodies[1][:-1], *bodies[2:]])
    assert found.counts.tolist() == [300, -1, *[300] * 18]
    assert len(columns(found)["service"].dictionary) == 19 * 300


@pytest.mark.parametrize("size", range(1, 40))
def test_texts_that_differ_little_are_told_apart(size: int) -> None:
    """A thousand names of one length that differ in their last octets only."""
    names = [f"{i:0{size}d}"[:size] for i in range(min(1000, 10**size))]
    body = json.dumps([{"service": "s", "name": name, "id": "x" * 40} for name in names]).encode()
    assert columns(check([body]))["name"].to_pylist() == names


def test_nothing_is_nothing() -> None:
    assert len(check([])) == 0
    assert len(check([b"x", b""])) == 0


_TEXT = st.one_of(st.text(max_size=20), st.sampled_from(["", "*", "log", "metric", "error", "GET /x"]))
_NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.integers(90, 610), st.floats(0, 1e4)
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBER, _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=6,
)
_TIME = st.one_of(
    _TEXT,
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.integers(0, NOW_US).map(lambda us: str(np.datetime64(us, "us")) + "Z"),
)
_EVENT = st.fixed_dictionaries(
    {"service": _TEXT},
    optional={
        "time": _TIME,
        "kind": st.sampled_from(["interaction", "log", "metric", None]),
        "name": _TEXT,
        "status": st.one_of(st.integers(99, 600), st.none(), _NUMBER),
        "error": st.one_of(st.booleans(), st.none()),
        "severity": st.sampled_from(["INFO", "error", "Panic", "x", None]),
        "latency_ms": st.one_of(_NUMBER, st.none()),
        "value": st.one_of(_NUMBER, st.none()),
        "user": st.one_of(_TEXT, st.none()),
        "id": st.one_of(_TEXT, st.none()),
        "attributes": st.dictionaries(_TEXT, _JSON, max_size=3),
    },
)


@given(
    st.lists(
        st.tuples(st.lists(_EVENT, max_size=4), st.booleans(), st.booleans(), st.booleans()), max_size=5
    ),
    st.booleans(),
)
@example([([GOOD], False, False, False)], False)
def test_any_events_give_the_same_columns_on_both_paths(
    bodies: list[tuple[list[dict[str, object]], bool, bool, bool]], lines: bool
) -> None:
    """Arrays or lines, with spaces or without, escaped or not."""
    encoded = []
    for given_events, as_lines, spaced, escaped in bodies:
        separators = (", ", ": ") if spaced else (",", ":")
        texts = [json.dumps(e, separators=separators, ensure_ascii=escaped) for e in given_events]
        text = "\n".join(texts) if as_lines else json.dumps(given_events, separators=separators)
        encoded.append(text.encode("utf-8", "surrogatepass"))
    check(encoded, lines)


@given(st.sampled_from(PLAIN + LEFT), st.integers(0, 1 << 32), st.integers(1, 6))
def test_no_mutation_is_taken_that_the_other_path_refuses(body: bytes, seed: int, changes: int) -> None:
    """Octets removed, doubled, replaced by ones that matter to JSON, cut off; a whole one behind must not be touched."""
    chance = random.Random(seed)
    mutated = bytearray(body)
    for _ in range(changes):
        if not mutated:
            break
        at = chance.randrange(len(mutated))
        what = chance.randrange(5)
        if what == 0:
            del mutated[at]
        elif what == 1:
            mutated[at:at] = mutated[at : at + chance.randrange(20)]
        elif what == 2:
            mutated[at] = chance.choice(b'"{}[],:\\0123456789eE.+- \n\x00\x7f\x80\xff\xc3tfnu')
        elif what == 3:
            del mutated[at:]
        else:
            mutated[at] = chance.randrange(256)
    try:
        found = check([bytes(mutated), PLAIN[1]])
    except MalformedBody:
        pytest.fail("taken, but malformed")
    assert found.counts[1] == 2
