"""What the edge answers: verdicts for events, problems (RFC 9457) for requests.

Every problem has a ``type`` that stays the same whatever its words: ``urn:smartscale:problem:`` and a name of ``PROBLEMS``.
Its ``detail`` says what to do about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

import msgspec

from smartscale.ingest.backpressure import LEAST_S

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
TYPE: Final = "urn:smartscale:problem:"


class Verdict(msgspec.Struct, frozen=True):
    """Of an event that was not taken; ``index`` is its place in the body."""

    index: int
    verdict: Literal["refused", "duplicate"]
    reason: str


class Result(msgspec.Struct, frozen=True):
    """The answer to a request whose events have their verdicts: accepted ones are in the log, durably."""

    accepted: int
    duplicate: int
    refused: int
    verdicts: Sequence[Verdict]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a request of which nothing was taken (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    retry_after_s: float | None = None
    """Of 429 and 503: exactly how long to wait; the header Retry-After rounds it up to whole seconds."""
    accepted: int = 0
    refused: int = 0
    verdicts: Sequence[Verdict] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body of an HTTP answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: its status, its title, and what a client should do."""

    status: int
    title: str
    remedy: str


PROBLEMS: Final[Mapping[str, Kind]] = {
    "malformed": Kind(400, "malformed request", "mend the request: the detail says where it goes wrong"),
    "no-usable-event": Kind(400, "no usable event", "mend the events: `verdicts` has the reason for each"),
    "unauthenticated": Kind(
        401, "who are you", "send `Authorization: Bearer TOKEN` with a token of your tenant"
    ),
    "forbidden": Kind(403, "not allowed any more", "ask the operator for another token"),
    "not-found": Kind(404, "not found", "look at /openapi.json for what there is"),
    "method": Kind(405, "method not allowed", "use one of the methods in the header Allow"),
    "too-slow": Kind(408, "body too slow", "send less at once, or over a better connection"),
    "too-large": Kind(413, "too large", "send less at once: the detail names the limit"),
    "media-type": Kind(
        415, "unsupported media type", "send one of the types or encodings that the detail lists"
    ),
    "key-reused": Kind(
        422,
        "idempotency key used before",
        "give each request a key of its own; the same key means the same request again",
    ),
    "queue-full": Kind(429, "too much is waiting", "send the same again after Retry-After"),
    "quota": Kind(
        429, "quota used up", "send the same again after Retry-After, or ask the operator for a higher quota"
    ),
    "headers-too-large": Kind(431, "headers too large", "send fewer or shorter headers"),
    "internal": Kind(500, "our mistake", "report it; sending the same again may work"),
    "unavailable": Kind(
        503, "not available now", "send the same again, with the same ids, after Retry-After"
    ),
}
"""Every problem by the name that ends its type."""

_BY_STATUS: Final = {kind.status: name for name, kind in reversed(list(PROBLEMS.items()))}
"""The first of each status."""


def result(accepted: int, verdicts: Sequence[Verdict]) -> Answer:
    """200 if no event was refused, 207 if some were, 400 if all were."""
    return _mixture(accepted, verdicts) if verdicts else _all_accepted(accepted)


@lru_cache(maxsize=1024)
def _all_accepted(accepted: int) -> Answer:
    return Answer(200, msgspec.json.encode(Result(accepted, 0, 0, ())))


def _mixture(accepted: int, verdicts: Sequence[Verdict]) -> Answer:
    refused = sum(verdict.verdict == "refused" for verdict in verdicts)
    duplicate = len(verdicts) - refused
    if refused and not accepted and not duplicate:
        detail = f"none of the {refused} events can be taken; the first: {verdicts[0].reason}"
        return _answer("no-usable-event", detail, {}, refused=refused, verdicts=verdicts)
    body = msgspec.json.encode(Result(accepted, duplicate, refused, verdicts))
    return Answer(207 if refused else 200, body)


def problem(
    status: int, detail: str, *, kind: str | None = None, retry_after_s: float | None = None, **headers: str
) -> Answer:
    """A request of which nothing was taken. ``kind`` is a name of ``PROBLEMS`` (None: the first of that status);
    ``headers`` have names with underscores. 429 and 503 always say when to try again."""
    if status in (429, 503) and retry_after_s is None:
        retry_after_s = LEAST_S
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _answer(kind or _BY_STATUS[status], detail, named, retry_after_s)


def _answer(
    kind: str,
    detail: str,
    headers: dict[str, str],
    retry_after_s: float | None = None,
    refused: int = 0,
    verdicts: Sequence[Verdict] = (),
) -> Answer:
    about = PROBLEMS[kind]
    if retry_after_s is not None:
        headers["retry-after"] = str(max(LEAST_S, math.ceil(retry_after_s)))
        retry_after_s = round(retry_after_s, 3)
    value = Problem(
        TYPE + kind, about.title, about.status, detail, retry_after_s, refused=refused, verdicts=verdicts
    )
    return Answer(about.status, msgspec.json.encode(value), PROBLEM, headers)
