"""The contract of aggregations as a test that any class can be put to (``docs/extending.md``)."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from smartscale.stream.aggregates.protocol import Aggregation, Events
from smartscale.stream.columns import Ints, Lists, State, chosen, from_arrow, joined, to_arrow

_KEYS = 5


def check(aggregation: Aggregation, batch: pa.RecordBatch, seed: int = 0) -> None:
    """Put the events of ``batch`` (of ``records.events.SCHEMA``) into five keys in several ways; all must give one result.

    - all at once, and in two parts merged, in either order;
    - merged in two steps or in one;
    - with ``zero`` merged in; and over the wire.

    Floats may differ by 1e-9. Raises ``AssertionError`` that says which way went wrong."""
    random = np.random.default_rng(seed)
    events = Events(pa.Table.from_batches([batch]))
    group = random.integers(0, _KEYS, batch.num_rows)
    first = random.random(batch.num_rows) < 0.5
    whole = _added(aggregation, events, group)
    one = _added(aggregation, events.chosen(first), group[first])
    other = _added(aggregation, events.chosen(~first), group[~first])
    nothing = aggregation.zero(_KEYS)
    wired = {name: from_arrow(to_arrow(column)) for name, column in whole.items()}
    keys = np.arange(_KEYS)
    ways = {
        "two parts": _merged(aggregation, [one, other], [keys, keys], _KEYS),
        "two parts the other way round": _merged(aggregation, [other, one], [keys, keys], _KEYS),
        "zero and all": _merged(aggregation, [nothing, whole], [keys, keys], _KEYS),
        "over the wire": _merged(aggregation, [wired], [keys], _KEYS),
        "shuffled": chosen(_merged(aggregation, [whole], [keys[::-1]], _KEYS), keys[::-1]),
    }
    for way, state in ways.items():
        _equal(aggregation.result(whole, 10.0), aggregation.result(state, 10.0), f"{aggregation.name}: {way}")
    everything = _merged(aggregation, [one, other], [keys * 0, keys * 0], 1)
    by_steps = _merged(aggregation, [ways["two parts"]], [keys * 0], 1)
    _equal(
        aggregation.result(everything, 10.0), aggregation.result(by_steps, 10.0), f"{aggregation.name}: steps"
    )


def _added(aggregation: Aggregation, events: Events, group: Ints) -> State:
    state = aggregation.zero(_KEYS)
    aggregation.add(state, group, events)
    for name, column in state.items():
        assert len(column) == _KEYS, f"{aggregation.name}: {name} has {len(column)} entries for {_KEYS} keys"
        assert isinstance(column, Lists | np.ndarray), f"{aggregation.name}: {name} is no column"
    return state


def _merged(aggregation: Aggregation, parts: list[State], groups: list[Ints], n: int) -> State:
    state = aggregation.zero(n)
    other = {name: joined([part[name] for part in parts]) for name in state}
    aggregation.merge(state, np.concatenate(groups), other)
    return state


def _equal(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray], where: str) -> None:
    assert wanted.keys() == found.keys(), where
    for name, values in wanted.items():
        for a, b in zip(values.tolist(), found[name].tolist(), strict=True):
            same = a == b or (a != a and b != b) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
            assert same, f"{where}: {name} is {b}, wanted {a}"
