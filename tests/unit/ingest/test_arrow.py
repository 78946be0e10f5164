"""Arrow streams: every row gets the verdict it would get as JSON, and no stream breaks the decoder or takes much memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS, iso, parse_iso_us
from smartscale.ingest.arrow import decode
from smartscale.ingest.columns import RECEIVED, Columns
from smartscale.ingest.encodings import TooLong
from smartscale.records import events_json
from smartscale.records.events_json import Limits, MalformedBody, to_batch

NOW_US = parse_iso_us("2026-06-01T12:00:00Z")
LIMITS = Limits(NOW_US, NOW_US + 60 * MICROS, 64 << 10, 1000)
TYPES: Mapping[str, pa.DataType] = {
    "service": pa.string(), "time": pa.timestamp("us", "UTC"), "kind": pa.string(), "name": pa.string(),
    "status": pa.int32(), "error": pa.bool_(), "severity": pa.string(), "latency_ms": pa.float64(), "value": pa.float64(),
    "user": pa.string(), "id": pa.string(), "attributes": pa.string(),
}  # fmt: skip


def stream(*batches: pa.RecordBatch, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def columns(**given: pa.Array) -> Columns:
    return decode({}, stream(pa.record_batch(given)), LIMITS)


def rows_of(found: Columns) -> list[dict[str, Any]]:
    assert found.batch.schema == RECEIVED
    found.batch.validate(full=True)
    rows: list[dict[str, Any]] = found.batch.to_pylist()
    return rows


def test_only_the_service_is_needed() -> None:
    """Everything else is as in JSON."""
    found = columns(service=pa.array(["shop"]))
    assert rows_of(found) == [
        {
            "time": NOW_US, "service": "shop", "kind": "interaction", "name": "", "status": None, "error": False,
            "latency": None, "value": None, "user": None, "id": None, "attributes": None,
        }
    ]  # fmt: skip


def test_every_column_reaches_its_field() -> None:
    (row,) = rows_of(
        columns(
            service=pa.array(["shop"]).dictionary_encode(),
            time=pa.array([datetime(2026, 6, 1, 11, tzinfo=UTC)]),
            kind=pa.array(["metric"], pa.dictionary(pa.int8(), pa.large_string())),
            name=pa.array(["queue"], pa.large_string()),
            status=pa.array([503], pa.uint16()),
            latency_ms=pa.array([1.2345], pa.float32()),
            value=pa.array([7]),
            user=pa.array(["ada"]),
            id=pa.array(["e-1"]),
            attributes=pa.array([' {"a":[1]} ']),
        )
    )
    assert row == {
        "time": NOW_US - 3_600_000_000, "service": "shop", "kind": "metric", "name": "queue", "status": 503,
        "error": True, "latency": 1235, "value": 7.0, "user": "ada", "id": "e-1", "attributes": '{"a":[1]}',
    }  # fmt: skip


@pytest.mark.parametrize(
    "time",
    [
        pa.array([NOW_US // MICROS], pa.timestamp("s")),
        pa.array([NOW_US // 1000], pa.timestamp("ms", "Europe/Berlin")),
        pa.array([NOW_US], pa.timestamp("us")),
        pa.array([NOW_US * 1000 + 999], pa.timestamp("ns", "UTC")),
        pa.array([NOW_US], pa.int64()),
        pa.array([iso(NOW_US)]),
        pa.array(["2026-06-01T14:00:00+02:00"]),
        pa.array([None], pa.timestamp("us")),
    ],
    ids=lambda array: str(array.type),
)
def test_times_may_be_of_any_unit(time: pa.Array) -> None:
    """A timestamp is an instant whatever its zone; without one it is UTC; none at all is the time of receipt."""
    assert rows_of(columns(service=pa.array(["a"]), time=time))[0]["time"] == NOW_US


@pytest.mark.parametrize(
    ("time", "code"),
    [
        (pa.array([2**63 - 1], pa.timestamp("s")), "invalid-time"),
        (pa.array([-(2**63)], pa.timestamp("ms")), "invalid-time"),
        (pa.array([-1], pa.int64()), "invalid-time"),
        (pa.array([NOW_US + 61 * MICROS], pa.timestamp("us")), "far-future"),
        (pa.array(["yesterday"]), "invalid-time"),
    ],
)
def test_times_that_are_none_are_refused(time: pa.Array, code: str) -> None:
    assert [found.code for found in columns(service=pa.array(["a"]), time=time).refused] == [code]


def test_numbers_that_json_does_not_know_are_refused() -> None:
    found = columns(
        service=pa.array(["a"] * 3),
        latency_ms=pa.array([float("nan"), 1, None]),
        value=pa.array([1, float("inf"), None]),
    )
    assert [(refusal.index, refusal.code) for refusal in found.refused] == [
        (0, "invalid-latency_ms"), (1, "invalid-value"),
    ]  # fmt: skip
    assert found.indexes == [2]


def test_a_severity_makes_the_error_and_is_kept() -> None:
    (first, second) = rows_of(
        columns(
            service=pa.array(["a", "b"]),
            kind=pa.array(["log", "log"]),
            severity=pa.array(["ERROR", "info"]),
            attributes=pa.array([None, '{"k":1}']),
        )
    )
    assert (first["error"], json.loads(first["attributes"])) == (True, {"severity": "ERROR"})
    assert (second["error"], json.loads(second["attributes"])) == (False, {"severity": "info", "k": 1})


def test_rows_of_several_batches_and_dictionaries_are_one_body() -> None:
    schema = pa.schema({"service": pa.dictionary(pa.int8(), pa.string())})
    batches = [
        pa.record_batch([pa.array(names).dictionary_encode().cast(schema.field(0).type)], schema=schema)
        for names in (["a", "b"], [], ["c", ""])
    ]
    found = decode({}, stream(*batches), LIMITS)
    assert [row["service"] for row in rows_of(found)] == ["a", "b", "c"]
    assert [(refusal.index, refusal.code) for refusal in found.refused] == [(3, "invalid-service")]


def test_an_empty_stream_is_nothing_to_complain_about() -> None:
    assert columns(service=pa.array([], pa.string())).count == 0
    schema = pa.schema({"service": pa.string(), "value": pa.float64()})
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    assert decode({}, bytes(sink.getvalue()), LIMITS).count == 0


@pytest.mark.parametrize(
    ("given_columns", "words"),
    [
        ({"name": pa.array(["a"])}, "the column `service`"),
        ({"service": pa.array(["a"]), "route": pa.array(["/"])}, "unknown column 'route'"),
        ({"service": pa.array([1])}, "`service` must be text"),
        ({"service": pa.array(["a"]), "status": pa.array([200.0])}, "`status` must be an integer"),
        ({"service": pa.array(["a"]), "attributes": pa.array([{"a": 1}])}, "`attributes` must be text"),
        ({"service": pa.array(["a"]), "time": pa.array([1.5])}, "`time` must be a timestamp"),
    ],
)
def test_a_wrong_schema_says_what_is_wrong(given_columns: Mapping[str, pa.Array], words: str) -> None:
    with pytest.raises(MalformedBody, match=words):
        columns(**given_columns)


def test_compressed_buffers_are_told_to_use_the_content_encoding() -> None:
    """Also where only a dictionary has any."""
    for array in (pa.array(["a" * 1000] * 100), pa.array(["a" * 1000]).dictionary_encode()):
        batch = pa.record_batch({"service": array})
        with pytest.raises(MalformedBody, match="Content-Encoding"):
            decode({}, stream(batch, compression="zstd"), LIMITS)


def test_too_many_rows_or_batches_are_refused_before_they_are_read() -> None:
    batch = pa.record_batch({"service": pa.array(["a"] * 600)})
    with pytest.raises(TooLong, match="1,000"):
        decode({}, stream(batch, batch), LIMITS)
    with pytest.raises(TooLong, match="batches"):
        decode({}, stream(*[batch.slice(0, 0)] * 2001), LIMITS)


def test_a_dictionary_cannot_stand_for_more_text_than_a_body_may_have() -> None:
    """A megabyte said a thousand times."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), pa.array(["x" * (1 << 20)]))
    with pytest.raises(TooLong, match="text of the body"):
        columns(service=long)


def as_json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as JSON lines, fields in the order of the struct."""
    lines = []
    for row in rows:
        said = {
            name: row[name] for name in events_json.EventIn.__struct_fields__ if row.get(name) is not None
        }
        if "time" in said:
            said["time"] = iso(said["time"])
        if "attributes" in said:
            with contextlib.suppress(ValueError):
                said["attributes"] = json.loads(said["attributes"])
        lines.append(json.dumps(said).encode())
    return b"\n".join(lines)


_LABEL = st.sampled_from(["shop", "a", "", "*", "x" * 257, "é" * 256, "tab\t", "\x7f", "名前"]) | st.none()
_ROW = st.fixed_dictionaries(
    {
        "service": st.just("shop") | _LABEL,
        "time": st.none()
        | st.sampled_from([NOW_US, 0, NOW_US + 60 * MICROS, NOW_US + 60 * MICROS + 1, NOW_US - 1]),
        "kind": st.sampled_from([None, "interaction", "log", "metric", "trace", ""]),
        "name": _LABEL,
        "status": st.sampled_from([None, 100, 599, 500, 99, 600, -1, 200]),
        "error": st.sampled_from([None, True, False]),
        "severity": st.sampled_from([None, "info", "ERROR", "Fatal", "loud", ""]),
        "latency_ms": st.sampled_from([None, 0.0, 1.5, 0.0005, 2.0**31, 2.0**31 - 1, -0.1, -0.0]),
        "value": st.sampled_from([None, 0.0, -1e300]),
        "user": st.none() | st.text(max_size=3),
        "id": _LABEL,
        "attributes": st.sampled_from(
            [None, "{}", '{"a": 1}', "null", "[1]", "7", '"text"', '{"big": "' + "x" * 70_000 + '"}']
        ),
    }
)


@given(st.lists(_ROW, max_size=6))
def test_every_row_gets_the_verdict_and_the_columns_of_the_same_event_in_json(
    rows: list[dict[str, Any]],
) -> None:
    """Rows that are wrong in several ways are refused for the same one of them."""
    batch = pa.RecordBatch.from_pylist(rows, schema=pa.schema(TYPES))
    found = decode({}, stream(batch), LIMITS)
    expected = events_json.decode(as_json(rows) or b"[]", LIMITS, lines=bool(rows))
    assert found.count == len(rows)
    assert list(found.indexes) == list(expected.indexes)
    assert [(each.index, each.code) for each in found.refused] == [
        (each.index, each.code) for each in expected.refused
    ]
    native = to_batch(expected.events, expected.times_us, [None] * len(expected.events), lambda user: 0)
    for name in RECEIVED.names:
        if name == "user":
            continue
        ours, theirs = (column.to_pylist() for column in (found.batch.column(name), native.column(name)))
        if name == "attributes":
            ours, theirs = ([text and json.loads(text) for text in texts] for texts in (ours, theirs))
        assert ours == theirs, name


@given(st.binary(max_size=40), st.data())
def test_no_bytes_break_the_decoder(noise: bytes, data: st.DataObject) -> None:
    """Noise, and good streams with some bytes replaced or removed: read or told."""
    batch = pa.record_batch(
        {"service": pa.array(["a", "b"]).dictionary_encode(), "id": pa.array(["1", None])}
    )
    good = bytearray(stream(batch, batch))
    at = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(at, min(len(good), at + 40)))
    good[at:end] = noise
    for body in (noise, bytes(good)):
        with contextlib.suppress(MalformedBody, TooLong):
            found = decode({}, body, LIMITS)
            found.batch.validate(full=True)
            assert found.batch.num_rows + len(found.refused) == found.count
