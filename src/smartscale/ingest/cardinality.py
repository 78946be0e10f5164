"""How many different services and names a tenant may use: each costs the stages behind the edge memory and rows for good.

A tenant whose requests put an id into the name would fill them. So an edge process remembers the labels each tenant used
lately, refuses events with new ones beyond the limit, and goes on with the known ones. A label not used for ``ttl_s`` gives
its place back. Memory is bounded by tenants × limits × about 100 bytes. Every edge process counts for itself: with n of them
behind one address at most n times as many labels pass, in practice the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]
_K = TypeVar("_K")

_SWEEPS: Final = 10
"""Looks for forgotten labels in a time-to-live: a place comes back at most a tenth of it late."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``services`` and ``names`` a tenant; a name counts once for each service that uses it, as it does downstream.
    0 means no bound."""

    services: int
    names: int
    ttl_s: float


@dataclass(slots=True)
class _Known:
    """Labels of one tenant and when each was last used."""

    services: dict[str, float] = field(default_factory=dict)
    names: dict[tuple[str, str], float] = field(default_factory=dict)


class Guard:
    """Not thread-safe. Times are real seconds, given by the caller."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._known: dict[str, _Known] = {}
        self._swept_s = 0.0

    def refused(
        self,
        tenant: str,
        services: Sequence[str],
        names: Sequence[str],
        service: Codes,
        name: Codes,
        now_s: float,
    ) -> tuple[Mask, Mask]:
        """Which events have a service, and which a name, beyond the limit.

        ``service`` and ``name`` (events,) are each event's codes into ``services`` and ``names``. Costs a dictionary
        look-up for each *different* pair of this call, and array work for the events.

        >>> guard = Guard(Limits(services=1, names=0, ttl_s=60))
        >>> guard.refused("t", ["a", "b"], [""], np.array([0, 1, 0]), np.array([0, 0, 0]), 0.0)[0].tolist()
        [False, True, False]
        """
        self._sweep(now_s)
        known = self._known.setdefault(tenant, _Known())
        no = np.zeros(len(service), dtype=np.bool_)
        if not len(service):
            return no, no
        keys, each = _distinct(service.astype(np.int64) * len(names) + name, len(services) * len(names))
        over_service, over_name = np.zeros(len(keys), dtype=np.bool_), np.zeros(len(keys), dtype=np.bool_)
        for place, key in enumerate(keys.tolist()):
            one, two = services[key // len(names)], names[key % len(names)]
            if not _used(known.services, one, self.limits.services, now_s):
                over_service[place] = True
            elif not _used(known.names, (one, two), self.limits.names, now_s):
                over_name[place] = True
        if not (over_service.any() or over_name.any()):
            return no, no
        return over_service[each], over_name[each]

    def counts(self, tenant: str) -> tuple[int, int]:
        """Services and names known of a tenant."""
        known = self._known.get(tenant, _Known())
        return len(known.services), len(known.names)

    def _sweep(self, now_s: float) -> None:
        """Forget what was not used for the time-to-live."""
        if now_s - self._swept_s < self.limits.ttl_s / _SWEEPS:
            return
        self._swept_s = now_s
        oldest_s = now_s - self.limits.ttl_s
        for tenant, known in list(self._known.items()):
            known.services = {label: used for label, used in known.services.items() if used >= oldest_s}
            known.names = {label: used for label, used in known.names.items() if used >= oldest_s}
            if not known.services:
                del self._known[tenant]


def _distinct(keys: Codes, most: int) -> tuple[Codes, Codes]:
    """The different keys, and for each key its place among them. Keys are from 0 to below ``most``; without sorting where a
    table of that size is no longer than the keys."""
    if most > 4 * len(keys):
        different, places = np.unique(keys, return_inverse=True)
        return different, places
    there = np.zeros(most, dtype=np.bool_)
    there[keys] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[keys]


def _used(known: dict[_K, float], label: _K, limit: int, now_s: float) -> bool:
    """Note that a label is used now; False, and nothing noted, if it is new and there is no place."""
    if not limit:
        return True
    if label not in known and len(known) >= limit:
        return False
    known[label] = now_s
    return True
