"""The topics, by name. ``specs`` is what ``smartscale topics`` creates and verifies."""

from __future__ import annotations

from typing import Final

EVENTS: Final = "events"
PARTIALS: Final = "partials"
METRICS: Final = "metrics"
FORECASTS: Final = "forecasts"
INCIDENTS: Final = "incidents"
DECISIONS: Final = "decisions"
DEAD_LETTERS: Final = "dead-letters"
LIVE_KEYS: Final = "live-keys"
"""Compacted; partitioned as ``partials``: the keys that get windows of count zero when they fall silent."""
CLOCK: Final = "clock"
"""One partition; its first record is the anchor of a scaled clock. Empty: world time is the wall clock."""
LAYOUT: Final = "layout"
"""Compacted, one partition: over how many partitions of ``events`` the edges spread events with ids."""
ML_STATE: Final = "ml-state"
LEDGER: Final = "ledger"
"""Compacted: the running balance at the last cut, so that a restart need not read what retention removed."""

ALL_NAMES: Final = "*"
"""The ``name`` of a roll-up row over all names of a (tenant, service, kind). The edge refuses it in events."""

DEFAULT_TENANT: Final = "default"
"""The tenant of events that come without a credential."""

INTERACTION: Final = "interaction"
LOG: Final = "log"
METRIC: Final = "metric"
KINDS: Final = (INTERACTION, LOG, METRIC)
