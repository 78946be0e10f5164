"""Our forecasts beside statsforecast's AutoETS, AutoTheta, AutoARIMA and MSTL, on traces from a folder.

Run: ``python benchmarks/models/beside_statsforecast.py FOLDER [--origins 20] [--cache DIR]``, or to keep the result
``python benchmarks/run.py beside_statsforecast -- FOLDER``. The first run makes statsforecast's environment in ``.peers``.

Rolling origin as in ``smartscale evaluate forecasts``: ours learns every value in order; theirs are fitted anew at each
origin to the last ``WINDOW`` values, gaps filled by straight lines. Their season is a day where that is at most
``LONGEST_SEASON`` steps and fits twice into what is known, else none; MSTL, which is nothing without a season, then takes
an hour. Quantiles are the bounds of their intervals. All are scored at the same origins and steps 1 to 30 by the weighted
quantile loss.

Prints, for each trace, our loss and each of theirs that ours is divided by; geometric means over all, and over both halves:
constants of ours may be chosen on ``tune``, never on ``held``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale.evaluate.forecasts import rolling
from smartscale.evaluate.forecasts.results import OURS, Evaluated, evaluate
from smartscale.evaluate.forecasts.rolling import Plan
from smartscale.evaluate.forecasts.scores import LEVELS, geometric_mean, pinball
from smartscale.history_csv import History

Array = npt.NDArray[np.float64]

HERE: Final = Path(__file__).parent
ENVIRONMENT: Final = HERE.parents[1] / ".peers" / "statsforecast"
PACKAGE: Final = "statsforecast==2.1.1"
MODELS: Final = ("AutoETS", "AutoTheta", "AutoARIMA", "MSTL")
WINDOW: Final = 2000
LONGEST_SEASON: Final = 400
TUNE: Final = ("nasa", "twitter", "nginxorg")
"""How the names of the traces begin on which constants may be chosen; the others are held back."""


class Theirs:
    """statsforecast in a process of its own; what it once answered is kept in ``cache``."""

    def __init__(self, process: subprocess.Popen[str], cache: Path | None) -> None:
        self._process, self._cache = process, cache

    def quantiles(self, model: str, values: Array, season: int, horizon: int) -> Array:
        """Shape (horizon, levels). Raises RuntimeError where the model fails."""
        asked = json.dumps({"model": model, "values": values.tolist(), "season": season, "horizon": horizon})
        kept = self._cache and self._cache / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.json"
        if kept and kept.exists():
            answer = json.loads(kept.read_text())
        else:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(asked + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            if kept:
                kept.write_text(json.dumps(answer))
        if isinstance(answer, dict):
            raise RuntimeError(f"{model}: {answer['error']}")
        return np.array(answer)


@contextmanager
def theirs(cache: Path | None) -> Iterator[Theirs]:
    """The process, ended with the block."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / PACKAGE).exists():
        print(f"making the environment of {PACKAGE} …", file=sys.stderr, flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True, stdout=sys.stderr)
        (ENVIRONMENT / PACKAGE).touch()
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
    script = HERE / "contenders" / "statsforecast_models.py"
    process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Theirs(process, cache)
    finally:
        process.communicate()


def season(history: History, known: int, model: str) -> int:
    """In steps; 1 is none."""
    for length_s in (86_400, 3600) if model == "MSTL" else (86_400,):
        steps = length_s / history.step_s
        if steps.is_integer() and 2 <= steps <= LONGEST_SEASON and 2 * steps <= min(known, WINDOW):
            return int(steps)
    return 1


def window(history: History, origin: int) -> Array:
    """The last values known at ``origin``, gaps filled."""
    values = history.values[max(origin - WINDOW + 1, 0) : origin + 1]
    known = np.flatnonzero(~np.isnan(values))
    return np.interp(np.arange(len(values)), known, values[known])


def losses(made: Array, truth: Array) -> float:
    """Weighted quantile loss of (origins, steps, levels)."""
    known = ~np.isnan(truth)
    loss = pinball(made[known], truth[known], LEVELS)
    return float(2 * loss.mean(axis=1).sum() / np.abs(truth[known]).sum())


def beside(done: Evaluated, peer: Theirs, horizon: int) -> dict[str, object]:
    """One trace: our loss, and it divided by each model's; None where a model has no season or failed everywhere."""
    history = done.history
    truth = rolling.truth(history.values, done.origins, horizon)
    ours = done.ours.values[..., : len(LEVELS)]
    ratios: dict[str, float | None] = {}
    failures: dict[str, int] = {}
    for model in MODELS:
        made = np.full(ours.shape, np.nan)
        for o, origin in enumerate(done.origins.tolist()):
            length = season(history, origin + 1, model)
            if model == "MSTL" and length == 1:
                continue
            try:
                made[o] = peer.quantiles(model, window(history, origin), length, horizon)
            except RuntimeError as error:
                print(f"{done.result.file}, {history.stamp(origin)}: {error}", file=sys.stderr)
                failures[model] = failures.get(model, 0) + 1
        both = ~np.isnan(made).any(axis=(1, 2))
        ratios[model] = (
            losses(ours[both], truth[both]) / losses(made[both], truth[both]) if both.any() else None
        )
    scores = done.result.horizons[-1].scores[OURS]
    return {
        "trace": Path(done.result.file).name.partition(".")[0],
        "step_s": history.step_s,
        "origins": len(done.origins),
        "wql": scores.wql,
        "ratios": ratios,
        "failures": failures,
    }


def means(rows: list[dict[str, object]]) -> dict[str, float | None]:
    """Geometric means of the ratios of these traces."""
    by_trace = [row["ratios"] for row in rows]
    return {
        model: geometric_mean([r[model] for r in by_trace if isinstance(r, dict) and r[model] is not None])
        for model in MODELS
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("folder", type=Path, help="with CSV histories, .gz too")
    arguments.add_argument("--origins", type=int, default=20)
    arguments.add_argument("--cache", type=Path, help="keeps statsforecast's answers between runs")
    chosen = arguments.parse_args()
    plan = Plan(origins=chosen.origins)
    rows = []
    with theirs(chosen.cache) as peer:
        for file in sorted(chosen.folder.glob("*.csv*"), key=lambda path: path.stat().st_size):
            began = time.monotonic()
            done = evaluate(str(file), plan)
            ours_s = time.monotonic() - began
            rows.append(beside(done, peer, plan.horizon))
            told = json.dumps(rows[-1]["ratios"])
            print(
                f"{file.name}: {told}; {ours_s:.0f} s + {time.monotonic() - began - ours_s:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    tune = [row for row in rows if str(row["trace"]).startswith(TUNE)]
    held = [row for row in rows if not str(row["trace"]).startswith(TUNE)]
    result = {
        "wql_ratio": {"all": means(rows), "tune": means(tune), "held": means(held)},
        "traces": rows,
        "origins": chosen.origins,
        "package": PACKAGE,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
