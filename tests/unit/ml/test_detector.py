"""The univariate detector: what it tells, what it keeps to itself, and how often chance alone makes it speak."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest

from smartscale.ml.anomaly import novelty, surprise
from smartscale.ml.anomaly.detector import HISTORY, Detector
from smartscale.ml.series import table

Floats = npt.NDArray[np.float64]

STEP_US, DAY = 300_000_000, 288
"""Steps of 5 minutes."""


def noise(steps: int, seed: int = 1, rows: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(0, 1, (steps, rows))


def wave(steps: int, rows: int = 1) -> Floats:
    """A daily wave with a little noise, shape (steps, rows)."""
    day = np.sin(np.arange(steps) * 2 * np.pi / DAY)[:, None]
    return np.asarray(100 + 30 * day + noise(steps, 3, rows), np.float64)


def judged(values: Floats, every_us: int = STEP_US) -> tuple[Floats, Floats]:
    """(alert, state) scores of values of shape (steps, rows) or (steps,)."""
    rows = values.reshape(len(values), -1)
    detector = Detector()
    state = detector.fresh(rows.shape[1])
    told = [detector.step(state, np.full(rows.shape[1], i * every_us), row) for i, row in enumerate(rows)]
    alert, strange = np.array([a for a, _ in told]), np.array([s for _, s in told])
    return alert.reshape(values.shape), strange.reshape(values.shape)


def alerts(values: Floats) -> list[int]:
    """Steps at which one series is told."""
    return [int(i) for i in np.flatnonzero(judged(values[:, 0])[0] >= 0.5)]


class TestWhatIsTold:
    def test_a_spike_at_once(self) -> None:
        """::

                                            x
        values   ~~~~~~~~~~~~~~~~~~~~~~~~~~~ ~~~~~~
        step     0                        1500
        """
        values = noise(1600)
        values[1500] += 12
        alert, _ = judged(values)
        assert alert[1500, 0] >= 0.5
        assert alert[1500, 0] == alert.max()

    def test_a_level_shift_once(self) -> None:
        """::

        values   ~~~~~~~~~~~~~~~|
                                |~~~~~~~~~~~~~~~~~~~
        step     0            1500               2500
        """
        values = noise(2500)
        values[1500:] -= 15
        told = [step for step in alerts(values) if step >= 1500]
        assert told[0] == 1500
        assert len(told) <= 2

    def test_a_value_between_two_levels(self) -> None:
        """Neither high nor low, but never seen: a deviation from a mean would not show it.

        ::

        high     o o ooo oo o  oo o o
        value                            x
        low     o o o  o  o oo  o  o
        """
        levels = np.random.default_rng(4).integers(0, 2, (1500, 1)) * 20.0 + noise(1500) * 0.3
        levels[1400] = 10.0
        assert 1400 in alerts(levels)

    def test_a_missing_daily_peak(self) -> None:
        """A low value where yesterday it was high, though low values are common. Told within two hours of the peak's start.

        ::

        values   __|~|___|~|___|~|___|~|__________|~|__
        day        0     1     2  ...       7
        """
        steps = 9 * DAY
        peak = (np.arange(steps) % DAY) // 36 == 3
        values = np.where(peak, 80.0, 20.0)[:, None] + noise(steps)
        missing = slice(7 * DAY + 108, 7 * DAY + 144)
        values[missing] -= 60
        told = [step for step in alerts(values) if step >= missing.start]
        assert missing.start <= told[0] < missing.start + 24

    def test_in_a_series_that_stood_still(self) -> None:
        values = np.full((500, 1), 3.0)
        values[400] = 3.5
        assert 400 in alerts(values)


class TestWhatIsNot:
    def test_noise_tells_a_few_in_ten_thousand(self) -> None:
        """Chance makes it speak most while little is known. The stated rate (docs/anomalies.md): at most 15 in the first
        10,000 values of normal noise."""
        values = noise(10_000, 5, rows=4)
        told = (judged(values)[0] >= 0.5).sum(axis=0)
        assert told.mean() <= 15

    def test_a_daily_wave_is_usual(self) -> None:
        told = (judged(wave(14 * DAY, rows=4))[0] >= 0.5).sum(axis=0)
        assert told.mean() <= 5

    def test_a_slow_drift_is_not_told_more_than_noise(self) -> None:
        """One standard deviation in a thousand steps."""
        values = noise(5000, 6, rows=4)
        drifting = values + np.arange(5000)[:, None] / 1000
        told = [(judged(v)[0][1000:] >= 0.5).sum(axis=0).mean() for v in (values, drifting)]
        assert told[1] <= told[0] + 8

    def test_who_was_told_is_not_told_again_while_it_lasts(self) -> None:
        """::

                              xxxxxxxx
        values   ~~~~~~~~~~~~~        ~~~~~~~~
        told                  |
        """
        values = noise(2000)
        values[1500:1530] += 20
        assert [step for step in alerts(values) if step >= 1490] == [1500]

    def test_nothing_before_the_tails_are_known(self) -> None:
        values = noise(20)
        values[15] = 1e6
        alert, state = judged(values)
        assert alert.max() == state.max() == 0

    def test_a_gap_is_no_drop(self) -> None:
        values = wave(1200)
        values[1000:1050] = np.nan
        assert not [step for step in alerts(values) if 1000 <= step < 1060]


class TestTheState:
    def test_is_high_while_it_is_strange_and_falls_after(self) -> None:
        """Told once, strange for as long as it lasts.

        ::

                              xxxxxxxx
        values   ~~~~~~~~~~~~~        ~~~~~~~~
        state    ____________|~~~~~~~~\\________
        """
        values = noise(2000)
        values[1500:1530] += 20
        state = judged(values)[1][:, 0]
        assert np.median(state[1500:1530]) >= 0.8
        assert np.median(state[500:1500]) < 0.5
        assert np.median(state[1700:]) < 0.5


class TestMemory:
    def test_a_series_takes_less_than_20_kb(self) -> None:
        state = Detector().fresh(10)
        assert sum(getattr(state, field.name).nbytes for field in fields(state)) / 10 < 20_000

    def test_a_long_past_fades_by_halves(self) -> None:
        values = noise(HISTORY + 10)
        detector = Detector()
        state = detector.fresh(1)
        for step in range(len(values)):
            detector.step(state, np.full(1, step * STEP_US), values[step])
        assert state.total[0] == HISTORY / 2 + 10
        np.testing.assert_allclose(state.counts[0].sum(axis=-1), HISTORY / 2 + 10)

    def test_rows_join_and_leave_as_a_table_does(self) -> None:
        """A newcomer starts fresh, and who stays keeps what it has learned."""
        detector, values = Detector(), wave(600, rows=2)
        state, alone = detector.fresh(1), detector.fresh(1)
        for step in range(300):
            at = np.full(1, step * STEP_US)
            detector.step(state, at, values[step, :1])
            detector.step(alone, at, values[step, :1])
        table.join(state, detector.fresh(1))
        for step in range(300, 600):
            together = detector.step(state, np.full(2, step * STEP_US), values[step])
            by_itself = detector.step(alone, np.full(1, step * STEP_US), values[step, :1])
            assert together[0][0] == by_itself[0][0]
            assert together[1][0] == by_itself[1][0]


class TestSurprise:
    @staticmethod
    def tail(numbers: Floats) -> tuple[Floats, Floats, float, float]:
        counts, sums, unit = np.zeros(surprise.BINS), np.zeros(surprise.BINS), 0.0
        for number in numbers:
            unit = surprise.learn(number, counts, sums, unit)
        return counts, sums, unit, float(len(numbers))

    @pytest.mark.parametrize("p", [0.5, 0.1, 0.01, 1e-3, 1e-6])
    def test_of_exponential_numbers_is_their_own_logarithm(self, p: float) -> None:
        """-ln P(X >= x) = x for the standard exponential, far beyond what was seen."""
        past = self.tail(np.random.default_rng(7).exponential(1, 20_000))
        assert surprise.minus_log_p(-np.log(p), *past) == pytest.approx(-np.log(p), rel=0.1, abs=0.1)

    def test_rises_with_the_number(self) -> None:
        past = self.tail(np.random.default_rng(8).lognormal(0, 1, 500))
        found = [surprise.minus_log_p(x, *past) for x in np.linspace(0, 100, 400)]
        assert (np.diff(found) >= -1e-9).all()
        assert found[-1] <= surprise.LARGEST

    def test_of_nothing_is_none(self) -> None:
        assert surprise.minus_log_p(0.0, *self.tail(np.ones(100))) == 0

    def test_of_a_first_number_above_zero_is_its_rank(self) -> None:
        assert surprise.minus_log_p(5.0, *self.tail(np.zeros(100))) == pytest.approx(np.log(101))


class TestNovelty:
    @staticmethod
    def distances(values: Floats) -> list[float]:
        known, known_at, n = np.zeros(novelty.KNOWN), np.zeros(novelty.KNOWN, np.int32), 0
        found = []
        for now, value in enumerate(values):
            distance, n = novelty.novelty(value, now, known, known_at, n, 0.0)
            found.append(float(distance))
            assert (np.diff(known[:n]) > 0).all()
        return found

    def test_is_the_distance_to_the_nearest_value(self) -> None:
        """::

        seen   0 ... 4 ..... 10
        new        3   5   8        nearest: 4, 4, 10
        """
        assert self.distances(np.array([0.0, 10.0, 4.0, 3.0, 5.0, 8.0, 8.0, 11.0])) == [
            0,
            10,
            4,
            1,
            1,
            2,
            0,
            1,
        ]

    def test_stays_exact_where_values_are_rare(self) -> None:
        """A crowd at 0 to 1 fills the memory; the loner at 50 keeps its place."""
        crowd = np.random.default_rng(9).random(3000)
        assert self.distances(np.concatenate([[50.0], crowd, [50.5]]))[-1] == pytest.approx(0.5)

    def test_forgets_what_did_not_come_back(self) -> None:
        """What was seen once, FORGET steps ago, is new again once room is needed."""
        crowd = np.random.default_rng(9).random(novelty.FORGET + 2000)
        assert self.distances(np.concatenate([[50.0], crowd, [50.5]]))[-1] > 49
