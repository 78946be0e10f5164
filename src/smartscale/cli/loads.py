"""The load that a person names by ``--scenario`` or ``--replay``."""

from __future__ import annotations

import threading
from pathlib import Path

import typer
from rich.table import Table

from smartscale.clock import Clock, iso
from smartscale.errors import UserError
from smartscale.producer import scenario as scenarios
from smartscale.producer import service
from smartscale.producer.load import Load
from smartscale.producer.replay import Recording, open_load

REPLAYED_SERVICE = "shop"
"""The service that a replayed curve of rates is the load of; ``examples/policies`` scales it."""


def service_load(scenario: Path | None, replay: Path | None, peak_per_s: float) -> Load | None:
    """The load of a scenario, or of a CSV of rates scaled to a peak; None without either. Raises ``UserError``."""
    _one_of(scenario, replay)
    if scenario is not None:
        return scenarios.read(scenario)
    if replay is None:
        return None
    load = open_load(replay, peak_per_s, REPLAYED_SERVICE)
    if isinstance(load, Recording):
        raise UserError(
            f"file {replay}: holds single requests, whose outcome no replica can change; the loop needs a CSV of rates "
            "(timestamp, requests). Play this file into a running pipeline with `smartscale produce --replay`"
        )
    return load


def produced_load(
    scenario: Path | None, replay: Path | None, peak_per_s: float, name: str, seed: int
) -> Load | Recording | None:
    """As ``service_load``, recordings of single requests included; ``seed`` overrides a scenario's own if not 1."""
    _one_of(scenario, replay)
    if scenario is not None:
        return scenarios.read(scenario, None if seed == 1 else seed)
    return open_load(replay, peak_per_s, name, seed) if replay is not None else None


def produce(
    load: Load | Recording, url: str, clock: Clock, stop: threading.Event, keep_times: bool
) -> service.Summary:
    """Send the load, telling how far it is on stderr once a second."""

    def tell(progress: service.Progress) -> None:
        totals = progress.totals
        behind = f", {progress.behind_s:.1f} s behind" if progress.behind_s > 1 else ""
        typer.echo(
            f"{iso(progress.now_us)[:19]}  sent {totals.sent:,}, accepted {totals.accepted:,}, refused "
            f"{totals.refused:,}, unanswered {totals.unanswered:,}{behind}",
            err=True,
        )

    return service.run(load, url, clock, stop, tell, keep_times)


def produced_table(done: service.Summary) -> Table:
    """What was done, for people."""
    totals = done.totals
    shown = Table(show_header=False)
    shown.add_row("sent", f"{totals.sent:,}{'' if done.complete else ' (stopped before the end)'}")
    shown.add_row("accepted", f"{totals.accepted:,}")
    shown.add_row("duplicate", f"{totals.duplicate:,}")
    shown.add_row("refused", f"{totals.refused:,}")
    shown.add_row("unanswered", f"{totals.unanswered:,}")
    shown.add_row("behind the plan", f"{done.greatest_behind_s:.3f} s at most")
    if done.skipped_lines:
        shown.add_row("lines skipped", f"{done.skipped_lines:,}: {'; '.join(done.skipped_examples)}")
    return shown


def _one_of(scenario: Path | None, replay: Path | None) -> None:
    if scenario is not None and replay is not None:
        raise UserError("--scenario and --replay are two loads: give one of them")
