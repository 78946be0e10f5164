"""A series' past from outside, as ``smartscale history import`` brings it into the log."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

VALUES: Final = 20_000
"""Values in one record at most: under 400 KB of JSON."""


class PastPart(msgspec.Struct, frozen=True):
    """Part ``part`` of ``parts`` of one import ``id``: ``rates[i]`` is the mean of ``series`` (events a second) over
    ``[start_us + i * step_us, start_us + (i + 1) * step_us)``, None where nobody counted. Parts follow each other in the
    log; the import counts once its last part is there, and the newest import of a series replaces the one before."""

    id: str
    tenant: str
    service: str
    series: str
    start_us: int
    step_us: Annotated[int, msgspec.Meta(gt=0)]
    rates: list[Annotated[float, msgspec.Meta(ge=0)] | None]
    part: Annotated[int, msgspec.Meta(ge=0)] = 0
    parts: Annotated[int, msgspec.Meta(ge=1)] = 1


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(PastPart).decode
