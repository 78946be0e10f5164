"""``smartscale topics``: every topic created, verified and shown with its records and the groups' lag."""

from __future__ import annotations

import msgspec
from rich.table import Table

from smartscale import app, config
from smartscale.log.port import Log, TopicPartition, lag
from smartscale.records import topics

GROUPS = {
    "combine": [topics.EVENTS],
    "window": [topics.PARTIALS],
    "ml": [topics.METRICS],
    "control": [topics.METRICS],
}
"""Who reads what."""


class TopicState(msgspec.Struct, frozen=True):
    """One topic now. ``records`` is what can be read (an upper bound on Kafka), ``lag`` records each group has
    still to read."""

    name: str
    partitions: int
    records: int
    retention_bytes: int
    compacted: bool
    lag: dict[str, int]


def create_and_describe(log: Log, settings: config.Settings) -> list[TopicState]:
    """Create what is missing, verify the rest, and tell about all. Raises ``TopicMismatch``.

    ``topics.events`` gives ``events`` more partitions if it has fewer; it never has fewer again."""
    app.prepare(log, settings)
    states = []
    for name, spec in sorted(log.topics().items()):
        bounds = log.bounds([TopicPartition(name, p) for p in range(spec.partitions)])
        states.append(
            TopicState(
                name, spec.partitions, sum(b.end - b.begin for b in bounds.values()),
                spec.retention_bytes, spec.compacted,
                {
                    group: sum(lag(log, group, [name]).values())
                    for group, read in _groups(settings).items()
                    if name in read
                },
            )
        )  # fmt: skip
    return states


def table(states: list[TopicState]) -> Table:
    """The topics for people."""
    shown = Table("topic", "partitions", "records", "kept", "lag")
    for state in states:
        kept = "last per key" if state.compacted else _bytes(state.retention_bytes)
        behind = ", ".join(f"{group} {count:,}" for group, count in state.lag.items())
        shown.add_row(state.name, str(state.partitions), f"{state.records:,}", kept, behind)
    return shown


def _groups(settings: config.Settings) -> dict[str, list[str]]:
    return {**GROUPS, "combine": [topics.EVENTS, *settings.combine.json_topics]}


def _bytes(count: int) -> str:
    return "all" if count == 0 else f"{count / (1 << 20):,.0f} MiB"
