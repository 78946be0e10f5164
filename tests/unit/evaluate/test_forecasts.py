"""``smartscale evaluate forecasts``: nothing is seen before its time, and every score is what its definition says."""

from __future__ import annotations

import csv
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from smartscale.cli.commands import cli
from smartscale.clock import MICROS, iso
from smartscale.evaluate.forecasts import baselines, rolling
from smartscale.evaluate.forecasts.rolling import Forecasts, Plan
from smartscale.history_csv import History, read

Array = npt.NDArray[np.float64]
PLAN = Plan(horizons=(2, 6), origins=12)


def counts(steps: int = 240, seed: int = 1) -> Array:
    """Requests in 10 minutes, with a daily wave (144 steps) and a gap."""
    rng = np.random.default_rng(seed)
    values = rng.poisson(50 * (1.5 + np.sin(np.arange(steps) * 2 * np.pi / 144))).astype(np.float64)
    values[40:44] = np.nan
    return values


def write(path: Path, values: Array, step_s: int = 600) -> Path:
    rows = [
        f"{iso(i * step_s * MICROS)},{'' if np.isnan(value) else f'{value:.9g}'}"
        for i, value in enumerate(values.tolist())
    ]
    path.write_text("timestamp,requests\n" + "\n".join(rows) + "\n")
    return path


def run(*words: object) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code and what ``--json`` printed."""
    done = CliRunner().invoke(cli, ["evaluate", "forecasts", "--json", *(str(word) for word in words)])
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}


def everything(history: History) -> tuple[npt.NDArray[np.int64], dict[str, Forecasts]]:
    at = rolling.origins(history.values, PLAN)
    ours = rolling.roll(history, PLAN, at)
    return at, {"ours": ours, **baselines.baselines(history.values, history.step_s, PLAN, at)}


def test_noise_in_place_of_the_future_changes_no_forecast_made_before_it(tmp_path: Path) -> None:
    """::

    values    ████████████████████│░░░░░░░░  ░ is noise in the second file
    origins       o  o  o  o  o  o│ o  o     the six left of the line forecast the same
    """
    values = counts()
    at, before = everything(read(write(tmp_path / "a.csv", values)))
    cut = int(at[5])
    values[cut + 1 :] = np.random.default_rng(2).uniform(0, 1e6, len(values) - cut - 1)
    same, after = everything(read(write(tmp_path / "b.csv", values)))
    assert same[:6].tolist() == at[:6].tolist()
    for name, made in before.items():
        np.testing.assert_array_equal(made.values[:6], after[name].values[:6], err_msg=name)
        np.testing.assert_array_equal(made.peaks[:6], after[name].peaks[:6], err_msg=name)
        assert not np.array_equal(made.values[8:], after[name].values[8:]), name


def test_values_that_are_no_counts_are_forecast_alike_in_any_unit(tmp_path: Path) -> None:
    """A share of a capacity, say: nothing is known of its chance, so 0.5 is no half request."""
    values = counts() / 300 + 0.001
    ours = []
    for name, unit in (("a.csv", 1.0), ("b.csv", 1e-3)):
        history = read(write(tmp_path / name, values * unit))
        ours.append(rolling.roll(history, PLAN, rolling.origins(history.values, PLAN)).values / unit)
    np.testing.assert_allclose(ours[0], ours[1], rtol=1e-3)


def test_a_file_s_result_does_not_depend_on_the_others_given(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.csv", counts()), write(tmp_path / "b.csv", counts(300, 2) * 1000)
    alone = run(a, "--origins", 6, "--horizons", "3")[1]["files"]
    beside = run(b, a, "--origins", 6, "--horizons", "3")[1]["files"]
    assert alone[0] == beside[1]


def test_every_origin_and_step_is_in_the_csv_with_the_file_s_own_timestamps(tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.csv", counts()), tmp_path / "out.csv"
    code, told = run(file, "--origins", 7, "--horizons", "2,4", "--forecasts", out)
    assert code == 0
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == [
        "file", "origin", "timestamp", "step", *(f"q{level:02d}" for level in range(5, 100, 5)), "q99",
    ]  # fmt: skip
    assert len(rows) == 7 * 4
    assert {row["file"] for row in rows} == {str(file)}
    stamps = [line.split(",")[0] for line in file.read_text().splitlines()[1:]]
    for row in rows:
        assert stamps.index(row["timestamp"]) == stamps.index(row["origin"]) + int(row["step"])
        quantiles = [float(row[name]) for name in list(row)[4:]]
        assert quantiles == sorted(quantiles)
        assert quantiles[0] >= 0
    found = told["files"][0]
    assert [found["first_origin"], found["last_origin"]] == [rows[0]["origin"], rows[-1]["origin"]]


def test_a_bad_file_does_not_lose_the_others(tmp_path: Path) -> None:
    good, bad, short = (tmp_path / name for name in ("good.csv", "bad.csv", "short.csv"))
    write(good, counts())
    write(short, counts(8))
    bad.write_text("timestamp,requests\n2024-01-01T00:00:00Z,1\n2024-01-01T00:01:00Z,many\n")
    code, told = run(bad, good, short, "--origins", 5, "--horizons", "3,9")
    assert code == 2
    assert [one["file"] for one in told["files"]] == [str(good)]
    errors = [one["error"] for one in told["errors"]]
    assert "bad.csv, line 3: " in errors[0]
    assert "short.csv: has 8 steps: too few" in errors[1]


def test_the_report_is_one_file_that_shows_every_file_without_a_network(tmp_path: Path) -> None:
    files = [write(tmp_path / name, counts(200, seed)) for seed, name in enumerate(("shop.csv", "batch.csv"))]
    out = tmp_path / "report.html"
    bad = tmp_path / "none.csv"
    assert run(*files, bad, "--origins", 8, "--horizons", "3,9", "--report", out)[0] == 2
    html = out.read_text()
    own = html.replace((importlib.resources.files("plotly") / "package_data/plotly.min.js").read_text(), "")
    assert len(own) < len(html) - 1_000_000
    assert not re.search(r"""(src|href)=["']|https?://""", own)
    assert "none.csv: not found" in own
    for heading in ("shop", "batch"):
        assert f"<h2>{heading}</h2>" in own
    figures = [
        json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', own)
    ]
    assert len(figures) == 1 + 2 * 2
    assert {len(trace["x"]) == len(trace["y"]) for figure in figures for trace in figure["data"]} == {True}
    fan = figures[2]["data"]
    assert [trace["name"] for trace in fan if trace.get("showlegend")] == [
        "90 % band", "50 % band", "median", "known", "truth",
    ]  # fmt: skip


def test_the_tables_fit_a_terminal(tmp_path: Path) -> None:
    file = write(tmp_path / "a-history-with-a-rather-long-name.csv", counts())
    done = CliRunner().invoke(
        cli, ["evaluate", "forecasts", str(file), "--origins", "6", "--horizons", "3,9"]
    )
    assert done.exit_code == 0
    assert "4 of 240 steps are gaps" in done.stdout
    lines = done.stdout.splitlines()[1:]
    assert max(len(line) for line in lines) <= 80
    assert "…" not in done.stdout
    for word in ("1–3", "1–9", "WQL", "MASE", "q.95", "q.99"):
        assert word in done.stdout


def test_workers_change_nothing_but_the_time(tmp_path: Path) -> None:
    files = [write(tmp_path / name, counts(150, seed)) for seed, name in enumerate(("a.csv", "b.csv"))]
    words = (*files, "--origins", 4, "--horizons", "3")
    assert run(*words, "--workers", 2) == run(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--horizons", "0,5"], "numbers of steps of at least 1"),
        (["--values", "sums"], "use counts or rates"),
        (["--step", "0"], "must be above 0"),
        (["--forecasts", "/nowhere/out.csv"], "cannot be written"),
        (["--report", "/nowhere/out.html"], "cannot be written"),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, words: list[str], said: str) -> None:
    file = write(tmp_path / "a.csv", counts())
    done = CliRunner().invoke(cli, ["evaluate", "forecasts", str(file), *words])
    assert said in str(done.exception)
