"""The keys of one partition: dense numbers for (tenant, service, kind, name, group), their roll-ups, and which are alive.

A key is alive from its first pane with events until ``ttl`` after its last; an alive key gets windows of count zero
while it is silent. ``last_us`` is rounded up to a quarter of the time to live, so it moves seldom and depends on no order
of arrival; every move is written to the topic ``live-keys``, so a restart finds the very values that this process went by.
A key that comes back later than its life lasted begins a new one: what was left of the old tail is not filled with zeros.
The roll-up over all names and groups of a (tenant, service, kind) is a key of its own, derived and never written.

Groups come from attributes of events, which anybody may fill with anything: a service has at most ``max_groups`` keys with a
group, first come, first served; later ones are the group ``__other__`` of their name. While records are read again after a
restart no new one is let in: every key that was is in ``live-keys``, so the verdicts are those of the first reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress

import numpy as np
import numpy.typing as npt

from smartscale.log.partitioner import service_key
from smartscale.records.metrics import LiveKey
from smartscale.records.topics import ALL_NAMES
from smartscale.stream.attributes import OTHER
from smartscale.stream.columns import Ints
from smartscale.stream.windows import Families

Key = tuple[str, str, str, str, str]
"""Tenant, service, kind, name, group."""


class Keys:
    """Numbers keys from 0; numbers are stable until ``compact``."""

    def __init__(self, ttl_us: int, families: Families, max_groups: int) -> None:
        self._ttl_us = ttl_us
        self._families = families
        self._max_groups = max_groups
        self._grouped: Counter[tuple[str, str]] = Counter()
        """Keys with a group of their own, by (tenant, service)."""
        self._number: dict[Key, int] = {}
        self.names: list[Key] = []
        self.record_keys: list[bytes] = []
        """Record key of each key's rows."""
        self._rollup = np.zeros(64, np.int64)
        self._family = np.zeros(64, np.int64)
        self._first = np.zeros(64, np.int64)
        self._last = np.zeros(64, np.int64)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rollup(self) -> Ints:
        """The roll-up's number for each key, shape (n,); a roll-up is its own."""
        return self._rollup[: len(self.names)]

    @property
    def family(self) -> Ints:
        """The number of each key's family, shape (n,)."""
        return self._family[: len(self.names)]

    @property
    def first_us(self) -> Ints:
        """Start of life, shape (n,)."""
        return self._first[: len(self.names)]

    @property
    def last_us(self) -> Ints:
        """End of the last pane known to hold events, rounded up to a quarter of the time to live, shape (n,)."""
        return self._last[: len(self.names)]

    def number(self, key: Key) -> int:
        """The key's number; a new key is added, with its roll-up, not alive yet."""
        found = self._number.get(key)
        if found is None:
            tenant, service, kind, _, group = key
            rollup = self._number.get((tenant, service, kind, ALL_NAMES, ""))
            if rollup is None:
                rollup = self._add((tenant, service, kind, ALL_NAMES, ""))
                self._rollup[rollup] = rollup
            found = self._add(key)
            self._rollup[found] = rollup
            if group not in ("", OTHER):
                self._grouped[tenant, service] += 1
        return found

    def admitted(self, key: Key, replay: bool) -> Key:
        """The key itself, or that of the group ``__other__`` if its service has as many groups as it may."""
        tenant, service, kind, name, group = key
        if group in ("", OTHER) or key in self._number:
            return key
        if replay or self._grouped[tenant, service] >= self._max_groups:
            return tenant, service, kind, name, OTHER
        return key

    def _add(self, key: Key) -> int:
        number = len(self.names)
        if number == len(self._rollup):
            for name in ("_rollup", "_family", "_first", "_last"):
                setattr(self, name, np.concatenate((getattr(self, name), np.zeros(number, np.int64))))
        self._number[key] = number
        self.names.append(key)
        self.record_keys.append(service_key(key[0], key[1]))
        self._family[number] = self._families.of(key[1])
        self._first[number] = self._last[number] = _NEVER
        return number

    def saw(self, keys: Ints, start_us: int, end_us: int) -> Ints:
        """A pane [start, end) holds events of these keys; returns the keys whose life must be written."""
        stride = max(self._ttl_us // 4, 1)
        until_us = -(-end_us // stride) * stride
        moved: Ints = keys[(until_us > self._last[keys]) | (start_us < self._first[keys])]
        for key in moved.tolist():
            self._live(key, start_us, until_us)
            self._live(int(self._rollup[key]), start_us, until_us)
        return moved

    def restore(self, live: LiveKey) -> None:
        """A key as ``live-keys`` tells it."""
        key = self.number((live.tenant, live.service, live.kind, live.name, live.group))
        self._live(key, live.first_us, live.last_us)
        self._live(int(self._rollup[key]), live.first_us, live.last_us)

    def _live(self, key: int, start_us: int, end_us: int) -> None:
        if self._last[key] == _NEVER or start_us > self._last[key] + self._ttl_us:
            self._first[key], self._last[key] = start_us, end_us
        elif end_us >= self._first[key] - self._ttl_us:
            self._first[key] = min(start_us, self._first[key])
            self._last[key] = max(end_us, self._last[key])

    def lives(self, key: int) -> bool:
        """Whether events of the key have ever been counted."""
        return bool(self._last[key] != _NEVER)

    def record(self, key: int) -> LiveKey:
        tenant, service, kind, name, group = self.names[key]
        return LiveKey(tenant, service, kind, name, int(self._first[key]), int(self._last[key]), group)

    def alive(self, start_us: int, end_us: int, family: int) -> npt.NDArray[np.bool_]:
        """Which keys of the family get a row in the window [start, end) even without events, shape (n,)."""
        last = self.last_us
        alive: npt.NDArray[np.bool_] = (
            (self.family == family)
            & (last != _NEVER)
            & (self.first_us < end_us)
            & (start_us < last + self._ttl_us)
        )
        return alive

    def next_life_us(self, after_us: int, family: int) -> int | None:
        """The earliest start of a life after ``after_us`` in the family."""
        later = self.first_us[(self.first_us > after_us) & (self.family == family)]
        return int(later.min()) if len(later) else None

    def expired(self, before_us: int) -> Ints:
        """Keys whose life ended before ``before_us`` or never began (only late events came), shape (k,)."""
        return np.flatnonzero(self.last_us + self._ttl_us < before_us)

    def compact(self, forget: Sequence[int]) -> Ints:
        """Forget keys (and roll-ups that have no name left); returns the new number of each old one, -1 if gone."""
        gone = np.zeros(len(self.names), np.bool_)
        gone[list(forget)] = True
        kept_names = ~gone & (self.rollup != np.arange(len(self.names)))
        keep = kept_names.copy()
        keep[self.rollup[kept_names]] = True
        moved = np.where(keep, np.cumsum(keep) - 1, -1)
        rollup, family = moved[self.rollup[keep]], self.family[keep]
        first, last = self.first_us[keep], self.last_us[keep]
        self.names = list(compress(self.names, keep.tolist()))
        self.record_keys = list(compress(self.record_keys, keep.tolist()))
        self._number = {name: number for number, name in enumerate(self.names)}
        self._grouped = Counter(key[:2] for key in self.names if key[4] not in ("", OTHER))
        self._rollup, self._family, self._first, self._last = (
            np.concatenate((values, np.zeros(64, np.int64))) for values in (rollup, family, first, last)
        )
        return moved


_NEVER = -(1 << 62)
