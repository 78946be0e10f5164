"""Events of a body as columns: what a decoder gives whose format is columnar itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from smartscale.records.events import SCHEMA
from smartscale.records.events_json import Refusal

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
