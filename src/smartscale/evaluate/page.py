"""Reports as one HTML file that needs nothing else: no network, no other file. Plots are drawn by plotly's own JavaScript as
its Python package ships it, each when it first comes into view, so that a page with hundreds of them opens at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale.errors import UserError

LINE: Final = "#2563a8"
FAINT: Final = "#9db7d5"
STRANGE: Final = "#c0392b"
GOOD: Final = "#2e8b57"
"""Colours told apart also by the colour-blind, and in print by their darkness."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot in plotly's own terms (its JSON schema): traces, and what differs from the usual layout. ``None`` is a gap."""

    caption: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 320


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; texts are escaped, and all but the first column are set to the right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def page(title: str, parts: Iterable[str | Figure]) -> str:
    """The whole page: parts are HTML as the functions above make it, or figures."""
    body = []
    number = 0
    for part in parts:
        if isinstance(part, str):
            body.append(part)
            continue
        number += 1
        body.append(_figure(number, part))
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(body), plotly=_plotly(), draw=_DRAW)


def write(path: Path, title: str, parts: Iterable[str | Figure]) -> None:
    """Write the page. Raises ``UserError`` if that is not possible."""
    try:
        path.write_text(page(title, parts), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--report {path}: cannot be written: {error}") from error


def thinned(values: npt.NDArray[np.float64], most: int = 3000) -> npt.NDArray[np.int64]:
    """Indices of at most about ``most`` points that draw the same line: each stretch keeps its first, its least and its
    greatest value, and gaps stay gaps.

    >>> thinned(np.array([0.0, 1.0, 9.0, 2.0, 3.0, -7.0, 4.0, 5.0]), 6).tolist()
    [0, 2, 4, 5, 7]
    """
    n = len(values)
    if n <= most:
        return np.arange(n)
    width = -(-n * 3 // most)
    kept = [np.arange(0, n, width)]
    for start in range(0, n, width):
        stretch = values[start : start + width]
        if not np.isnan(stretch).all():
            kept.append(np.array([start + np.nanargmin(stretch), start + np.nanargmax(stretch)]))
        kept.append(start + np.flatnonzero(np.isnan(stretch))[:1])
    return np.unique(np.concatenate(kept))


def drawable(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON can carry them, short; NaN becomes None, which plotly draws as a gap."""
    return [None if value != value else float(f"{value:.6g}") for value in values]


def _figure(number: int, figure: Figure) -> str:
    data = (
        msgspec.json.encode({"data": figure.traces, "layout": figure.layout}).decode().replace("<", "\\u003c")
    )
    return (
        f'<figure><figcaption id="caption-{number}">{escape(figure.caption)}</figcaption>'
        f'<div class="plot" role="img" aria-labelledby="caption-{number}" style="height:{figure.height}px"></div>'
        f'<script type="application/json">{data}</script></figure>'
    )


def _plotly() -> str:
    return (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
<script>{plotly}</script>
<script>{draw}</script>
</body>
</html>
"""
_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p { max-width: 75ch; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #dde3ea; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #8b98a8; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; margin-bottom: 0.3rem; }
"""
_DRAW: Final = """
const usual = {
  margin: {l: 60, r: 50, t: 10, b: 40}, hovermode: "x unified", paper_bgcolor: "white", plot_bgcolor: "white",
  legend: {orientation: "h", y: 1.12}, font: {family: "system-ui, sans-serif", size: 12},
};
function draw(plot) {
  const figure = JSON.parse(plot.nextElementSibling.textContent);
  const layout = Object.assign({height: plot.clientHeight}, usual, figure.layout);
  Plotly.newPlot(plot, figure.data, layout, {responsive: true, displaylogo: false})
    .then(() => { plot.dataset.drawn = "yes"; });
}
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "400px"});
document.querySelectorAll(".plot").forEach((plot) => seen.observe(plot));
window.addEventListener("beforeprint", () => {
  document.querySelectorAll(".plot:not([data-drawn])").forEach((plot) => { seen.unobserve(plot); draw(plot); });
});
"""
