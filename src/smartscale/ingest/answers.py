"""What the edge answers: verdicts for events, problems (RFC 9457) for requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from smartscale.ingest.admission import RETRY_AFTER_S

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"


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
    """The answer to a request of which nothing was taken."""

    title: str
    status: int
    detail: str
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


def result(accepted: int, verdicts: Sequence[Verdict]) -> Answer:
    """200 if no event was refused, 207 if some were, 400 if all were."""
    refused = sum(verdict.verdict == "refused" for verdict in verdicts)
    duplicate = len(verdicts) - refused
    if refused and not accepted and not duplicate:
        detail = f"none of the {refused} events can be taken; the first: {verdicts[0].reason}"
        return _problem(Problem("no usable event", 400, detail, refused=refused, verdicts=verdicts))
    body = msgspec.json.encode(Result(accepted, duplicate, refused, verdicts))
    return Answer(207 if refused else 200, body)


_TITLES: Final = {
    400: "malformed request",
    404: "not found",
    405: "method not allowed",
    408: "body too slow",
    413: "too large",
    415: "unsupported media type",
    429: "too many events waiting",
    503: "not available now",
}


def problem(status: int, detail: str, **headers: str) -> Answer:
    """A request of which nothing was taken; 429 and 503 say when to try again."""
    if status in (429, 503):
        headers["retry-after"] = str(RETRY_AFTER_S)
    return _problem(Problem(_TITLES[status], status, detail), headers)


def _problem(value: Problem, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(value.status, msgspec.json.encode(value), PROBLEM, headers or {})
