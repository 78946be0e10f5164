"""From points to honest quantiles: each part alone, then the whole on seeded series where the truth is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ml.forecast import aggregation, calibrate, conformal, residuals, tails
from smartscale.ml.forecast.ensemble import Forecaster, State

Array = npt.NDArray[np.float64]
GRID = calibrate.GRID


# --- residuals ----------------------------------------------------------------------------------------------


def kept(sample: Array, memory: float = 1e9) -> npt.NDArray[np.float32]:
    bins = residuals.prior(1)[0].astype(np.float32)
    for z in sample:
        residuals.add(bins, z, 1 - 1 / memory, 1.0)
    return bins


def quantiles(bins: npt.NDArray[np.float32]) -> Array:
    found = np.empty(len(GRID))
    residuals.quantiles(bins, GRID, found)
    return found


def test_quantiles_before_any_residual_are_the_priors() -> None:
    """Symmetric, and its 0.95 quantile is 2.12 mean absolute residuals, as Student's t(5) has it."""
    found = quantiles(kept(np.empty(0)))
    np.testing.assert_allclose(found, -found[::-1], atol=1e-5)
    np.testing.assert_allclose(found[-1], 2.12, rtol=0.03)


def test_quantiles_of_many_residuals_are_the_samples() -> None:
    """A skewed sample of 5,000: each quantile within 5 % and 0.03."""
    sample = np.random.default_rng(1).exponential(1.0, 5000)
    np.testing.assert_allclose(quantiles(kept(sample)), np.quantile(sample, GRID), rtol=0.05, atol=0.03)


def test_old_residuals_fade() -> None:
    """After five memories of a new regime nothing of the old one is left."""
    rng = np.random.default_rng(2)
    sample = np.concatenate([rng.normal(20, 1, 300), rng.normal(0, 1, 500)])
    np.testing.assert_allclose(quantiles(kept(sample, memory=100.0))[9], 0.0, atol=0.2)


@given(st.lists(st.floats(-1e9, 1e9), max_size=50))
def test_quantiles_rise_with_the_level_whatever_was_seen(sample: list[float]) -> None:
    """Absurd residuals too: they land in the outermost bins."""
    found = quantiles(kept(np.array(sample)))
    assert (np.diff(found) >= 0).all()
    assert np.isfinite(found).all()


# --- tails --------------------------------------------------------------------------------------------------


def fitted(excesses: Array) -> tuple[float, float]:
    bins = tails.prior().astype(np.float32)
    for excess in excesses:
        tails.add(bins, excess, 1.0)
    scale, shape = tails.fit(bins)
    return float(scale), float(shape)


def test_a_tail_is_found_to_0_9995() -> None:
    """Excesses of an exponential (shape 0) and of a heavier Pareto tail (shape 0.25): the quantiles beyond are theirs."""
    rng = np.random.default_rng(3)
    draws = rng.random(4000)
    for shape in (0.0, 0.25):
        excesses = -np.log(draws) if shape == 0 else (draws**-shape - 1) / shape
        scale, found = fitted(0.8 * excesses)
        for level in (0.99, 0.999, 0.9995):
            true = 0.8 * float(tails.reach(level, shape))
            np.testing.assert_allclose(scale * tails.reach(level, found), true, rtol=0.3)


def test_without_excesses_the_tail_is_the_priors() -> None:
    """Exponential, near enough: the 0.99 quantile is ln 5 mean excesses out, and the shape is nearly ``SHAPE``."""
    scale, shape = fitted(np.empty(0))
    np.testing.assert_allclose(scale * tails.reach(0.99, shape), tails.PRIOR_MEAN * np.log(5), rtol=0.1)
    np.testing.assert_allclose(shape, tails.SHAPE, atol=0.05)


@given(st.floats(-0.2, 0.3), st.floats(0.951, 0.99999))
def test_chance_and_quantile_are_inverse(shape: float, level: float) -> None:
    """The chance of an excess as far out as the quantile at a level is one less the level."""
    beyond = tails.reach(level, shape)
    np.testing.assert_allclose(tails.chance(beyond, 1.0, shape), 1 - level, rtol=1e-6)


# --- conformal levels ---------------------------------------------------------------------------------------


def test_the_adapted_level_rises_with_misses_and_settles_where_hits_are_the_level() -> None:
    """Nine hits and a miss leave the level of 0.9 where it is (Gibbs and Candes 2021)."""
    adapted, issued = conformal.LEVELS.astype(np.float32), np.zeros(7, np.float32)
    conformal.adapt(adapted, issued, 1.0, 1.0)
    assert (adapted > conformal.LEVELS).all()
    for _ in range(9):
        conformal.adapt(adapted, issued, -1.0, 1.0)
    np.testing.assert_allclose(adapted[5], 0.9, atol=1e-5)


def test_levels_between_move_with_their_neighbours_and_keep_their_order() -> None:
    """Only 0.5 moved, by 0.3: 0.4 moves by 0.18, and no level overtakes a higher one."""
    adapted, found = conformal.LEVELS.astype(np.float32), np.empty(len(GRID))
    adapted[3] += 0.3
    conformal.asked(adapted, GRID, found)
    np.testing.assert_allclose(found[7], 0.4 + 0.18, atol=1e-6)
    assert (np.diff(found) >= 0).all()


# --- averaging ----------------------------------------------------------------------------------------------


def weights_after(regrets: Array, awake: tuple[bool, ...] = (True, True)) -> Array:
    """Weights of two experts after these regrets, shape (steps, 2)."""
    memory, found = np.zeros((2, aggregation.FIELDS), np.float32), np.empty(2)
    for row in regrets:
        for k in range(2):
            aggregation.charge(memory[k], row[k], 1.0)
    aggregation.weigh(memory, np.array([0.7, 0.3]), np.array(awake), found)
    return found


def test_weights_start_at_the_prior_and_go_to_the_better() -> None:
    """A steady regret against the second: nearly all of the weight after 200 steps."""
    np.testing.assert_allclose(weights_after(np.empty((0, 2))), [0.7, 0.3])
    assert weights_after(np.tile([-0.1, 0.1], (200, 1)))[1] > 0.95


def test_one_burst_does_not_turn_the_weights() -> None:
    """One regret of a thousand typical losses after a hundred of the other sign."""
    regrets = np.tile([0.3, -0.3], (100, 1))
    regrets[-1] = [-1000, 1000]
    assert weights_after(regrets)[0] > 0.5


def test_an_expert_without_a_forecast_weighs_nothing() -> None:
    """And with nobody awake there is no weight at all."""
    assert weights_after(np.empty((0, 2)), (False, True)).tolist() == [0, 1]
    assert weights_after(np.empty((0, 2)), (False, False)).tolist() == [0, 0]


# --- the whole ----------------------------------------------------------------------------------------------


def learned(plan: Forecaster, rates: Array) -> State:
    state = plan.fresh(rates.shape[1])
    for step, column in enumerate(rates):
        plan.learn(state, step, column)
    return state


def counts(seed: int, steps: int, series: int, rate: float = 20.0) -> Array:
    """Poisson counts over 10 s of a level that wanders, as rates; shape (steps, series)."""
    rng = np.random.default_rng(seed)
    level = np.sqrt(rate) + np.cumsum(rng.normal(0, 0.03, (steps, series)), axis=0)
    return np.asarray(rng.poisson(np.maximum(level, 1) ** 2 * 10) / 10)


def test_tail_levels_are_exceeded_as_often_as_they_say() -> None:
    """60 series, after 1,000 steps: values and maxima above 0.99 to 0.9995, from half to 1.5 times the nominal share.
    The path is a plain moving mean: what is tested is what is around it."""
    plan, roots = calibrate.plan([1, 2, 6], 0.16), np.sqrt(counts(4, 3000, 60))
    state, level = calibrate.fresh(plan, 60), roots[0]
    for step, truth in enumerate(roots):
        if step == 1000:
            state.exceeded[:] = 0
        calibrate.settle(plan, state, step, truth)
        level = level + 0.2 * (truth - level)
        points = np.full((60, calibrate.EXPERTS, 6), np.nan)
        points[:, calibrate.MIXTURE], points[:, calibrate.NAIVE] = level[:, None], truth[:, None]
        calibrate.issue(plan, state, step, points)
    seen = state.exceeded[:, :, :-1].sum(axis=0) / state.exceeded[:, :, -1:].sum(axis=0)
    nominal = 1 - calibrate.TAIL_LEVELS
    assert (seen > 0.5 * nominal).all(), seen
    assert (seen < 1.5 * nominal).all(), seen


def test_surprise_on_clean_data_is_uniform() -> None:
    """The chance of a value as high is below u in a share u of steps, and the same of a value as low."""
    plan, rates = Forecaster(10.0, 6, 100), counts(5, 500, 40)
    state, low, high = plan.fresh(40), [], []
    for step, column in enumerate(rates):
        if step >= 200:
            found = plan.surprise(state, state.memory, step - 1, column)
            low.append(found.p_low)
            high.append(found.p_high)
        plan.learn(state, step, column)
    for chances in (np.array(low), np.array(high)):
        for u, allowed in ((0.5, 0.03), (0.05, 0.01), (0.01, 0.004), (0.001, 0.001)):
            assert abs((chances < u).mean() - u) < allowed


def test_white_noise_is_forecast_as_well_as_it_can_be() -> None:
    """Nothing but chance: within 6 % of the loss of who knows the distribution."""
    rng, plan = np.random.default_rng(6), Forecaster(10.0, 6, 100, GRID)
    rates = rng.poisson(200, (600, 40)) / 10
    state, ours, ideal = plan.fresh(40), [], []
    best = np.quantile(rng.poisson(200, 100_000) / 10, GRID)
    for step, column in enumerate(rates[:-6]):
        plan.learn(state, step, column)
        if step >= 150 and step % 10 == 0:
            found = plan.forecast(state, state.memory, step).values
            truth = rates[step + 1 : step + 7].T[:, :, None]
            ours.append(pinball(found, truth))
            ideal.append(pinball(best, truth))
    assert np.mean(ours) < 1.06 * np.mean(ideal)


def test_a_short_history_is_forecast_no_worse_than_naively() -> None:
    """A day of 10 minutes that wanders without a season: from its second quarter on, within 5 % of the last value with the
    quantiles of its own changes."""
    rng, plan = np.random.default_rng(7), Forecaster(600.0, 30, 2000, GRID)
    rates = 50 * np.exp(np.cumsum(rng.normal(0, 0.1, (144, 30)), axis=0))
    state, ours, naive = plan.fresh(30), [], []
    for step, column in enumerate(rates[:-30]):
        plan.learn(state, step, column)
        if step >= 36 and step % 6 == 0:
            found = plan.forecast(state, state.memory, step).values
            for h in (1, 3, 10, 30):
                changes = rates[h : step + 1] - rates[: step + 1 - h]
                offsets = np.quantile(changes, GRID, axis=0).T
                truth = rates[step + h][:, None]
                ours.append(pinball(found[:, h - 1], truth))
                naive.append(pinball(np.maximum(column[:, None] + offsets, 0), truth))
    assert np.mean(ours) < 1.05 * np.mean(naive)


def pinball(found: Array, truth: Array) -> float:
    difference = truth - found
    return float(np.maximum(GRID * difference, (GRID - 1) * difference).mean())


def test_levels_are_a_question_not_a_state() -> None:
    """Two plans of different levels learn the same state, and where levels agree so do the quantiles."""
    few, many = (
        Forecaster(10.0, 6, 100, np.array([0.5, 0.99])),
        Forecaster(10.0, 6, 100, np.arange(1, 100) / 100),
    )
    rates = counts(8, 50, 2)
    one, two = learned(few, rates), learned(many, rates)
    np.testing.assert_array_equal(one.bins, two.bins)
    np.testing.assert_allclose(
        few.forecast(one, one.memory, 49).values, many.forecast(two, two.memory, 49).values[:, :, [49, 98]]
    )


def test_memory_is_bounded_however_long_the_horizon() -> None:
    """Two hours of 10 s are 720 steps: a series keeps under 8 kB of calibration beside its past."""
    plan = calibrate.plan([1, 9, 80, 720], 0.1)
    assert sum(array.nbytes for array in calibrate.fresh(plan, 1)) < 8_000


def test_maxima_over_a_gap_are_told_only_if_most_is_known() -> None:
    """Horizon 6, one gap of 6: too much is missing, so that maximum teaches nothing."""
    plan, rates = Forecaster(10.0, 6, 100), np.full((8, 1), 5.0)
    rates[4] = np.nan
    state = learned(plan, rates)
    stream = int(plan.plan.streams[-1])
    assert state.size[0, stream, 1] == 0
    assert state.size[0, 0, 1] > 0
