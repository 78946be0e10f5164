"""Volume under the precision-recall surface: against the definition told slowly, published values, and its limits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.evaluate.anomalies.vus import runs, vus_pr

Labels = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def told_slowly(labels: Labels, scores: Floats, longest: int, n_thresholds: int = 250) -> float:
    """The definition, point by point, threshold by threshold."""
    stretches = [(int(a), int(b)) for a, b in runs(labels)]
    n = len(labels)
    thresholds = [np.sort(scores)[::-1][int(rank)] for rank in np.linspace(0, n - 1, n_thresholds)]
    areas = []
    for buffer in range(longest + 1):
        degree = labels.astype(float)
        for a, b in stretches:
            for d in range(1, buffer // 2 + 1):
                for at in (a - d, b + d):
                    if 0 <= at < n:
                        degree[at] += np.sqrt(1 - d / buffer)
        degree = np.minimum(degree, 1)
        wide: list[list[int]] = []
        for a, b in stretches:
            if wide and a - buffer // 2 <= wide[-1][1]:
                wide[-1][1] = b + buffer // 2
            else:
                wide.append([a - buffer // 2, b + buffer // 2])
        area = before = 0.0
        for threshold in thresholds:
            hit = scores >= threshold
            true = degree[hit].sum()
            positives = labels.sum() + degree[hit & ~labels].sum() / 2
            found = sum(hit[max(a, 0) : b + 1].any() for a, b in wide) / len(wide)
            recall = min(true / positives, 1) * found
            area += (recall - before) * true / hit.sum()
            before = recall
        areas.append(area)
    return float(np.mean(areas))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Labels, Floats]:
    """Up to 40 points of which at least one is labelled; scores with many ties."""
    labels = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=40).filter(any)))
    levels = draw(st.lists(st.integers(0, 9), min_size=len(labels), max_size=len(labels)))
    return labels, np.array(levels) / 9


class TestAgainstTheDefinition:
    @given(cases(), st.integers(0, 12), st.sampled_from([5, 50]))
    @settings(max_examples=60)
    def test_agrees_with_the_definition_told_slowly(
        self, case: tuple[Labels, Floats], longest: int, n_thresholds: int
    ) -> None:
        assert vus_pr(*case, longest, n_thresholds) == pytest.approx(
            told_slowly(*case, longest, n_thresholds), abs=1e-12
        )

    @pytest.mark.parametrize(
        ("seed", "n", "stretches", "longest", "n_thresholds", "published"),
        [
            (0, 200, [(40, 55), (120, 130)], 10, 50, 0.657318866508),
            (1, 300, [(50, 60), (150, 180), (250, 255)], 20, 100, 0.720301443269),
        ],
    )
    def test_gives_what_the_authors_program_gives(
        self,
        seed: int,
        n: int,
        stretches: list[tuple[int, int]],
        longest: int,
        n_thresholds: int,
        published: float,
    ) -> None:
        """Values of the authors' RangeAUC_volume_opt on these inputs, as others published them."""
        rng = np.random.RandomState(seed)
        labels = np.zeros(n, bool)
        for a, b in stretches:
            labels[a : b + 1] = True
        scores = rng.rand(n) + 0.5 * labels
        assert vus_pr(labels, scores, longest, n_thresholds) == pytest.approx(published, abs=1e-11)


class TestLimits:
    def test_a_perfect_score_gives_1_without_a_buffer(self) -> None:
        labels = np.zeros(1000, bool)
        labels[100:150] = labels[700:710] = True
        assert vus_pr(labels, labels.astype(float), 0) == pytest.approx(1)

    def test_a_perfect_score_gives_nearly_1_with_one(self) -> None:
        # points in the buffers are worth something that the labels do not rank first
        labels = np.zeros(5000, bool)
        labels[1000:1500] = labels[3000:3400] = True
        assert vus_pr(labels, labels.astype(float), 20) == pytest.approx(1, abs=0.01)

    def test_a_score_that_knows_nothing_gives_about_the_share_of_labelled_points(self) -> None:
        rng = np.random.default_rng(7)
        labels = np.zeros(20_000, bool)
        for start in range(500, 20_000, 1000):
            labels[start : start + 100] = True
        assert vus_pr(labels, rng.random(20_000), 0) == pytest.approx(0.1, abs=0.02)

    def test_a_late_score_loses_less_with_a_buffer(self) -> None:
        labels = np.zeros(1000, bool)
        labels[500:520] = True
        late = np.roll(labels, 10).astype(float)
        without, within = vus_pr(labels, late, 0), vus_pr(labels, late, 40)
        assert without is not None
        assert within is not None
        assert without < within < 1

    def test_without_a_label_there_is_no_volume(self) -> None:
        assert vus_pr(np.zeros(10, bool), np.arange(10.0)) is None

    def test_labels_over_the_whole_series_give_1(self) -> None:
        assert vus_pr(np.ones(10, bool), np.arange(10.0)) == pytest.approx(1)

    @given(cases(), st.integers(0, 10))
    @settings(max_examples=30)
    def test_only_the_order_of_the_scores_matters(self, case: tuple[Labels, Floats], longest: int) -> None:
        labels, scores = case
        assert vus_pr(labels, scores, longest) == vus_pr(labels, np.exp(3 * scores) - 7, longest)

    def test_nan_and_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="NaN"):
            vus_pr(np.ones(2, bool), np.array([0.0, np.nan]))
        with pytest.raises(ValueError, match="one of each"):
            vus_pr(np.ones(2, bool), np.zeros(3))
