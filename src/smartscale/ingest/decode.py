"""Bodies of many requests become one batch of columns, with a verdict for each event.

A round of bodies is decoded at once, because most of the cost of a small body is the cost of handling it alone. Each body
keeps its own verdicts: one that cannot be read changes nothing for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from smartscale.ingest import encodings
from smartscale.ingest.columns import Columns
from smartscale.ingest.formats import JSON, NDJSON, Format
from smartscale.ingest.identities import Identities, Places
from smartscale.log.partitioner import event_hashes
from smartscale.log.xxh3 import Texts, event_words
from smartscale.records.events import SCHEMA
from smartscale.records.events_json import Decoded, Limits, MalformedBody, Refusal, to_batch
from smartscale.records.events_scan import Bodies, scan
from smartscale.records.octets import PADDING

MAX_KEY: Final = 200
"""Characters in an ``Idempotency-Key``; chosen because a UUID has 36."""


@dataclass(frozen=True, slots=True)
class Job:
    """The body of one request on its way into the log."""

    form: Format
    headers: Mapping[str, str]
    body: bytes
    received_us: int
    """World time; that of events which state none."""
    tenant: str = "default"
    ticket: int = 0
    context: object = None
    """Belongs to whoever made the job."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a body cannot be taken: the status and the detail of the answer, and further headers of it."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What became of a job: ``count == accepted + len(refused) + len(repeats)`` unless it failed as a whole."""

    job: Job
    count: int = 0
    refused: Sequence[Refusal] = ()
    repeats: Sequence[int] = ()
    """Places, in the body, of events that were written before."""
    problem: Problem | None = None
    """Why nothing of the body could be taken."""
    error: Exception | None = None
    """What kept its events out of the log."""

    @property
    def accepted(self) -> int:
        return self.count - len(self.refused) - len(self.repeats)


@dataclass(frozen=True, slots=True)
class Events:
    """Good events of a round as columns, with their identities and where they came from."""

    batch: pa.RecordBatch
    """Of ``records.events.SCHEMA``."""
    identities: Identities
    owners: Places
    """Each event's job, by its place in the round."""
    places: Places
    """Each event's place in its body."""

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, chosen: Places) -> Events:
        return Events(
            self.batch.take(pa.array(chosen)),
            self.identities.take(chosen),
            self.owners[chosen],
            self.places[chosen],
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """What is taken, the same for all bodies; ``hash_user`` gives a user's pseudonym."""

    max_future_us: int
    max_event_bytes: int
    max_batch_events: int
    max_body_bytes: int
    """Once unpacked."""
    hash_user: Callable[[str], int]

    def limits(self, received_us: int) -> Limits:
        return Limits(
            received_us, received_us + self.max_future_us, self.max_event_bytes, self.max_batch_events
        )


def decode(jobs: Sequence[Job], rules: Rules, room: int) -> tuple[Events, list[Outcome]]:
    """The good events of the first jobs and each one's outcome so far, in the order of the jobs.

    Takes as many jobs as come to ``room`` bytes once unpacked, or one; so a few small bodies that stand for very large
    ones do not take much memory at once."""
    outcomes: list[Outcome] = []
    parts: list[Events] = []
    told: list[_Told] = []
    native: list[tuple[int, bytes]] = []
    size = 0
    for owner, job in enumerate(jobs):
        if size > room:
            break
        outcome = Outcome(job)
        outcomes.append(outcome)
        body = _unpacked(outcome, rules)
        size += len(body)
        if outcome.problem is None and job.form in _NATIVE:
            native.append((owner, body))
            continue
        found = None if outcome.problem else _read(outcome, body, rules)
        if isinstance(found, Columns):
            parts.append(_columns(found, owner, job, rules))
        elif found is not None and found.events:
            told.append(_Told(owner, job.tenant, found))
    scanned, left = _scanned(native, outcomes, rules)
    parts.append(scanned)
    for owner, body in left:
        found = _read(outcomes[owner], body, rules)
        assert not isinstance(found, Columns)
        if found is not None and found.events:
            told.append(_Told(owner, jobs[owner].tenant, found))
    for tenant, group in groupby(sorted(told, key=lambda each: each.tenant), key=lambda each: each.tenant):
        parts.append(_objects(tenant, list(group), rules))
    return _joined(parts), outcomes


_NATIVE: Final = (JSON, NDJSON)
"""Formats that are read in one pass for all bodies; what that leaves goes the way of the others."""


def check_key(key: str | None) -> None:
    """Raises ``MalformedBody`` if this is no usable ``Idempotency-Key`` (None: none was sent)."""
    if key is not None and (not 0 < len(key) <= MAX_KEY or not key.isprintable()):
        raise MalformedBody(f"the Idempotency-Key must be 1 to {MAX_KEY} printable characters")


def _unpacked(outcome: Outcome, rules: Rules) -> bytes:
    """The body without its encoding; b"" if that cannot be, which is told to the outcome."""
    encoding = outcome.job.headers.get("content-encoding", "")
    try:
        return encodings.unpacked(outcome.job.body, encoding, rules.max_body_bytes)
    except encodings.UnknownEncoding as error:
        outcome.problem = Problem(415, str(error), {"accept-encoding": encodings.ACCEPTED})
    except encodings.TooLong as error:
        outcome.problem = Problem(413, str(error))
    except encodings.Garbled as error:
        outcome.problem = Problem(400, str(error))
    return b""


def _too_many(count: int, rules: Rules) -> Problem:
    return Problem(
        413,
        f"the body has {count:,} events, the limit is {rules.max_batch_events:,}; send less at once",
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """The events of a body as objects."""

    owner: int
    tenant: str
    decoded: Decoded


def _read(outcome: Outcome, body: bytes, rules: Rules) -> Decoded | Columns | None:
    """What the body holds, told to its outcome as well; None if it cannot be taken."""
    job = outcome.job
    try:
        found = job.form.decode(job.headers, body, rules.limits(job.received_us))
    except MalformedBody as error:
        outcome.problem = Problem(400, str(error))
        return None
    except encodings.TooLong as error:
        outcome.problem = Problem(413, str(error))
        return None
    except Exception as error:  # noqa: BLE001 -- our bug; told to this client alone, the others' events go on
        outcome.error = error
        return None
    if found.count > rules.max_batch_events:
        outcome.problem = _too_many(found.count, rules)
        return None
    outcome.count, outcome.refused = found.count, found.refused
    key = job.headers.get("idempotency-key")
    if key is None:
        return found
    if isinstance(found, Columns):
        ids = [
            f"{key}:{index}" if given is None else given
            for index, given in zip(found.indexes, found.batch["id"].to_pylist(), strict=True)
        ]
        place = found.batch.schema.get_field_index("id")
        return Columns(
            found.count,
            found.batch.set_column(place, found.batch.schema.field(place), pa.array(ids, pa.string())),
            found.indexes,
            found.refused,
        )
    for index, event in zip(found.indexes, found.events, strict=True):
        if event.id is None:
            event.id = f"{key}:{index}"
    return found


def _scanned(
    native: Sequence[tuple[int, bytes]], outcomes: Sequence[Outcome], rules: Rules
) -> tuple[Events, list[tuple[int, bytes]]]:
    """The events of native bodies (each with its job's place) that are plainly good, and the bodies that may not be."""
    if not native:
        return _NOTHING, []
    owners = np.array([owner for owner, _ in native], np.int64)
    jobs = [outcomes[owner].job for owner, _ in native]
    received_us = np.array([job.received_us for job in jobs], np.int64)
    found = scan(
        Bodies.of([body for _, body in native]),
        np.array([job.form is NDJSON for job in jobs]),
        received_us,
        received_us + rules.max_future_us,
        rules.max_event_bytes,
        rules.max_batch_events,
    )
    left = []
    for (owner, body), count in zip(native, found.counts.tolist(), strict=True):
        if count < 0:
            left.append((owner, body))
        else:
            outcomes[owner].count = count
    if not len(found):
        return _NOTHING, left
    tenants = list(dict.fromkeys(job.tenant for job in jobs))
    number = {tenant: i for i, tenant in enumerate(tenants)}
    tenant = np.array([number[job.tenant] for job in jobs], np.int64)[found.owners]
    keys = [job.headers.get("idempotency-key") for job in jobs]
    if any(key is not None for key in keys):
        found = found.with_ids(lambda body, place: None if keys[body] is None else f"{keys[body]}:{place}")
    service, services = found.services()
    at, sizes = found.ids()
    words = event_words(
        Texts.of(tenants), tenant, Texts.of(services.to_pylist()), service, found.data, at, sizes
    )
    identities = Identities(words, sizes >= 0)
    labels = pa.DictionaryArray.from_arrays(pa.array(tenant.astype(np.int32)), pa.array(tenants), safe=False)
    batch = found.columns(rules.hash_user, labels, identities.column())
    return Events(batch, identities, owners[found.owners], found.places), left


def _objects(tenant: str, told: Sequence[_Told], rules: Rules) -> Events:
    """Events that came as objects, of one tenant."""
    events = [event for each in told for event in each.decoded.events]
    services = [event.service for event in events]
    identities = Identities.of(event_hashes(tenant, services, [event.id for event in events]))
    times_us = np.concatenate([each.decoded.times_us for each in told])
    return Events(
        to_batch(events, times_us, identities.column(), rules.hash_user, tenant),
        identities,
        np.repeat([each.owner for each in told], [len(each.decoded.events) for each in told]),
        np.concatenate([np.asarray(each.decoded.indexes, dtype=np.int64) for each in told]),
    )


def _columns(found: Columns, owner: int, job: Job, rules: Rules) -> Events:
    """Events that came as columns."""
    given, count = found.batch, found.batch.num_rows
    ids, service = given["id"], given["service"]
    at = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + count + 1].astype(np.int64)
    known = ids.is_valid().to_numpy(zero_copy_only=False)
    none = np.zeros(count, np.int64)
    words = event_words(
        Texts.of([job.tenant]),
        none,
        Texts.of(service.dictionary.to_pylist()),
        service.indices.to_numpy().astype(np.int64),
        np.frombuffer(bytes(ids.buffers()[2] or b"") + bytes(PADDING), np.uint8),
        at[:-1],
        np.where(known, np.diff(at), -1),
    )
    identities = Identities(words, known)
    user = given["user"]
    users = [] if user.null_count == count else user.to_pylist()
    hashed = [None if each is None else rules.hash_user(each) for each in users]
    made = {
        "tenant": pa.DictionaryArray.from_arrays(pa.array(none.astype(np.int32)), pa.array([job.tenant])),
        "identity": identities.column(),
        "user": pa.array(hashed, pa.uint64()) if users else pa.nulls(count, pa.uint64()),
    }
    arrays = [made[name] if name in made else given[name] for name in SCHEMA.names]
    return Events(
        pa.RecordBatch.from_arrays(arrays, schema=SCHEMA),
        identities,
        np.full(count, owner),
        np.asarray(found.indexes, dtype=np.int64),
    )


def _joined(parts: Sequence[Events]) -> Events:
    """All parts as one."""
    filled = [part for part in parts if len(part)]
    if len(filled) == 1:
        return filled[0]
    if not filled:
        return _NOTHING
    table = pa.Table.from_batches([part.batch for part in filled]).unify_dictionaries().combine_chunks()
    (batch,) = table.to_batches()
    return Events(
        batch,
        Identities.joined([part.identities for part in filled]),
        np.concatenate([part.owners for part in filled]),
        np.concatenate([part.places for part in filled]),
    )


_NO_PLACES: Final[npt.NDArray[np.int64]] = np.zeros(0, dtype=np.int64)
_NOTHING: Final = Events(
    pa.RecordBatch.from_pylist([], schema=SCHEMA), Identities.of([]), _NO_PLACES, _NO_PLACES
)


def warm_up(rules: Rules) -> None:
    """Have the compiled pass loaded, or compiled on a machine's first start, before a client waits for it."""
    body = b'{"service":"a","id":"1","kind":"log","severity":"info"}'
    decode([Job(JSON, {}, body, received_us=0)], rules, room=1)
