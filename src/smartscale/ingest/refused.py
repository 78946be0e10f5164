"""Events that were refused become dead letters, so that whoever runs the pipeline sees what senders do wrong.

Abuse must not fill the log with letters: ``per_s`` of them a second carry the event itself (at most
``PAYLOAD`` bytes); whatever is refused beyond that is counted by tenant and reason,
and told once a second in one letter each, with the number and without payloads.
So the letters' counts add up to all refusals, and their bytes are bounded by settings alone.
A refused event was never accepted: the ledger books nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from smartscale.clock import MICROS
from smartscale.log.port import Message
from smartscale.records import dead_letters, schema, topics
from smartscale.records.events_json import PAYLOAD

STAGE: Final = "ingest"
_BURST_S: Final = 5.0
_TOLD_EVERY_S: Final = 1.0
_MAX_DETAIL: Final = 500
"""Characters of a reason that are kept."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused event. ``payload`` is the event as it came, or nothing where its format has no text for one."""

    tenant: str
    code: str
    reason: str
    payload: bytes = b""


@dataclass(slots=True)
class _More:
    """Refusals beyond the rate, of one tenant and code."""

    count: int
    example: str


class _Named(msgspec.Struct):
    """What is looked for in a refused event."""

    service: str = ""


_service = msgspec.json.Decoder(_Named).decode


class Letters:
    """Makes the letters of each round. Not thread-safe: it belongs to the writer.

    Memory is bounded by tenants times reasons."""

    def __init__(self, per_s: float) -> None:
        """``per_s``: letters with an event in them a second (real time); 0: only the numbers are told."""
        self._per_s = per_s
        self._level, self._filled_s = per_s * _BURST_S, 0.0
        self._more: dict[tuple[str, str], _More] = {}
        self._told_s = 0.0

    def take(
        self, refused: Iterable[Refused], now_us: int, now_s: float, last: bool = False
    ) -> list[dead_letters.DeadLetter]:
        """The letters to be written now. ``last``: tell all that is counted, none will follow."""
        self._level = min(self._per_s * _BURST_S, self._level + self._per_s * (now_s - self._filled_s))
        self._filled_s = now_s
        letters = []
        for one in refused:
            if self._level >= 1:
                self._level -= 1
                letters.append(_letter(one, now_us))
            else:
                more = self._more.setdefault((one.tenant, one.code), _More(0, one.reason))
                more.count += 1
        if self._more and (last or now_s - self._told_s >= _TOLD_EVERY_S):
            self._told_s = now_s
            letters += [
                dead_letters.DeadLetter(
                    reason=code,
                    stage=STAGE,
                    detail=f"{more.count:,} more, not kept one by one; the first: {more.example[:_MAX_DETAIL]}",
                    count=more.count,
                    time_us=now_us,
                    tenant=tenant,
                )
                for (tenant, code), more in self._more.items()
            ]
            self._more = {}
        return letters


def messages(letters: Iterable[dead_letters.DeadLetter], partitions: int) -> list[Message]:
    """The letters as records, spread over the partitions of ``dead-letters``."""
    return [
        Message(
            topics.DEAD_LETTERS,
            (letter.time_us // MICROS + place) % partitions,
            dead_letters.encode(letter),
            headers=schema.headers(schema.DEAD_LETTER),
        )
        for place, letter in enumerate(letters)
    ]


def _letter(one: Refused, now_us: int) -> dead_letters.DeadLetter:
    try:
        service = _service(one.payload).service[:256]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        service = ""
    return dead_letters.DeadLetter(
        reason=one.code,
        stage=STAGE,
        detail=one.reason[:_MAX_DETAIL],
        count=1,
        time_us=now_us,
        tenant=one.tenant,
        service=service,
        payload=one.payload[:PAYLOAD].decode(errors="replace"),
    )
