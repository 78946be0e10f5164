"""What a run measured, as one value: merged from its processes, judged, and told as JSON, as a table, or as HTML.

Latency is that of requests, counted from when each was planned to be sent (G. Tene, wrk2: corrected for coordinated
omission). The judgement says whether the generator itself was in the way: then the figures are its own, not the server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smartscale.producer.labels import TrueFault
from smartscale.producer.player import Counts, Played
from smartscale.producer.recorder import COUNTS, LEVELS, Latencies, Sparse, TimelineWire

CURVE: Final = [0.0, *(1 - 10 ** (-step / 10) for step in range(1, 51)), 1.0]
"""Levels of the percentile curve: ten for each nine, up to five of them."""

BUSY: Final = 0.9
"""The sending thread is taken as the limit from this share of a core on: what is left does not cover a second's bursts."""
_SHARE: Final = 0.1
_FLOOR_US: Final = 1000
"""The generator's own lateness matters from a tenth of the latency at the same percentile on, if it is a millisecond
at least: the kernel's scheduling on a busy machine is not better."""
_JUDGED: Final = ("p50", "p90", "p99")
"""Percentiles that make all figures untrustworthy; a rarer one is told alone."""


class Piece(msgspec.Struct, frozen=True):
    """What one process measured, as it travels. The histograms are those of ``recorder.Recorder``."""

    complete: bool
    counts: Counts
    latency: Sparse
    service: Sparse
    delay: Sparse
    lag: Sparse
    loop: Sparse
    timeline: TimelineWire
    planned_s: float
    elapsed_s: float
    cpu_mean: float
    cpu_peak: float
    held_s: float
    skipped_lines: int = 0
    skipped_examples: list[str] = []


def piece(played: Played, skipped_lines: int = 0, skipped_examples: Sequence[str] = ()) -> Piece:
    """What a process played, ready to travel."""
    seen = played.recorder
    return Piece(
        played.complete,
        played.counts,
        seen.latency.sparse(),
        seen.service.sparse(),
        seen.delay.sparse(),
        seen.lag.sparse(),
        seen.loop.sparse(),
        seen.timeline.wire(),
        played.planned_s,
        played.elapsed_s,
        played.cpu_mean,
        played.cpu_peak,
        played.held_s,
        skipped_lines,
        list(skipped_examples),
    )


class Percentiles(msgspec.Struct, frozen=True):
    """A histogram in milliseconds: the levels of ``recorder.LEVELS``, within 0.1 %; count, mean, least and most exactly."""

    count: int
    mean: float
    min: float
    at: dict[str, float]
    max: float


class Generator(msgspec.Struct, frozen=True):
    """Whether the generator was in the way. Durations in milliseconds, shares of a core from 0 to 1."""

    trustworthy: bool
    reasons: list[str]
    """Why the figures are not to be trusted."""
    notes: list[str]
    """What else to know when reading them."""
    lag_ms: Percentiles
    """How much later than planned the generator noticed that a request was due."""
    loop_ms: Percentiles
    """How much later than asked its event loop woke up."""
    cpu_mean: float
    cpu_peak: float
    """Of the busiest process's sending thread, over the run and in its busiest second."""
    held_s: float
    """Seconds in which requests were held back, because too much had no answer."""


class Slices(msgspec.Struct, frozen=True):
    """The run over time: slice i is ``[i * step_s, (i + 1) * step_s)`` real seconds from its start. ``counts`` are events
    (``recorder.COUNTS``); latencies, in ms and within 3 %, stand at the planned times of their requests."""

    step_s: float
    counts: dict[str, list[int]]
    p50_ms: list[float]
    p99_ms: list[float]
    max_ms: list[float]


class Mark(msgspec.Struct, frozen=True):
    """A fault of the load, in real seconds from the start."""

    service: str
    kind: str
    start_s: float
    end_s: float


class Setting(msgspec.Struct, frozen=True):
    """What was run. ``load`` is its name for people."""

    load: str
    url: str
    start_us: int
    """World time at the start."""
    workers: int
    connections: int
    batch: int


class Report(msgspec.Struct, frozen=True):
    """All of a run. ``sent = accepted + duplicate + refused + unanswered``, in ``counts``."""

    setting: Setting
    complete: bool
    """False if it was stopped before its end, or a process of it was lost."""
    counts: Counts
    planned_s: float
    elapsed_s: float
    planned_per_s: float
    accepted_per_s: float
    """Events a second, over the time that was planned, and until the last answer."""
    latency_ms: Percentiles
    """From the planned time to the final answer; a request that was given up counts until then."""
    service_ms: Percentiles
    """From the first byte of the last attempt to its answer: what a generator that waits for answers would have told."""
    delay_ms: Percentiles
    """From planned to first sent."""
    curve: list[tuple[float, float]]
    """Latency by percentile: level from 0 to 1, milliseconds."""
    generator: Generator
    slices: Slices
    faults: list[Mark] = []
    skipped_lines: int = 0
    skipped_examples: list[str] = []


def merged(pieces: Sequence[Piece], setting: Setting, faults: Sequence[Mark] = (), lost: int = 0) -> Report:
    """One report of all processes, at least one; ``lost`` more have told nothing."""
    first, *others = pieces
    latency, service, delay, lag, loop = (
        _together([getattr(piece, name) for piece in pieces])
        for name in ("latency", "service", "delay", "lag", "loop")
    )
    timeline = first.timeline.timeline()
    for other in others:
        timeline.merge(other.timeline.timeline())
    counts = added([piece.counts for piece in pieces])
    planned_s, elapsed_s = max(p.planned_s for p in pieces), max(p.elapsed_s for p in pieces)
    cpu_mean, cpu_peak = max(p.cpu_mean for p in pieces), max(p.cpu_peak for p in pieces)
    held_s = max(p.held_s for p in pieces)
    reasons, notes = judged(latency, delay, lag, loop, cpu_mean, held_s)
    if lost:
        reasons.insert(
            0, f"{lost} of {lost + len(pieces)} processes ended before they could tell what they did"
        )
    quantiles = [slice_.quantiles_us([0.5, 0.99]).tolist() for slice_ in timeline.latencies]
    return Report(
        setting=setting,
        complete=not lost and all(piece.complete for piece in pieces),
        counts=counts,
        planned_s=planned_s,
        elapsed_s=elapsed_s,
        planned_per_s=counts.sent / max(planned_s, 1e-3),
        accepted_per_s=counts.accepted / max(elapsed_s, 1e-3),
        latency_ms=_percentiles(latency),
        service_ms=_percentiles(service),
        delay_ms=_percentiles(delay),
        curve=[
            (level, us / 1000) for level, us in zip(CURVE, latency.quantiles_us(CURVE).tolist(), strict=True)
        ],
        generator=Generator(
            not reasons, reasons, notes, _percentiles(lag), _percentiles(loop), cpu_mean, cpu_peak, held_s
        ),
        slices=Slices(
            timeline.step_s,
            {name: timeline.counts[name].tolist() for name in COUNTS},
            [p50 / 1000 for p50, _ in quantiles],
            [p99 / 1000 for _, p99 in quantiles],
            [slice_.max_us / 1000 for slice_ in timeline.latencies],
        ),
        faults=list(faults),
        skipped_lines=max(piece.skipped_lines for piece in pieces),
        skipped_examples=first.skipped_examples,
    )


def judged(
    latency: Latencies, delay: Latencies, lag: Latencies, loop: Latencies, cpu_mean: float, held_s: float
) -> tuple[list[str], list[str]]:
    """Why the figures are not the server's, and what else to know about them."""
    reasons: list[str] = []
    notes: list[str] = []
    if cpu_mean >= BUSY:
        reasons.append(
            f"the generator's sending thread was busy {cpu_mean:.0%} of the time: use more --workers, or a larger --batch"
        )
    for name, late in (("a request's planned time was noticed", lag), ("the event loop woke up", loop)):
        told = _lateness(name, late, latency)
        if told is not None:
            level, words = told
            if level in _JUDGED:
                reasons.append(words)
            else:
                which = "the maximum is" if level == "max" else f"figures from {level} on are"
                notes.append(f"{which} partly the generator's: {words}")
            break
    if held_s > 0:
        reasons.append(
            f"requests were held back for {held_s:.1f} s, because too much had no answer: the load was not open any more"
        )
    waited_us = delay.quantile_us(0.99) - lag.quantile_us(0.99)
    if waited_us > max(_FLOOR_US, _SHARE * latency.quantile_us(0.99)):
        notes.append(
            f"at p99 a request waited {_ms(waited_us)} for a free connection, which its latency includes: where clients "
            "are many, use more --connections"
        )
    return reasons, notes


def _lateness(name: str, late: Latencies, latency: Latencies) -> tuple[str, str] | None:
    """The first percentile at which the generator's own lateness matters, and how to say so."""
    for level in (*_JUDGED, "p99.9", "max"):
        share = LEVELS.get(level, 1.0)
        late_us, whole_us = late.quantile_us(share), latency.quantile_us(share)
        if late_us > max(_FLOOR_US, _SHARE * whole_us):
            return level, (
                f"{name} {_ms(late_us)} late at {level}, where the latency is {_ms(whole_us)}: the generator or its machine "
                "was too busy"
            )
    return None


def _together(parts: Sequence[Sparse]) -> Latencies:
    first, *others = (part.latencies() for part in parts)
    for other in others:
        first.merge(other)
    return first


def added(parts: Sequence[Counts]) -> Counts:
    """The counts of all parts together."""
    trouble: dict[str, int] = {}
    for part in parts:
        for kind, count in part.trouble.items():
            trouble[kind] = trouble.get(kind, 0) + count

    def total(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    return Counts(
        sent=total("sent"),
        accepted=total("accepted"),
        duplicate=total("duplicate"),
        refused=total("refused"),
        unanswered=total("unanswered"),
        waiting=total("waiting"),
        requests=total("requests"),
        retries=total("retries"),
        trouble=trouble,
        refusals=list(dict.fromkeys(reason for part in parts for reason in part.refusals))[:10],
        last_trouble=next((part.last_trouble for part in parts if part.last_trouble), ""),
    )


def _percentiles(values: Latencies) -> Percentiles:
    at = values.quantiles_us(list(LEVELS.values())).tolist()
    return Percentiles(
        values.count,
        values.mean_us / 1000,
        (values.min_us if values.count else 0) / 1000,
        {name: us / 1000 for name, us in zip(LEVELS, at, strict=True)},
        values.max_us / 1000,
    )


def figure(ms: float) -> str:
    """Three digits, and no exponent.

    >>> figure(0.04361), figure(5.4953), figure(12345.6)
    ('0.0436', '5.5', '12,346')
    """
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.3g}"


def _ms(us: float) -> str:
    return f"{figure(us / 1000)} ms"


def marks(faults: Sequence[TrueFault], start_us: int, real_per_world: float) -> list[Mark]:
    """The faults of a load that starts at ``start_us``, on the time of the run."""
    return [
        Mark(
            fault.service,
            fault.kind,
            (fault.start_us - start_us) / 1e6 * real_per_world,
            (fault.end_us - start_us) / 1e6 * real_per_world,
        )
        for fault in faults
    ]


def table(report: Report) -> Group:
    """The report for people, on a terminal."""
    counts, generator = report.counts, report.generator
    books = Table(
        show_header=False, title=Text(f"{report.setting.load} → {report.setting.url}"), title_justify="left"
    )
    stopped = "" if report.complete else " (stopped before the end)"
    books.add_row("sent", f"{counts.sent:,} events{stopped}, planned {_rate(report.planned_per_s)}")
    books.add_row("accepted", f"{counts.accepted:,}, {_rate(report.accepted_per_s)}")
    books.add_row("duplicate", f"{counts.duplicate:,}")
    books.add_row("refused", f"{counts.refused:,}{_because(counts.refusals[:3])}")
    books.add_row(
        "unanswered", f"{counts.unanswered:,}{_because([counts.last_trouble] * (counts.unanswered > 0))}"
    )
    troubles = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(counts.trouble.items()))
    books.add_row(
        "requests",
        f"{counts.requests:,}, {counts.retries:,} of them again{f' ({troubles})' if troubles else ''}",
    )
    if report.skipped_lines:
        books.add_row(
            "lines skipped", f"{report.skipped_lines:,}: {escape('; '.join(report.skipped_examples))}"
        )
    latency = Table(title="milliseconds a request", title_justify="left")
    latency.add_column("", no_wrap=True)
    shown = [level for level in LEVELS if level not in ("p75", "p95")]
    for level in (*shown, "max"):
        latency.add_column(level, justify="right", no_wrap=True)
    for name, values in (
        ("latency", report.latency_ms),
        ("service time", report.service_ms),
        ("generator's lag", generator.lag_ms),
    ):
        latency.add_row(name, *(figure(values.at[level]) for level in shown), figure(values.max))
    said = [Text(f"NOT TRUSTWORTHY: {reason}", style="bold red") for reason in generator.reasons]
    said += [Text(f"note: {note}", style="yellow") for note in generator.notes]
    return Group(books, latency, *said)


def _rate(per_s: float) -> str:
    return f"{per_s:,.1f} a second" if per_s < 100 else f"{per_s:,.0f} a second"


def _because(reasons: Sequence[str]) -> str:
    return escape(f": {'; '.join(reasons)}") if reasons else ""
