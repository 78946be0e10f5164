"""The load of the closed loop that a person names by ``--scenario`` or ``--replay``."""

from __future__ import annotations

from pathlib import Path

from smartscale.errors import UserError
from smartscale.producer import scenario as scenarios
from smartscale.producer.load import Load
from smartscale.producer.replay import Recording, open_load

REPLAYED_SERVICE = "shop"
"""The service that a replayed curve of rates is the load of; ``examples/policies`` scales it."""


def service_load(scenario: Path | None, replay: Path | None, peak_per_s: float) -> Load | None:
    """The load of a scenario, or of a CSV of rates scaled to a peak; None without either. Raises ``UserError``."""
    _one_of(scenario, replay)
    if scenario is not None:
        from smartscale.sample.service import check

        load = scenarios.read(scenario)
        check(load)
        return load
    if replay is None:
        return None
    found = open_load(replay, peak_per_s, REPLAYED_SERVICE)
    if isinstance(found, Recording):
        raise UserError(
            f"file {replay}: holds single requests, whose outcome no replica can change; the loop needs a CSV of rates "
            "(timestamp, requests). Play this file into a running pipeline with `smartscale produce --replay`"
        )
    return found


def _one_of(scenario: Path | None, replay: Path | None) -> None:
    if scenario is not None and replay is not None:
        raise UserError("--scenario and --replay are two loads: give one of them")
