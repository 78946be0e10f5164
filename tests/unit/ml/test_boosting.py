"""One gradient boosting over all series: what it learns from, that a replay gives the same, that it helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from smartscale.ml import snapshot
from smartscale.ml.anomaly.feedback import Plan
from smartscale.ml.forecast import boosting
from smartscale.ml.forecast.boosting import FEATURES, Boosted, Boosting, Job, Trainer, fit, predict
from smartscale.ml.partition import Models, Outcome, State
from smartscale.ml.series.history import Past, empty, put
from smartscale.ml.series.rows import Row
from smartscale.records.metrics import Progress

STEP_US = 600_000_000
ORIGIN = 3_000_000
DAY = 144


def job(size: int = 3000, seed: int = 0) -> Job:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, FEATURES)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[:, 3], x[:, 4] = 1.0, np.nan
    y = np.nan_to_num(x[:, 0]) * 2 + np.abs(np.nan_to_num(x[:, 5])) + rng.normal(size=size)
    return Job(7, x, y, np.ones(size))


def test_its_trees_say_what_scikit_learn_says() -> None:
    """Of features with gaps, a constant and one that is never known; the same job twice gives the same trees."""
    one, trees = job(), fit(job())
    columns = [i for i in range(FEATURES) if i not in (3, 4)]
    model = HistGradientBoostingRegressor(**boosting.SETTINGS).fit(one.x[:, columns], one.y, one.weight)
    np.testing.assert_allclose(
        predict(trees, one.x), model.predict(one.x[:, columns]), rtol=1e-12, atol=1e-12
    )
    again = fit(job())
    for field in dataclasses.fields(trees):
        np.testing.assert_array_equal(getattr(trees, field.name), getattr(again, field.name))


def ring(values: npt.NDArray[np.float64], width: int = 1000) -> npt.NDArray[np.uint16]:
    codes = empty(len(values), width)
    for step in range(values.shape[1]):
        put(codes, step, values[:, step])
    return codes


def method() -> Boosting:
    return Boosting(600.0, 12, 900, DAY, 0, 0)


def test_it_looks_at_nothing_after_its_origin() -> None:
    """With the future replaced by noise it learns the same and says the same, a daily season included."""
    rng = np.random.default_rng(1)
    known = rng.uniform(5, 9, (6, 700))
    futures = [rng.uniform(0, 900, (6, 80)) for _ in range(2)]
    jobs, said = [], []
    one = method()
    one.trees = fit(job())
    for future in futures:
        codes = ring(np.concatenate([known, future], axis=1))
        past = Past(codes, 699)
        jobs.append(one.sample(past, np.full(6, 700)))
        said.append(one.forecast(np.empty((6, 0)), past, 12))
    np.testing.assert_array_equal(jobs[0].x, jobs[1].x)
    np.testing.assert_array_equal(jobs[0].y, jobs[1].y)
    np.testing.assert_array_equal(said[0], said[1])
    assert len(jobs[0].y) > 1000


def test_what_it_learns_does_not_depend_on_the_unit() -> None:
    """Eight times the values (exact in codes): the same sample, and eight times the forecast."""
    values = np.random.default_rng(2).uniform(50, 90, (3, 700))
    one = method()
    one.trees = fit(job())
    small, large = (Past(ring(values * unit), 699) for unit in (1.0, 8.0))
    seen = np.full(3, 700)
    np.testing.assert_allclose(one.sample(small, seen).y, one.sample(large, seen).y, rtol=1e-6)
    said = [one.forecast(np.empty((3, 0)), past, 12) for past in (small, large)]
    np.testing.assert_allclose(said[1], 8 * said[0], rtol=0.05)


def test_it_sleeps_until_there_is_enough_and_is_trained_again_when_more_has_come() -> None:
    """A thousand values, 200 of one series; then after 256 steps, and later after an eighth of the history."""
    one = method()
    assert np.isnan(one.forecast(np.empty((2, 0)), Past(ring(np.ones((2, 10))), 9), 12)).all()
    assert not one.is_due(Boosted(), 150, 0, np.full(9, 150))
    assert not one.is_due(Boosted(), 250, 0, np.full(3, 250))
    assert one.is_due(Boosted(), 250, 0, np.full(4, 250))
    assert next(s for s in range(300, 900) if one.is_due(Boosted(made=300), s, 0, np.full(4, 250))) == 556


def fleet(steps: int, services: int = 8) -> Iterator[tuple[int, list[Row]]]:
    """Ten minutes each: days that differ in size and hour, and a dip that all of them know an hour after each peak."""
    rng = np.random.default_rng(5)
    size, shift = rng.uniform(5, 60, services), rng.integers(0, DAY, services)
    for step in range(1, steps + 1):
        rows = []
        for i in range(services):
            phase = (step + shift[i]) % DAY
            rate = size[i] * (1 + 0.6 * np.sin(2 * np.pi * phase / DAY)) * (0.5 if 42 <= phase < 48 else 1.0)
            count = int(rng.poisson(rate * 600))
            end_us = (ORIGIN + step) * STEP_US
            rows.append(
                Row(
                    tenant="default", service=f"s{i}", kind="interaction", name="*", window="600s",
                    start_us=end_us - STEP_US, end_us=end_us, count=count, errors=0, rate_per_s=count / 600,
                    revision=0, final=True, complete=True, latency_p99_ms=100.0,
                )
            )  # fmt: skip
        yield step, rows


def plan() -> Models:
    return Models(600.0, 6, 300, Plan(0, 20), Trainer())


def see(models: Models, state: State, step: int, rows: list[Row]) -> Outcome:
    for row in rows:
        models.take(state, row)
    at = (ORIGIN + step) * STEP_US
    return models.advance(state, Progress(0, 0, at, at, at, at, 0, []))


def test_a_restart_before_during_and_after_a_training_cannot_be_seen() -> None:
    """Restored at each of these steps, another process says what the first one says, to the last bit."""
    original, states = plan().fresh(), list[tuple[Models, State]]()
    models = plan()
    began = 200
    for step, rows in fleet(began + boosting.DELAY + 12):
        outcome = see(models, original, step, rows)
        for other, state in states:
            assert see(other, state, step, rows) == outcome
        if step in (began - 3, began, began + 5, began + boosting.DELAY + 2):
            _, records = snapshot.save(models, original, step, 0, snapshot.Saved())
            other = plan()
            found = snapshot.restore(other, 0, records, records.items)
            assert found is not None
            states.append((other, found[0]))
            assert (original.boosted.job is not None) == (began <= step < began + boosting.DELAY)
    assert original.boosted.trees is not None
    assert all(state.boosted.trees is not None for _, state in states)
    assert "boosting" in outcome.forecasts[0].models


def test_a_training_that_fails_leaves_the_trees_before_it(caplog: pytest.LogCaptureFixture) -> None:
    """And says so."""
    one = job(100)
    broken = Job(1, one.x, np.full(100, np.nan), one.weight)
    assert Trainer().finish(broken) is None
    assert "training on 100 samples failed" in caplog.text
