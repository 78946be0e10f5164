"""A folder of labelled series through a detector: what is read, what is refused and how, and the figures beside it."""

from __future__ import annotations

import csv
import gzip
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from smartscale.cli.commands import cli
from smartscale.errors import UserError
from smartscale.evaluate.anomalies import corpus, results, scores_csv
from smartscale.evaluate.anomalies.nab import PROFILES, Scored, nab_scores, probation
from smartscale.evaluate.anomalies.stream import OutOfRange, Scores, scored
from smartscale.ml.anomaly.protocol import Floats, Times
from smartscale.testing.detectors import AlarmClock, Blind, Null, Random, ZScore

STANDARD = PROFILES[0].name
N = 400


def written(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def stamp(minute: int) -> str:
    return f"2026-03-0{1 + minute // 1440} {minute % 1440 // 60:02d}:{minute % 60:02d}:00"


def series(n: int = N, strange: range = range(0), seed: int = 1) -> list[str]:
    values = np.random.default_rng(seed).normal(-5, 1, n)
    values[list(strange)] += 30
    return ["timestamp,value", *(f"{stamp(at)},{value:.3f}" for at, value in enumerate(values))]


def nab_folder(folder: Path) -> Path:
    """Four files in the benchmark's layout; a strange stretch in the middle of each window but the last file's."""
    windows: dict[str, list[list[str]]] = {}
    for number, name in enumerate(["a/one.csv", "a/two.csv", "b/three.csv", "b/four.csv"]):
        strange = range(200, 210) if number < 3 else range(0)
        written(folder / "data" / name, series(strange=strange, seed=number))
        windows[name] = [[stamp(190) + ".000000", stamp(229) + ".000000"]]
    written(folder / "labels" / corpus.WINDOWS, [json.dumps(windows)])
    return folder


def evaluate(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["evaluate", "anomalies", *map(str, arguments)])


ZSCORE = ("--detector", "smartscale.testing.detectors:ZScore")


class TestFolders:
    def test_the_benchmarks_layout_with_and_without_data(self, tmp_path: Path) -> None:
        folder = nab_folder(tmp_path / "nab")
        found = corpus.read(folder)
        assert [one.name for one in found.files] == ["a/one.csv", "a/two.csv", "b/four.csv", "b/three.csv"]
        assert found.layout == "windows"
        for group in ("a", "b"):
            (folder / "data" / group).rename(folder / group)
        (folder / "data").rmdir()
        again = corpus.read(folder)
        assert [one.name for one in again.files] == [one.name for one in found.files]
        one = again.files[0]
        assert one.labels is not None
        assert np.flatnonzero(one.labels).tolist() == list(range(190, 230))
        assert one.step_s == 60
        assert one.values.min() < 0

    def test_a_column_label_in_csv_and_parquet(self, tmp_path: Path) -> None:
        rows = [f"{stamp(at)},{at % 7},{int(40 <= at < 45)}" for at in range(100)]
        written(tmp_path / "x" / "one.csv.gz", ["timestamp,value,label", *rows])
        table = pa.table(
            {
                "part": ["train"] * 60 + ["test"] * 40,
                "m0": np.arange(100.0),
                "m1": np.ones(100),
                "label": [0] * 90 + [1] * 10,
            }
        )
        pq.write_table(table, tmp_path / "two.parquet")
        found = corpus.read(tmp_path)
        assert found.layout == "labels"
        parquet, plain = found.files
        assert (parquet.values.shape, parquet.scored_from, parquet.step_s) == ((100, 2), 60, 60.0)
        assert plain.labels is not None
        assert plain.labels.sum() == 5
        result = results.evaluated(found, scored(found.files, ZScore), "z")
        assert result.nab is None
        assert result.vus_pr.files == 2

    def test_an_empty_cell_is_a_gap(self, tmp_path: Path) -> None:
        lines = series()
        lines[5] = stamp(4) + ","
        written(tmp_path / "one.csv", lines)
        written(tmp_path / corpus.WINDOWS, ['{"one.csv": []}'])
        assert corpus.read(tmp_path).files[0].gaps == 1

    def test_a_clock_set_back_stands_still(self, tmp_path: Path) -> None:
        lines = series(2000)
        del lines[2:]
        lines += [f"{stamp(at if at < 1000 else at - 60)},{at}" for at in range(1, 2000)]
        written(tmp_path / "one.csv", lines)
        written(tmp_path / corpus.WINDOWS, ['{"one.csv": []}'])
        one = corpus.read(tmp_path).files[0]
        assert (np.diff(one.times_us) >= 0).all()
        assert len(one.times_us) == 2000

    def test_without_a_folder_or_series_it_says_what_is_expected(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="not found"):
            corpus.read(tmp_path / "none")
        with pytest.raises(UserError, match=r"expected data/\*\*/\*\.csv with labels/combined_windows\.json"):
            corpus.read(tmp_path)


class TestBadInput:
    """Each error names the file, the line or window, and the remedy; the other files are scored."""

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (["timestamp,worth", "2026-03-01,1"], "no column 'value'"),
            (["time,value", "2026-03-01,1"], "no column 'timestamp'"),
            (["timestamp,value"], "no rows"),
            ([*series()[:20], "2026-03-01 00:19:00,fast"], "line 21: could not convert string to float"),
            ([*series()[:20], "2026-03-01 00:19:00,inf"], "line 21: value is inf: must be finite"),
            ([*series()[:20], "yesterday,1"], "line 21: Invalid isoformat string: 'yesterday'"),
            ([*series()[:20], *series()[:20][:0:-1]], "line 22: .* sort its lines by timestamp"),
        ],
    )
    def test_a_bad_file_is_told_and_loses_no_other(self, tmp_path: Path, lines: list[str], said: str) -> None:
        folder = nab_folder(tmp_path)
        written(folder / "data" / "a" / "one.csv", lines)
        found = corpus.read(folder)
        assert len(found.files) == 3
        assert len(found.problems) == 1
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(found.problems[0])
        assert str(folder / "data" / "a" / "one.csv") in found.problems[0]

    @pytest.mark.parametrize(
        ("windows", "said"),
        [
            ([[stamp(229), stamp(190)]], "window 1: ends .* before it begins .*; swap the two"),
            (
                [[stamp(190), stamp(229)], [stamp(220), stamp(240)]],
                "two windows overlap .*; join them to one",
            ),
            ([[stamp(190)]], "window 1: must be a pair of times"),
            ([["soon", "later"]], "window 1: 'soon' to 'later' are no ISO 8601 times"),
            ([["2020-01-01", "2020-01-02"]], "no point of the file is in the window"),
            ({"first": 1}, "must be a list of windows"),
        ],
    )
    def test_bad_windows_are_told(self, tmp_path: Path, windows: object, said: str) -> None:
        folder = nab_folder(tmp_path)
        path = folder / "labels" / corpus.WINDOWS
        table = json.loads(path.read_text())
        table["a/one.csv"] = windows
        path.write_text(json.dumps(table))
        found = corpus.read(folder)
        assert len(found.files) == 3
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(found.problems[0])

    def test_labels_for_a_missing_file_are_noted(self, tmp_path: Path) -> None:
        folder = nab_folder(tmp_path)
        (folder / "data" / "a" / "one.csv").unlink()
        found = corpus.read(folder)
        assert "a/one.csv; add them or remove their labels" in found.notes[0]
        assert found.problems == []

    def test_a_file_without_labels_is_judged_but_not_scored(self, tmp_path: Path) -> None:
        folder = nab_folder(tmp_path)
        written(folder / "data" / "a" / "zero.csv", series())
        found = corpus.read(folder)
        assert "judged but not scored, for want of labels: a/zero.csv (" in found.notes[0]
        result = results.evaluated(found, scored(found.files, ZScore), "z")
        assert next(file for file in result.files if file.file == "a/zero.csv").windows is None
        assert result.nab is not None
        assert result.nab[STANDARD].windows == 4

    def test_a_folder_without_any_labels_is_judged_all_the_same(self, tmp_path: Path) -> None:
        folder = nab_folder(tmp_path / "nab")
        labelled = evaluate(folder, "--scores", tmp_path / "with", *ZSCORE)
        (folder / "labels" / corpus.WINDOWS).unlink()
        run = evaluate(folder, "--json", "--scores", tmp_path / "without", *ZSCORE)
        assert labelled.exit_code == run.exit_code == 0, run.output
        assert "for want of labels: a/one.csv, a/two.csv, b/four.csv, b/three.csv (expected" in run.stderr
        told = json.loads(run.stdout)
        assert told["nab"] is None
        assert told["vus_pr"]["mean"] is None
        for one in (tmp_path / "with" / "data").rglob("*.csv"):
            other = tmp_path / "without" / one.relative_to(tmp_path / "with")
            assert one.read_text() == other.read_text()

    def test_labels_that_are_no_json_are_refused(self, tmp_path: Path) -> None:
        folder = nab_folder(tmp_path)
        (folder / "labels" / corpus.WINDOWS).write_text("{")
        with pytest.raises(UserError, match="is no JSON"):
            corpus.read(folder)

    def test_a_label_is_0_or_1(self, tmp_path: Path) -> None:
        written(tmp_path / "one.csv", ["timestamp,value,label", "2026-03-01,1,0", "2026-03-02,1,3"])
        assert "line 3: label is 3: use 0 or 1" in corpus.read(tmp_path).problems[0]


class TestScoring:
    def test_series_together_score_as_each_alone(self, tmp_path: Path) -> None:
        found = corpus.read(nab_folder(tmp_path))
        together = scored(found.files, ZScore)
        for one, told in zip(found.files, together, strict=True):
            (alone,) = scored([one], ZScore)
            assert np.array_equal(alone.alert, told.alert)
            assert np.array_equal(alone.state, told.state)

    def test_a_score_outside_0_to_1_is_refused(self, tmp_path: Path) -> None:
        class Wild(Null):
            def step(self, state: Blind, _times_us: Times, values: Floats, /) -> tuple[Floats, Floats]:
                return np.full(len(values), np.nan), np.zeros(len(values))

        with pytest.raises(
            OutOfRange, match=r"a/one.csv: .* 2026-03-01 00:00:00 nan; a score is in \[0, 1\]"
        ):
            scored(corpus.read(nab_folder(tmp_path)).files, Wild)

    def test_null_scores_0_whatever_the_threshold(self, tmp_path: Path) -> None:
        found = corpus.read(nab_folder(tmp_path))
        result = results.evaluated(found, scored(found.files, Null), "null")
        assert result.nab is not None
        for told in result.nab.values():
            assert (told.score, told.at_bar.score, told.halves.both, told.moved.mean) == (0, 0, 0, 0)

    def test_the_halves_use_each_others_threshold(self, tmp_path: Path) -> None:
        """Even files rank their windows at 0.9, odd ones at 0.4: each half's bar fits the other badly.

        ::

            even: window 0.9, noise 0.6     best bar 0.9, loses the odd windows
            odd:  window 0.4, noise none    best bar 0.4, tells the noise of the even files
        """
        found = corpus.read(nab_folder(tmp_path))
        told = []
        for place, one in enumerate(found.files):
            alert = np.zeros(len(one.times_us))
            alert[190] = 0.4 if place % 2 else 0.9
            if place % 2 == 0:
                alert[100:104] = 0.6
            told.append(Scores(alert, alert))
        result = results.evaluated(found, told, "made", bar=0.5)
        assert result.nab is not None
        halves = result.nab[STANDARD].halves
        assert (halves.even_threshold, halves.odd_threshold) == (0.4, 0.9)
        assert halves.odd == 0
        # each even file: 1 for the window, 4 false alarms; the scale is 2 a window
        assert halves.even == pytest.approx(100 * (2 - 4 * 0.11) / 2)
        assert halves.both == pytest.approx((halves.even + halves.odd) / 2)
        assert result.nab[STANDARD].at_bar.found == 2

    def test_a_score_that_follows_the_windows_falls_when_they_are_moved(self, tmp_path: Path) -> None:
        found = corpus.read(nab_folder(tmp_path))
        result = results.evaluated(found, scored(found.files, ZScore), "z")
        assert result.nab is not None
        standard = result.nab[STANDARD]
        assert standard.found == 3
        assert standard.moved.mean < standard.score - 20
        assert results.evaluated(found, scored(found.files, ZScore), "z") == result, "seeded"

    def test_moved_windows_keep_their_lengths_apart_and_behind_probation(self) -> None:
        rng = np.random.default_rng(3)
        spans = [(20, 29), (40, 44), (90, 99)]
        for _ in range(200):
            moved = results.moved_spans(100, spans, rng)
            assert sorted(last - first + 1 for first, last in moved) == [5, 10, 10]
            assert moved[0][0] >= probation(100)
            assert moved[-1][1] < 100
            assert all(before[1] < after[0] for before, after in pairwise(moved))

    def test_the_alarm_clock_is_the_detector_that_rings(self, tmp_path: Path) -> None:
        found = corpus.read(nab_folder(tmp_path))
        result = results.evaluated(found, scored(found.files, Random), "random")
        assert result.nab is not None
        clock = result.nab[STANDARD].clock
        told = scored(found.files, lambda step_s: AlarmClock(step_s, clock.period))
        files = [
            Scored(one.times_us, ring.alert, one.windows or ())
            for one, ring in zip(found.files, told, strict=True)
        ]
        assert nab_scores(files, 1.0)[STANDARD].score == pytest.approx(clock.score)


class TestCommand:
    def test_json_and_the_scores_written_give_the_same_score(self, tmp_path: Path) -> None:
        folder, out = nab_folder(tmp_path / "nab"), tmp_path / "out"
        run = evaluate(folder, "--json", "--scores", out, *ZSCORE)
        assert run.exit_code == 0, run.output
        told = json.loads(run.stdout)
        assert (told["layout"], len(told["files"]), told["problems"]) == ("windows", 4, [])
        files = []
        windows = json.loads((folder / "labels" / corpus.WINDOWS).read_text())
        for name, pairs in windows.items():
            with (out / "data" / name).open() as text:
                rows = list(csv.reader(text))
            assert tuple(rows[0]) == scores_csv.HEADER
            times = np.array([row[0] for row in rows[1:]], "datetime64[us]").astype(np.int64)
            spans = [tuple(np.array(pair, "datetime64[us]").astype(np.int64).tolist()) for pair in pairs]
            files.append(Scored(times, np.array([float(row[1]) for row in rows[1:]]), spans))
            assert (out / name).read_text() == (out / "data" / name).read_text(), (
                "found by the labels' name too"
            )
        for profile, score in nab_scores(files).items():
            assert told["nab"][profile]["score"] == pytest.approx(score.score, abs=1e-12)
            assert told["nab"][profile]["threshold"] == score.threshold
        assert not list(out.rglob("*.part"))

    def test_a_table_for_people(self, tmp_path: Path) -> None:
        run = evaluate(nab_folder(tmp_path), *ZSCORE)
        assert run.exit_code == 0, run.output
        for word in ("a/one.csv", "windows moved", "alarm clock", "other's threshold", "VUS-PR"):
            assert word in run.stdout

    def test_the_report_shows_each_series_with_its_windows_and_alerts(self, tmp_path: Path) -> None:
        out = tmp_path / "report.html"
        run = evaluate(nab_folder(tmp_path / "nab"), "--report", out, *ZSCORE)
        assert run.exit_code == 0, run.output
        text = out.read_text()
        figures = [
            json.loads(data) for data in re.findall(r'<script type="application/json">(.*?)</script>', text)
        ]
        assert len(figures) == 4
        value, alert, state = figures[0]["data"]
        assert (len(value["x"]), len(alert["x"]), len(state["x"])) == (N, 1, N)
        assert alert["x"] == [stamp(200)]
        window = figures[0]["layout"]["shapes"][1]
        assert (window["x0"], window["x1"]) == (stamp(190), stamp(229))

    def test_a_bad_file_ends_with_code_2_after_the_others_are_scored(self, tmp_path: Path) -> None:
        folder = nab_folder(tmp_path)
        written(folder / "data" / "a" / "one.csv", ["timestamp,worth", "2026-03-01,1"])
        run = evaluate(folder, "--json", *ZSCORE)
        assert run.exit_code == 2
        assert "no column 'value'" in run.stderr
        assert len(json.loads(run.stdout)["files"]) == 3

    def test_scores_never_replace_the_series(self, tmp_path: Path) -> None:
        folder = nab_folder(tmp_path)
        before = (folder / "data" / "a" / "one.csv").read_text()
        run = evaluate(folder, "--scores", folder, *ZSCORE)
        assert "would replace the series; give another folder" in str(run.exception)
        assert (folder / "data" / "a" / "one.csv").read_text() == before

    @pytest.mark.parametrize(("option", "place"), [("--scores", "file/out"), ("--report", "none/out.html")])
    def test_a_place_that_cannot_be_written_is_told_before_the_work(
        self, tmp_path: Path, option: str, place: str
    ) -> None:
        (tmp_path / "file").write_text("")
        run = evaluate(nab_folder(tmp_path / "nab"), option, tmp_path / place, *ZSCORE)
        assert f"{option} {tmp_path / place}: cannot be written" in str(run.exception)

    def test_another_detector_must_be_found(self, tmp_path: Path) -> None:
        run = evaluate(nab_folder(tmp_path), "--detector", "nowhere:Nothing")
        assert isinstance(run.exception, UserError)
        assert "give MODULE:CLASS" in str(run.exception)
