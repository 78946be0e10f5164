"""Metrics: the results of windows, one JSON record a row, and the progress of each partition.

Rows are identified by (tenant, service, kind, name, group, window, end_us): a row with a higher ``revision`` replaces
one with a lower. Within one window transaction the rows come first and one ``Progress`` last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from smartscale.records.topics import ALL_NAMES


class Histogram(msgspec.Struct, frozen=True):
    """A histogram with its filled slots only (see ``records.histogram``, for values ``records.value_histogram``)."""

    scale: int
    slots: list[int]
    counts: list[int]


class MetricRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One window of one key. Latencies in milliseconds; None where nothing was measured or it is not computed.

    ``window`` names size and slide: ``10s`` (tumbling), ``60s/5s`` (sliding 60 s every 5 s). The window is
    ``[start_us, end_us)``. ``name`` is ``*`` on the roll-up over all names of (tenant, service, kind).
    ``complete`` is False while a source was missing, and for ever where something was removed before it was read: no
    scale-in on such evidence. ``final``: the watermark has
    passed the end plus the allowed lateness, this row never changes again.

    ``group`` reads ``region=eu`` where events are grouped by attributes (``__other__`` beyond the bound), else it is empty;
    the roll-up is over all groups. ``users`` is an estimate, exact up to 2,048; ``users_sketch`` a compact theta sketch of
    Apache DataSketches. ``extra`` holds the results of aggregations that are not built in. Version 1 had none of these, nor
    ``value_last`` and percentiles of values."""

    tenant: str
    service: str
    kind: str
    name: str
    window: str
    start_us: int
    end_us: int
    count: int
    errors: int
    rate_per_s: float
    error_rate: float
    revision: int
    final: bool
    complete: bool
    watermark_us: int
    latency_mean_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_p999_ms: float | None = None
    latency_max_ms: float | None = None
    value_count: int = 0
    value_sum: float | None = None
    value_mean: float | None = None
    value_min: float | None = None
    value_max: float | None = None
    histogram: Histogram | None = None
    group: str = ""
    value_last: float | None = None
    value_p50: float | None = None
    value_p90: float | None = None
    value_p95: float | None = None
    value_p99: float | None = None
    value_p999: float | None = None
    value_histogram: Histogram | None = None
    users: float | None = None
    users_sketch: bytes | None = None
    extra: dict[str, float] | None = None

    @property
    def is_rollup(self) -> bool:
        return self.name == ALL_NAMES


class Progress(msgspec.Struct, frozen=True):
    """How far one partition of ``metrics`` has come; the last record of each window transaction.

    ``position`` is the next offset of ``partials/partition`` to read. Windows ending at or before
    ``watermark_us`` have been emitted from complete evidence, those up to ``provisional_us`` at least marked
    incomplete, and panes ending at or before ``closed_us`` take no more events: what still comes for them is
    late. Every window of the shortest tumbling size ending at or before ``final_us`` has its final rows here.
    ``missing`` lists sources without heartbeats. ``lost``: offsets ``[first, end)`` of ``partials`` that were never read,
    because retention had removed them and a person said to go on. Windows that overlap ``lost_us`` (event time) lack what
    was in there, or what was to be read again of what had been removed."""

    partition: int
    position: int
    watermark_us: int
    provisional_us: int
    closed_us: int
    final_us: int
    written_us: int
    missing: list[str]
    lost: tuple[int, int] = (0, 0)
    lost_us: tuple[int, int] = (0, 0)


class LiveKey(msgspec.Struct, frozen=True):
    """A key that gets windows of count zero while it is silent; ``last_us`` is the end of its last pane with
    events, ``first_us`` the start of its first."""

    tenant: str
    service: str
    kind: str
    name: str
    first_us: int
    last_us: int
    group: str = ""


encode = msgspec.json.Encoder().encode
decode_row = msgspec.json.Decoder(MetricRow).decode
decode_progress = msgspec.json.Decoder(Progress).decode
decode_live_key = msgspec.json.Decoder(LiveKey).decode


def head(tenant: str, service: str, kind: str, name: str) -> bytes:
    """How the JSON of every row of a key begins: ``encode(row) == head(…) + rest``, where ``rest`` begins with ``"window"``.

    >>> head("default", "shop", "log", "")
    b'{"tenant":"default","service":"shop","kind":"log","name":"",'
    """
    labels = {"tenant": tenant, "service": service, "kind": kind, "name": name}
    return encode(labels)[:-1] + b","


@lru_cache
def rest_of(fields: tuple[str, ...]) -> Callable[..., msgspec.Struct]:
    """A struct of these fields of ``MetricRow``, in its order and with its defaults, for ``encode_rests``: fewer fields are
    made and encoded faster."""
    known = {one.name: one for one in msgspec.structs.fields(MetricRow)}
    return msgspec.defstruct(
        "Rest",
        [
            (name, known[name].type)
            if known[name].default is msgspec.NODEFAULT
            else (name, known[name].type, known[name].default)
            for name in known
            if name in fields
        ],
        omit_defaults=True,
        gc=False,
    )


def encode_rests(rests: Sequence[msgspec.Struct]) -> list[bytes]:
    """The JSON of each, without the brace it begins with."""
    return [line[1:] for line in _encode_lines(rests).splitlines()]


_encode_lines = msgspec.json.Encoder().encode_lines
