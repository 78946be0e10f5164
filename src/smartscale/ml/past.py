"""A series' past from outside: gathered part by part, then learned as if it had been seen step by step.

::

    imported   x x x - x x x x x                  (- a gap)
    seen                   o o - o  ▲ learned      what was seen counts where both are known
    learned    x x x - x x x o o x o

The series then forecasts as if SmartScale had counted it all along. Nothing is learned of steps after ``learned``: those
are still to come from the windows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smartscale.errors import SchemaError
from smartscale.ml.forecast import ensemble
from smartscale.ml.forecast.ensemble import Forecaster
from smartscale.records.past import PastPart

Array = npt.NDArray[np.float64]
Parts = tuple[PastPart, ...]


def gather(known: Parts, part: PastPart) -> Parts:
    """The parts of an import with one more; a repeat changes nothing, a new import begins afresh.

    Raises ``SchemaError`` for a part whose predecessors are not there, or that does not fit them."""
    if known and known[0].id == part.id:
        if part.part < len(known):
            return known
        last = known[-1]
        follows = (
            part.part == len(known)
            and (part.parts, part.step_us) == (last.parts, last.step_us)
            and part.start_us == last.start_us + len(last.rates) * last.step_us
        )
        if follows and part.part < part.parts:
            return (*known, part)
    elif part.part == 0:
        return (part,)
    raise SchemaError(
        f"part {part.part + 1} of {part.parts} of the import {part.id} of {part.tenant}/{part.service} does not follow "
        f"those before it: import the history again"
    )


def is_whole(parts: Parts) -> bool:
    return len(parts) == parts[0].parts


def first_step(parts: Parts) -> int:
    """Number of the first step (a step is numbered by its end, in steps since the epoch)."""
    return parts[0].start_us // parts[0].step_us + 1


def rates(parts: Parts) -> Array:
    """All values of a whole import, NaN for gaps."""
    return np.array([np.nan if rate is None else rate for part in parts for rate in part.rates], np.float64)


def learn(plan: Forecaster, first: int, values: Array) -> ensemble.State:
    """One series that has seen ``values`` of steps ``first``, ``first + 1``, …; NaN is a gap.

    A long gap is passed over at once, as an outage is."""
    state = plan.fresh(1)
    known = np.flatnonzero(~np.isnan(values))
    step = 0
    while step < len(values):
        left = np.searchsorted(known, step)
        following = int(known[left]) if left < len(known) else len(values)
        if following - step > plan.long_gap:
            plan.skip(state, first + step, first + following - 1)
            step = following
        else:
            plan.learn(state, first + step, values[step : step + 1])
            step += 1
    return state
