"""What the adapters that keep their own books check in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from smartscale.errors import TopicMismatch, UnknownTopic
from smartscale.log.port import Message, Position, Record, TopicPartition, TopicSpec

MAX_METADATA_BYTES: Final = 4000
"""Of a position, as the port promises; Kafka's brokers refuse more than 4096 unless told otherwise."""


def record_bytes(record: Record | Message) -> int:
    """What a record counts for retention."""
    return len(record.value) + len(record.key or b"")


def check_spec(have: TopicSpec, want: TopicSpec) -> None:
    """Raises ``TopicMismatch`` unless the existing topic is as wanted, or may be grown to be so."""
    growable = not have.compacted and want.partitions > have.partitions
    if have != (replace(want, partitions=have.partitions) if growable else want):
        raise TopicMismatch(
            f"topic {want.name} exists as {have}, asked for is {want}; only more partitions can be added, "
            "and only where it is not compacted: mend the settings or use a new log"
        )


def check_message(spec: TopicSpec | None, message: Message) -> None:
    """Raises ``UnknownTopic``, or ``ValueError`` for a record without a key in a compacted topic."""
    if spec is None or not 0 <= message.partition < spec.partitions:
        raise unknown(TopicPartition(message.topic, message.partition))
    if spec.compacted and message.key is None:
        raise ValueError(f"a record of the compacted topic {message.topic} needs a key")


def check_positions(positions: Mapping[TopicPartition, Position]) -> None:
    """Raises ``ValueError`` if a position's metadata is too long."""
    for at, position in positions.items():
        if (size := len(position.metadata.encode())) > MAX_METADATA_BYTES:
            raise ValueError(
                f"{at}: {size} bytes of metadata; a position carries at most {MAX_METADATA_BYTES}"
            )


def unknown(at: TopicPartition) -> UnknownTopic:
    """The error for a topic or partition that does not exist."""
    return UnknownTopic(f"{at} does not exist; create it with `smartscale topics`")
