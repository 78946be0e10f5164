"""SmartScale beside Quix Streams, Bytewax, Kafka Streams and Apache Flink: the same events, the same windows, one core each.

    python benchmarks/peers/peers.py [CONTENDER …] [--events N] [--seconds S]     or     make bench-peers
    python benchmarks/peers/peers.py --set-up       # only fetch and build what the contenders need (.peers/, Maven)

**The task.** Read events from one Kafka partition (a real Apache Kafka, started here), keyed by service, and write for each
service and tumbling window of 10 s of event time: how many, how many errors, and the 99th percentile of the latency; to a
Kafka topic, once, when the window closes. Events are up to 1 s out of order, windows wait for 2 s. 200 services, 2,000
events a second of event time, about 109 bytes of JSON an event:

    {"time":"2026-01-01T00:00:00.512345Z","service":"service-17","name":"GET /","status":200,"latency_ms":12.345}

**The contenders**, each as its own documentation has one write this, with the settings it comes with unless stated:

- ``smartscale``: ``smartscale combine`` and ``smartscale window``, two processes on the one core, from the same JSON topic
  (``combine.json_topics``). Exactly once. It computes mean, p50, p90, p95, p99.9, maximum and a row per route as well.
- ``smartscale-columnar``: the same from its own topic ``events``, as its edge writes it: Arrow records of 5,000 events. Only
  this row starts from another form of the events, and it has more of them (three times, so that it runs for seconds).
- ``quix``: ``tumbling_window().agg(Count, Sum, …).final("partition")``, RocksDB and changelog topic as they come, at least
  once. p99 from the histogram below, held in the state as a map (``quix``), or exact, from ``Collect`` (``quix-collect``).
- ``bytewax``: ``fold_window``, unordered, without recovery (nothing survives a crash). p99 exact, from an array.
- ``kafka-streams`` (Java): ``aggregate`` on the default RocksDB store, ``suppress(untilWindowCloses)``, at least once;
  ``kafka-streams-exactly-once`` with ``exactly_once_v2``. Commit interval 1 s in both: with the default 30 s at least once,
  results would come twice a minute. p99 from an exponential histogram of the same error as SmartScale's (2.17 %).
- ``flink`` (Java): DataStream API in a local mini cluster, state on the heap, no checkpoints (nothing survives a crash); the
  same histogram.

**The measure.** The contender's processes run on one core (``taskset``), the broker and this script on the other. The
script reads the results as they come, with ``read_committed``. A window is done when its last service's row has arrived.
The rate is the events of all windows done after the warm-up (``WARM_UP_S`` after the first one), over the time they took:
start-up and the JVM's compilation do not count, writing the results does. **A rate counts only if every row of every window
done has exactly the count and errors of the oracle** (a NumPy query over the events) and a p99 within ``TOLERANCE``; else
the contender fails. Each runs for ``--seconds`` at most, or until all events are done; slow ones see fewer of the events.

Needs Java 17, Maven and the registries (PyPI, Maven Central) for ``--set-up``. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import confluent_kafka as ck
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports without saying so
    AdminClient,
    NewTopic,
)

from smartscale import app, config
from smartscale.log import open_log
from smartscale.log.port import Message
from smartscale.records import events as event_records
from smartscale.records import schema, topics
from smartscale.testing.kafka_broker import KafkaBroker, free_port

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
ENVIRONMENTS: Final = ROOT / ".peers"
"""The Python contenders' own environments."""

SERVICES: Final = 200
RATE_PER_S: Final = 2_000
SIZE_MS: Final = 10_000
BOUND_MS: Final = 2_000
JITTER_MS: Final = 1_000
START_US: Final = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, a multiple of the window."""
EVENTS: Final = 8_000_000
COLUMNAR_TIMES: Final = 3
RECORD_EVENTS: Final = 5_000
SECONDS: Final = 18.0
WARM_UP_S: Final = 4.0
TOLERANCE: Final = 0.025
"""Relative error of a p99: the histograms' 2.17 %, and rounding."""

BROKER_CORE, CONTENDER_CORE = 0, 1

PACKAGES: Final[Mapping[str, Sequence[str]]] = {
    "quix": ["quixstreams==3.28.1"],
    "bytewax": ["bytewax==0.21.1", "confluent-kafka==2.16.1", "orjson==3.13.0"],
}
JAVA: Final = ("kafka_streams", "flink")


@dataclass(frozen=True, slots=True)
class Events:
    """The events as arrays of one length n, in the order of the topic."""

    time_us: npt.NDArray[np.int64]
    service: npt.NDArray[np.int64]
    status: npt.NDArray[np.int64]
    latency_us: npt.NDArray[np.int64]


def make_events(n: int, first: int = 0) -> Events:
    """``n`` seeded events, after ``first`` others."""
    random = np.random.default_rng([7, first])
    ended_us = START_US + (np.arange(first, first + n) * 1_000_000) // RATE_PER_S
    return Events(
        time_us=ended_us + random.integers(0, JITTER_MS * 1000, n),
        service=random.integers(0, SERVICES, n),
        status=np.where(random.random(n) < 0.02, 503, 200),
        latency_us=random.lognormal(10, 0.7, n).astype(np.int64) + 1,
    )


def json_values(events: Events) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each event's record."""
    keys = [f"service-{i}".encode() for i in range(SERVICES)]
    times = np.datetime_as_string(events.time_us.astype("datetime64[us]"), unit="us").tolist()
    columns = (events.service.tolist(), events.status.tolist(), events.latency_us.tolist())
    for at, service, status, latency_us in zip(times, *columns, strict=True):
        text = (
            f'{{"time":"{at}Z","service":"service-{service}","name":"GET /","status":{status},'
            f'"latency_ms":{latency_us / 1000}}}'
        )
        yield keys[service], text.encode()


Row = tuple[int, int, float]
"""Count, errors, p99 in milliseconds."""


def oracle(events: Events) -> dict[int, dict[str, Row]]:
    """The rows of each window, by its start in ms, and service."""
    window_ms = events.time_us // 1000 // SIZE_MS * SIZE_MS
    order = np.lexsort((events.latency_us, events.service, window_ms))
    window_ms, service = window_ms[order], events.service[order]
    error, latency_ms = events.status[order] >= 500, events.latency_us[order] / 1000
    starts = np.flatnonzero(np.diff(window_ms, prepend=-1) | np.diff(service, prepend=-1))
    ends = np.append(starts[1:], len(service))
    rows: dict[int, dict[str, Row]] = {}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        count = end - start
        p99 = float(latency_ms[start + int(np.ceil(0.99 * count)) - 1])
        row = count, int(error[start:end].sum()), p99
        rows.setdefault(int(window_ms[start]), {})[f"service-{service[start]}"] = row
    return rows


def write_json(broker: str, topic: str, events: Events) -> int:
    """Fill the topic of single JSON events; returns how many bytes of JSON."""
    producer = ck.Producer(
        {
            "bootstrap.servers": broker,
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 400_000,
            "batch.num.messages": 10_000,
        }
    )
    total = 0
    for key, value in json_values(events):
        total += len(value)
        while True:
            try:
                producer.produce(topic, value, key, partition=0)
                break
            except BufferError:
                producer.poll(0.01)
    if producer.flush(60):
        raise SystemExit("the broker did not take all events")
    return total


def write_columnar(url: str, events: Events) -> int:
    """Fill ``events`` as the edge would; returns how many bytes of records."""
    log = open_log(url)
    publisher = log.publisher()
    total = 0

    def label(codes: npt.NDArray[np.int64], values: list[str]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(values))

    services = [f"service-{i}" for i in range(SERVICES)]
    messages: list[Message] = []
    for first in range(0, len(events.service), RECORD_EVENTS):
        part = slice(first, first + RECORD_EVENTS)
        n = len(events.service[part])
        zeros = np.zeros(n, np.int64)
        columns = {
            "time": pa.array(events.time_us[part]),
            "tenant": label(zeros, ["default"]),
            "service": label(events.service[part], services),
            "kind": label(zeros, ["interaction"]),
            "name": label(zeros, ["GET /"]),
            "status": pa.array(events.status[part].astype(np.int16)),
            "error": pa.array(events.status[part] >= 500),
            "latency": pa.array(events.latency_us[part]),
        }
        batch = pa.RecordBatch.from_arrays(
            [columns.get(one.name, pa.nulls(n, one.type)).cast(one.type) for one in event_records.SCHEMA],
            schema=event_records.SCHEMA,
        )
        value = event_records.encode(batch)
        total += len(value)
        headers = schema.headers(
            schema.EVENTS, n=n, ingest_us=int(events.time_us[part].max()), process="bench"
        )
        messages.append(Message(topics.EVENTS, 0, value, headers=headers))
        if len(messages) == 100:
            _all_written(publisher.append(messages))
            messages = []
    _all_written(publisher.append(messages))
    publisher.close()
    log.close()
    return total


def _all_written(answers: Sequence[int | Exception]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


@dataclass(frozen=True, slots=True)
class Contender:
    """How one is started. ``start(place)`` returns its processes' commands, ``results`` names the topic it writes."""

    commands: Callable[[Place], Sequence[Sequence[str]]]
    row: Callable[[bytes], tuple[int, str, Row] | None]
    results: str = ""
    columnar: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender finds its input and leaves its files."""

    broker: str
    input: str
    results: str
    folder: Path
    config: Path


def _plain_row(value: bytes) -> tuple[int, str, Row] | None:
    row = json.loads(value)
    return row["start_ms"], row["service"], (row["count"], row["errors"], row["p99_ms"])


def _metric_row(value: bytes) -> tuple[int, str, Row] | None:
    if b'"name":"*"' not in value:
        return None
    row = json.loads(value)
    if not (row["complete"] and row["count"]):
        return None
    return row["start_us"] // 1000, row["service"], (row["count"], row["errors"], row["latency_p99_ms"])


def _python(name: str) -> str:
    return str(ENVIRONMENTS / name / "bin" / "python")


def _java(place: Place, folder: str, main: str) -> list[str]:
    target = HERE / folder / "target"
    opens = ["--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED"]
    return [
        "java",
        "-Xms1g",
        "-Xmx2g",
        f"-Djava.io.tmpdir={place.folder}",
        *opens,
        "-cp",
        f"{target}/peer.jar:{target}/libs/*",
        main,
    ]


def _smartscale(place: Place) -> list[list[str]]:
    common = ["--config", str(place.config), "--log", f"kafka://{place.broker}"]
    stages = [sys.executable, "-m", "smartscale"]
    return [[*stages, "combine", *common], [*stages, "window", *common]]


def _quix(method: str) -> Callable[[Place], list[list[str]]]:
    return lambda place: [
        [
            _python("quix"), str(HERE / "contenders" / "quix.py"), place.broker, place.input, place.results,
            str(SIZE_MS), str(BOUND_MS), str(place.folder), method,
        ]
    ]  # fmt: skip


def _kafka_streams(guarantee: str) -> Callable[[Place], list[list[str]]]:
    return lambda place: [
        [
            *_java(place, "kafka_streams", "smartscale.peers.Peer"), place.broker, place.input, place.results,
            str(SIZE_MS), str(BOUND_MS), str(place.folder), guarantee,
        ]
    ]  # fmt: skip


CONTENDERS: Final[Mapping[str, Contender]] = {
    "smartscale": Contender(_smartscale, _metric_row, topics.METRICS),
    "smartscale-columnar": Contender(_smartscale, _metric_row, topics.METRICS, columnar=True),
    "quix": Contender(_quix("histogram"), _plain_row),
    "quix-collect": Contender(_quix("collect"), _plain_row),
    "bytewax": Contender(
        lambda place: [
            [
                _python("bytewax"), str(HERE / "contenders" / "bytewax_flow.py"), place.broker, place.input,
                place.results, str(SIZE_MS), str(BOUND_MS),
            ]
        ],
        _plain_row,
    ),
    "kafka-streams": Contender(_kafka_streams("at_least_once"), _plain_row),
    "kafka-streams-exactly-once": Contender(_kafka_streams("exactly_once_v2"), _plain_row),
    "flink": Contender(
        lambda place: [
            [
                *_java(place, "flink", "smartscale.peers.FlinkPeer"), place.broker, place.input, place.results,
                str(SIZE_MS), str(BOUND_MS),
            ]
        ],
        _plain_row,
    ),
}  # fmt: skip


def set_up(names: Sequence[str]) -> None:
    """Make the environments and build the Java programs of these contenders, unless they are there as they should be."""
    for name, packages in PACKAGES.items():
        made, wanted = ENVIRONMENTS / name / "packages.txt", "\n".join(packages)
        if any(one.partition("-")[0] == name for one in names) and not (
            made.exists() and made.read_text() == wanted
        ):
            print(f"making the environment of {name} …", file=sys.stderr, flush=True)
            venv.create(ENVIRONMENTS / name, with_pip=True)
            install = [_python(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*install, *packages], check=True)
            made.write_text(wanted)
    for folder in JAVA:
        jar, pom = HERE / folder / "target" / "peer.jar", HERE / folder / "pom.xml"
        sources = [pom, *(HERE / folder / "src").rglob("*.java"), *(HERE / "java_common").rglob("*.java")]
        built_s = jar.stat().st_mtime if jar.exists() else 0.0
        if any(one.startswith(folder.replace("_", "-")) for one in names) and any(
            source.stat().st_mtime > built_s for source in sources
        ):
            print(f"building {folder} …", file=sys.stderr, flush=True)
            subprocess.run(["mvn", "-q", "-B", "-f", str(pom), "package"], check=True, stdout=sys.stderr)


@dataclass(slots=True)
class Seen:
    """The rows read so far and when each window was done."""

    expected: Mapping[int, Mapping[str, Row]]
    rows: dict[int, dict[str, Row]] = field(default_factory=dict)
    done_s: dict[int, float] = field(default_factory=dict)

    def take(self, window: int, service: str, row: Row, at_s: float) -> None:
        rows = self.rows.setdefault(window, {})
        rows[service] = row
        if window not in self.done_s and rows.keys() == self.expected.get(window, {}).keys():
            self.done_s[window] = at_s

    def wrong(self) -> list[str]:
        """What differs from the oracle in the windows done."""
        found = []
        for window in self.done_s:
            for service, (count, errors, p99) in self.expected[window].items():
                got = self.rows[window][service]
                if got[:2] != (count, errors) or abs(got[2] / p99 - 1) > TOLERANCE:
                    found.append(f"{service} at {window}: {got}, expected {(count, errors, p99)}")
        return found


@dataclass(slots=True)
class Usage:
    """Processor time and memory of some processes and their children."""

    processes: list[psutil.Process]
    peak_bytes: int = 0

    def look(self) -> float:
        """CPU seconds so far; notes the memory."""
        cpu_s, memory = 0.0, 0
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                memory += process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, memory)
        return cpu_s


def measure(
    name: str, place: Place, expected: Mapping[int, Mapping[str, Row]], seconds: float
) -> dict[str, object]:
    """Run one contender and watch its results."""
    contender = CONTENDERS[name]
    consumer = ck.Consumer(
        {
            "bootstrap.servers": place.broker,
            "group.id": f"watch-{name}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
        }
    )
    consumer.assign([ck.TopicPartition(place.results, 0, 0)])
    seen = Seen(expected)
    log = (place.folder / "console.log").open("wb")
    processes = [
        subprocess.Popen(
            ["taskset", "-c", str(CONTENDER_CORE), *command],
            stdout=log, stderr=log, start_new_session=True,
        )
        for command in contender.commands(place)
    ]  # fmt: skip
    usage = Usage([psutil.Process(process.pid) for process in processes])
    began_s = time.monotonic()
    first_done_s = 0.0
    cpu: list[tuple[float, float]] = []
    try:
        while time.monotonic() - began_s < seconds + 20 and len(seen.done_s) < len(expected) - 1:
            messages = consumer.consume(2_000, 0.1)
            now_s = time.monotonic()
            for message in messages:
                if message.error() is None and (found := contender.row(message.value() or b"")) is not None:
                    seen.take(*found, now_s)
            if not cpu or now_s - cpu[-1][0] > 0.5:
                cpu.append((now_s, usage.look()))
            if not first_done_s and seen.done_s:
                first_done_s = now_s
            if first_done_s and now_s - first_done_s > seconds:
                break
            if any(process.poll() for process in processes):
                break
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
        consumer.close()
    return report(seen, usage, cpu, (place.folder / "console.log").read_text(errors="replace"))


def report(seen: Seen, usage: Usage, cpu: Sequence[tuple[float, float]], console: str) -> dict[str, object]:
    """The figures of a run, or why there are none."""
    ends = sorted(seen.done_s.items(), key=lambda item: item[1])
    wrong = seen.wrong()
    if wrong or len(ends) < 2:
        return {"failed": wrong[:3] or f"{len(ends)} windows done; {console[-1500:]}", "windows": len(ends)}
    warm = [item for item in ends if item[1] >= ends[0][1] + WARM_UP_S]
    # What was done at the first of these moments was read before it: only what came later counts.
    counted = [item for item in warm if item[1] > warm[0][1]] if len(warm) > 2 else []
    if not counted:
        counted, begin_s = [item for item in ends if item[1] > ends[0][1]], ends[0][1]
    else:
        begin_s = warm[0][1]
    if not counted:
        return {"failed": "all windows were done at once: more events are needed", "windows": len(ends)}
    events = sum(row[0] for window, _ in counted for row in seen.expected[window].values())
    span_s = counted[-1][1] - begin_s
    used = np.interp([begin_s, counted[-1][1]], [at for at, _ in cpu], [used for _, used in cpu])
    return {
        "events_per_s": round(events / span_s),
        "events_counted": events,
        "seconds": round(span_s, 1),
        "cpu_share": round(float(used[1] - used[0]) / span_s, 2),
        "events_per_cpu_s": round(events / float(used[1] - used[0])),
        "windows_checked": len(ends),
        "rows_checked": sum(len(seen.rows[window]) for window, _ in ends),
        "memory_mb": round(usage.peak_bytes / 1e6),
    }


CONFIG: Final = """\
[topics]
events = 1
partials = 1
[time]
out_of_orderness_s = {bound_s}
allowed_lateness_s = 0.0
[windows]
tumbling_s = [{size_s}]
sliding_s = []
[ingest]
port = {port}
[combine]
json_topics = [{json_topics}]
"""


def _write_config(folder: Path, json_topics: str) -> Path:
    file = folder / "smartscale.toml"
    file.write_text(
        CONFIG.format(
            bound_s=BOUND_MS / 1000, size_s=SIZE_MS / 1000, json_topics=json_topics, port=free_port()
        )
    )
    return file


def _new_topic(broker: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result()


def on_json(names: Sequence[str], n: int, seconds: float, folder: Path) -> dict[str, object]:
    """All contenders that read the topic of single JSON events."""
    results: dict[str, object] = {}
    events = make_events(n)
    expected = oracle(events)
    with _broker() as broker:
        file = _write_config(folder, '"clicks"')
        app.prepare(open_log(broker.url), config.load(file, flags={"log": broker.url}))
        _new_topic(broker.address, "clicks")
        # An idle edge: without its heartbeats the topic `events` would be missing evidence, and windows be held back.
        command = [sys.executable, "-m", "smartscale", "ingest", "--config", str(file), "--log", broker.url]
        edge = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            size = write_json(broker.address, "clicks", events)
            results["input"] = {"events": n, "bytes_per_event": round(size / n, 1)}
            for name in names:
                print(f"{name} …", file=sys.stderr, flush=True)
                own = folder / name
                own.mkdir()
                output = CONTENDERS[name].results or f"results-{name}"
                if not CONTENDERS[name].results:
                    _new_topic(broker.address, output)
                place = Place(broker.address, "clicks", output, own, file)
                results[name] = measure(name, place, expected, seconds)
                print(results[name], file=sys.stderr, flush=True)
        finally:
            edge.terminate()
            edge.wait()
    return results


def on_columns(n: int, seconds: float, folder: Path) -> dict[str, object]:
    """SmartScale on its own records."""
    events = make_events(n)
    with _broker() as broker:
        file = _write_config(folder, "")
        app.prepare(open_log(broker.url), config.load(file, flags={"log": broker.url}))
        size = write_columnar(broker.url, events)
        own = folder / "smartscale-columnar"
        own.mkdir()
        place = Place(broker.address, topics.EVENTS, topics.METRICS, own, file)
        print("smartscale-columnar …", file=sys.stderr, flush=True)
        result = measure("smartscale-columnar", place, oracle(events), seconds)
    print(result, file=sys.stderr, flush=True)
    return {**result, "bytes_per_event": round(size / n, 1)}


@contextlib.contextmanager
def _broker() -> Iterator[KafkaBroker]:
    os.sched_setaffinity(0, {BROKER_CORE})  # this script, the broker and the idle edge inherit it
    with KafkaBroker() as broker:
        yield broker


def main() -> None:
    parser = argparse.ArgumentParser(description="see the head of this file")
    parser.add_argument("contenders", nargs="*", help=f"of {', '.join(CONTENDERS)}; default: all")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="at most, for each contender")
    parser.add_argument("--set-up", action="store_true", help="only fetch and build")
    options = parser.parse_args()
    names = options.contenders or list(CONTENDERS)
    if unknown := [name for name in names if name not in CONTENDERS]:
        parser.error(f"no contender {unknown[0]!r}; there are: {', '.join(CONTENDERS)}")
    set_up(names)
    if options.set_up:
        return
    folder = Path(tempfile.mkdtemp(prefix="smartscale-peers-"))
    try:
        on_topic = [name for name in names if not CONTENDERS[name].columnar]
        results = on_json(on_topic, options.events, options.seconds, folder) if on_topic else {}
        if "smartscale-columnar" in names:
            results["smartscale-columnar"] = on_columns(
                COLUMNAR_TIMES * options.events, options.seconds, folder
            )
    finally:
        shutil.rmtree(folder)
    rates = {
        name: one["events_per_s"]
        for name, one in results.items()
        if isinstance(one, dict) and "events_per_s" in one
    }
    results["smartscale_is_times_as_fast_as"] = {
        name: round(rates["smartscale"] / rate, 1)
        for name, rate in rates.items()
        if "smartscale" in rates and not name.startswith("smartscale")
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
