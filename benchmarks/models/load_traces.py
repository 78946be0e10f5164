"""Our forecasts on traces from a folder, beside rules of thumb and statsforecast's AutoETS, AutoTheta, AutoARIMA and MSTL.

Run: ``python benchmarks/models/load_traces.py FOLDER [--origins 300] [--statsforecast 20] [--cache DIR]``, or to keep the
result ``python benchmarks/run.py load_traces -- FOLDER``. The first run makes statsforecast's environment in ``.peers``.

Rolling origin as in ``smartscale evaluate forecasts``: ours learns every value in order; statsforecast, at fewer origins, is
fitted anew at each to the last ``WINDOW`` values, gaps filled by straight lines. Its season is a day where that is at most
``LONGEST_SEASON`` steps and fits twice into what is known, else none; MSTL, which is nothing without a season, then takes
an hour. Quantiles are the bounds of its intervals. Both are scored at the same origins, steps 1 to 30, by the weighted
quantile loss.

Prints geometric means over all traces and over both halves (constants of ours may be chosen on ``tune``, never on
``held``), and for each trace our scores and their ratios; nothing of the traces themselves.
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
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale import history_csv
from smartscale.evaluate.forecasts import rolling
from smartscale.evaluate.forecasts.results import BEST, BETTER, OURS, FileResult, judged, summary
from smartscale.evaluate.forecasts.rolling import Forecasts, Plan, Steps
from smartscale.evaluate.forecasts.scores import LEVELS, geometric_mean, pinball
from smartscale.evaluate.forecasts.tables import TAIL_LEVELS, short_name
from smartscale.history_csv import History

Array = npt.NDArray[np.float64]
Peers = dict[str, float | None]
"""By model."""

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


def beside(history: History, at: Steps, ours: Array, peer: Theirs, horizon: int) -> dict[str, float | None]:
    """Our loss divided by each model's; None where a model has no season or failed everywhere."""
    truth = rolling.truth(history.values, at, horizon)
    ratios: dict[str, float | None] = {}
    for model in MODELS:
        made = np.full(ours.shape, np.nan)
        for o, origin in enumerate(at.tolist()):
            length = season(history, origin + 1, model)
            if model == "MSTL" and length == 1:
                continue
            try:
                made[o] = peer.quantiles(model, window(history, origin), length, horizon)
            except RuntimeError as error:
                print(f"{history.path.name}, {history.stamp(origin)}: {error}", file=sys.stderr)
        both = ~np.isnan(made).any(axis=(1, 2))
        ratios[model] = (
            losses(ours[both], truth[both]) / losses(made[both], truth[both]) if both.any() else None
        )
    return ratios


def trace(file: Path, plan: Plan, peer: Theirs | None, peer_origins: int) -> tuple[FileResult, Peers]:
    """One trace: ours learns it once, for both sets of origins."""
    history = history_csv.read(file)
    at = rolling.origins(history.values, plan)
    few = rolling.origins(history.values, replace(plan, origins=peer_origins)) if peer else at[:0]
    every = np.union1d(at, few)
    ours = rolling.roll(history, plan, every)
    mine = np.isin(every, at)
    done = judged(file.name, history, plan, at, Forecasts(ours.values[mine], ours.peaks[mine]))
    if peer is None:
        return done.result, {}
    same = ours.values[np.isin(every, few)][..., : len(LEVELS)]
    return done.result, beside(history, few, same, peer, plan.horizon)


def told(files: list[FileResult], peers: list[Peers], plan: Plan) -> dict[str, object]:
    """What is said of some traces together."""
    whole = summary(files, plan)[-1]
    return {
        "traces": len(files),
        "ratios": {m: {BETTER: by[BETTER], BEST: by[BEST]} for m, by in whole.ratios.items()},
        "worst_wql": whole.worst_wql,
        "coverage_90": whole.coverage_90,
        "exceeded": {level: whole.exceeded[level] for level in TAIL_LEVELS},
        "peak_exceeded": {level: whole.peak_exceeded[level] for level in TAIL_LEVELS},
        "wql_to_statsforecast": {
            model: geometric_mean([r for one in peers if (r := one.get(model)) is not None])
            for model in MODELS
        },
    }


def row(file: FileResult, peers: Peers) -> dict[str, object]:
    """One trace."""
    at = file.horizons[-1]
    ours = at.scores[OURS]
    return {
        "trace": short_name(file.file),
        "step_s": file.step_s,
        "origins": file.origins,
        "wql": ours.wql,
        "mase": ours.mase,
        "coverage_90": ours.coverage_90,
        "ratios": {measure: {BETTER: by[BETTER], BEST: by[BEST]} for measure, by in at.ratios.items()},
        "wql_to_statsforecast": peers,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("folder", type=Path, help="with CSV histories, .gz too")
    arguments.add_argument("--origins", type=int, default=300)
    arguments.add_argument(
        "--statsforecast", type=int, default=20, metavar="ORIGINS", help="0 leaves statsforecast out"
    )
    arguments.add_argument("--cache", type=Path, help="keeps statsforecast's answers between runs")
    chosen = arguments.parse_args()
    plan = Plan(origins=chosen.origins)
    files, peers = [], []
    with ExitStack() as stack:
        peer = stack.enter_context(theirs(chosen.cache)) if chosen.statsforecast else None
        for file in sorted(chosen.folder.glob("*.csv*"), key=lambda path: path.stat().st_size):
            began = time.monotonic()
            one, ratios = trace(file, plan, peer, chosen.statsforecast)
            files.append(one)
            peers.append(ratios)
            told_of = json.dumps(row(one, ratios))
            print(f"{told_of} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    tune = [short_name(file.file).startswith(TUNE) for file in files]
    halves = {"all": [True] * len(files), "tune": tune, "held": [not one for one in tune]}
    result = {
        name: told(list(compress(files, half)), list(compress(peers, half)), plan)
        for name, half in halves.items()
        if any(half)
    }
    rows = [row(file, ratios) for file, ratios in zip(files, peers, strict=True)]
    print(json.dumps({**result, "traces": rows, "origins": chosen.origins, "package": PACKAGE}, indent=2))


if __name__ == "__main__":
    main()
