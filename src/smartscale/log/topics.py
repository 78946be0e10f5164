"""The topics SmartScale needs, as specs for ``Log.create``."""

from __future__ import annotations

from smartscale import config
from smartscale.log.port import TopicSpec
from smartscale.records import topics


def specs(settings: config.Settings, at_least: int = 0) -> list[TopicSpec]:
    """Every topic with its partitions and retention; ``events`` with ``at_least`` so many partitions."""
    wide, keyed = max(settings.topics.events, at_least), settings.topics.partials
    kept = settings.topics.retention_bytes
    return [
        TopicSpec(topics.EVENTS, wide, kept),
        TopicSpec(topics.PARTIALS, keyed, kept),
        TopicSpec(topics.METRICS, keyed, kept),
        TopicSpec(topics.FORECASTS, keyed, kept),
        TopicSpec(topics.INCIDENTS, keyed, kept),
        TopicSpec(topics.DECISIONS, keyed, kept),
        TopicSpec(topics.DEAD_LETTERS, keyed, kept),
        TopicSpec(topics.LIVE_KEYS, keyed, compacted=True),
        TopicSpec(topics.ML_STATE, keyed, compacted=True),
        TopicSpec(topics.LEDGER, 1, compacted=True),
        TopicSpec(topics.CLOCK, 1),
        TopicSpec(topics.LAYOUT, 1, compacted=True),
    ]
