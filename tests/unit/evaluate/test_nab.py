"""The Numenta Anomaly Benchmark's score: the arithmetic by hand, and what no data may change."""

from __future__ import annotations

from math import exp

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.evaluate.anomalies.nab import (
    NEVER,
    PROFILES,
    Scored,
    counted,
    judged,
    judged_spans,
    nab_scores,
    probation,
)

MINUTE = 60_000_000
STANDARD, LOW_FP, LOW_FN = (profile.name for profile in PROFILES)
A_FP = {STANDARD: 0.11, LOW_FP: 0.22, LOW_FN: 0.11}
A_FN = {STANDARD: 1.0, LOW_FP: 1.0, LOW_FN: 2.0}


def file(n: int, windows: list[tuple[int, int]], detections: dict[int, float]) -> Scored:
    """A file of ``n`` minutes; windows as first and last index, and the scores that are not 0."""
    scores = np.zeros(n)
    for at, score in detections.items():
        scores[at] = score
    return Scored(np.arange(n) * MINUTE, scores, [(a * MINUTE, b * MINUTE) for a, b in windows])


def sigmoid(place: float) -> float:
    return 2 / (1 + exp(5 * place)) - 1


class TestByHand:
    """100 points, of which 15 are probation, and a window of 10: 50 to 59.

    ::

        index     0 ...... 14 | 15 ........... 49 | 50 ........ 59 | 60 .............. 99
                  probation   |   costs all of A_FP |  the window    |  costs more with distance
    """

    @pytest.mark.parametrize("profile", [STANDARD, LOW_FP, LOW_FN])
    def test_a_detection_at_the_windows_start_earns_all(self, profile: str) -> None:
        told = nab_scores([file(100, [(50, 59)], {50: 1.0})], 0.5)[profile]
        assert told.score == pytest.approx(100)
        assert told.raw == pytest.approx(1)
        assert (told.windows, told.found, told.false_alarms) == (1, 1, 0)

    def test_later_in_the_window_earns_less_along_the_sigmoid(self) -> None:
        # index 55: five points before the edge behind 59, of ten: y = -(59 - 55 + 1) / 10 = -0.5
        told = nab_scores([file(100, [(50, 59)], {55: 1.0})], 0.5)[STANDARD]
        assert told.raw == pytest.approx(sigmoid(-0.5) / sigmoid(-1))
        assert told.raw == pytest.approx(0.84828 / 0.98661, abs=1e-5)

    def test_only_the_earliest_detection_of_a_window_counts(self) -> None:
        one = nab_scores([file(100, [(50, 59)], {53: 1.0})], 0.5)
        more = nab_scores([file(100, [(50, 59)], {53: 1.0, 54: 1.0, 59: 1.0})], 0.5)
        assert more == one

    @pytest.mark.parametrize("profile", [STANDARD, LOW_FP, LOW_FN])
    def test_a_missed_window_costs_a_fn_and_is_the_null_detectors_score(self, profile: str) -> None:
        told = nab_scores([file(100, [(50, 59)], {})], 0.5)[profile]
        assert (told.score, told.raw, told.found) == (0.0, -A_FN[profile], 0)

    @pytest.mark.parametrize("profile", [STANDARD, LOW_FP, LOW_FN])
    def test_a_false_alarm_before_any_window_costs_all_of_a_fp(self, profile: str) -> None:
        told = nab_scores([file(100, [(50, 59)], {20: 1.0, 50: 1.0})], 0.5)[profile]
        assert told.raw == pytest.approx(1 - A_FP[profile])
        # the scale: from -A_FN (0) to 1 (100)
        assert told.score == pytest.approx(100 * (1 - A_FP[profile] + A_FN[profile]) / (1 + A_FN[profile]))

    @pytest.mark.parametrize(("index", "place"), [(60, 1 / 9), (64, 5 / 9), (68, 1.0), (85, 26 / 9)])
    def test_a_false_alarm_behind_a_window_costs_by_its_distance(self, index: int, place: float) -> None:
        # y = (index - 59) / (10 - 1)
        told = nab_scores([file(100, [(50, 59)], {index: 1.0})], 0.5)[STANDARD]
        assert told.raw == pytest.approx(-1 + 0.11 * sigmoid(place))

    def test_beyond_three_window_lengths_behind_it_costs_all(self) -> None:
        told = nab_scores([file(100, [(50, 59)], {87: 1.0, 99: 1.0})], 0.5)[STANDARD]
        assert told.raw == pytest.approx(-1 - 0.22)

    def test_distance_is_from_the_window_just_before(self) -> None:
        told = nab_scores([file(100, [(20, 29), (70, 74)], {76: 1.0})], 0.5)[STANDARD]
        assert told.raw == pytest.approx(-2 + 0.11 * sigmoid(2 / 4))

    def test_nothing_in_probation_counts(self) -> None:
        assert nab_scores([file(100, [(50, 59)], {0: 1.0, 14: 1.0})], 0.5)[STANDARD].raw == -1
        assert nab_scores([file(100, [(50, 59)], {15: 1.0})], 0.5)[STANDARD].raw == pytest.approx(-1.11)

    def test_probation_is_15_percent_but_at_most_750_points(self) -> None:
        assert [probation(n) for n in (0, 6, 100, 4032, 5000, 22695)] == [0, 0, 15, 604, 750, 750]

    def test_windows_are_found_by_time_also_where_a_time_comes_twice(self) -> None:
        times = np.array([0, 1, 2, 3, 3, 4, 5, 6, 6, 7]) * MINUTE
        found = judged([(times, [(3 * MINUTE, 6 * MINUTE)])])
        assert found.window.tolist() == [-1, -1, 0, 0, 0, 0, 0, -1, -1]  # without the point of probation


class TestTheThreshold:
    """One threshold for all files: the best of all that the scores allow."""

    def test_the_best_one_lets_the_false_alarms_below_it_go(self) -> None:
        files = [
            file(100, [(50, 59)], {50: 0.9, 30: 0.6, 31: 0.6}),
            file(100, [(40, 44)], {40: 0.7, 90: 0.8}),
        ]
        told = nab_scores(files)[STANDARD]
        assert told.threshold == 0.7
        assert told.raw == pytest.approx(2 - 0.11)
        assert (told.found, told.windows, told.false_alarms) == (2, 2, 1)

    def test_each_profile_has_its_own(self) -> None:
        noise = dict.fromkeys(range(20, 26), 0.5)  # six false alarms: 0.66, or 1.32 with few wanted
        told = nab_scores([file(100, [(50, 59)], {54: 0.5, **noise})])
        assert told[STANDARD].threshold == 0.5
        assert told[LOW_FP].threshold == 0.5
        assert told[LOW_FN].threshold == 0.5
        worse = nab_scores([file(100, [(50, 59)], {59: 0.5, **dict.fromkeys(range(20, 31), 0.5)})])
        assert worse[STANDARD].threshold == 0.5  # 0.25 - 1.21 is better than -1
        assert worse[LOW_FP].threshold == NEVER  # 0.25 - 2.42 is worse
        assert worse[LOW_FP].score == 0

    def test_a_point_at_the_threshold_is_a_detection(self) -> None:
        files = [file(100, [(50, 59)], {50: 0.5})]
        assert nab_scores(files, 0.5)[STANDARD].found == 1
        assert nab_scores(files, np.nextafter(0.5, 1))[STANDARD].found == 0

    def test_nan_is_refused(self) -> None:
        with pytest.raises(ValueError, match="NaN"):
            nab_scores([file(100, [], {50: np.nan})])

    def test_without_files_or_windows_the_score_is_0(self) -> None:
        assert nab_scores([])[STANDARD].score == 0
        assert nab_scores([file(100, [], {})])[STANDARD].score == 0
        assert nab_scores([file(100, [], {50: 1.0})], 0.5)[STANDARD].score < 0


@st.composite
def corpora(draw: st.DrawFn) -> list[Scored]:
    """One to three files of 20 to 120 points with up to three windows behind probation."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(20, 120))
        edges = sorted(draw(st.sets(st.integers(probation(n), n - 1), max_size=6)))
        windows = list(zip(edges[::2], edges[1::2], strict=False))
        levels = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
        made.append(file(n, windows, {at: level / 5 for at, level in enumerate(levels)}))
    return made


def by_the_rules(one: Scored, threshold: float, profile: str) -> float:
    """The rules again, told slowly: point by point."""
    n, start = len(one.scores), probation(len(one.scores))
    windows = [
        [at for at, time in enumerate(one.times_us) if first <= time <= last] for first, last in one.windows
    ]
    raw = 0.0
    for window in windows:
        hits = [at for at in window if at >= start and one.scores[at] >= threshold]
        if hits:
            raw += sigmoid(-(window[-1] - hits[0] + 1) / len(window)) / sigmoid(-1)
        else:
            raw -= A_FN[profile]
    for at in range(start, n):
        if one.scores[at] < threshold or any(at in window for window in windows):
            continue
        before = [window for window in windows if window[-1] < at]
        place = (at - before[-1][-1]) / max(len(before[-1]) - 1, 1) if before else 9.0
        raw += A_FP[profile] * (sigmoid(place) if place <= 3 else -1.0)
    return raw


class TestProperties:
    @given(corpora(), st.sampled_from([0.0, 0.2, 0.5, 0.6, 1.0]))
    def test_the_sweep_agrees_with_the_rules_told_slowly(self, files: list[Scored], bar: float) -> None:
        for profile, told in nab_scores(files, bar).items():
            assert told.raw == pytest.approx(sum(by_the_rules(one, bar, profile) for one in files))

    @given(corpora())
    def test_the_best_threshold_is_the_best_of_all(self, files: list[Scored]) -> None:
        bars = sorted({score for one in files for score in one.scores.tolist()} | {NEVER})
        for profile, told in nab_scores(files).items():
            assert told.raw == pytest.approx(max(nab_scores(files, bar)[profile].raw for bar in bars))

    @given(corpora())
    def test_never_detecting_scores_0_and_perfect_detection_100(self, files: list[Scored]) -> None:
        windows = judged_spans([(len(one.scores), spans(one)) for one in files]).n_windows
        perfect = []
        for one in files:
            scores = np.zeros(len(one.scores))
            scores[[first for first, _ in spans(one)]] = 1.0
            perfect.append(one._replace(scores=scores))
        for profile, told in nab_scores(files, NEVER).items():
            assert told.score == 0
            assert nab_scores(perfect)[profile].score == pytest.approx(100 if windows else 0)

    @given(corpora(), st.data())
    def test_one_more_false_alarm_never_raises_the_score(
        self, files: list[Scored], data: st.DataObject
    ) -> None:
        one = files[0]
        free = [
            at
            for at in range(probation(len(one.scores)), len(one.scores))
            if one.scores[at] < 0.5 and not any(first <= at <= last for first, last in spans(one))
        ]
        if not free:
            return
        at = data.draw(st.sampled_from(free))
        before, after = nab_scores(files, 0.5), nab_scores([raised(one, at), *files[1:]], 0.5)
        for profile in before:
            assert after[profile].raw <= before[profile].raw

    @given(corpora(), st.data())
    def test_an_earlier_detection_in_a_window_never_scores_less(
        self, files: list[Scored], data: st.DataObject
    ) -> None:
        one = files[0]
        if not spans(one):
            return
        first, last = data.draw(st.sampled_from(spans(one)))
        at = data.draw(st.integers(first, last))
        before, after = nab_scores(files, 0.5), nab_scores([raised(one, at), *files[1:]], 0.5)
        for profile in before:
            assert after[profile].raw >= before[profile].raw - 1e-12

    @given(corpora())
    def test_the_order_of_files_changes_nothing(self, files: list[Scored]) -> None:
        told, turned = nab_scores(files), nab_scores(files[::-1])
        for profile in told:
            assert told[profile].score == pytest.approx(turned[profile].score)
            assert told[profile].found == turned[profile].found


def spans(one: Scored) -> list[tuple[int, int]]:
    return [(first // MINUTE, last // MINUTE) for first, last in one.windows]


def raised(one: Scored, at: int) -> Scored:
    scores: npt.NDArray[np.float64] = one.scores.copy()
    scores[at] = 1.0
    return one._replace(scores=scores)


def test_counted_leaves_probation_out() -> None:
    assert counted(np.arange(20.0)).tolist() == list(range(3, 20))
