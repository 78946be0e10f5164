"""``smartscale evaluate forecasts``: rolling-origin evaluation of CSV histories."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from smartscale.cli.options import JsonOption, console, print_json
from smartscale.errors import UserError

if TYPE_CHECKING:
    from smartscale.evaluate.forecasts.results import Evaluated, FileError
    from smartscale.evaluate.forecasts.rolling import Plan
    from smartscale.history_csv import Kind


def forecasts(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="CSV histories: timestamp and a value; .gz too.")
    ],
    column: Annotated[
        str | None,
        typer.Option("--column", help="The value (default: requests, or the only column of numbers)."),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(
            "--step",
            metavar="SECONDS",
            help="Join rows to steps of this length (default: as the rows are; 10 s if they are closer than 5 s).",
        ),
    ] = None,
    values: Annotated[
        str,
        typer.Option(
            "--values",
            metavar="counts|rates",
            help="What a value is: so many an interval (joined steps are sums), or so many a second (means).",
        ),
    ] = "counts",
    horizons: Annotated[
        str, typer.Option("--horizons", metavar="STEPS,…", help="Score steps 1 to each of these.")
    ] = "5,15,30",
    origins: Annotated[
        int, typer.Option("--origins", min=1, help="Forecasts a file, evenly spaced, at most.")
    ] = 300,
    warm_up: Annotated[
        float,
        typer.Option(
            "--warm-up", min=0.0, max=0.95, help="Share of a history that is only learned at first."
        ),
    ] = 0.25,
    forecasts_to: Annotated[
        Path | None, typer.Option("--forecasts", metavar="OUT.csv", help="Write every forecast.")
    ] = None,
    report_to: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="OUT.html", help="Write a page: scores, and forecasts against truth."
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Files at a time.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """How good the forecasts would have been on your own histories, beside rules of thumb.

    Each value is predicted before it is learned, in order, so nothing is seen before its time (docs/evaluate.md explains
    every figure). A ratio below 1 is better than the rule. Exit code 2 if a file could not be evaluated; the others
    are."""
    from smartscale.evaluate import page
    from smartscale.evaluate.forecasts import forecasts_csv, report, tables
    from smartscale.evaluate.forecasts.results import FileError, Result, summary
    from smartscale.evaluate.forecasts.rolling import Plan

    if values not in ("counts", "rates"):
        raise UserError(f"--values {values}: use counts or rates")
    if step is not None and not step > 0:
        raise UserError(f"--step {step:g}: must be above 0")
    if report_to is not None and not report_to.parent.is_dir():
        raise UserError(f"--report {report_to}: cannot be written: there is no folder {report_to.parent}")
    plan = Plan(_horizons(horizons), origins, warm_up)
    kind: Kind = "rates" if values == "rates" else "counts"
    evaluated, errors = [], []
    with ExitStack() as stack:
        out = stack.enter_context(_opened(forecasts_to)) if forecasts_to else None
        if out is not None:
            forecasts_csv.write_header(out)
        for done in _evaluated(files, plan, column, step, kind, workers):
            if isinstance(done, FileError):
                errors.append(done)
                typer.echo(f"smartscale: {done.error}", err=True)
                continue
            evaluated.append(done)
            if out is not None:
                forecasts_csv.write(out, done)
    found = [done.result for done in evaluated]
    result = Result(plan.horizons, origins, warm_up, found, errors, summary(found, plan))
    if report_to is not None:
        page.write(report_to, "Forecasts, judged on their future", report.parts(result, evaluated))
    if as_json:
        print_json(result)
    else:
        for file in found:
            if file.notes:
                typer.echo(f"{file.file}: {'; '.join(file.notes)}")
        for table in tables.tables(result):
            console.print(table)
    if errors:
        sys.exit(2)


def _evaluated(
    files: list[str], plan: Plan, column: str | None, step: float | None, kind: Kind, workers: int
) -> Iterator[Evaluated | FileError]:
    """Each file's, in the order given, as it is done; progress on stderr."""
    from smartscale.evaluate.forecasts.results import attempt

    one = partial(attempt, plan=plan, column=column, step_s=step, kind=kind)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if workers == 1:
            for file in files:
                task = progress.add_task(Path(file).name, total=None)
                yield one(file, progress=partial(_show, progress, task))
                progress.remove_task(task)
            return
        task = progress.add_task(f"{len(files)} files", total=len(files))
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            for done in pool.map(one, files):
                progress.advance(task)
                yield done


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _horizons(text: str) -> tuple[int, ...]:
    try:
        steps = sorted({int(part) for part in text.split(",")})
    except ValueError:
        steps = []
    if not steps or steps[0] < 1:
        raise UserError(f"--horizons {text}: give numbers of steps of at least 1, such as 5,15,30")
    return tuple(steps)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            yield out
    except OSError as error:
        raise UserError(f"--forecasts {path}: cannot be written: {error}") from error
