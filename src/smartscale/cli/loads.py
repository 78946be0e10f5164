"""The load that a person names by ``--profile`` or ``--replay``."""

from __future__ import annotations

from pathlib import Path

from smartscale.errors import UserError
from smartscale.producer import profiles, rates
from smartscale.producer.profiles import Load

REPLAYED_SERVICE = "shop"
"""The service that a replayed curve of rates is the load of; ``examples/policies`` scales it."""


def service_load(profile: Path | None, replay: Path | None, peak_per_s: float) -> Load | None:
    """The load of a profile, or of a CSV of rates scaled to a peak; None without either. Raises ``UserError``."""
    if profile is not None and replay is not None:
        raise UserError("--profile and --replay are two loads: give one of them")
    if profile is not None:
        return profiles.read(profile)
    if replay is not None:
        return Load(rates.from_csv(replay, peak_per_s), [profiles.Service(name=REPLAYED_SERVICE)])
    return None
