"""What the edge reads: one table of paths and media types, each with its decoder and its way to answer.

A decoder is a function of headers (names in lower case), body and limits, without I/O. It gives the events either as
objects (``events_json.Decoded``) or, where a format is columnar itself, as ``Columns``. It runs in the writer's thread, on
the body as it was before any content encoding. It raises ``MalformedBody`` for a body that holds no events it could
judge one by one; anything else it raises is our bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from smartscale.ingest import answers
from smartscale.ingest.answers import Answer, Verdict
from smartscale.records import events_json
from smartscale.records.events import SCHEMA
from smartscale.records.events_json import Decoded, Limits, Refusal

Headers = Mapping[str, str]

RECEIVED: Final = pa.schema(
    [
        field.with_type(pa.string()) if field.name == "user" else field
        for field in SCHEMA
        if field.name not in ("tenant", "identity")
    ]
)
"""Columns of good events as a decoder gives them: those of the log but for the tenant and the identity, which the edge adds,
and with users in clear, which it hashes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a columnar body holds: the good events as a batch of ``RECEIVED``, each one's place in the body, and the
    refused ones. ``batch.num_rows + len(refused) == count``."""

    count: int
    batch: pa.RecordBatch
    indexes: Sequence[int]
    refused: list[Refusal]


Decode = Callable[[Headers, bytes, Limits], Decoded | Columns]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to send events. ``name`` is its label in the metrics."""

    name: str
    decode: Decode
    result: Callable[[int, Sequence[Verdict]], Answer] = answers.result
    """The answer once the events have their verdicts: how many were accepted, and the verdicts of the others."""
    problem: Callable[..., Answer] = answers.problem
    """The answer to a request of which nothing was taken: as ``answers.problem``."""


def _json(_headers: Headers, body: bytes, limits: Limits) -> Decoded:
    return events_json.decode(body, limits)


def _lines(_headers: Headers, body: bytes, limits: Limits) -> Decoded:
    return events_json.decode(body, limits, lines=True)


JSON: Final = Format("json", _json)
NDJSON: Final = Format("json", _lines)

FORMATS: Final[Mapping[str, Mapping[str, Format]]] = {
    "/v1/events": {
        "": JSON,
        "application/json": JSON,
        "text/json": JSON,
        "application/x-ndjson": NDJSON,
        "application/ndjson": NDJSON,
        "application/jsonl": NDJSON,
        "application/x-jsonlines": NDJSON,
    },
}
"""By path, then by media type without its parameters ("" stands for a request that names none)."""


class Unsupported(ValueError):
    """The body's media type or encoding is not one the edge reads; the message says which are."""


def format_of(path: str, headers: Headers) -> Format:
    """The format of a request to one of the paths of ``FORMATS``. Raises ``Unsupported``."""
    known = FORMATS[path]
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in known:
        raise Unsupported(
            f"content-type {media_type!r} is not read here; send one of: {', '.join(name for name in known if name)}"
        )
    return known[media_type]
