"""The state of one partition as small records of a compacted topic, and back.

The **head** is everything but the past: written whole each time, in chunks. The past is written in **blocks** of
``BLOCK`` steps; a block that is full does not change again, so a day of history is written once, not at every snapshot.

Keys: ``PARTITION|head|CHUNK``, ``PARTITION|people|CHUNK`` and ``PARTITION|past|BLOCK % KEPT|CHUNK``. All records of one
snapshot are written in one transaction, so a reader sees the newest of each key and they fit together; chunks left over
from a longer head are told by its length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from smartscale.errors import SchemaError
from smartscale.ml.anomaly.feedback import Budget, Heard
from smartscale.ml.anomaly.incidents import Track
from smartscale.ml.partition import Models, State
from smartscale.ml.past import Parts
from smartscale.ml.series import table
from smartscale.ml.series.cells import CELL
from smartscale.ml.series.history import Past
from smartscale.ml.series.register import Key, Name, Register
from smartscale.ml.series.table import PackedArray
from smartscale.records.people import Mute

CHUNK_BYTES: Final = 448 << 10
"""Under the 512 KiB that records are held to, with room for framing."""
BLOCK: Final = 256
"""Steps in a block of the past: 10,000 series are 10 MB."""


FORMAT: Final = 5
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
    begin: int | None
    learned: int | None
    newest: int | None
    tracks: list[tuple[Name, Track]]
    unquiet: list[tuple[int, list[Name]]]
    budget: Budget
    imports: list[tuple[Key, Parts]]
    imported: int
    models: dict[str, PackedArray]
    usual: dict[str, PackedArray]
    blocks: list[int]
    """Numbers of the blocks of the past that belong to it."""


class People(msgspec.Struct, frozen=True):
    """What people said, in a record of its own: it is read back whatever the format and the settings of the rest."""

    heard: list[tuple[Name, Heard]]
    mutes: list[Mute]


class _Labelled(msgspec.Struct, frozen=True):
    """What every format of ``Head`` begins with."""

    plan: Plan


class Block(msgspec.Struct, frozen=True):
    """Steps from ``number * BLOCK`` of the first rows of the series: rows that joined later have no past there."""

    number: int
    codes: PackedArray


class Chunk(msgspec.Struct, frozen=True):
    """Part ``index`` of ``total`` parts."""

    total: int
    data: bytes


class Saved(msgspec.Struct, frozen=True):
    """What the last snapshot covered, so that the next one writes only what changed."""

    learned: int = -1
    series: tuple[Key, ...] = ()
    imported: int = 0


def save(
    models: Models, state: State, offset: int, partition: int, saved: Saved
) -> tuple[Saved, dict[bytes, bytes]]:
    """The records of a snapshot, value by key, and what it covered (to be given to the next one)."""
    newest, width = state.newest, state.models.past.shape[1]
    blocks = range(0)
    if newest is not None and state.begin is not None:
        blocks = range(max(state.begin, newest - width + 1) // BLOCK, newest // BLOCK + 1)
    same_rows = tuple(state.series[: len(saved.series)]) == saved.series and state.imported == saved.imported
    first = (saved.learned + 1) // BLOCK if same_rows and saved.series else 0
    records: dict[bytes, bytes] = {}
    for number in blocks:
        if number >= first and newest is not None:
            codes = Past(state.models.past, newest).codes(number * BLOCK, (number + 1) * BLOCK - 1)
            block = msgspec.msgpack.encode(Block(number, table.pack_array(codes)))
            records |= _chunks(f"{partition}|past|{number % _kept(width)}", block)
    head = Head(
        plan=_plan(models),
        offset=offset,
        services=state.services,
        series=state.series,
        last_row=state.last_row,
        waiting=[(at, cells.tobytes()) for at, cells in state.waiting.items()],
        begin=state.begin,
        learned=state.learned,
        newest=newest,
        tracks=list(state.tracks.items()),
        unquiet=list(state.unquiet.items()),
        budget=state.budget,
        imports=list(state.imports.items()),
        imported=state.imported,
        models=table.pack(state.models, leave_out=frozenset({"past"})),
        usual=table.pack(state.usual),
        blocks=list(blocks),
    )
    records |= _chunks(f"{partition}|head", msgspec.msgpack.encode(head))
    people = People(list(state.heard.items()), list(state.mutes.values()))
    records |= _chunks(f"{partition}|people", msgspec.msgpack.encode(people))
    learned = -1 if state.learned is None else state.learned
    return Saved(learned, tuple(state.series), state.imported), records


def restore(models: Models, partition: int, records: Mapping[bytes, bytes]) -> tuple[State, int] | None:
    """The state and the offset it covers, from the newest record of each key; None if there is none to be used
    (no snapshot yet, or one of another format or other settings: what it knew is then learned again from the log).
    Raises ``SchemaError`` if one of this format cannot be read."""
    data = _gather(records, f"{partition}|head")
    if data is None:
        return None
    try:
        if msgspec.msgpack.decode(data, type=_Labelled).plan != _plan(models):
            return None
        head = msgspec.msgpack.decode(data, type=Head)
    except msgspec.MsgspecError as error:
        raise SchemaError(f"the ml snapshot of partition {partition} cannot be read: {error}") from error
    state = models.fresh()
    state.models = models.forecaster.fresh(len(head.series))
    table.unpack(state.models, head.models)
    table.unpack(state.usual, head.usual)
    state.who, state.last_row = Register(head.services, head.series), head.last_row
    state.waiting = {at: np.frombuffer(rows, CELL).copy() for at, rows in head.waiting}
    state.begin, state.learned, state.newest = head.begin, head.learned, head.newest
    state.tracks, state.unquiet, state.budget = dict(head.tracks), dict(head.unquiet), head.budget
    state.imports, state.imported = dict(head.imports), head.imported
    width = state.models.past.shape[1]
    for number in head.blocks:
        packed = _gather(records, f"{partition}|past|{number % _kept(width)}")
        block = None if packed is None else msgspec.msgpack.decode(packed, type=Block)
        if block is None or block.number != number:
            raise SchemaError(f"the ml snapshot of partition {partition} lacks block {number} of its past")
        codes = table.unpack_array(block.codes)
        steps = np.arange(number * BLOCK, (number + 1) * BLOCK)
        held = (steps <= (head.newest or 0)) & (steps > (head.newest or 0) - width)
        state.models.past[: len(codes), steps[held] % width] = codes[:, held]
    return state, head.offset


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


def _kept(width: int) -> int:
    """Blocks that exist at once, at most: a full past touches two partial ones."""
    return width // BLOCK + 2


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
