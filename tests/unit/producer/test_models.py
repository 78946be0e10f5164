"""Latency and error models: samples, distributions and quantile functions tell the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from smartscale.producer.models import (
    HIGHEST_LOAD,
    Capacity,
    Gamma,
    Latency,
    Lognormal,
    Mixture,
    Overload,
    Quantiles,
    distribution,
    mean_wait_s,
    queued,
    sample,
    waiting,
)

MODELS: list[Latency] = [
    Lognormal(median_ms=30, sigma=0.5),
    Gamma(mean_ms=50, shape=2),
    Mixture(body=Lognormal(median_ms=30), tail=Gamma(mean_ms=500), tail_share=0.1),
]
ids = ["lognormal", "gamma", "mixture"]


@pytest.mark.parametrize("model", MODELS, ids=ids)
def test_samples_have_the_distribution_of_the_model(model: Latency) -> None:
    shares = distribution(model, sample(model, np.random.default_rng(3), 20_000))
    assert stats.kstest(shares, "uniform").pvalue > 0.01


@pytest.mark.parametrize("model", MODELS, ids=ids)
def test_the_quantile_function_is_the_inverse_of_the_distribution(model: Latency) -> None:
    """To a thousandth of the share, in the middle and in the tail."""
    shares = np.array([0.001, 0.1, 0.5, 0.9, 0.99, 0.9999])
    ms = Quantiles.of((model,), (1.0,), None).at(shares, np.zeros(6))
    found = distribution(model, ms)
    assert abs(found - shares).max() < 1e-3
    assert 1 - found[-1] == pytest.approx(1e-4, rel=0.05)


def test_moments_are_those_of_the_samples() -> None:
    for model in MODELS:
        drawn = sample(model, np.random.default_rng(5), 200_000)
        mean, deviation = Quantiles.of((model,), (1.0,), None).moments(np.zeros(1))
        assert mean[0] == pytest.approx(drawn.mean(), rel=0.01)
        assert deviation[0] == pytest.approx(drawn.std(), rel=0.03)


def test_a_single_server_under_load_answers_as_theory_has_it() -> None:
    """M/M/1 at 100/s of capacity: the whole time in the system is exponential with mean 1 / (100 - rate) s."""
    quantiles = Quantiles.of((Gamma(mean_ms=10, shape=1),), (1.0,), Capacity(per_s=100, servers=1))
    for load in (0.0, 0.3, 0.5, 0.8, 0.9, 0.95):
        for share in (0.5, 0.9, 0.99):
            exact_ms = -np.log(1 - share) * 1000 / (100 * (1 - load))
            assert quantiles.at(np.array([share]), np.array([load]))[0] == pytest.approx(exact_ms, rel=0.03)


def test_erlang_c_has_its_known_values() -> None:
    """M/M/1: the load itself. M/M/2 at half load: 1/3. Nobody waits without load; from the highest on nothing changes."""
    assert waiting(np.array([0.5]), 2)[0] == pytest.approx(1 / 3)
    assert waiting(np.array([0.0]), 5)[0] == 0
    assert waiting(np.array([3.0]), 1)[0] == pytest.approx(HIGHEST_LOAD)
    assert queued(np.array([0.5]), 1)[0] == pytest.approx(0.5)  # load^2 / (1 - load)
    assert mean_wait_s(np.array([0.9]), 100)[0] == pytest.approx(0.1)


def test_failures_under_load_rise_between_two_loads() -> None:
    overload = Overload(start=0.8, full=1.2, rate=0.4)
    assert overload.failing(np.array([0.5, 0.8, 1.0, 1.2, 9.0])) == pytest.approx([0, 0, 0.2, 0.4, 0.4])
