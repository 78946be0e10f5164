"""The state of one partition as small records of a compacted topic, and back.

- The **head**: what is small, written whole each time, in chunks, with the digest of every tile that belongs to it.
- **Tiles** (``series.tiles``) of all large arrays: only those are written that changed since the last snapshot. Of what
  awaits its truth a step changes a few places only, and the past changes where new steps were written.
- What **people** said, in a record of its own.

Keys: ``PARTITION|head|CHUNK``, ``PARTITION|people|CHUNK`` and ``PARTITION|tile|ARRAY|ROW|PLACE``. All records of one
snapshot are written in one transaction, so a reader sees the newest of each key and they fit together; the digests
prove it. Chunks left over from a longer head are told by its length, tiles of an older cut by not being asked for.

Reading takes two passes, so that a tile goes straight to its place: a month of thousands of series is not held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale.errors import SchemaError
from smartscale.ml.anomaly import forest
from smartscale.ml.anomaly.feedback import Budget, Heard
from smartscale.ml.anomaly.incidents import Track
from smartscale.ml.forecast.boosting import Boosted, Job, Trees
from smartscale.ml.partition import Models, Reading, State
from smartscale.ml.past import Parts
from smartscale.ml.series import tiles
from smartscale.ml.series.cells import CELL
from smartscale.ml.series.register import Key, Name, Register
from smartscale.ml.series.tiles import Tile, Values
from smartscale.records.people import Mute

CHUNK_BYTES: Final = 448 << 10
"""Under the 512 KiB that records are held to, with room for framing."""
PAST_RUN: Final = 64
"""Steps in a tile of the past."""

Records = Callable[[], Iterable[tuple[bytes, bytes]]]
"""Reads key and value of every record of the partition's snapshots, in their order, anew at each call."""


FORMAT: Final = 9
"""Of ``Head`` and of everything in it: raise it with every change, and older snapshots are no longer used."""


class Plan(msgspec.Struct, frozen=True):
    """The format and settings a snapshot belongs to; with others it cannot be used."""

    format: int
    step_us: int
    horizon: int
    history_steps: int
    methods: list[str]


class Head(msgspec.Struct, frozen=True):
    """``offset`` is the next record of ``metrics`` after those the state covers."""

    plan: Plan
    offset: int
    services: list[Name]
    series: list[Key]
    last_row: list[int]
    waiting: list[tuple[int, bytes]]
    gauges: list[tuple[Name, list[str]]]
    readings: list[tuple[int, list[tuple[Name, list[Reading | None]]]]]
    sample: dict[str, Packed]
    sampled: tuple[int, int]
    """Rows added to the sample in all, and the step its forest grew from."""
    begin: int | None
    learned: int | None
    newest: int | None
    tracks: list[tuple[Name, Track]]
    unquiet: list[tuple[int, list[Name]]]
    budget: Budget
    imports: list[tuple[Key, Parts]]
    rewritten: int
    boosted: int
    """Digest of the boosting."""
    digests: dict[str, list[int]]
    """Of the tiles of every array, in the order of their cut; 0 is a tile of which nothing is known."""


class Packed(msgspec.Struct, frozen=True):
    """An array as bytes: little-endian dtype, shape, C order."""

    dtype: str
    shape: list[int]
    data: bytes


class Grown(msgspec.Struct, frozen=True):
    """The boosting: the arrays of its trees, and of a training under way, which begins again after a restart."""

    made: int | None
    trees: dict[str, Packed] | None
    job: dict[str, Packed] | None
    begun: int | None
    """Step of the training under way."""


class People(msgspec.Struct, frozen=True):
    """What people said, in a record of its own: it is read back whatever the format and the settings of the rest."""

    heard: list[tuple[Name, Heard]]
    mutes: list[Mute]


class _Labelled(msgspec.Struct, frozen=True):
    """What every format of ``Head`` begins with."""

    plan: Plan


class Chunk(msgspec.Struct, frozen=True):
    """Part ``index`` of ``total`` parts."""

    total: int
    data: bytes


class Saved(msgspec.Struct, frozen=True):
    """What the last snapshot held, so that the next one writes only what changed."""

    learned: int = -1
    rewritten: int = -1
    boosted: int = 0
    digests: dict[str, list[int]] = {}


def save(
    models: Models, state: State, offset: int, partition: int, saved: Saved
) -> tuple[Saved, dict[bytes, bytes]]:
    """The records of a snapshot, value by key, and what it held (to be given to the next one)."""
    records: dict[bytes, bytes] = {}
    digests: dict[str, list[int]] = {}
    blank = _blank(models)
    for name, array in _arrays(state):
        before = saved.digests.get(name, [])
        digests[name] = []
        for i, tile in enumerate(_cut(name, array)):
            known = before[i] if i < len(before) else 0
            if name == PAST and known and _is_untouched(tile, state, saved):
                digests[name].append(known)
                continue
            data = tiles.pack(array, tile, blank if name == PAST else None)
            digests[name].append(tiles.digest(data) if data else 0)
            if data and digests[name][-1] != known:
                records[_key(partition, name, tile)] = data
    boosted = msgspec.msgpack.encode(_grown(state.boosted))
    if tiles.digest(boosted) != saved.boosted:
        records |= _chunks(f"{partition}|boosting", boosted)
    head = Head(
        plan=_plan(models),
        offset=offset,
        services=state.services,
        series=state.series,
        last_row=state.last_row,
        waiting=[(at, cells.tobytes()) for at, cells in state.waiting.items()],
        gauges=list(state.gauges.items()),
        readings=[(at, list(of_services.items())) for at, of_services in state.readings.items()],
        sample={
            "rows": _packed(state.sample.rows),
            "grown": _packed(state.sample.grown),
        },
        sampled=(state.sample.added, state.sample.seed),
        begin=state.begin,
        learned=state.learned,
        newest=state.newest,
        tracks=list(state.tracks.items()),
        unquiet=list(state.unquiet.items()),
        budget=state.budget,
        imports=list(state.imports.items()),
        rewritten=state.rewritten,
        boosted=tiles.digest(boosted),
        digests=digests,
    )
    records |= _chunks(f"{partition}|head", msgspec.msgpack.encode(head))
    people = People(list(state.heard.items()), list(state.mutes.values()))
    records |= _chunks(f"{partition}|people", msgspec.msgpack.encode(people))
    return _saved(head), records


def small(records: Records) -> dict[bytes, bytes]:
    """The newest of every record that is no tile: what ``restore`` and ``restore_people`` begin with."""
    return {key: value for key, value in records() if b"|tile|" not in key}


def restore(
    models: Models, partition: int, beginning: Mapping[bytes, bytes], records: Records
) -> tuple[State, int, Saved] | None:
    """The state, the offset it covers and what the snapshot held; None if there is none to be used (no snapshot yet, or one
    of another format or other settings: what it knew is then learned again from the log).

    ``beginning`` is what ``small`` found. Raises ``SchemaError`` if a snapshot of this format cannot be read."""
    data = _gather(beginning, f"{partition}|head")
    if data is None:
        return None
    try:
        if msgspec.msgpack.decode(data, type=_Labelled).plan != _plan(models):
            return None
        head = msgspec.msgpack.decode(data, type=Head)
    except msgspec.MsgspecError as error:
        raise SchemaError(f"the ml snapshot of partition {partition} cannot be read: {error}") from error
    state = models.fresh()
    models.grow(state, len(head.series), len(head.services))
    state.who, state.last_row = Register(head.services, head.series), head.last_row
    state.waiting = {at: np.frombuffer(rows, CELL).copy() for at, rows in head.waiting}
    state.gauges = dict(head.gauges)
    state.readings = {at: dict(of_services) for at, of_services in head.readings}
    rows, grown = (_unpacked(head.sample[name]) for name in ("rows", "grown"))
    state.sample = forest.State(rows, head.sampled[0], grown, head.sampled[1])
    state.begin, state.learned, state.newest = head.begin, head.learned, head.newest
    state.tracks, state.unquiet, state.budget = dict(head.tracks), dict(head.unquiet), head.budget
    state.imports, state.rewritten = dict(head.imports), head.rewritten
    boosted = _gather(beginning, f"{partition}|boosting")
    if boosted is None or tiles.digest(boosted) != head.boosted:
        raise SchemaError(f"the ml snapshot of partition {partition} lacks its boosting")
    state.boosted = _boosted(msgspec.msgpack.decode(boosted, type=Grown))
    _fill(models, state, partition, head, records)
    return state, head.offset, _saved(head)


def _fill(models: Models, state: State, partition: int, head: Head, records: Records) -> None:
    """Put every tile in its place; the last one of a key counts, and must be the one the head speaks of."""
    blank = _blank(models)
    wanted = {
        _key(partition, name, tile): (name, array, tile, digest)
        for name, array in _arrays(state)
        for tile, digest in zip(_cut(name, array), head.digests.get(name, []), strict=True)
        if digest
    }
    found: dict[bytes, int] = {}
    for key, data in records():
        if key in wanted:
            name, array, tile, _ = wanted[key]
            fits = tiles.unpack(array, tile, data, blank if name == PAST else None)
            found[key] = tiles.digest(data) if fits else 0
    for key, (name, _, _, digest) in wanted.items():
        if found.get(key) != digest:
            raise SchemaError(f"the ml snapshot of partition {partition} lacks part {key.decode()} of {name}")


PAST: Final = "models.past"


def _grown(boosted: Boosted) -> Grown:
    job = boosted.job
    return Grown(
        made=boosted.made,
        trees=None
        if boosted.trees is None
        else {f.name: _packed(getattr(boosted.trees, f.name)) for f in fields(Trees)},
        job=None if job is None else {name: _packed(getattr(job, name)) for name in ("x", "y", "weight")},
        begun=None if job is None else job.made,
    )


def _boosted(grown: Grown) -> Boosted:
    boosted = Boosted(made=grown.made)
    if grown.trees is not None:
        boosted.trees = Trees(**{name: _unpacked(packed) for name, packed in grown.trees.items()})
    if grown.job is not None and grown.begun is not None:
        boosted.job = Job(grown.begun, **{name: _unpacked(packed) for name, packed in grown.job.items()})
    return boosted


def _packed(array: Values) -> Packed:
    return Packed(array.dtype.str, list(array.shape), np.ascontiguousarray(array).tobytes())


def _unpacked(packed: Packed) -> npt.NDArray[Any]:
    return np.frombuffer(packed.data, dtype=np.dtype(packed.dtype)).reshape(packed.shape).copy()


def _arrays(state: State) -> Iterator[tuple[str, Values]]:
    """The large arrays, by name."""
    for table_name, table in (("models", state.models), ("usual", state.usual)):
        for field in fields(table):
            yield f"{table_name}.{field.name}", getattr(table, field.name)


def _cut(name: str, array: Values) -> Iterator[Tile]:
    return tiles.cut(array, PAST_RUN if name == PAST else None)


def _is_untouched(tile: Tile, state: State, saved: Saved) -> bool:
    """Whether no step of a tile of the past was written since the last snapshot."""
    width = state.models.past.shape[1]
    if state.newest is None or state.rewritten != saved.rewritten:
        return False
    # Provisional values of steps up to the newest were written again after it as they became final.
    first, last = saved.learned + 1, state.newest
    if last - first + 1 >= width:
        return False
    begin, end = first % width, last % width
    before, after = tile.places.stop <= begin, tile.places.start > end
    return last < first or ((before or after) if begin <= end else (before and after))


def _saved(head: Head) -> Saved:
    learned = -1 if head.learned is None else head.learned
    return Saved(learned, head.rewritten, head.boosted, head.digests)


def _blank(models: Models) -> np.generic:
    """What the past holds where nothing is known."""
    value: np.generic = models.forecaster.fresh(1).past[0, 0]
    return value


def _key(partition: int, name: str, tile: Tile) -> bytes:
    return f"{partition}|tile|{name}|{tile.name}".encode()


def restore_people(state: State, partition: int, records: Mapping[bytes, bytes]) -> None:
    """What people said, into ``state``. If the rest is learned again from the log, hearing it there again changes nothing.
    Raises ``SchemaError`` if it cannot be read."""
    try:
        data = _gather(records, f"{partition}|people")
        found = People([], []) if data is None else msgspec.msgpack.decode(data, type=People)
    except msgspec.MsgspecError as error:
        raise SchemaError(
            f"what people said, in the ml snapshot of partition {partition}, cannot be read: {error}"
        ) from error
    state.heard, state.mutes = dict(found.heard), {mute.name: mute for mute in found.mutes}


def _plan(models: Models) -> Plan:
    return Plan(
        FORMAT,
        models.step_us,
        models.forecaster.horizon,
        models.history_steps,
        models.forecaster.mixture.names,
    )


def _chunks(name: str, data: bytes) -> dict[bytes, bytes]:
    total = max(1, -(-len(data) // CHUNK_BYTES))
    return {
        f"{name}|{i}".encode(): msgspec.msgpack.encode(
            Chunk(total, data[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES])
        )
        for i in range(total)
    }


def _gather(records: Mapping[bytes, bytes], name: str) -> bytes | None:
    first = records.get(f"{name}|0".encode())
    if first is None:
        return None
    chunks = [msgspec.msgpack.decode(first, type=Chunk)]
    for i in range(1, chunks[0].total):
        record = records.get(f"{name}|{i}".encode())
        if record is None:
            raise SchemaError(f"the ml snapshot lacks part {i + 1} of {chunks[0].total} of {name}")
        chunks.append(msgspec.msgpack.decode(record, type=Chunk))
    return b"".join(chunk.data for chunk in chunks)
