"""What every forecasting method promises, as checks that any class can be put to (``docs/extending.md``).

Each check is given a method and raises ``AssertionError`` that says what is wrong; ``check`` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from smartscale.ml.forecast.protocol import Array, Method
from smartscale.ml.series import history
from smartscale.ml.series.history import Past

SERIES: Final = 4
HORIZON: Final = 6


def check(method: Method) -> None:
    """Put ``method`` to every check. It is given steps of an hour or so: some 200 values with a day of 24 steps."""
    for one in CHECKS:
        one(method)


def drawn(seed: int, steps: int, series: int = SERIES) -> Array:
    """Roots of Poisson counts around a daily wave (24 steps), with a gap now and then; shape (steps, series)."""
    rng = np.random.default_rng(seed)
    wave = 50 + 30 * np.sin(np.arange(steps) * 2 * np.pi / 24)
    counts = rng.poisson(wave[:, None] * np.arange(1, series + 1), (steps, series)).astype(np.float64)
    counts[rng.random((steps, series)) < 0.03] = np.nan
    return np.asarray(np.sqrt(counts + 0.375))


def taught(method: Method, roots: Array) -> tuple[Array, Past]:
    """Memory and past of a method that has learned all of ``roots``, shape (steps, series), from step 1,000 on."""
    memory = method.fresh(roots.shape[1])
    ring = history.empty(roots.shape[1], 256)
    for step, column in enumerate(roots, 1000):
        history.put(ring, step, column)
        method.learn(memory, column.copy(), Past(ring, step))
    return memory, Past(ring, 999 + len(roots))


def tells_shapes(method: Method) -> None:
    """Memory is (n, width), a forecast (n, horizon), a rung one a series; of no series too, and of any horizon."""
    for series in (0, 1, SERIES):
        memory, past = taught(method, drawn(0, 30, series))
        assert memory.shape == (series, method.width), f"memory is {memory.shape}"
        assert memory.dtype == np.float64, f"memory is {memory.dtype}"
        for horizon in (1, HORIZON):
            shape = method.forecast(memory, past, horizon).shape
            assert shape == (series, horizon), f"a forecast of {horizon} steps of {series} series is {shape}"
        assert method.rung(memory).shape == (series,), "a rung a series"


def asking_changes_nothing(method: Method) -> None:
    """The same question gives the same answer, and leaves memory and past as they are."""
    memory, past = taught(method, drawn(1, 150))
    before, ring = memory.copy(), past.ring.copy()
    first = method.forecast(memory, past, HORIZON)
    _same(method.forecast(memory, past, HORIZON), first, "asked again")
    _same(memory, before, "memory after a question")
    _same(past.ring, ring, "past after a question")


def cannot_see_the_future(method: Method) -> None:
    """Columns after the origin replaced by noise change nothing; with a horizon beyond two days too."""
    memory, past = taught(method, drawn(2, 150))
    expected = method.forecast(memory, past, 53)
    for step in range(past.origin + 1, past.origin + 54):
        history.put(past.ring, step, np.full(SERIES, 1e6))
    _same(method.forecast(memory, past, 53), expected, "the future was noise")
    learned, rewritten = drawn(2, 151), memory.copy()
    history.put(past.ring, past.origin + 1, learned[150])
    method.learn(memory, learned[150], Past(past.ring, past.origin + 1))
    for step in range(past.origin + 2, past.origin + 54):
        history.put(past.ring, step, np.full(SERIES, np.nan))
    method.learn(rewritten, learned[150], Past(past.ring, past.origin + 1))
    _same(memory, rewritten, "the future was noise while learning")


def scales_with_its_values(method: Method) -> None:
    """A thousand times the rate, or a thousandth, gives so many times the forecast (half a per cent apart at most)."""
    roots = drawn(3, 150)
    one = method.forecast(*taught(method, roots), HORIZON)
    for factor in (1000.0, 0.001):
        scaled = method.forecast(*taught(method, np.sqrt(factor) * roots), HORIZON)
        apart = np.nanmax(np.abs(scaled / np.sqrt(factor) / one - 1), initial=0.0)
        assert np.array_equal(np.isnan(scaled), np.isnan(one)), f"times {factor}: speaks at other times"
        assert apart < 0.005, f"times {factor}: {apart:.3g} apart"


def keeps_series_apart(method: Method) -> None:
    """Nothing in one series (gaps, silence, leaps, the largest values) touches the others by a bit; nor does it matter
    whether a series is learned alone or with others."""
    roots = drawn(4, 150)
    calm = method.forecast(*taught(method, roots), HORIZON)
    alone = method.forecast(*taught(method, roots[:, 1:2]), HORIZON)
    _same(alone, calm[1:2], "learned alone")
    leaps = np.where(np.arange(150) % 2, 3e4, 0.1)
    bads: dict[str, Array | float] = {"gaps": np.nan, "zero": 0.0, "huge": 1e13, "leaps": leaps}
    for name, bad in bads.items():
        wild = roots.copy()
        wild[:, 0] = bad
        _same(method.forecast(*taught(method, wild), HORIZON)[1:], calm[1:], f"beside a series of {name}")


def says_nothing_before_it_knows_anything(method: Method) -> None:
    """Without a value there is no forecast, and no error."""
    memory, past = taught(method, np.full((40, SERIES), np.nan))
    assert np.isnan(method.forecast(memory, past, HORIZON)).all(), "a forecast of a series without values"


def takes_gaps_for_gaps(method: Method) -> None:
    """A steady series with gaps, single ones and a long one at the end, is expected to go on as it was, not to fall."""
    roots = np.full((150, 1), 7.0)
    roots[::9] = np.nan
    roots[130:] = np.nan
    path = method.forecast(*taught(method, roots), HORIZON)
    known = ~np.isnan(path)
    assert np.allclose(path[known], 7.0, rtol=0.02), f"7 for ever, then {path.round(2).tolist()}"


def recovers_from_the_absurd(method: Method) -> None:
    """One value a million times too large, and a few days later the forecast is near what is ordinary again."""
    roots = drawn(5, 200, 1)
    roots[50] *= 1000
    path = method.forecast(*taught(method, roots), HORIZON)
    assert np.isfinite(path[~np.isnan(path)]).all(), "infinite"
    assert (np.abs(path[~np.isnan(path)]) < 30).all(), f"values near 7, and it says {path.round(1).tolist()}"


def follows_without_learning_twice(method: Method) -> None:
    """``follow`` moves the origin as ``learn`` does: right after it, the forecasts agree to 2 %."""
    roots = drawn(6, 150)
    memory, past = taught(method, roots[:-1])
    moved, now = memory.copy(), Past(past.ring, past.origin + 1)
    history.put(past.ring, now.origin, roots[-1])
    method.follow(moved, roots[-1].copy(), now)
    method.learn(memory, roots[-1].copy(), now)
    followed, learned = method.forecast(moved, now, HORIZON), method.forecast(memory, now, HORIZON)
    assert np.allclose(followed, learned, rtol=0.02, equal_nan=True), "follow and learn disagree"


CHECKS: Final[tuple[Callable[[Method], None], ...]] = (
    tells_shapes,
    asking_changes_nothing,
    cannot_see_the_future,
    scales_with_its_values,
    keeps_series_apart,
    says_nothing_before_it_knows_anything,
    takes_gaps_for_gaps,
    recovers_from_the_absurd,
    follows_without_learning_twice,
)


def _same(found: np.ndarray, wanted: np.ndarray, when: str) -> None:
    assert np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f"), f"another answer: {when}"
