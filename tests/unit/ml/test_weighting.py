"""The mixture is never long behind its best member, whatever the data do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.ml.forecast import weighting

Array = npt.NDArray[np.float64]


def run(forecasts: Array, truth: Array, keep: float = 1.0) -> tuple[Array, Array, Array]:
    """One series, one step ahead: the mixture's forecasts (T,), the last weights (K,) and usual error of each step (T,).

    ``forecasts`` (T, K), NaN where a method sleeps."""
    steps, methods = forecasts.shape
    regret, squares, usual = np.zeros((1, methods)), np.zeros((1, methods)), np.zeros((1, 2))
    said, share, typical = np.empty(steps), np.empty(methods), np.empty(steps)
    for t in range(steps):
        awake = ~np.isnan(forecasts[t])
        weighting.weights(regret[0], squares[0], awake, np.ones(methods), share)
        said[t] = np.where(awake, forecasts[t], 0.0) @ share
        points = np.append(forecasts[t], said[t])[None].astype(np.float32)
        weighting.charge(points, truth[t : t + 1], keep, regret, squares, usual)
        typical[t] = usual[0, 0] / usual[0, 1]
    weighting.weights(regret[0], squares[0], ~np.isnan(forecasts[-1]), np.ones(methods), share)
    return said, share, typical


def adversarial(seed: int, steps: int, methods: int) -> tuple[Array, Array]:
    """Forecasts drawn at random, and a truth that always lies on the other side of where the mixture was last."""
    rng = np.random.default_rng(seed)
    forecasts = rng.choice([-1.0, 1.0], (steps, methods)) * rng.uniform(0.5, 1, (steps, methods))
    truth, regret, squares = np.empty(steps), np.zeros((1, methods)), np.zeros((1, methods))
    usual, share = np.zeros((1, 2)), np.empty(methods)
    for t in range(steps):
        weighting.weights(regret[0], squares[0], np.ones(methods, np.bool_), np.ones(methods), share)
        mixture = forecasts[t] @ share
        truth[t] = -np.sign(mixture) if mixture else 1.0
        points = np.append(forecasts[t], mixture)[None].astype(np.float32)
        weighting.charge(points, truth[t : t + 1], 1.0, regret, squares, usual)
    return forecasts, truth


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), methods=st.integers(2, 8), steps=st.integers(50, 800))
def test_regret_stays_within_the_bound_against_an_adversary(seed: int, methods: int, steps: int) -> None:
    """Gaillard, Stoltz and van Erven 2014, theorem 5, with ``START`` for the 1 and losses in [-MOST, MOST]:
    for every method at once the sum of r is at most the root of K (1 + ln(1 + T)) (1 + sum of r^2), in units of their
    range."""
    forecasts, truth = adversarial(seed, steps, methods)
    regret, squares, usual = np.zeros((1, methods)), np.zeros((1, methods)), np.zeros((1, 2))
    share = np.empty(methods)
    for t in range(steps):
        weighting.weights(regret[0], squares[0], np.ones(methods, np.bool_), np.ones(methods), share)
        points = np.append(forecasts[t], forecasts[t] @ share)[None].astype(np.float32)
        weighting.charge(points, truth[t : t + 1], 1.0, regret, squares, usual)
    unit = weighting.MOST
    bound = unit * np.sqrt(methods * (1 + np.log(1 + steps)) * (1 + squares / unit**2))
    assert (regret <= bound).all()


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_mixture_soon_does_as_well_as_its_best_member(best: int) -> None:
    """Noise around a wandering truth, of standard deviation 1 for one method and 3 for the others: over 1,000 steps the
    mixture loses at most 5 % more than the one, or less (averages of independent errors are better still)."""
    rng = np.random.default_rng(best)
    truth = 50 + np.cumsum(rng.normal(0, 1, 1000))
    sizes = np.where(np.arange(3) == best, 1.0, 3.0)
    forecasts = truth[:, None] + rng.normal(0, 1, (1000, 3)) * sizes
    said, share, _ = run(forecasts, truth)
    assert np.abs(said - truth).mean() < 1.05 * np.abs(forecasts[:, best] - truth).mean()
    assert share[best] > 0.7


def test_the_mixture_finds_an_average_better_than_any_member() -> None:
    """One method is always 2 too high, the other 2 too low: weights of a half, and hardly an error."""
    rng = np.random.default_rng(4)
    truth = 20 + rng.normal(0, 1, 600)
    forecasts = truth[:, None] + np.array([2.0, -2.0]) + rng.normal(0, 0.5, (600, 2))
    said, share, _ = run(forecasts, truth)
    np.testing.assert_allclose(share, 0.5, atol=0.1)
    assert np.abs(said - truth)[300:].mean() < 0.5


def test_the_best_member_may_change() -> None:
    """Method 0 is right for 400 steps, then method 1: with fading sums the mixture has changed sides 300 steps later."""
    rng = np.random.default_rng(5)
    truth = rng.normal(20, 2, 1000)
    good = np.arange(1000)[:, None] < 400
    right, wrong = rng.normal(0, 0.5, (1000, 2)), rng.normal(0, 3, (1000, 2))
    errors = np.where(np.hstack([good, ~good]), right, wrong)
    said, _, _ = run(truth[:, None] + errors, truth, keep=float(np.exp(-1 / 500)))
    assert np.abs(said - truth)[700:].mean() < 1.2 * np.abs(errors[700:, 1]).mean()


def test_a_sleeping_method_weighs_nothing_and_wakes_without_a_handicap() -> None:
    """Method 1 sleeps for 300 steps and is then right: within 50 steps it carries the mixture, though method 0 had all those
    steps to collect evidence."""
    rng = np.random.default_rng(6)
    truth = rng.normal(20, 2, 400)
    forecasts = truth[:, None] + rng.normal(0, [2.0, 3.0, 0.3], (400, 3))
    forecasts[:300, 2] = np.nan
    said, share, _ = run(forecasts[:300], truth[:300])
    assert share[2] == 0
    said, share, _ = run(forecasts, truth)
    assert share[2] > 0.8
    assert np.abs(said - truth)[350:].mean() < 0.6


def test_without_evidence_the_first_method_speaks_alone() -> None:
    """The naive one, which comes first; the others earn their share. Nobody awake: nobody weighs."""
    share, nothing = np.empty(3), np.zeros(3)
    for awake, wanted in (
        ([True, True, True], [1, 0, 0]),
        ([False, True, True], [0, 1, 0]),
        ([False] * 3, [0] * 3),
    ):
        weighting.weights(nothing, nothing, np.array(awake), np.ones(3), share)
        assert share.tolist() == wanted


def test_scale_does_not_matter() -> None:
    """A thousand times the values, the same weights."""
    rng = np.random.default_rng(7)
    truth = rng.normal(20, 2, 200)
    forecasts = truth[:, None] + rng.normal(0, [2.0, 1.0], (200, 2))
    _, one, _ = run(forecasts, truth)
    _, thousand, _ = run(1000 * forecasts, 1000 * truth)
    np.testing.assert_allclose(one, thousand, rtol=1e-3)


def test_an_absurd_truth_counts_as_one_surprise() -> None:
    """1e13 once: the better method is still preferred."""
    rng = np.random.default_rng(8)
    truth = rng.normal(20, 2, 300)
    forecasts = truth[:, None] + rng.normal(0, [3.0, 1.0], (300, 2))
    truth[150] = 1e13
    _, share, _ = run(forecasts, truth)
    assert np.isfinite(share).all()
