"""What retention removed before a group had read it is told alike on every log."""

from __future__ import annotations

from contextlib import closing

import pytest

from smartscale.errors import OffsetOutOfRange
from smartscale.log.gaps import committed_offsets, gaps, refuse
from smartscale.log.port import Position, TopicPartition
from smartscale.testing.log_harness import RETENTION_BYTES, LogHarness, until_assigned


def test_a_gap_is_told_with_its_offsets_and_the_first_record_behind_it(harness: LogHarness) -> None:
    """At the next assignment, from the committed position to where the log now begins."""
    at = TopicPartition(harness.topic(retention_bytes=RETENTION_BYTES), 0)
    harness.append(at.topic, *[b"x" * 20] * 10)
    with closing(harness.worker(at.topic)) as worker:
        until_assigned(worker, 1)
        with worker.transaction() as transaction:
            transaction.commit_positions({at: Position(1)})
    assert not gaps(harness.log, {at: 1})
    begin = harness.cut(at)
    with closing(harness.worker(at.topic)) as successor:
        assigned = until_assigned(successor, 1).assigned
        found = gaps(harness.log, committed_offsets(assigned))
        assert (found[at].first, found[at].end) == (1, begin)
        after = found[at].after
        assert after is not None
        assert after.offset == begin
        with pytest.raises(OffsetOutOfRange, match=f"{at} from offset 1 to {begin}"):
            refuse(harness.group, found)


def test_a_partition_never_read_before_has_no_gap(harness: LogHarness) -> None:
    """It is read from where it begins."""
    at = TopicPartition(harness.topic(retention_bytes=RETENTION_BYTES), 0)
    harness.append(at.topic, *[b"x" * 20] * 10)
    harness.cut(at)
    with closing(harness.worker(at.topic)) as worker:
        assert not gaps(harness.log, committed_offsets(until_assigned(worker, 1).assigned))
