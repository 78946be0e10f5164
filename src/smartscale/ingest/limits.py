"""Limits on what an event may carry, checked on the columns of a round: array work, and Python only for what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from smartscale.clock import iso
from smartscale.ingest.cardinality import Guard
from smartscale.ingest.decode import Events, Outcome
from smartscale.records.events_json import PAYLOAD, Refusal

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so much in each event."""

    label_chars: int
    """Of ``service`` and ``name``."""
    id_chars: int
    attributes: int
    """How many."""
    attribute_bytes: int
    """Of all attributes as JSON."""


@dataclass(frozen=True, slots=True)
class Excess:
    """Events (events,) of a batch that break one limit."""

    mask: Mask
    code: str
    reason: str


def excesses(batch: pa.RecordBatch, limits: Limits) -> Iterator[Excess]:
    """What breaks a limit, of a batch with the columns of ``records.events``; nothing for most batches."""
    for field in ("service", "name"):
        column = batch[field]
        long = _longer(pc.utf8_length(column.dictionary), limits.label_chars)
        if long.any():
            yield Excess(
                long[_codes(column)],
                f"long-{field}",
                f"`{field}` has more than {limits.label_chars} characters; shorten it",
            )
    long = _longer(pc.utf8_length(batch["id"]), limits.id_chars)
    if long.any():
        yield Excess(long, "long-id", f"`id` has more than {limits.id_chars} characters; shorten it")
    sizes = pc.binary_length(batch["attributes"])
    long = _longer(sizes, limits.attribute_bytes)
    if long.any():
        yield Excess(
            long,
            "long-attributes",
            f"the attributes have more than {limits.attribute_bytes:,} bytes; send fewer or shorter ones",
        )
    perhaps = np.flatnonzero(_longer(sizes, limits.attributes * _LEAST_BYTES) & ~long)
    many = np.zeros(len(batch), dtype=np.bool_)
    for place in perhaps.tolist():
        many[place] = len(_object(batch["attributes"][place].as_py())) > limits.attributes
    if many.any():
        yield Excess(
            many,
            "many-attributes",
            f"there are more than {limits.attributes} attributes; send the ones that matter",
        )


_LEAST_BYTES: Final = 5
"""Of an attribute in JSON, its comma included: ``"":0,``. Fewer bytes than that times the limit need no counting."""
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def too_many_labels(batch: pa.RecordBatch, guard: Guard, now_s: float) -> Iterator[Excess]:
    """Events whose service or name is one too many for their tenant."""
    if not len(batch):
        return
    tenants, tenant = batch["tenant"].dictionary.to_pylist(), _codes(batch["tenant"])
    services, names = batch["service"].dictionary.to_pylist(), batch["name"].dictionary.to_pylist()
    service, name = _codes(batch["service"]), _codes(batch["name"])
    over = {"services": np.zeros(len(batch), dtype=np.bool_), "names": np.zeros(len(batch), dtype=np.bool_)}
    for code in np.unique(tenant).tolist():
        mine = np.flatnonzero(tenant == code)
        over["services"][mine], over["names"][mine] = guard.refused(
            tenants[code], services, names, service[mine], name[mine], now_s
        )
    for what, limit in (("services", guard.limits.services), ("names", guard.limits.names)):
        if over[what].any():
            yield Excess(
                over[what],
                f"too-many-{what}",
                f"this tenant has more than {limit:,} different {what}, and this is a new one: keep what varies, such as "
                "ids, in `attributes`, or ask the operator for a higher limit",
            )


class Screen:
    """Both checks for each round of the writer; it remembers the labels that tenants use."""

    def __init__(self, limits: Limits, guard: Guard) -> None:
        self._limits, self._guard = limits, guard

    def kept(self, found: Events, outcomes: Sequence[Outcome], now_s: float) -> Events:
        """The events that keep to the limits; the others are told to their outcomes as refused."""
        kept = _without(found, excesses(found.batch, self._limits), outcomes)
        return _without(kept, too_many_labels(kept.batch, self._guard, now_s), outcomes)


def _without(found: Events, broken: Iterable[Excess], outcomes: Sequence[Outcome]) -> Events:
    refused = np.zeros(len(found), dtype=np.bool_)
    more: dict[int, list[Refusal]] = {}
    for excess in broken:
        for event in np.flatnonzero(excess.mask & ~refused).tolist():
            refusal = Refusal(int(found.places[event]), excess.code, excess.reason, _text(found.batch, event))
            more.setdefault(int(found.owners[event]), []).append(refusal)
        refused |= excess.mask
    for owner, refusals in more.items():
        outcomes[owner].refused = [*outcomes[owner].refused, *refusals]
    return found.take(np.flatnonzero(~refused)) if refused.any() else found


_SHOWN: Final = ("kind", "name", "status", "error", "value", "id")


def _text(batch: pa.RecordBatch, event: int) -> bytes:
    """An event as JSON again, for its dead letter; without its user, who is not known in clear any more."""
    (row,) = batch.slice(event, 1).to_pylist()
    shown = {"service": row["service"], "time": iso(row["time"])}
    shown |= {field: row[field] for field in _SHOWN if row[field] not in (None, "")}
    if row["latency"] is not None:
        shown["latency_ms"] = row["latency"] / 1000
    if row["attributes"] is not None:
        shown["attributes"] = msgspec.Raw(row["attributes"].encode())
    return msgspec.json.encode(shown)[:PAYLOAD]


def _codes(column: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = column.indices.to_numpy()
    return codes


def _longer(lengths: pa.Array, limit: int) -> Mask:
    longer: Mask = pc.fill_null(pc.greater(lengths, limit), False).to_numpy(zero_copy_only=False)
    return longer
