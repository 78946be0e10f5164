"""What people say about incidents, what ml makes of it, and what it tells people about the alert budget.

``Feedback``, ``Mute`` and ``Unmute`` are written to ``metrics`` (``Feedback`` to its service's partition, the others to
every one), where ml finds them in order with what it reads of services. ml writes each to ``incidents`` once it has
taken it in, in the same transaction: there they stand beside the incidents they are about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from smartscale.records import schema

ACK: Final = "ack"
FALSE_ALARM: Final = "false-alarm"
SAID: Final = (ACK, FALSE_ALARM)


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said about an incident: that it was seen (``ack``), or that it was none (``false-alarm``).

    ``id`` is made by whoever sends it: sent again with the same id, it counts once. ``class_``, ``kinds``, ``severity`` and
    ``end_us`` are those of the incident, as it was known when this was said. ``time_us`` is world time."""

    id: str
    said: str
    incident: str
    tenant: str
    service: str
    class_: str = msgspec.field(name="class")
    kinds: dict[str, float]
    severity: float
    end_us: int | None
    time_us: int
    who: str
    comment: str = ""


class Mute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """When people want to hear nothing of some incidents: once, from ``from`` to ``to``, or again and again.

    It means incidents whose service and tenant fit the patterns (``*`` any text), whose class is one of ``classes`` and
    all of whose kinds of evidence are among ``kinds`` (empty: any). With ``days`` or ``at`` it recurs, within ``from``
    and ``to`` if they are given. ``from`` and ``to`` are ISO 8601, local times of ``zone`` where they have no offset;
    ``at`` is ``22:00-06:00``, local too: a window past midnight belongs to the day it begins on. ``days`` holds ``mon``
    to ``sun``, ``weekdays``, ``weekends``, ``holidays`` and ``workdays`` (weekdays that are no holidays) of ``country``:
    ``DE``, or with a region ``DE-BY``. Nothing unknown is read over: half a mute would silence what nobody meant."""

    name: str
    services: str = "*"
    tenants: str = "*"
    classes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    from_: str = ""
    to: str = ""
    days: tuple[str, ...] = ()
    at: str = ""
    zone: str = ""
    country: str = ""
    who: str = ""
    comment: str = ""


class Unmute(msgspec.Struct, frozen=True, kw_only=True):
    """The mute of this name, made by command, is over."""

    name: str
    who: str = ""
    comment: str = ""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What people should know beside incidents; the latest record of an ``id`` is its state.

    ``kind`` is ``budget-spent``: of the ``allowed`` notifications that this partition may make on ``day`` (a day of
    ``ml.zone``, ``2026-11-25``) none is left, and ``silenced`` incidents were not told. One record when the first of them is
    silenced, and one with the sum when the day is over."""

    id: str
    kind: str
    partition: int
    day: str
    allowed: int
    silenced: int
    time_us: int
    text: str


BUDGET_SPENT: Final = "budget-spent"

encode = msgspec.json.Encoder().encode
decode_feedback = msgspec.json.Decoder(Feedback).decode
decode_mute = msgspec.json.Decoder(Mute).decode
decode_unmute = msgspec.json.Decoder(Unmute).decode
decode_notice = msgspec.json.Decoder(Notice).decode

DECODERS: Final[dict[str, Callable[[bytes], Feedback | Mute | Unmute]]] = {
    schema.FEEDBACK: decode_feedback,
    schema.MUTE: decode_mute,
    schema.UNMUTE: decode_unmute,
}
"""Of what people say, by schema."""


def said_text(said: Feedback | Mute | Unmute) -> str:
    """In one line."""
    who, comment = said.who or "somebody", f": {said.comment}" if said.comment else ""
    match said:
        case Feedback():
            word = "has seen" if said.said == ACK else "calls a false alarm"
            return f"{who} {word} {said.incident} of {said.service} ({said.class_}){comment}"
        case Mute():
            return f"muted by {who} as {said.name!r}, {when_text(said)}{comment}"
        case Unmute():
            return f"the mute {said.name!r} is lifted by {who}{comment}"


def when_text(mute: Mute) -> str:
    """Of what and when, in words.

    >>> when_text(Mute(name="x", services="db-*", days=("mon",), at="02:00-04:00", zone="Europe/Berlin"))
    'services db-*, mon, 02:00-04:00, Europe/Berlin'
    """
    parts = [
        f"services {mute.services}",
        "" if mute.tenants == "*" else f"tenants {mute.tenants}",
        " and ".join(mute.classes),
        f"kinds {' and '.join(mute.kinds)}" if mute.kinds else "",
        " and ".join(mute.days),
        mute.at,
        f"from {mute.from_}" if mute.from_ else "",
        f"to {mute.to}" if mute.to else "",
        mute.zone,
        mute.country,
    ]
    return ", ".join(part for part in parts if part)
