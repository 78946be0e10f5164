"""The topics SmartScale needs, as specs for ``Log.create``."""

from __future__ import annotations

from smartscale import config
from smartscale.log.port import TopicSpec
from smartscale.records import topics


def specs(settings: config.Settings) -> list[TopicSpec]:
    """Every topic with its partitions and retention."""
    wide, keyed, kept = settings.topics.events, settings.topics.partials, settings.topics.retention_bytes
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
    ]
