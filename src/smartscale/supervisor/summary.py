"""What a run came to, and whether it did what it should: told at its end, and written to ``summary.json``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from smartscale.clock import MICROS
from smartscale.records.forecasts import Incident, headline


class Injected(msgspec.Struct, frozen=True):
    """A fault of the load, over world time ``[start_us, end_us)``, and the class of incident it should be told as."""

    service: str
    kind: str
    start_us: int
    end_us: int
    class_: str = msgspec.field(name="class")


class Verdict(msgspec.Struct, frozen=True):
    """One injected fault: whether an incident of the right class overlapped it, how long after its start that
    was told (world seconds), and the classes of all that overlapped it."""

    service: str
    kind: str
    expected: str
    found: bool
    delay_s: float | None
    classes: list[str]


class ServiceLoad(msgspec.Struct, frozen=True):
    """One service under load: seconds in which arrivals exceeded the ready capacity or requests failed for want
    of it, and replica-seconds from their start, both of world time."""

    requests: int
    overload_s: float
    replica_s: float


class LoadSummary(msgspec.Struct, frozen=True):
    """What the sample service wrote about its run: ``summary.json`` in its directory."""

    end_us: int
    services: list[ServiceLoad]
    faults: list[Injected]

    @property
    def overload_s(self) -> float:
        return sum(service.overload_s for service in self.services)

    @property
    def replica_hours(self) -> float:
        return sum(service.replica_s for service in self.services) / 3600

    @property
    def requests(self) -> int:
        return sum(service.requests for service in self.services)


class Summary(msgspec.Struct, frozen=True):
    """One run; the accounts are None if the ledger could not be read. ``latency_*``: real milliseconds from a
    window's end to its first result in the log, the out-of-orderness bound included. ``failures`` says what does
    not hold; empty: all is well."""

    accepted: int | None
    windowed: int | None
    late: int | None
    dead: int | None
    duplicates: int | None
    lost: int | None
    in_flight: int | None
    difference: int | None
    latency_p50_ms: int | None
    latency_p99_ms: int | None
    injected: list[Verdict]
    false_incidents: list[str]
    scale_outs: int
    scale_ins: int
    overload_s: float | None
    replica_hours: float | None
    requests: int | None
    restarts: int
    failures: list[str]


def read_load_summary(directory: Path) -> LoadSummary | None:
    """None if no load ran to its end there."""
    try:
        return msgspec.json.decode((directory / "summary.json").read_bytes(), type=LoadSummary)
    except FileNotFoundError:
        return None


def judge(
    injected: Iterable[Injected], told: Sequence[Incident], reach_us: int
) -> tuple[list[Verdict], list[str]]:
    """Injected faults against what was told: every state of every incident, in the order of the log.

    A fault is found if an incident of its service had the expected class at a time (``updated_us``) from the
    fault's start to ``reach_us`` after its end, for results come after the windows that show them. The second
    answer tells the incidents that were no fault's at any time."""
    injected = list(injected)

    def belongs(fault: Injected, state: Incident) -> bool:
        return state.service == fault.service and fault.start_us <= state.updated_us < fault.end_us + reach_us

    verdicts = []
    for fault in injected:
        expected = fault.class_
        touching = [state for state in told if belongs(fault, state)]
        right = next((state for state in touching if state.class_ == expected), None)
        delay_s = (right.updated_us - fault.start_us) / MICROS if right is not None else None
        classes = sorted({state.class_ for state in touching})
        verdicts.append(Verdict(fault.service, fault.kind, expected, right is not None, delay_s, classes))
    explained = {state.id for state in told for fault in injected if belongs(fault, state)}
    others = {state.id: state for state in told if state.id not in explained}
    return verdicts, [headline(state) for state in others.values()]


def table(summary: Summary) -> Table:
    """The summary for people."""
    shown = Table(title="summary", show_header=False, title_justify="left", title_style="bold")
    shown.add_row(
        "events",
        f"{_number(summary.accepted)} accepted = {_number(summary.windowed)} windowed + {_number(summary.late)} late "
        f"+ {_number(summary.dead)} dead + {_number(summary.duplicates)} duplicates + {_number(summary.lost)} lost "
        f"+ {_number(summary.in_flight)} in flight",
    )
    verdict = "the books balance" if summary.difference == 0 else "THE BOOKS DO NOT BALANCE"
    shown.add_row("ledger", f"difference {_number(summary.difference)}: {verdict}")
    shown.add_row(
        "latency, window end to metric",
        f"p50 {_number(summary.latency_p50_ms)} ms, p99 {_number(summary.latency_p99_ms)} ms (real)",
    )
    for fault in summary.injected:
        found = "found" if fault.found else "NOT FOUND"
        after = f" after {fault.delay_s:.0f} s" if fault.delay_s is not None else ""
        told = f" (told as {', '.join(fault.classes)})" if fault.classes and not fault.found else ""
        shown.add_row(f"injected {fault.kind}", f"{found} as {fault.expected}{after}{told}")
    shown.add_row("other incidents", "\n".join(summary.false_incidents) or "none")
    shown.add_row("scaling", f"{summary.scale_outs} times out, {summary.scale_ins} times in")
    if summary.overload_s is not None and summary.replica_hours is not None:
        shown.add_row("overload", f"{summary.overload_s:,.0f} s of world time")
        shown.add_row("replicas", f"{summary.replica_hours:.2f} replica-hours")
    shown.add_row("restarts of stages", str(summary.restarts))
    shown.add_row("result", "; ".join(summary.failures) or "all holds")
    return shown


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
