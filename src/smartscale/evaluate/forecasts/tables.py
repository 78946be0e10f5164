"""An evaluation as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
TAIL_LEVELS: Final = ("0.5", "0.9", "0.95", "0.99", "0.999", "0.9995")
SHORT: Final = {"wql": "WQL", "mase": "MASE", "quantile_loss_0.95": "q.95", "quantile_loss_0.99": "q.99"}


def tables(result: Result) -> list[Table]:
    """Each file at the longest horizon, all files at each horizon, the tail. Empty without a file."""
    if not result.files:
        return []
    return [_files(result), _all(result), _tail(result)]


def _files(result: Result) -> Table:
    table = _table(
        f"Steps 1 to {result.horizons[-1]}: WQL divided by that of rules of thumb; 90 % band's coverage"
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
    table = _table(f"Geometric means over {files} (better: of naive and day; max: the worst file)")
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


def _tail(result: Result) -> Table:
    table = _table("Quantiles exceeded, by values and by maxima until the horizon; mean over files")
    for name in ("steps", "quantile", *TAIL_LEVELS):
        table.add_column(name, justify="right")
    for row in exceedance(result.summary):
        table.add_row(*row)
    return table


def exceedance(summaries: Sequence[Summary]) -> Iterator[list[str]]:
    """Rows of how often quantiles are meant to be exceeded, and were."""
    yield ["", "wanted", *(f"{1 - float(level):.2%}" for level in TAIL_LEVELS)]
    for one in summaries:
        for name, shares in (("value", one.exceeded), ("maximum", one.peak_exceeded)):
            told = (shares.get(level) for level in TAIL_LEVELS)
            yield [f"1–{one.steps}", name, *("–" if value is None else f"{value:.2%}" for value in told)]


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
