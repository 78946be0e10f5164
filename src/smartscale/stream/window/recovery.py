"""What a committed position of ``partials`` remembers, so that a restart is invisible.

The position's metadata says from where the panes still needed must be read again (``first``), what was known of the
sources just before that record (``before``), the watermark at the commit, and how far each window had been emitted.
Reading on from ``first`` judges every late row as it was judged the first time, because lateness depends only on the
records before it; nothing is emitted until the committed position is reached.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable

import msgspec

from smartscale.errors import SchemaError
from smartscale.log.port import Position
from smartscale.records.partials import SourceWatermark


class Sources(msgspec.Struct, frozen=True, array_like=True):
    """The watermarks of all inputs as one partition of ``partials`` knows them.

    ``watermark_us`` is the least over all ``expected`` sources (0 until each has been heard of) and never falls;
    ``provisional_us`` likewise, and never below it. ``lost``: stretches of event time of which something could not be read
    (retention had removed it); windows that overlap one are never complete."""

    watermark_us: int = 0
    provisional_us: int = 0
    expected: int = 0
    known: tuple[SourceWatermark, ...] = ()
    lost: tuple[tuple[int, int], ...] = ()

    def heard(
        self, told: list[SourceWatermark], expected: int, lost: Iterable[tuple[int, int]] = ()
    ) -> Sources:
        """After one record of partials."""
        latest = {(one.topic, one.partition): one for one in self.known}
        for one in told:
            before = latest.get((one.topic, one.partition))
            latest[one.topic, one.partition] = (
                one
                if before is None
                else SourceWatermark(
                    one.topic,
                    one.partition,
                    max(one.watermark_us, before.watermark_us),
                    max(one.provisional_us, before.provisional_us),
                    one.state,
                )
            )
        known = tuple(latest[at] for at in sorted(latest))
        expected = max(expected, self.expected)
        watermark, provisional = self.watermark_us, self.provisional_us
        if known and len(known) >= expected:
            watermark = max(watermark, min(one.watermark_us for one in known))
            provisional = max(provisional, min(one.provisional_us for one in known))
        merged = tuple(sorted({*self.lost, *lost}))
        return Sources(watermark, max(watermark, provisional), expected, known, merged)

    def has_lost(self, start_us: int, end_us: int) -> bool:
        """Whether something of ``[start_us, end_us)`` could not be read."""
        return any(begin < end_us and start_us < until for begin, until in self.lost)

    def without_lost_before(self, us: int) -> Sources:
        """Without stretches that ended before: no window needs them any more."""
        kept = tuple(stretch for stretch in self.lost if stretch[1] > us)
        return self if kept == self.lost else msgspec.structs.replace(self, lost=kept)


class Pointers(msgspec.Struct, frozen=True, array_like=True):
    """How far one kind of window has come: all ends up to ``emitted_us`` have a row, those up to ``complete_us`` from
    complete evidence, those up to ``final_us`` their final one."""

    emitted_us: int = 0
    complete_us: int = 0
    final_us: int = 0


class Resume(msgspec.Struct, frozen=True):
    """The metadata."""

    first: int
    before: Sources
    now: Sources
    pointers: dict[str, Pointers]


LIMIT = 4000
"""Bytes of metadata that a log keeps with a position (``log.port.Position``; Kafka's default is 4,096)."""


def write(offset: int, resume: Resume) -> Position:
    """A position with its metadata, compressed. Raises ``SchemaError`` if there are more sources than fit."""
    text = base64.b85encode(zlib.compress(msgspec.msgpack.encode(resume), 9)).decode()
    if len(text) > LIMIT:
        raise SchemaError(
            f"the position's metadata takes {len(text)} of {LIMIT} bytes: {resume.now.expected} input partitions are too "
            "many for one window stage; use fewer partitions of `events`"
        )
    return Position(offset, text)


def read(position: Position) -> Resume:
    """Raises ``SchemaError`` if the metadata was not written by ``write``."""
    try:
        return msgspec.msgpack.decode(zlib.decompress(base64.b85decode(position.metadata)), type=Resume)
    except (ValueError, zlib.error, msgspec.MsgspecError) as error:
        raise SchemaError(f"the committed position {position} holds no window state: {error}") from error
