"""What the edge's answers mean to whoever sent events: what became of them, and whether and when to try again."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

import msgspec

AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


def pause_s(attempt: int, retry_after_s: float, chance: random.Random) -> float:
    """Seconds to wait after attempt number ``attempt`` (from 0): doubling from 0.1 to 5, times a random factor from 0.5
    to 1 so that many senders do not come back at once, and never less than the edge asks for."""
    doubled = min(_FIRST_PAUSE_S * 2.0 ** min(attempt, 10), _LONGEST_PAUSE_S)
    return max(retry_after_s, doubled * chance.uniform(0.5, 1))


def retry_after_s(header: str | None) -> float:
    """A Retry-After in seconds; 0 for one that is missing or a date."""
    return float(header) if header is not None and header.isdigit() else 0.0


class Fate(NamedTuple):
    """What became of the events of a request that was answered; the three add up to all of them."""

    accepted: int
    duplicate: int
    refused: int
    reasons: list[str]
    """Why events were refused, as far as told."""


class _Verdict(msgspec.Struct):
    verdict: str
    reason: str = ""


class _Answer(msgspec.Struct):
    """What is read of the edge's answers."""

    accepted: int = 0
    duplicate: int = 0
    verdicts: list[_Verdict] = []
    detail: str = ""


_decode = msgspec.json.Decoder(_Answer).decode


def fate(status: int, body: bytes, events: int) -> Fate:
    """The fate of ``events`` events by an answer that is final (``status`` not in ``AGAIN``).

    What the answer does not count as accepted or as a duplicate was refused, be it alone or with the whole request. So was
    everything if the answer is not the edge's.

    >>> fate(200, b'{"accepted": 2, "duplicate": 1}', 3)
    Fate(accepted=2, duplicate=1, refused=0, reasons=[])
    """
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        answer = None
    taken = answer.accepted + answer.duplicate if answer else -1
    if answer is None or not 0 <= taken <= events or answer.accepted < 0 or answer.duplicate < 0:
        return Fate(0, 0, events, [f"answer {status} is not the edge's: {body[:200]!r}"])
    refused = events - taken
    reasons = [verdict.reason for verdict in answer.verdicts if verdict.verdict == "refused"]
    return Fate(
        answer.accepted,
        answer.duplicate,
        refused,
        reasons or [answer.detail or f"answer {status}"] * (refused > 0),
    )
