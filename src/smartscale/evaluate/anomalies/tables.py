"""The results of an evaluation as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from rich import box
from rich.table import Table

from smartscale.evaluate.anomalies.results import FileResult, ProfileResult, Result


def tables(result: Result) -> Iterator[Table]:
    """The files, then the benchmark's profiles where it applies, then the volume."""
    yield _files(result)
    if result.nab is not None:
        yield _profiles(result.nab, result.bar)
    if result.vus_pr.mean is not None:
        table = Table(title=f"State score; files with a label: {result.vus_pr.files}", box=box.SIMPLE)
        table.add_column("VUS-PR", justify="right")
        table.add_column("longest buffer", justify="right")
        table.add_row(f"{result.vus_pr.mean:.3f}", f"{result.vus_pr.longest_buffer} points")
        yield table


def _files(result: Result) -> Table:
    scored = result.nab is not None
    table = Table(title=f"{result.folder}: {len(result.files)} files", box=box.SIMPLE)
    table.add_column("file", overflow="fold")
    for name in ("points", *(("found", "false", "adds") if scored else ("stretches", "alerts")), "VUS-PR"):
        table.add_column(name, justify="right", no_wrap=True)
    for file in result.files:
        table.add_row(
            file.file,
            f"{file.points:,}",
            *(_outcome(file) if scored else (_count(file.windows), _count(file.alerts))),
            _number(file.vus_pr, 3),
        )
    return table


def _outcome(file: FileResult) -> tuple[str, str, str]:
    if file.windows is None:
        return "", "", ""
    return f"{file.found}/{file.windows}", _count(file.false_alarms), _number(file.raw, 2)


def _profiles(profiles: dict[str, ProfileResult], bar: float) -> Table:
    table = Table(
        title="Numenta Anomaly Benchmark: 0 never detects, 100 is perfect",
        caption="Near the last two rows a score is chance; far above the other's it is overfitting.",
        box=box.SIMPLE,
    )
    table.add_column("")
    for name in profiles:
        table.add_column(name, justify="right")
    for what, tell in ROWS.items():
        table.add_row(what.format(bar=bar), *(tell(profile) for profile in profiles.values()))
    return table


ROWS: Final[dict[str, Callable[[ProfileResult], str]]] = {
    "score": lambda it: f"{it.score:.1f}",
    "  best threshold": lambda it: f"{it.threshold:.4g}",
    "  windows found": lambda it: f"{it.found} of {it.windows}",
    "  false alarms": lambda it: f"{it.false_alarms:,}",
    "at {bar:g}": lambda it: f"{it.at_bar.score:.1f}",
    "other's threshold": lambda it: f"{it.halves.both:.1f}",
    "  even, odd files": lambda it: f"{it.halves.even:.1f}, {it.halves.odd:.1f}",
    "windows moved": lambda it: f"{it.moved.mean:.1f}",
    "  least, most": lambda it: f"{it.moved.low:.1f}, {it.moved.high:.1f}",
    "alarm clock": lambda it: f"{it.clock.score:.1f} ({it.clock.period})",
}
"""Row by row, of a profile."""


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
