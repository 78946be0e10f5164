"""An evaluation as a page: the scores, how far the stated quantiles can be believed, and each file's forecasts against the
truth that came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from smartscale.clock import iso
from smartscale.evaluate import page
from smartscale.evaluate.forecasts import rolling
from smartscale.evaluate.forecasts.results import OURS, Evaluated, Horizon, Result, Summary
from smartscale.evaluate.forecasts.scores import ALL_LEVELS, LEVELS, Scores, names
from smartscale.evaluate.forecasts.tables import (
    PAIRS,
    RULES,
    SHORT,
    TAIL_LEVELS,
    exceedance,
    number,
    share,
    short_name,
)
from smartscale.history_csv import History

Array = npt.NDArray[np.float64]

FANS: Final = 6
"""Single forecasts that are drawn, evenly spaced."""
BEFORE: Final = 2
"""Horizons of history drawn before each."""
_BANDS: Final = (
    ("90 % band", 0.05, 0.95, "rgba(37,99,168,0.16)"),
    ("50 % band", 0.25, 0.75, "rgba(37,99,168,0.26)"),
)
_TRUTH: Final = "#1c2733"


def parts(result: Result, evaluated: Sequence[Evaluated]) -> Iterator[str | page.Figure]:
    """The page's parts, for ``page.write``."""
    yield page.paragraph(
        f"{len(result.files)} files, at most {result.origins} origins each, evenly spaced after the first "
        f"{result.warm_up:.0%}, which is only learned. Each value was predicted before it was learned. A ratio below 1 is "
        "better than the rule of thumb it is to; docs/evaluate.md says what every score means."
    )
    for error in result.errors:
        yield page.paragraph(error.error)
    if not result.files:
        return
    yield page.heading("All files")
    yield page.paragraph(
        "Geometric means over the files of our score divided by that of rules of thumb: naive, seasonal naive by the day "
        "and by the week, the mean of as many steps as are forecast, the better of naive and day, the best of all four. "
        "Greatest: of the files' WQL ratios to the better of naive and day."
    )
    yield page.table(
        ["steps, score", *RULES, *PAIRS, "greatest", "90 % band covers (least to most)"],
        [row for one in result.summary for row in _summary_rows(one)],
    )
    yield page.paragraph(
        "How often quantiles were exceeded: by values, and by the maximum until the horizon; mean over the files."
    )
    yield page.table(["steps", "quantile", *TAIL_LEVELS], exceedance(result.summary))
    yield _reliability(evaluated)
    for done in evaluated:
        yield from _file(done)


def _summary_rows(one: Summary) -> Iterator[list[str]]:
    for measure, by in one.ratios.items():
        wql = measure == "wql"
        covered = " to ".join(share(value) for value in one.coverage_90[1:]) if one.coverage_90 else ""
        yield [
            f"1 to {one.steps}, {SHORT[measure]}",
            *(number(by[rival]) for rival in (*RULES.values(), *PAIRS.values())),
            number(one.worst_wql) if wql else "",
            f"{share(one.coverage_90[0])} ({covered})" if wql and one.coverage_90 else "",
        ]


def _reliability(evaluated: Sequence[Evaluated]) -> page.Figure:
    """How often the truth was at or below each quantile, as a distance from what the quantile says."""
    levels = [float(level) for level in ALL_LEVELS]
    traces: list[dict[str, Any]] = []
    for done in evaluated:
        exceeded = done.result.horizons[-1].scores[OURS].exceeded
        above = [exceeded[name] for name in names(ALL_LEVELS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": short_name(done.result.file),
                "x": levels,
                "y": [
                    None if share is None else round(100 * (1 - share - level), 2)
                    for share, level in zip(above, levels, strict=True)
                ],
                "marker": {"size": 4},
                "line": {"width": 1},
            }
        )
    layout = {
        "xaxis": {"title": {"text": "quantile"}, "range": [0, 1]},
        "yaxis": {"title": {"text": "points, 0 is right"}, "zeroline": True, "zerolinewidth": 2},
        "legend": {"orientation": "v", "y": 0.9},
        "hovermode": "closest",
    }
    caption = "Truths at or below each quantile, less the quantile itself, in percentage points"
    return page.Figure(caption, traces, layout)


def _file(done: Evaluated) -> Iterator[str | page.Figure]:
    result, history = done.result, done.history
    yield page.heading(short_name(result.file))
    notes = f" {'; '.join(result.notes)}." if result.notes else ""
    yield page.paragraph(
        f"{result.file}, column {result.column}: {result.steps:,} steps of {result.step_s:g} s, {result.origins} origins "
        f"from {result.first_origin} to {result.last_origin}.{notes}"
    )
    header = [
        "steps, method",
        "WQL",
        "MASE",
        "q.95",
        "q.99",
        "90 % band covers",
        "above q.99",
        "maximum above q.99",
    ]
    yield page.table(header, [row for at in result.horizons for row in _score_rows(at)])
    yield _ahead(done)
    yield _fans(history, done)


def _score_rows(at: Horizon) -> Iterator[list[str]]:
    for method, scores in at.scores.items():
        yield [f"1 to {at.steps}, {method}", *_cells(scores)]


def _cells(scores: Scores) -> list[str]:
    return [
        *(
            number(x)
            for x in (scores.wql, scores.mase, scores.quantile_loss["0.95"], scores.quantile_loss["0.99"])
        ),
        *(share(x) for x in (scores.coverage_90, scores.exceeded["0.99"], scores.peak_exceeded["0.99"])),
    ]


def _ahead(done: Evaluated) -> page.Figure:
    """The longest horizon's forecasts at the times they were for, and what came."""
    history, h = done.history, done.result.horizons[-1].steps
    targets = done.origins + h
    quantiles = done.ours.values[:, h - 1]
    truth = history.values[targets]
    times = _times(history, targets)
    first = int(done.origins[0])
    past = first + page.thinned(history.values[first:])
    low, high = _at(quantiles, 0.05), _at(quantiles, 0.95)
    outside = np.flatnonzero((truth < low) | (truth > high))
    traces = [
        *_bands(times, quantiles, {}),
        {
            "type": "scatter", "mode": "lines", "name": "truth", "x": _times(history, past),
            "y": page.drawable(history.values[past]), "line": {"color": _TRUTH, "width": 1},
        },
        {
            "type": "scatter", "mode": "markers", "name": "truth outside the 90 % band",
            "x": [times[at] for at in outside], "y": page.drawable(truth[outside]),
            "marker": {"color": page.STRANGE, "size": 6},
        },
    ]  # fmt: skip
    span = f"{h} steps ({h * history.step_s:,.0f} s) ahead"
    layout = {"xaxis": {"type": "date"}, "yaxis": {"rangemode": "tozero", "range": [0, _top(truth, high)]}}
    return page.Figure(
        f"{short_name(done.result.file)}: forecast {span}, where it was for, and the truth",
        traces,
        layout,
        380,
    )


def _fans(history: History, done: Evaluated) -> page.Figure:
    """A few whole forecasts, with the history they were made from and what came."""
    h = done.result.horizons[-1].steps
    picked = np.unique(np.linspace(0, len(done.origins) - 1, FANS).round().astype(int)).tolist()
    truth = rolling.truth(history.values, done.origins, h)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "grid": {"rows": 2, "columns": 3, "pattern": "independent", "ygap": 0.25},
        "hovermode": "closest",
        "annotations": [],
    }
    for place, o in enumerate(picked):
        name = "" if place == 0 else str(place + 1)
        axes = {"xaxis": f"x{name}", "yaxis": f"y{name}", "showlegend": place == 0}
        origin = int(done.origins[o])
        begin = max(origin - BEFORE * h, 0)
        past = list(range(begin, origin + 1))
        traces += _bands(list(range(1, h + 1)), done.ours.values[o], axes)
        traces += [
            {
                "type": "scatter", "mode": "lines", "name": "known", "x": [at - origin for at in past],
                "y": page.drawable(history.values[past]), "line": {"color": _TRUTH, "width": 1}, **axes,
            },
            {
                "type": "scatter", "mode": "lines+markers", "name": "truth", "x": list(range(1, h + 1)),
                "y": page.drawable(truth[o]), "line": {"color": page.STRANGE, "width": 1}, "marker": {"size": 4}, **axes,
            },
        ]  # fmt: skip
        layout[f"yaxis{name}"] = {"rangemode": "tozero"}
        layout["annotations"].append(
            {
                "text": history.stamp(origin), "xref": f"x{name} domain", "yref": f"y{name} domain", "x": 0, "y": 1.12,
                "showarrow": False, "font": {"size": 11},
            }
        )  # fmt: skip
    caption = f"{short_name(done.result.file)}: single forecasts, by steps from their origins"
    return page.Figure(caption, traces, layout, 560)


def _bands(x: Sequence[object], quantiles: Array, axes: dict[str, Any]) -> list[dict[str, Any]]:
    """Shaded bands and the median; ``quantiles`` of shape (points, levels)."""
    traces: list[dict[str, Any]] = []
    for name, low, high, colour in _BANDS:
        none = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip", **axes}
        traces.append({**none, "y": page.drawable(_at(quantiles, low)), "showlegend": False})
        traces.append(
            {
                **none,
                "y": page.drawable(_at(quantiles, high)),
                "fill": "tonexty",
                "fillcolor": colour,
                "name": name,
            }
        )
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "median", "x": x, "y": page.drawable(_at(quantiles, 0.5)),
            "line": {"color": page.LINE, "width": 1.5}, **axes,
        }
    )  # fmt: skip
    return traces


def _at(quantiles: Array, level: float) -> Array:
    return quantiles[..., int(np.searchsorted(LEVELS, level))]


def _top(*values: Array) -> float:
    """Where the axis ends: above all but what stands out so far that it would flatten the rest."""
    known = np.concatenate([one[~np.isnan(one)] for one in values])
    return (
        float(min(known.max(), 3 * np.quantile(known, 0.98)) * 1.08)
        if len(known) and known.max() > 0
        else 1.0
    )


def _times(history: History, steps: npt.NDArray[np.int64]) -> list[str]:
    return [iso(history.time_us(step)) for step in steps.tolist()]
