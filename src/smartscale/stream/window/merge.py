"""Merging partials: each aggregation merges its own columns, over panes and names.

``Rows`` holds the state of some keys, which are small dense numbers (see ``keys``).

Roll-ups are merged from the merged rows of their names, not from the panes again. A service with a single name, the usual
case, has a roll-up equal to it: both share one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, slots=True)
class Merged:
    """A window: rows, and for every key the row that is its, -1 where it has none, shape (keys,)."""

    rows: Rows
    row_of: Ints


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


def with_rollups(
    panes: Sequence[Rows], rollup: Ints, sharing: npt.NDArray[np.bool_], aggregations: Sequence[Aggregation]
) -> Merged:
    """The panes merged, and the roll-ups of their keys. ``rollup`` has the roll-up's number for each key; where ``sharing``
    is True, a key may share its row with a roll-up that has no other."""
    names = merge(panes, len(rollup), aggregations)
    of_names = rollup[names.key]
    single = (np.bincount(of_names, minlength=len(rollup))[of_names] == 1) & sharing[names.key]
    row_of = np.full(len(rollup), -1)
    row_of[names.key] = np.arange(len(names.key))
    row_of[of_names[single]] = np.flatnonzero(single)
    if single.all():
        return Merged(names, row_of)
    several = names.chosen(np.flatnonzero(~single)).relabelled(of_names[~single])
    rollups = merge([several], len(rollup), aggregations)
    row_of[rollups.key] = len(names.key) + np.arange(len(rollups.key))
    return Merged(one_after_the_other([names, rollups]), row_of)


def one_after_the_other(parts: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.merged for part in parts]),
        {name: joined([part.state[name] for part in parts]) for name in parts[0].state},
    )
