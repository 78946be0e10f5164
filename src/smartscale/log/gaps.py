"""What retention has removed before a group had read it: told in full, and passed over only if a person says so."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from smartscale.clock import iso
from smartscale.errors import OffsetOutOfRange
from smartscale.log.port import Log, Position, Record, TopicPartition


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets ``[first, end)`` of a partition that cannot be read any more. ``after`` is the first record behind them, if
    there is one."""

    at: TopicPartition
    first: int
    end: int
    after: Record | None

    def __str__(self) -> str:
        until = f", written before {iso(self.after.timestamp_ms * 1000)}" if self.after else ""
        return f"{self.at} from offset {self.first} to {self.end} (at most {self.end - self.first:,} records{until})"


def gaps(log: Log, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, Gap]:
    """The gaps before the offsets from which these partitions are to be read."""
    found = {}
    for at, bounds in log.bounds(wanted).items():
        if wanted[at] < bounds.begin:
            found[at] = Gap(at, wanted[at], bounds.begin, _first(log, at, bounds.begin))
    return found


def committed_offsets(assigned: Mapping[TopicPartition, Position | None]) -> dict[TopicPartition, int]:
    """Where reading goes on, for partitions that were read before."""
    return {at: position.offset for at, position in assigned.items() if position is not None}


def refuse(group: str, found: Mapping[TopicPartition, Gap]) -> None:
    """Raises ``OffsetOutOfRange`` that says what is lost and how to go on, if anything is."""
    if found:
        raise OffsetOutOfRange(
            f"{group} was away for longer than records are kept, so that some were removed before it read them: "
            f"{'; '.join(map(str, found.values()))}. Nothing has been passed over. To go on without them, start {group} "
            "once with --accept-loss (or the setting topics.accept_loss): the ledger then has them as lost, and the windows "
            "of that time are incomplete. A larger topics.retention_bytes survives longer absences"
        )


def _first(log: Log, at: TopicPartition, begin: int) -> Record | None:
    with closing(log.reader()) as reader:
        reader.assign({at: begin})
        while True:
            polled = reader.poll(1.0, 1)
            if polled.records:
                return polled.records[0]
            if at in polled.ends:
                return None
