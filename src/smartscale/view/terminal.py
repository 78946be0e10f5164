"""The live view in a terminal, and its one line for where there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from smartscale.clock import iso, span_text
from smartscale.view.model import Model, Service, band_text, sparkline


class Books(Protocol):
    """What of the ledger is shown (``smartscale.ledger.reader.Balance``)."""

    @property
    def accepted(self) -> int: ...
    @property
    def windowed(self) -> int: ...
    @property
    def late(self) -> int: ...
    @property
    def dead(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def unread(self) -> int: ...
    @property
    def between(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def difference(self) -> int: ...


@dataclass(frozen=True, slots=True)
class StageLine:
    """One process as the supervisor sees it. ``lag``: records its group has still to read."""

    name: str
    phase: str
    reason: str
    restarts: int
    lag: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything on the screen at one moment."""

    title: str
    now_us: int
    model: Model
    stages: list[StageLine]
    books: Books | None = None
    lead_s: float = 60.0
    told: list[str] = field(default_factory=list)


ROWS: Final = 12
"""Services on one screen; the busiest first."""

_COLOURS: Final = {
    "ready": "green",
    "starting": "yellow",
    "waiting": "red",
    "stopping": "cyan",
    "ended": "dim",
}


def screen(shown: Shown) -> RenderableType:
    """The whole view."""
    parts: list[RenderableType] = [_services(shown), _incidents(shown), _decisions(shown), _stages(shown)]
    if shown.books is not None:
        parts.append(_ledger(shown.books))
    if shown.told:
        parts.append(Text("\n".join(shown.told[-3:]), style="dim", no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*parts), title=f"{shown.title} · {iso(shown.now_us)[:19]}Z", border_style="blue")


def summary_line(shown: Shown) -> str:
    """The view in one line."""
    rows = [s.row for s in shown.model.services.values() if s.row is not None]
    rate = sum(row.rate_per_s for row in rows)
    errors = sum(row.errors for row in rows) / max(1, sum(row.count for row in rows))
    p99 = max((row.latency_p99_ms for row in rows if row.latency_p99_ms is not None), default=None)
    replicas = [_replicas(s) for s in shown.model.services.values() if s.decision is not None]
    ready = sum(stage.phase == "ready" for stage in shown.stages)
    parts = [
        iso(shown.now_us)[:19],
        f"{len(rows)} services {rate:,.1f}/s",
        f"errors {errors:.1%}",
        f"p99 {p99:,.0f} ms" if p99 is not None else "p99 –",
        f"replicas {', '.join(replicas) or '–'}",
        f"incidents {', '.join(i.class_ for i in shown.model.open_incidents) or 'none'}",
        f"stages {ready}/{len(shown.stages)} ready",
    ]
    if shown.books is not None:
        books = shown.books
        parts.append(
            f"accepted {books.accepted:,}, in flight {books.in_flight:,}, difference {books.difference:,}"
        )
    return " · ".join(parts)


def _replicas(service: Service) -> str:
    if service.decision is None:
        return "–"
    return f"{'?' if service.ready is None else service.ready}/{service.decision.desired}"


def _standing(service: Service) -> str:
    """The rung of the cold-start ladder that the forecast stands on, and what it counts for if not in full."""
    forecast = service.forecast
    if forecast is None:
        return ""
    return f" {forecast.stage}" + (f", counts {forecast.influence:.1f}" if forecast.influence < 1 else "")


def _services(shown: Shown) -> Table:
    table = Table(
        "service", "rate/s", "", "errors", "p99 ms", "replicas ready/desired",
        f"demand in {shown.lead_s:g} s (90 %)", "anomaly", expand=True, box=None, header_style="bold",
    )  # fmt: skip
    services = sorted(shown.model.services.values(), key=lambda s: -(s.row.rate_per_s if s.row else 0.0))
    for service in services[:ROWS]:
        row = service.row
        if row is None:
            continue
        p99 = "–" if row.latency_p99_ms is None else f"{row.latency_p99_ms:,.0f}"
        table.add_row(
            service.name,
            f"{row.rate_per_s:,.1f}{'' if row.complete else ' ?'}",
            Text(sparkline(service.recent), style="cyan"),
            Text(f"{row.error_rate:.1%}", style="red" if row.error_rate > 0.05 else ""),
            p99,
            _replicas(service),
            f"{band_text(service.band(shown.lead_s))}{_standing(service)}",
            f"{service.forecast.anomaly:.2f}" if service.forecast else "–",
        )
    if not services:
        table.add_row("no window yet", *[""] * 7)
    elif len(services) > ROWS:
        table.add_row(f"… {len(services) - ROWS} more", *[""] * 7)
    return table


def _incidents(shown: Shown) -> Table:
    table = Table("open incidents", "severity", "since", "", expand=True, box=None, header_style="bold")
    for incident in shown.model.open_incidents[:4]:
        table.add_row(
            Text(f"{incident.class_} of {incident.service}", style="red"),
            f"{incident.severity:.2f}{'' if incident.notify else ', not told'}",
            span_text(max(0, shown.now_us - incident.start_us)),
            incident.text,
        )
    if not shown.model.open_incidents:
        table.add_row("none", "", "", "")
    return table


def _decisions(shown: Shown) -> Table:
    table = Table("last decisions", "replicas", "why", expand=True, box=None, header_style="bold")
    for decision in shown.model.decisions[:-6:-1]:
        style = "yellow" if decision.desired > decision.current else "cyan"
        table.add_row(
            f"{iso(decision.time_us)[11:19]} {decision.service}",
            Text(f"{decision.current} → {decision.desired}", style=style),
            decision.reason,
        )
    if not shown.model.decisions:
        table.add_row("none yet", "", "")
    return table


def _stages(shown: Shown) -> Table:
    table = Table("stage", "state", "restarts", "lag", "", expand=True, box=None, header_style="bold")
    for stage in shown.stages:
        table.add_row(
            stage.name,
            Text(stage.phase, style=_COLOURS.get(stage.phase, "")),
            str(stage.restarts),
            "–" if stage.lag is None else f"{stage.lag:,}",
            "" if stage.reason == stage.phase else stage.reason,
        )
    return table


def _ledger(books: Books) -> Text:
    balanced = books.difference == 0
    return Text.assemble(
        ("ledger  ", "bold"),
        f"accepted {books.accepted:,} = windowed {books.windowed:,} + late {books.late:,} + dead "
        f"{books.dead:,} + duplicates {books.duplicates:,} + "
        f"{f'lost {books.lost:,} + ' if books.lost else ''}in flight {books.in_flight:,}; difference ",
        (f"{books.difference:,}", "green" if balanced else "bold red"),
    )
