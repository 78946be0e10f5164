"""What every streaming detector promises (``ml.anomaly.protocol``): one suite for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from smartscale.ml.anomaly import detector
from smartscale.ml.anomaly.protocol import Detector, pack, unpack
from smartscale.testing.detectors import AlarmClock, Null, Random, ZScore

Floats = npt.NDArray[np.float64]
Make = Callable[[float | None], Detector[Any]]

STEP_S, DAY, STEPS = 300.0, 288, 900
DETECTORS: list[Make] = [Null, Random, AlarmClock, ZScore, detector.Detector]
BLIND = (Null, Random, AlarmClock)


def drawn(seed: int, series: int, steps: int = STEPS) -> Floats:
    """A daily wave with noise, a gap now and then, and a stretch of strange values; shape (steps, series)."""
    rng = np.random.default_rng(seed)
    wave = 100 + 30 * np.sin(np.arange(steps) * 2 * np.pi / DAY)
    values = wave[:, None] * np.arange(1, series + 1) + rng.normal(0, 4, (steps, series))
    values[int(steps * 0.7) : int(steps * 0.7) + 12] *= 3
    values[rng.random((steps, series)) < 0.02] = np.nan
    return values


def times(steps: int, series: int, first: int = 0) -> npt.NDArray[np.int64]:
    at = (np.arange(first, first + steps) * int(STEP_S * 1e6)).astype(np.int64)
    return np.repeat(at[:, None], series, axis=1)


def run(
    detector: Detector[Any], values: Floats, state: object | None = None, first: int = 0
) -> tuple[Floats, Floats]:
    """(alert, state) scores, each of shape (steps, series)."""
    kept = detector.fresh(values.shape[1]) if state is None else state
    at = times(len(values), values.shape[1], first)
    told = [detector.step(kept, at[step], values[step]) for step in range(len(values))]
    return np.array([alert for alert, _ in told]), np.array([state for _, state in told])


def same(a: tuple[Floats, Floats], b: tuple[Floats, Floats]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", DETECTORS, ids=lambda make: make.__name__)
class TestEveryDetector:
    """Each promise, for each detector."""

    def test_scores_lie_in_0_to_1(self, make: Make) -> None:
        for scores in run(make(STEP_S), drawn(1, 3)):
            assert scores.shape == (STEPS, 3)
            assert ((scores >= 0) & (scores <= 1)).all()

    def test_leaves_its_arguments_as_they_are(self, make: Make) -> None:
        detector, values, at = make(STEP_S), drawn(2, 2)[:50], times(50, 2)
        values.flags.writeable = at.flags.writeable = False
        state = detector.fresh(2)
        for step in range(50):
            detector.step(state, at[step], values[step])

    def test_sees_no_future(self, make: Make) -> None:
        """Noise instead of what comes after step 600 changes no score up to it.

        ::

            one      v0 ... v599 | v600 ...
            other    v0 ... v599 | noise ...
        """
        values = drawn(3, 2)
        other = values.copy()
        other[600:] = np.random.default_rng(9).normal(0, 1e4, other[600:].shape)
        one, changed = run(make(STEP_S), values), run(make(STEP_S), other)
        assert same((one[0][:600], one[1][:600]), (changed[0][:600], changed[1][:600]))

    def test_series_together_score_as_each_alone(self, make: Make) -> None:
        values = drawn(4, 3)
        together = run(make(STEP_S), values)
        for row in range(3):
            alone = run(make(STEP_S), values[:, [row]])
            assert same((together[0][:, [row]], together[1][:, [row]]), alone)

    def test_a_bad_row_harms_no_other(self, make: Make) -> None:
        values = drawn(5, 3)
        clean = run(make(STEP_S), values)
        spoilt = values.copy()
        spoilt[:, 1] = np.resize([np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0, 5e-324], len(values))
        with np.errstate(all="ignore"):
            told = run(make(STEP_S), spoilt)
        rows = [0, 2]
        assert same((clean[0][:, rows], clean[1][:, rows]), (told[0][:, rows], told[1][:, rows]))
        for scores in told:
            assert ((scores >= 0) & (scores <= 1)).all()

    def test_a_gap_tells_nothing_and_holds_the_state(self, make: Make) -> None:
        values = drawn(6, 2)
        values[650:655] = np.nan
        alert, state = run(make(STEP_S), values)
        assert (alert[650:655] == 0).all()
        assert (state[650:655] == state[649]).all()

    def test_a_state_packed_midway_goes_on_as_if_it_never_was(self, make: Make) -> None:
        values, detector = drawn(7, 2), make(STEP_S)
        whole = run(detector, values)
        state = detector.fresh(2)
        first = run(detector, values[:500], state)
        packed = pack(state)
        run(detector, values[::-1][:100], state, 500)  # what is packed is a copy
        again = make(STEP_S)
        second = run(again, values[500:], unpack(again.fresh(2), packed), 500)
        assert same(whole, (np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])))

    def test_a_fresh_state_is_fresh(self, make: Make) -> None:
        detector, values = make(STEP_S), drawn(8, 2)[:300]
        assert same(run(detector, values), run(detector, values))

    def test_without_a_known_step_it_works_too(self, make: Make) -> None:
        for scores in run(make(None), drawn(9, 2)[:300]):
            assert ((scores >= 0) & (scores <= 1)).all()

    @pytest.mark.parametrize(
        ("factor", "offset"), [(2.0**20, 0.0), (1e6, 0.0), (1.0, 1e4), (1.0, -1e4), (1e-3, 7.0)]
    )
    def test_a_change_of_units_changes_nothing(self, make: Make, factor: float, offset: float) -> None:
        values = np.round(drawn(10, 2), 2)
        plain, changed = run(make(STEP_S), values), run(make(STEP_S), values * factor + offset)
        for a, b in zip(plain, changed, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)

    def test_constant_values_are_never_strange(self, make: Make) -> None:
        if make is Random or make is AlarmClock:
            pytest.skip("it looks at nothing")
        for scores in run(make(STEP_S), np.full((STEPS, 1), 42.0)):
            assert scores.max() < 0.5

    def test_a_plain_fault_is_told_and_stays_strange(self, make: Make) -> None:
        """Three days of a wave, then three times its value for an hour."""
        if make in BLIND:
            pytest.skip("it looks at nothing")
        alert, state = run(make(STEP_S), drawn(11, 1))
        strange = slice(int(STEPS * 0.7), int(STEPS * 0.7) + 12)
        assert alert[strange].max() >= 0.5
        assert np.median(state[strange]) >= 0.5
        assert np.median(state[DAY : strange.start]) < 0.5
