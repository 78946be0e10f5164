"""The plots of ``docs/performance.md``, made from the results: ``python benchmarks/plots.py`` (needs the extra ``bench``).

Writes ``docs/plots/scaling.svg`` and ``docs/plots/peers.svg`` from ``benchmarks/results/scaling.json`` and
``peers.json``. The files depend on the results alone, so that they change only with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "docs" / "plots"
OURS, OTHERS = "#1f6fb2", "#9aa5b1"


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())["result"]
    return found


def line(axes: Axes, points: dict[str, float], title: str, x: str, y: str) -> None:
    """Log-log, from 0 keys up as they come."""
    axes.plot([float(at) for at in points], list(points.values()), marker="o", color=OURS)
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)


def scaling() -> None:
    found = result("scaling")
    figure, ((combiners, keys), (rate, window)) = plt.subplots(2, 2, figsize=(10, 7.5))
    labels = [
        f"{name.partition(', ')[0]}\n{name.partition(', ')[2]} combiner(s)" for name in found["combiners"]
    ]
    bars = combiners.bar(
        labels, [one["events_per_s"] / 1e6 for one in found["combiners"].values()], color=OURS
    )
    combiners.bar_label(bars, fmt="%.1f")
    combiners.set(title="Combiners on two cores", ylabel="million events/s")
    millions = {at: one / 1e6 for at, one in found["keys"].items()}
    line(keys, millions, "Keys (combine, one core)", "keys", "million events/s")
    for part, colour in (("combine_cpu", OURS), ("window_cpu", "#d9822b")):
        points = {float(at): 100 * one[part] for at, one in found["rate"].items()}
        rate.plot(
            list(points), list(points.values()), marker="o", color=colour, label=part.removesuffix("_cpu")
        )
    rate.set(
        title="Event rate (1,000 services)",
        xlabel="events/s",
        ylabel="% of a core",
        xscale="log",
        yscale="log",
    )
    rate.grid(visible=True, alpha=0.3)
    rate.legend()
    line(window, found["window"], "Window length (2,000 services, slide 5 s)", "window, s", "ms CPU a slide")
    save(figure, "scaling")


def peers() -> None:
    found = result("peers")
    rates = {
        name: one["events_per_s"] / 1000
        for name, one in found.items()
        if isinstance(one, dict) and "events_per_s" in one and name != "smartscale-columnar"
    }
    ordered = dict(sorted(rates.items(), key=lambda item: item[1]))
    figure, axes = plt.subplots(figsize=(8, 3.5))
    colours = [OURS if name == "smartscale" else OTHERS for name in ordered]
    bars = axes.barh(list(ordered), list(ordered.values()), color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.margins(x=0.1)
    axes.set(title="Single JSON events from Kafka, one core", xlabel="thousand events/s")
    save(figure, "peers")


def anomalies() -> None:
    """What was said and what was so, and how soon faults were told, by seed."""
    found = result("anomalies")
    figure, (reliable, delays) = plt.subplots(1, 2, figsize=(11, 4.5))
    reliable.plot([0, 1], [0, 1], color=OTHERS, linestyle="--", label="as said")
    names = {"1": "seed 1 (constants chosen)", "101": "seed 101 (held out)"}
    for (seed, one), colour in zip(found.items(), (OTHERS, OURS), strict=False):
        bins = one["reliability"]["bins"]
        label = f"{names.get(seed, f'seed {seed}')}: error {one['reliability']['error']:.4f}"
        reliable.plot(
            [b["said"] for b in bins], [b["seen"] for b in bins], marker="o", color=colour, label=label
        )
    reliable.set(
        title="Probability of a service-step being within a fault", xlabel="said (ten bins)", ylabel="seen"
    )
    reliable.grid(visible=True, alpha=0.3)
    reliable.legend()
    last = list(found.values())[-1]["told"]
    kinds = sorted(kind for kind in last if kind != "slow_leak")
    share = [100 * last[kind]["share"] for kind in kinds] + [100 * last["slow_leak"]["share"]]
    bars = delays.barh([*kinds, "slow_leak"], share, color=OURS)
    delays.bar_label(bars, fmt="%.1f", padding=3)
    delays.set(title="Told in time with the right class, held out", xlabel="% of 96 faults", xlim=(0, 112))
    save(figure, "anomalies")


def save(figure: Any, name: str) -> None:
    PLOTS.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "smartscale"
    for name, draw in (("scaling", scaling), ("peers", peers), ("anomalies", anomalies)):
        if (RESULTS / f"{name}.json").exists():
            draw()


if __name__ == "__main__":
    main()
