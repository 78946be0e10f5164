"""The keys of one partition: dense numbers for (tenant, service, kind, name, group), their roll-ups, and which are alive.

A key is alive from its first pane with events until ``ttl`` after its last; an alive key gets windows of count zero
while it is silent. ``last_us`` is rounded up to a quarter of the time to live, so it moves seldom and depends on no order
of arrival; every move is written to the topic ``live-keys``, so a restart finds the very values that this process went by.
A key that comes back later than its life lasted begins a new one: what was left of the old tail is not filled with zeros.
The roll-up over all names and groups of a (tenant, service, kind) is a key of its own, derived and never written.

Records name keys by labels; ``numbers`` finds the numbers of a hundred thousand of them without a Python object a row: each
service and each combination of the other labels has a small number of its own, and a compiled hash table maps the pair.

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
import pyarrow as pa
from numba import njit

from smartscale.log.partitioner import service_key
from smartscale.records import metrics
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
        self.heads: list[bytes] = []
        """The labels as JSON, with which each of the key's rows begins, up to where the window is named."""
        self._services: dict[str, int] = {}
        self._others: dict[Key, int] = {}
        """Numbers of services, and of (tenant, "", kind, name, group)."""
        self._pairs = np.full((_FIRST_PAIRS, 2), -1, np.int64)
        self._pairs_held = 0
        self._rollup = np.zeros(64, np.int64)
        self._family = np.zeros(64, np.int64)
        self._ungrouped = np.zeros(64, np.bool_)
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
    def ungrouped(self) -> npt.NDArray[np.bool_]:
        """Which keys have no group, shape (n,)."""
        return self._ungrouped[: len(self.names)]

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

    def numbers(self, batch: pa.RecordBatch) -> Ints:
        """The numbers of the keys of a record's rows, shape (n,); new ones are added, in the order of the rows."""
        labels = [batch.column(name) for name in _LABELS]
        values = [column.dictionary.to_pylist() for column in labels]
        codes = [column.indices.to_numpy() for column in labels]
        service = np.array(
            [self._services.setdefault(name, len(self._services)) for name in values[1]], np.int64
        )
        other = np.zeros(batch.num_rows, np.int64)
        for i in (0, 2, 3, 4):
            other = other * len(values[i]) + codes[i]
        distinct, which = np.unique(other, return_inverse=True)
        others = []
        for code in distinct.tolist():
            parts = []
            for i in (4, 3, 2, 0):
                code, at = divmod(code, len(values[i]))
                parts.append(values[i][at])
            group, name, kind, tenant = parts
            others.append(self._others.setdefault((tenant, "", kind, name, group), len(self._others)))
        pairs = (service[codes[1]] << 32) | np.array(others, np.int64)[which]
        found = np.empty(batch.num_rows, np.int64)
        _look_up(self._pairs, pairs, found)
        unknown = np.flatnonzero(found < 0)
        for i in unknown.tolist():
            t, s, k, n, g = (one[column[i]] for one, column in zip(values, codes, strict=True))
            found[i] = self.number((t, s, k, n, g))
        if len(unknown):
            self._remember(pairs[unknown], found[unknown])
        return found

    def _remember(self, pairs: Ints, numbers: Ints) -> None:
        needed = 2 * (self._pairs_held + len(pairs))
        if needed > len(self._pairs):
            held = self._pairs[self._pairs[:, 0] >= 0]
            self._pairs = np.full((1 << (2 * needed).bit_length(), 2), -1, np.int64)
            _put(self._pairs, held[:, 0].copy(), held[:, 1].copy())
        self._pairs_held += _put(self._pairs, pairs, numbers)

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
            for name in ("_rollup", "_family", "_ungrouped", "_first", "_last"):
                setattr(self, name, np.resize(getattr(self, name), 2 * number))
        self._number[key] = number
        self.names.append(key)
        self.record_keys.append(service_key(key[0], key[1]))
        self.heads.append(metrics.head(*key[:4]))
        self._family[number] = self._families.of(key[1])
        self._ungrouped[number] = not key[4]
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
        rollup, family, ungrouped = moved[self.rollup[keep]], self.family[keep], self.ungrouped[keep]
        first, last = self.first_us[keep], self.last_us[keep]
        self.names = list(compress(self.names, keep.tolist()))
        self.record_keys = list(compress(self.record_keys, keep.tolist()))
        self.heads = list(compress(self.heads, keep.tolist()))
        self._services, self._others, self._pairs_held = {}, {}, 0
        self._pairs = np.full((_FIRST_PAIRS, 2), -1, np.int64)
        self._number = {name: number for number, name in enumerate(self.names)}
        self._grouped = Counter(key[:2] for key in self.names if key[4] not in ("", OTHER))
        self._rollup, self._family, self._ungrouped, self._first, self._last = (
            np.append(values, np.zeros(64, values.dtype))
            for values in (rollup, family, ungrouped, first, last)
        )
        return moved


_NEVER = -(1 << 62)

_FIRST_PAIRS = 1 << 10

_LABELS = ("tenant", "service", "kind", "name", "group")


@njit(cache=True, nogil=True)
def _slot(table: Ints, pair: np.int64) -> np.int64:
    """Where the pair is in the open-addressing table of (pair, number), or the free place for it."""
    mask = np.uint64(len(table) - 1)
    at = ((np.uint64(pair) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask  # 2**64 / golden ratio
    while table[at, 0] >= 0 and table[at, 0] != pair:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@njit(cache=True, nogil=True)
def _look_up(table: Ints, pairs: Ints, out: Ints) -> None:
    """The number of each pair, -1 where it is not in the table."""
    for i in range(len(pairs)):
        out[i] = table[_slot(table, pairs[i]), 1]


@njit(cache=True, nogil=True)
def _put(table: Ints, pairs: Ints, numbers: Ints) -> int:
    """Add pairs; returns how many were new."""
    added = 0
    for i in range(len(pairs)):
        at = _slot(table, pairs[i])
        added += table[at, 0] < 0
        table[at, 0], table[at, 1] = pairs[i], numbers[i]
    return added
