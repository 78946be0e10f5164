"""How fast the embedded log appends and reads, beside the limit of the disk measured in the same run.

Run ``python benchmarks/micro/sqlite_log.py [FOLDER]`` (default: a temporary one); it says which disk is tested. Prints
one JSON object. One process, one thread. An event counts 60 bytes, what an LZ4 columnar record of 5,000 takes
for each; a call appends 20,000 events, what a publisher gathers in a few milliseconds at full speed, and returns once they
are durable. The limit is the same bytes written to one plain file with ``fdatasync`` after each call, and read from it.
Both reads are of pages the operating system still has in memory, as a consumer that keeps up finds them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from smartscale.log.port import Message, Publisher, TopicPartition, TopicSpec
from smartscale.log.sqlite import SqliteLog

EVENT_BYTES = 60
EVENTS = 2_000_000
CALL_EVENTS = 20_000
PARTITIONS = 4
POLL_BYTES = 16 << 20


def main(folder: Path) -> None:
    result: dict[str, object] = {
        "events": EVENTS,
        "event_bytes": EVENT_BYTES,
        "events_per_call": CALL_EVENTS,
    }
    for record_events in (500, 5_000):
        result[f"record_of_{record_events}_events"] = measure(folder, record_events)
    result["small_append_ms"], result["idle_poll_cpu_percent"] = small(folder)
    print(json.dumps(result, indent=2))


def measure(folder: Path, record_events: int) -> dict[str, float]:
    value = os.urandom(record_events * EVENT_BYTES)
    calls = EVENTS // CALL_EVENTS
    batch = [
        Message("events", n % PARTITIONS, value, headers={"schema": b"events/1", "n": b"%d" % record_events})
        for n in range(CALL_EVENTS // record_events)
    ]
    raw_write_s, raw_read_s = raw(folder / "raw", [message.value for message in batch], calls)
    with closing(SqliteLog(str(folder / f"log{record_events}.db"))) as log:
        log.create(
            [TopicSpec("events", PARTITIONS), TopicSpec("bounded", PARTITIONS, EVENTS * EVENT_BYTES // 10)]
        )
        with closing(log.publisher()) as publisher:
            append_s = append(publisher, batch, calls)
            bounded = [Message("bounded", m.partition, m.value, m.key, m.headers) for m in batch]
            append(publisher, bounded, calls // 5)  # until retention removes as much as is written
            bounded_s = append(publisher, bounded, calls)
        with closing(log.reader()) as reader:
            reader.assign({TopicPartition("events", p): 0 for p in range(PARTITIONS)})
            start, records = time.perf_counter(), 0
            while records < calls * len(batch):
                records += len(reader.poll(1.0, POLL_BYTES).records)
            read_s = time.perf_counter() - start
    return {
        "append_events_per_s": round(EVENTS / append_s),
        "append_with_retention_events_per_s": round(EVENTS / bounded_s),
        "append_limit_events_per_s": round(EVENTS / raw_write_s),
        "append_share_of_limit": round(raw_write_s / append_s, 3),
        "read_events_per_s": round(EVENTS / read_s),
        "read_limit_events_per_s": round(EVENTS / raw_read_s),
        "read_share_of_limit": round(raw_read_s / read_s, 3),
    }


def append(publisher: Publisher, batch: list[Message], calls: int) -> float:
    """Seconds for so many calls."""
    start = time.perf_counter()
    for _ in range(calls):
        answers = publisher.append(batch)
        assert all(isinstance(answer, int) for answer in answers), answers
    return time.perf_counter() - start


def raw(file: Path, values: list[bytes], calls: int) -> tuple[float, float]:
    """Seconds to write and to read the same bytes in the same portions."""
    start = time.perf_counter()
    with open(file, "wb", buffering=0) as sink:
        for _ in range(calls):
            for value in values:
                sink.write(value)
            os.fdatasync(sink.fileno())
    written = time.perf_counter() - start
    start = time.perf_counter()
    with open(file, "rb", buffering=0) as source:
        while source.read(len(values[0])):
            pass
    read = time.perf_counter() - start
    file.unlink()
    return written, read


def small(folder: Path) -> tuple[dict[str, float], float]:
    """Milliseconds of a durable append of one small record; percent of one core that an idle worker's polls use."""
    with closing(SqliteLog(str(folder / "small.db"))) as log:
        log.create([TopicSpec("events", PARTITIONS)])
        with closing(log.publisher()) as publisher:
            times = [append(publisher, [Message("events", 0, b"x" * 100)], 1) for _ in range(1000)]
        with closing(log.worker("group", ["events"], "0")) as worker:
            while not worker.poll(0.1).ends:
                pass
            start, cpu = time.perf_counter(), time.process_time()
            worker.poll(2.0)  # the rest of what there was
            while time.perf_counter() - start < 3:
                worker.poll(1.0)
            idle = (time.process_time() - cpu) / (time.perf_counter() - start)
    percentiles = statistics.quantiles(times, n=100)
    return {"p50": round(percentiles[49] * 1e3, 3), "p99": round(percentiles[98] * 1e3, 3)}, round(
        100 * idle, 2
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
