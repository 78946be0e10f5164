"""``smartscale evaluate anomalies``: a streaming detector over a folder of labelled series."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from smartscale.cli.options import JsonOption, console, print_json
from smartscale.errors import UserError

if TYPE_CHECKING:
    from smartscale.evaluate.anomalies.corpus import Labelled
    from smartscale.evaluate.anomalies.stream import Make, Scores

OURS = "smartscale.ml.anomaly.detector:Detector"


def anomalies(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="data/**/*.csv with labels/combined_windows.json, or CSV or Parquet files with a column label.",
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", metavar="FILE", help="The windows (JSON), where they are not in the folder."
        ),
    ] = None,
    column: Annotated[str, typer.Option("--column", help="The value in a CSV.")] = "value",
    bar: Annotated[
        float,
        typer.Option(
            "--bar", min=0.0, max=1.0, help="Also score the alerts at this fixed threshold, not the best one."
        ),
    ] = 0.5,
    buffer: Annotated[
        int, typer.Option("--buffer", min=0, help="VUS-PR: tolerance around labels, points, at most.")
    ] = 100,
    scores_to: Annotated[
        Path | None,
        typer.Option(
            "--scores", metavar="OUT", help="Write each point's scores there, under the same relative paths."
        ),
    ] = None,
    report_to: Annotated[
        Path | None,
        typer.Option("--report", metavar="OUT.html", help="Write a page: series, labels, alerts, state."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option("--detector", metavar="MODULE:CLASS", help="Another detector (docs/evaluate.md)."),
    ] = OURS,
    as_json: JsonOption = False,
) -> None:
    """How good the anomaly detector is on labelled series, each point judged as it comes.

    Scored by the published rules of the Numenta Anomaly Benchmark, and by VUS-PR (docs/evaluate.md explains every
    figure). Exit code 2 if a file could not be read; the others are scored."""
    from smartscale.evaluate import page
    from smartscale.evaluate.anomalies import corpus, report, results, scores_csv, tables

    make = _maker(detector)
    if report_to is not None and not report_to.parent.is_dir():
        raise UserError(f"--report {report_to}: cannot be written: there is no folder {report_to.parent}")
    found = corpus.read(folder, labels, column)
    if scores_to is not None:
        scores_csv.check(scores_to, found)
    for problem in found.problems:
        typer.echo(f"smartscale: {problem}", err=True)
    for note in found.notes:
        typer.echo(f"smartscale: {note}", err=True)
    if not found.files:
        raise UserError(f"folder {folder}: no file of it can be scored; {corpus.EXPECTED}")
    scores = _scored(found.files, make)
    if scores_to is not None:
        scores_csv.write(scores_to, found, scores)
    result = results.evaluated(found, scores, detector, bar, buffer)
    if report_to is not None:
        page.write(report_to, f"Anomalies in {folder.resolve().name}", report.parts(found, scores, result))
    if as_json:
        print_json(result)
    else:
        for table in tables.tables(result):
            console.print(table)
    if found.problems:
        sys.exit(2)


def _maker(detector: str) -> Make:
    """Makes the detector that ``MODULE:CLASS`` names. Raises ``UserError``."""
    module, _, name = detector.partition(":")
    try:
        make: Make = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--detector {detector}: {error}; give MODULE:CLASS, such as {OURS}") from error
    return make


def _scored(files: list[Labelled], make: Make) -> list[Scores]:
    """Progress on stderr."""
    from smartscale.evaluate.anomalies import stream

    points = sum(len(one.times_us) for one in files)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{len(files)} files, {points:,} points", total=points)
        return stream.scored(files, make, lambda done: progress.advance(task, done))
