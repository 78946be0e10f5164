"""A run's report as one HTML page that needs nothing else: the figures, what is to be said about them, and four plots.

The plots are SVG made here, a tenth of a megabyte; a plotting library's script alone would be four.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Final

import msgspec

from smartscale.clock import iso
from smartscale.producer.rate_search import Found
from smartscale.producer.recorder import LEVELS
from smartscale.producer.report import Mark, Report, figure

_WIDTH, _HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 10, 28


@dataclass(frozen=True, slots=True)
class _Line:
    """A series of a plot; ``style`` is its class in the style sheet."""

    name: str
    style: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Scale:
    """An axis: from values to a place between 0 and 1, and where its ticks stand."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def page(report: Report, found: Found | None = None) -> str:
    """The page; ``found`` is the search that the report is the last trial of."""
    slices = report.slices
    times = [(place + 0.5) * slices.step_s for place in range(len(slices.p50_ms))]
    length_s = max(len(times), 1) * slices.step_s
    seconds = _linear(length_s, "s")

    def per_s(name: str) -> list[float]:
        return [count / slices.step_s for count in slices.counts[name]]

    plots = [
        _plot(
            "Events a second", times, seconds,
            [_Line(name, style, per_s(name)) for name, style in (
                ("planned", "dim"), ("sent", "one"), ("accepted", "two"),
            )],
            None, report.faults,
        ),
        _plot(
            "Latency in ms, by planned time", times, seconds,
            [_Line("max", "dim", slices.max_ms), _Line("p99", "three", slices.p99_ms), _Line("p50", "one", slices.p50_ms)],
            _logarithmic([*slices.max_ms, *slices.p50_ms]), report.faults,
        ),
        _plot(
            "Latency in ms, by percentile", [level for level, _ in report.curve], _nines(),
            [_Line("latency", "three", [ms for _, ms in report.curve])],
            _logarithmic([ms for _, ms in report.curve]), [],
        ),
        _plot(
            "Trouble a second", times, seconds,
            [_Line(label, style, per_s(name)) for label, name, style in (
                ("failed attempts", "trouble", "three"), ("events refused", "refused", "four"),
                ("events unanswered", "unanswered", "dim"), ("duplicates", "duplicate", "one"),
            )],
            None, report.faults,
        ),
    ]  # fmt: skip
    return Template(_template()).substitute(
        title=html.escape(report.setting.load),
        about=html.escape(_about(report)),
        verdict=_verdict(report),
        figures=_figures(report),
        search=_search(found) if found is not None else "",
        plots="\n".join(plots),
        json=msgspec.json.encode(report).decode().replace("</", "<\\/"),
    )


def _about(report: Report) -> str:
    setting = report.setting
    end = "" if report.complete else ", stopped before its end"
    return (
        f"To {setting.url} from {iso(setting.start_us)[:19]}Z, {report.elapsed_s:.1f} s{end}. Processes: {setting.workers}; "
        f"connections: {setting.connections}; events a request: at most {setting.batch}."
    )


def _template() -> str:
    return (resources.files("smartscale.producer") / "page.html").read_text(encoding="utf-8")


def _verdict(report: Report) -> str:
    generator = report.generator
    lines = [f'<p class="bad"><b>Not trustworthy.</b> {html.escape(text)}</p>' for text in generator.reasons]
    lines += [f'<p class="note">{html.escape(text)}</p>' for text in generator.notes]
    if generator.trustworthy:
        lines.insert(
            0, '<p class="good">The generator was not in the way: the figures are the server\'s.</p>'
        )
    return "\n".join(lines)


def _figures(report: Report) -> str:
    counts = report.counts
    books = [
        ("sent", f"{counts.sent:,}"),
        ("accepted", f"{counts.accepted:,}"),
        ("duplicate", f"{counts.duplicate:,}"),
        ("refused", f"{counts.refused:,}"),
        ("unanswered", f"{counts.unanswered:,}"),
        ("planned a second", f"{report.planned_per_s:,.1f}"),
        ("accepted a second", f"{report.accepted_per_s:,.1f}"),
        ("requests", f"{counts.requests:,}"),
        ("of them again", f"{counts.retries:,}"),
        ("generator's processor", f"{report.generator.cpu_mean:.0%}"),
    ]
    tiles = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in books)
    head = "".join(f"<th>{level}</th>" for level in ("", *LEVELS, "max"))
    rows = "".join(
        _row(name, [*values.at.values(), values.max])
        for name, values in (
            ("latency, from the planned time", report.latency_ms),
            ("service time, from the last attempt", report.service_ms),
            ("planned to first sent", report.delay_ms),
            ("generator's lag", report.generator.lag_ms),
        )
    )
    why = [*counts.refusals, *([counts.last_trouble] if counts.last_trouble else [])]
    told = "".join(f"<li>{html.escape(reason)}</li>" for reason in why)
    return (
        f'<div class="tiles">{tiles}</div><table><caption>milliseconds a request</caption><tr>{head}</tr>{rows}</table>'
        f"{f'<ul>{told}</ul>' if told else ''}"
    )


def _row(name: str, values_ms: Sequence[float]) -> str:
    return f"<tr><th>{name}</th>{''.join(f'<td>{figure(ms)}</td>' for ms in values_ms)}</tr>"


def _search(found: Found) -> str:
    rows = "".join(
        f"<tr><td>{each.rate_per_s:,.0f}</td><td>{each.accepted_per_s:,.0f}</td><td>{figure(each.reached_ms)}</td>"
        f"<td>{each.requests:,}</td><th>{'sustained' if each.sustained else html.escape(each.why)}"
        f"{', long' if each.long else ''}</th></tr>"
        for each in sorted(found.trials, key=lambda each: (each.rate_per_s, each.long))
    )
    return (
        f"<h2>Highest rate with {html.escape(str(found.target))}: {found.rate_per_s:,.0f} requests a second</h2>"
        f"<table><tr><th>requests a second</th><th>accepted events a second</th><th>{found.target.level}, ms</th>"
        f"<th>requests</th><th></th></tr>{rows}</table><h2>The last trial at that rate</h2>"
    )


def _plot(
    title: str,
    x: Sequence[float],
    across: _Scale,
    lines: Sequence[_Line],
    up: _Scale | None,
    marks: Sequence[Mark],
) -> str:
    """One plot, with the shaded spans of faults, a grid, a legend, and what the pointer is to show."""
    up = up or _linear(max((max(line.values, default=0.0) for line in lines), default=0.0), "")

    def at_x(value: float) -> float:
        return _LEFT + across.place(value) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(value: float) -> float:
        return _HEIGHT - _BOTTOM - up.place(value) * (_HEIGHT - _TOP - _BOTTOM)

    drawn = []
    for mark in marks:
        begin, end = (min(max(at_x(s), _LEFT), _WIDTH - _RIGHT) for s in (mark.start_s, mark.end_s))
        if end > begin:
            told = html.escape(f"{mark.service}: {mark.kind}")
            drawn.append(
                f'<rect class="fault" x="{begin:.1f}" y="{_TOP}" width="{end - begin:.1f}" '
                f'height="{_HEIGHT - _TOP - _BOTTOM}"><title>{told}</title></rect>'
                f'<text x="{begin + 3:.1f}" y="{_TOP + 10}">{html.escape(mark.kind)}</text>'
            )
    for value, name in up.ticks:
        drawn.append(
            f'<path class="grid" d="M{_LEFT} {at_y(value):.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{at_y(value) + 4:.1f}" text-anchor="end">{name}</text>'
        )
    for value, name in across.ticks:
        drawn.append(f'<text x="{at_x(value):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{name}</text>')
    for line in lines:
        points = " ".join(f"{at_x(a):.1f},{at_y(b):.1f}" for a, b in zip(x, line.values, strict=True))
        drawn.append(f'<polyline class="{line.style}" points="{points}"/>')
    legend = "".join(f'<span class="{line.style}">{line.name}</span>' for line in lines)
    shown = [
        [round(at_x(a), 1), f"{a:.5g}", *(f"{line.values[place]:,.4g}" for line in lines)]
        for place, a in enumerate(x)
    ]
    data = html.escape(
        msgspec.json.encode({"names": [line.name for line in lines], "points": shown}).decode()
    )
    return (
        f'<figure><figcaption>{title}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}" data-shown="{data}">{"".join(drawn)}'
        f'<path class="cursor" d=""/></svg><output></output></figure>'
    )


def _linear(most: float, unit: str) -> _Scale:
    """From 0 to ``most``, with ticks at round numbers."""
    most = most or 1.0
    step = 10 ** math.floor(math.log10(most / 4))
    step *= next((factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 6), 10)
    ticks = [step * n for n in range(math.floor(most / step) + 1)]
    return _Scale(lambda value: value / most, [(tick, f"{tick:,.6g}{unit}") for tick in ticks])


def _logarithmic(values: Sequence[float]) -> _Scale:
    """Whole powers of ten around the values; what is 0 or less lies at the bottom."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    span = max(high - low, 1)
    ticks = [(10.0**power, f"{10.0**power:,.10g}") for power in range(low, low + span + 1)]
    return _Scale(lambda value: min(max((math.log10(max(value, 1e-9)) - low) / span, 0.0), 1.0), ticks)


_NINES: Final = 5.0


def _nines() -> _Scale:
    """Percentiles so that each further nine takes the same room."""
    ticks = [
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (1.0, "max"),
    ]

    def place(level: float) -> float:
        return min(-math.log10(max(1 - level, 10**-_NINES)) / _NINES, 1.0)

    return _Scale(place, ticks)
