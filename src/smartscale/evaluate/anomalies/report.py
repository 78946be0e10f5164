"""An evaluation as a page: the figures, and each series with what people labelled, what was told, and how strange it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from smartscale.evaluate import page
from smartscale.evaluate.anomalies import nab
from smartscale.evaluate.anomalies.corpus import Corpus, Labelled
from smartscale.evaluate.anomalies.results import FileResult, Result
from smartscale.evaluate.anomalies.stream import Scores
from smartscale.evaluate.anomalies.tables import ROWS

SHOWN: Final = 4
"""Metrics of one series that are drawn: the ones that move most when it is labelled strange."""


def parts(corpus: Corpus, scores: Sequence[Scores], result: Result) -> Iterator[str | page.Figure]:
    """The page's parts, for ``page.write``."""
    yield page.paragraph(
        f"Detector {result.detector} over {len(result.files)} files of {result.folder}, each point judged as it came. "
        f"A point whose alert score reaches {result.bar:g} is an alert; shaded stretches are those that people labelled."
    )
    for text in (*result.problems, *result.notes):
        yield page.paragraph(text)
    if result.nab is not None:
        yield page.heading("Numenta Anomaly Benchmark")
        yield page.table(
            ["", *result.nab],
            [
                [what.strip().format(bar=result.bar), *(tell(profile) for profile in result.nab.values())]
                for what, tell in ROWS.items()
            ],
        )
        yield page.paragraph(
            "0 never detects, 100 is perfect. Near the score with the windows moved, or the alarm clock's, a score is "
            "chance; far above the score at the other half's threshold it is overfitting."
        )
    if result.vus_pr.mean is not None:
        yield page.paragraph(
            f"VUS-PR of the state score: {result.vus_pr.mean:.3f}, mean of {result.vus_pr.files} files with a label "
            f"(buffers up to {result.vus_pr.longest_buffer} points)."
        )
    yield page.heading("Series")
    for one, told, file in zip(corpus.files, scores, result.files, strict=True):
        yield _figure(one, told, file, result.bar)


def _figure(one: Labelled, told: Scores, file: FileResult, bar: float) -> page.Figure:
    traces: list[dict[str, object]] = []
    for metric in _shown(one):
        values = one.values[:, metric]
        kept = page.thinned(values)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "value" if one.values.shape[1] == 1 else f"metric {metric}",
                "x": [one.texts[at] for at in kept],
                "y": page.drawable(values[kept]),
                "line": {"width": 1} | ({"color": page.LINE} if one.values.shape[1] == 1 else {}),
            }
        )
    first = one.values[:, _shown(one)[0]]
    alerts = np.flatnonzero(told.alert >= bar)
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "alert",
            "x": [one.texts[at] for at in alerts],
            "y": page.drawable(first[alerts]),
            "text": [f"alert {told.alert[at]:.3f}" for at in alerts],
            "marker": {"color": page.STRANGE, "size": 8, "symbol": "triangle-down"},
        }
    )
    kept = page.thinned(told.state)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "state score",
            "x": [one.texts[at] for at in kept],
            "y": page.drawable(told.state[kept]),
            "yaxis": "y2",
            "line": {"color": page.FAINT, "width": 1},
            "fill": "tozeroy",
        }
    )
    layout = {
        "xaxis": {"type": "date", "anchor": "y2"},
        "yaxis": {"domain": [0.28, 1], "zeroline": False},
        "yaxis2": {"domain": [0, 0.22], "range": [0, 1.02], "title": {"text": "state"}},
        "shapes": _shapes(one),
    }
    return page.Figure(_caption(file), traces, layout)


def _shapes(one: Labelled) -> list[dict[str, object]]:
    """The labelled windows, shaded, and the part that is only learned, in grey."""
    texts = one.texts
    usual = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "line": {"width": 0}}
    learned = one.scored_from or nab.probation(len(texts))
    shapes: list[dict[str, object]] = [
        {**usual, "x0": texts[0], "x1": texts[max(learned - 1, 0)], "fillcolor": "rgba(120,130,140,0.12)"}
    ]
    for window in one.windows or ():
        start, end = nab.span(one.times_us, *window)
        shapes.append({**usual, "x0": texts[start], "x1": texts[end], "fillcolor": "rgba(230,150,30,0.25)"})
    return shapes


def _shown(one: Labelled) -> list[int]:
    """Which metrics are drawn: all, or those whose mean differs most, in their own deviations, where labelled."""
    n_metrics = one.values.shape[1]
    if n_metrics <= SHOWN or one.labels is None or not one.labels.any():
        return list(range(min(n_metrics, SHOWN)))
    spread = np.nanstd(one.values, axis=0)
    moved = np.abs(np.nanmean(one.values[one.labels], axis=0) - np.nanmean(one.values, axis=0))
    order = np.argsort(-moved / np.where(spread > 0, spread, np.inf))
    return [int(metric) for metric in order[:SHOWN]]


def _caption(file: FileResult) -> str:
    parts = [f"{file.file}: points {file.points:,}, alerts {file.alerts:,}"]
    if file.found is not None and file.windows:
        parts.append(
            f"{file.found} of {file.windows} windows found, {file.false_alarms} false alarms at the best threshold"
        )
    if file.vus_pr is not None:
        parts.append(f"VUS-PR {file.vus_pr:.3f}")
    return ", ".join(parts)
