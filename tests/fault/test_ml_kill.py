"""The ml stage killed (kill -9) while it writes a snapshot: what it publishes afterwards is what it would have published."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.ml import test_service as unit

from smartscale.log.port import Log, TopicPartition
from smartscale.log.sqlite import SqliteLog
from smartscale.records import topics
from smartscale.testing.log_harness import polls

STEPS = 24
ROOT = Path(__file__).parents[2]

CHILD = """
import os, signal, sys
import apsw
path, fatal, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

class Killer:
    written = 0
    def __call__(self, db):
        def before(cursor, sql, bindings):
            if sql.startswith("INSERT INTO records") and bindings and bindings[0] >> 40 in snapshots:
                Killer.written += 1
                if Killer.written == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
            return True
        db.set_exec_trace(before)

from smartscale.log.port import TopicPartition
from smartscale.log.sqlite import SqliteLog
from smartscale.ml import service
from smartscale.records import topics
from tests.unit.ml import test_service as unit

log = SqliteLog(path)
stage = service.Stage(unit.context(log))
query = "SELECT id FROM partitions WHERE topic = ?"
snapshots = {number for number, in apsw.Connection(path).execute(query, (topics.ML_STATE,))}
assert len(snapshots) == unit.PARTITIONS
passed = dict.fromkeys(range(unit.PARTITIONS), 0)
apsw.connection_hooks.append(Killer())
for partition, records in unit.windows(steps):
    at = TopicPartition(topics.METRICS, partition)
    passed[partition] += len(records)
    if log.bounds([at])[at].end < passed[partition]:
        unit.write(log, partition, records)
    if partition == unit.PARTITIONS - 1:
        unit.turn_until_read(stage, log)
        stage = stage if fatal else service.Stage(unit.context(log))
"""


def published(log: Log, topic: str) -> list[bytes]:
    """All records of a topic, by partition and order."""
    found: list[bytes] = []
    for partition in range(unit.PARTITIONS):
        at, reader = TopicPartition(topic, partition), log.reader()
        with closing(reader):
            reader.assign({at: 0})
            for poll in polls(reader):
                found += [record.value for record in poll.records]
                if at in poll.ends:
                    break
    return found


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_snapshot_cannot_be_seen(tmp_path: Path) -> None:
    """Twice, at the n-th record of a snapshot that a process writes. Then to the end, restored from a snapshot at every
    step."""
    path = tmp_path / "log.db"
    for fatal in (10, 120, 0):
        arguments = [sys.executable, "-c", CHILD, str(path), str(fatal), str(STEPS)]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == (-signal.SIGKILL if fatal else 0), done.stderr
    log = SqliteLog(str(path))
    forecasts, incidents = unit.uninterrupted(STEPS)
    assert published(log, topics.FORECASTS) == forecasts
    assert published(log, topics.INCIDENTS) == incidents
