"""Many metrics of one thing as one state score: what makes it strange, and what does not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from smartscale.ml.anomaly.protocol import pack, unpack
from smartscale.ml.anomaly.together import WARM_UP, Together, TogetherState

Floats = npt.NDArray[np.float64]
METRICS, STEPS = 16, 1500
FAULT = slice(1000, 1060)


def drawn(seed: int, faulty: int = 2) -> Floats:
    """Waves and noise, each metric at its own scale; ``faulty`` of them eight deviations up for an hour."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(STEPS)[:, None] / 60 + rng.random(METRICS))
    values = (wave + rng.normal(0, 0.5, (STEPS, METRICS))) * rng.uniform(0.1, 1000, METRICS)
    values[FAULT, :faulty] += 8 * values[:, :faulty].std(axis=0)
    return values


def run(values: Floats, state: TogetherState | None = None) -> Floats:
    together = Together()
    kept = state or together.fresh(values.shape[1])
    return np.array([together.step(kept, step) for step in values])


def test_a_fault_in_an_eighth_of_the_metrics_is_strange_for_as_long_as_it_lasts() -> None:
    """::

    metrics 0, 1    ~~~~~~~~ ‾‾‾‾‾‾ ~~~~~
    all others      ~~~~~~~~~~~~~~~~~~~~~
    state           ________/‾‾‾‾‾‾\\____
    """
    state = run(drawn(1))
    assert ((state >= 0) & (state <= 1)).all()
    assert np.median(state[FAULT]) >= 0.5
    assert state[WARM_UP : FAULT.start].max() < 0.5
    assert state[FAULT.stop + 200 :].max() < 0.5


def test_units_and_signs_of_each_metric_change_nothing() -> None:
    values = drawn(2)
    factors = np.resize([1e6, -1.0, 1e-3, 2.0], METRICS)
    np.testing.assert_allclose(run(values), run(values * factors + 1e3), atol=1e-6)


def test_it_sees_no_future() -> None:
    values = drawn(3)
    other = values.copy()
    other[700:] = np.random.default_rng(5).normal(0, 1e5, other[700:].shape)
    assert np.array_equal(run(values)[:700], run(other)[:700])


def test_a_broken_metric_weighs_no_more_than_its_place() -> None:
    """One metric of nonsense makes up half of the greatest two; the score stays a number, and lower than with two."""
    values = drawn(4, faulty=0)
    values[500:, 3] = np.resize([np.nan, np.inf, -np.inf, 1e308, 1e140], STEPS - 500)
    one = run(values)
    values[500:, 4] = values[500:, 3]
    two = run(values)
    assert np.isfinite(one).all()
    assert one[600:].mean() < two[600:].mean()


def test_a_gap_holds_what_is_known() -> None:
    values = drawn(5)
    values[900:950] = np.nan
    state = run(values)
    assert np.ptp(state[948:950]) < 0.01


@pytest.mark.parametrize("metrics", [1, 2, 7])
def test_few_metrics_and_constant_ones_are_calm(metrics: int) -> None:
    assert run(np.full((300, metrics), 7.0)).max() == 0


def test_a_state_packed_midway_goes_on_as_if_it_never_was() -> None:
    values, together = drawn(6), Together()
    state = together.fresh(METRICS)
    first = run(values[:800], state)
    second = run(values[800:], unpack(together.fresh(METRICS), pack(state)))
    assert np.array_equal(run(values), np.concatenate([first, second]))
