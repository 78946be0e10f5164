"""What an evaluation found: of each file, and of all as geometric means of ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from smartscale import history_csv
from smartscale.errors import UserError
from smartscale.evaluate.forecasts import baselines, rolling
from smartscale.evaluate.forecasts.rolling import Array, Forecasts, Plan, Steps
from smartscale.evaluate.forecasts.scores import Scores, geometric_mean, naive_error, score
from smartscale.history_csv import History, Kind

OURS: Final = "smartscale"
BETTER: Final = "better of naive and seasonal naive (day)"
BEST: Final = "best of the four"
RIVALS: Final[dict[str, tuple[str, ...]]] = {
    **{name: (name,) for name in baselines.NAMES},
    BETTER: (baselines.NAIVE, baselines.DAY),
    BEST: baselines.NAMES,
}
"""What our scores are divided by: the least of these methods' scores, of the same file and horizon."""
MEASURES: Final[dict[str, Callable[[Scores], float | None]]] = {
    "wql": lambda scores: scores.wql,
    "mase": lambda scores: scores.mase,
    "quantile_loss_0.95": lambda scores: scores.quantile_loss["0.95"],
    "quantile_loss_0.99": lambda scores: scores.quantile_loss["0.99"],
}
Ratios = dict[str, dict[str, float | None]]
"""By measure and rival."""


class Horizon(msgspec.Struct, frozen=True):
    """Scores over steps 1 to a horizon, by method; and ours divided by the rivals'."""

    steps: int
    scores: dict[str, Scores]
    ratios: Ratios


class FileResult(msgspec.Struct, frozen=True):
    """Of one file."""

    file: str
    column: str
    step_s: float
    steps: int
    origins: int
    first_origin: str
    last_origin: str
    notes: list[str]
    horizons: list[Horizon]


class FileError(msgspec.Struct, frozen=True):
    """A file that could not be evaluated, and why."""

    file: str
    error: str


class Summary(msgspec.Struct, frozen=True):
    """Over all files: geometric means of the ratios; coverage as mean, least and greatest; exceedance as the mean over
    files."""

    steps: int
    ratios: Ratios
    worst_wql: float | None
    """The greatest of the files' WQL ratios to the better of naive and seasonal naive (day)."""
    coverage_90: tuple[float, float, float] | None
    exceeded: dict[str, float]
    peak_exceeded: dict[str, float]


class Result(msgspec.Struct, frozen=True):
    """The whole evaluation, as ``--json`` prints it."""

    horizons: tuple[int, ...]
    origins: int
    warm_up: float
    files: list[FileResult]
    errors: list[FileError]
    summary: list[Summary]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A file's result with all that led to it, for the CSV of forecasts and the report."""

    result: FileResult
    history: History
    origins: Steps
    ours: Forecasts


def evaluate(
    file: str,
    plan: Plan,
    column: str | None = None,
    step_s: float | None = None,
    kind: Kind = "counts",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Evaluate one file; ``progress`` is told the steps done, and all there are. Raises ``UserError`` naming it."""
    history = history_csv.read(Path(file), column, step_s, kind)
    try:
        at = rolling.origins(history.values, plan)
    except UserError as error:
        raise UserError(f"file {file}: {error}") from None
    total = int(at[-1]) + 1
    ours = rolling.roll(history, plan, at, None if progress is None else lambda done: progress(done, total))
    return judged(file, history, plan, at, ours)


def judged(file: str, history: History, plan: Plan, at: Steps, ours: Forecasts) -> Evaluated:
    """Our forecasts at the origins ``at``, scored beside the rules of thumb."""
    rules = baselines.baselines(history.values, history.step_s, plan, at)
    truth = rolling.truth(history.values, at, plan.horizon)
    scale = naive_error(history.values, int(at[0]))
    result = FileResult(
        file=file,
        column=history.column,
        step_s=history.step_s,
        steps=len(history.values),
        origins=len(at),
        first_origin=history.stamp(int(at[0])),
        last_origin=history.stamp(int(at[-1])),
        notes=history.notes,
        horizons=_horizons({OURS: ours, **rules}, truth, scale, plan),
    )
    return Evaluated(result, history, at, ours)


def attempt(
    file: str,
    plan: Plan,
    column: str | None = None,
    step_s: float | None = None,
    kind: Kind = "counts",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluated | FileError:
    """``evaluate``, with what is wrong with the file as a value: it does not lose the others."""
    try:
        return evaluate(file, plan, column, step_s, kind, progress)
    except UserError as error:
        return FileError(file, str(error))


def _horizons(made: dict[str, Forecasts], truth: Array, scale: float | None, plan: Plan) -> list[Horizon]:
    found = []
    for k, h in enumerate(plan.horizons):
        scores = {
            name: score(one.values[:, :h], one.peaks[:, k], truth[:, :h], scale) for name, one in made.items()
        }
        found.append(Horizon(h, scores, ratios(scores)))
    return found


def ratios(scores: dict[str, Scores]) -> Ratios:
    """Ours divided by each rival's; None where there is nothing to divide by."""
    return {
        name: {rival: _ratio(scores, measure, among) for rival, among in RIVALS.items()}
        for name, measure in MEASURES.items()
    }


def _ratio(
    scores: dict[str, Scores], measure: Callable[[Scores], float | None], among: Iterable[str]
) -> float | None:
    ours = measure(scores[OURS])
    theirs = [value for name in among if name in scores and (value := measure(scores[name])) is not None]
    return ours / min(theirs) if ours is not None and theirs and min(theirs) > 0 else None


def summary(files: list[FileResult], plan: Plan) -> list[Summary]:
    """One for each horizon; empty without files."""
    return [_summary([file.horizons[k] for file in files], h) for k, h in enumerate(plan.horizons) if files]


def _summary(found: list[Horizon], steps: int) -> Summary:
    def over(measure: str, rival: str) -> list[float]:
        return [ratio for one in found if (ratio := one.ratios[measure][rival]) is not None]

    ours = [one.scores[OURS] for one in found]
    covered = [one.coverage_90 for one in ours if one.coverage_90 is not None]
    return Summary(
        steps=steps,
        ratios={m: {r: geometric_mean(over(m, r)) for r in RIVALS} for m in MEASURES},
        worst_wql=max(over("wql", BETTER), default=None),
        coverage_90=(float(np.mean(covered)), min(covered), max(covered)) if covered else None,
        exceeded=_mean_shares([one.exceeded for one in ours]),
        peak_exceeded=_mean_shares([one.peak_exceeded for one in ours]),
    )


def _mean_shares(shares: list[dict[str, float | None]]) -> dict[str, float]:
    known = {level: [value for one in shares if (value := one[level]) is not None] for level in shares[0]}
    return {level: float(np.mean(values)) for level, values in known.items() if values}
