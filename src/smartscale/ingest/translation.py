"""Events of another format, said as native ones: so every format has the checks and the reasons of the native one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from smartscale.records import events_json
from smartscale.records.events_json import Decoded, EventIn, Limits, Refusal

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Translation:
    """What a body of another format holds; ``add``, ``refuse`` and ``ignore`` are called once an item, in its order.

    An item may give several events (a histogram: count and sum); all have its index."""

    events: list[EventIn | msgspec.Raw] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    items: int = 0

    def add(self, *events: EventIn | msgspec.Raw) -> None:
        """An item that is these events."""
        self.events += events
        self.indexes += [self.items] * len(events)
        self.items += 1

    def refuse(self, code: str, reason: str) -> None:
        """An item that cannot be said as an event."""
        self.refused.append(Refusal(self.items, code, reason))
        self.items += 1

    def ignore(self) -> None:
        """An item that is taken and of which nothing is written, such as a client's span: its server tells of the same
        call."""
        self.items += 1

    def checked(self, limits: Limits) -> Decoded:
        """The same with every event checked as if it had come as native JSON."""
        native = events_json.decode(_encode(self.events), limits)
        refused = self.refused + [
            Refusal(self.indexes[found.index], found.code, found.reason) for found in native.refused
        ]
        indexes: Sequence[int] = np.array(self.indexes, dtype=np.int64)[list(native.indexes)].tolist()
        refused.sort(key=lambda refusal: refusal.index)
        return Decoded(len(native.events) + len(refused), native.events, indexes, native.times_us, refused)
