"""Merging partials: each aggregation merges its own columns, over panes and names.

``Rows`` holds the state of some keys, which are small dense numbers (see ``keys``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smartscale.stream.aggregates.protocol import Aggregation
from smartscale.stream.aggregates.requests import add_up
from smartscale.stream.columns import Ints, State, chosen, joined


@dataclass(frozen=True, slots=True)
class Rows:
    """Aggregates of n rows. ``merged`` counts the partials merged into each: it only grows, and says how often a result has
    been revised."""

    key: Ints  # (n,)
    merged: Ints  # (n,)
    state: State

    def relabelled(self, key: Ints) -> Rows:
        """The same aggregates under other keys (of a roll-up, say); keys may repeat."""
        return Rows(key, self.merged, self.state)

    def chosen(self, rows: Ints) -> Rows:
        """Only these rows, in this order."""
        return Rows(self.key[rows], self.merged[rows], chosen(self.state, rows))


def nothing(aggregations: Sequence[Aggregation]) -> Rows:
    """No rows."""
    state = {name: column for one in aggregations for name, column in one.zero(0).items()}
    return Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), state)


def merge(parts: Sequence[Rows], keys: int, aggregations: Sequence[Aggregation]) -> Rows:
    """One row per key that occurs, ascending by key; ``keys`` is above every key. Order of parts does not matter
    (but for the last bits of float sums)."""
    key = np.concatenate([part.key for part in parts])
    present = np.zeros(keys, np.bool_)
    present[key] = True
    group = (np.cumsum(present) - 1)[key]
    groups = int(np.count_nonzero(present))
    merged = np.zeros(groups, np.int64)
    add_up(group, np.concatenate([part.merged for part in parts]), merged)
    state: State = {}
    for one in aggregations:
        of_one = one.zero(groups)
        one.merge(of_one, group, {name: joined([part.state[name] for part in parts]) for name in of_one})
        state |= of_one
    return Rows(np.flatnonzero(present), merged, state)
