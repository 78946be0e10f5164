"""Dead letters: whatever could not be counted where it belonged, with the reason. Nothing is dropped silently."""

from __future__ import annotations

import base64
from typing import Final

import msgspec

LATE: Final = "late"
MALFORMED: Final = "malformed"
UNREADABLE: Final = "unreadable"
FAR_FUTURE: Final = "far-future"


class DeadLetter(msgspec.Struct, frozen=True):
    """One thing set aside.

    ``count`` is the number of events it stands for. ``stage`` wrote it; ``source`` is ``topic/partition`` and
    ``offset`` the record it came from. ``payload`` is the thing itself: JSON text for an event or a late row of
    partials, else base64 of the record's first 64 KiB."""

    reason: str
    stage: str
    detail: str
    count: int
    time_us: int
    source: str = ""
    offset: int = -1
    tenant: str = ""
    service: str = ""
    pane_us: int = 0
    payload: str = ""


def payload(value: bytes) -> str:
    """The beginning of a record's value, as base64."""
    return base64.b64encode(value[: 64 << 10]).decode()


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(DeadLetter).decode
