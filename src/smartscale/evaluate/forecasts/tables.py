"""An evaluation as tables for a terminal of 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table

from smartscale.evaluate.forecasts import baselines
from smartscale.evaluate.forecasts.results import BEST, BETTER, OURS, Result, Summary

RULES: Final = {
    "naive": baselines.NAIVE,
    "day": baselines.DAY,
    "week": baselines.WEEK,
    "mean": baselines.WINDOW,
}
"""Column by column, what a score is divided by."""
PAIRS: Final = {"better": BETTER, "best": BEST}
SHORT: Final = {"wql": "WQL", "mase": "MASE", "quantile_loss_0.95": "q.95", "quantile_loss_0.99": "q.99"}


def tables(result: Result) -> list[Table]:
    """Each file at the longest horizon, then all files at each horizon. Empty without a file."""
    if not result.files:
        return []
    return [_files(result), _all(result)]


def _files(result: Result) -> Table:
    table = _table(
        f"Steps 1 to {result.horizons[-1]}: WQL divided by that of rules of thumb, coverage of the 90 % band"
    )
    table.add_column("file", overflow="fold", max_width=26)
    for name in ("step", "MASE", "WQL", *RULES, "cover"):
        table.add_column(name, justify="right")
    for file in result.files:
        at = file.horizons[-1]
        ours = at.scores[OURS]
        table.add_row(
            short_name(file.file),
            f"{file.step_s:g}s",
            number(ours.mase),
            number(ours.wql),
            *(number(at.ratios["wql"][rule]) for rule in RULES.values()),
            share(ours.coverage_90),
        )
    return table


def _all(result: Result) -> Table:
    files = f"{len(result.files)} file{'s' if len(result.files) > 1 else ''}"
    table = _table(
        f"Geometric means over {files}; better: of naive and day, best: of all four, max: of the files' better"
    )
    table.add_column("steps", justify="right")
    table.add_column("score")
    for name in (*RULES, *PAIRS, "max", "cover"):
        table.add_column(name, justify="right")
    for one in result.summary:
        for measure, by in one.ratios.items():
            first = measure == "wql"
            table.add_row(
                f"1–{one.steps}" if first else "",
                SHORT[measure],
                *(number(by[rule]) for rule in (*RULES.values(), *PAIRS.values())),
                number(one.worst_wql) if first else "",
                _covered(one) if first else "",
            )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _covered(one: Summary) -> str:
    return "–" if one.coverage_90 is None else share(one.coverage_90[0])


def short_name(file: str) -> str:
    """A file's name without folder and endings.

    >>> short_name("../loads/shop.csv.gz")
    'shop'
    """
    return Path(file).name.removesuffix(".gz").removesuffix(".csv")


def number(value: float | None) -> str:
    """Five places at most, up to 9999."""
    return "–" if value is None else f"{value:.3f}" if value < 9.9995 else f"{value:#.4g}".rstrip(".")


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
