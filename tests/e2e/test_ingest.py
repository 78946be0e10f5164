"""A real ingest process: answers, kill -9, heartbeats, a clean stop, a port in use, a log that goes away."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from smartscale import config
from smartscale.client.sender import Sender
from smartscale.clock import WallClock, monotonic_s
from smartscale.log import open_log
from smartscale.log.port import Record, TopicPartition
from smartscale.log.topics import specs
from smartscale.records import events, schema, topics
from smartscale.records.events import Heartbeat
from smartscale.testing.kafka_broker import KafkaBroker

pytestmark = pytest.mark.e2e

DEADLINE_S = 60.0


class Edge:
    """An ingest process and its log."""

    def __init__(self, address: str) -> None:
        self.address = address
        log = open_log(self.address)
        log.create(specs(config.load(environment={})))
        log.close()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.process = self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "smartscale",
            "ingest",
            "--log",
            self.address,
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self.process

    def wait_ready(self, status: int = 200) -> None:
        """Until /readyz says 200: a heartbeat is in the log (or 503: none could be written)."""
        end = monotonic_s() + DEADLINE_S
        pause = threading.Event()
        while monotonic_s() < end:
            assert self.process.poll() is None, self.process.communicate()[1]
            try:
                if self.ask("GET", "/readyz")[0] == status:
                    return
            except OSError:
                pass  # not listening yet
            pause.wait(0.05)
        raise AssertionError(f"/readyz did not say {status}")

    def ask(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, body: bytes, content_type: str = "application/json") -> int:
        return self.ask("POST", "/v1/events", body, content_type)[0]

    def records(self) -> list[Record]:
        """Everything in ``events`` now."""
        log = open_log(self.address)
        try:
            partitions = [
                TopicPartition(topics.EVENTS, p) for p in range(log.topics()[topics.EVENTS].partitions)
            ]
            reader = log.reader()
            reader.assign(dict.fromkeys(partitions, 0))
            found: list[Record] = []
            ended: set[TopicPartition] = set()
            while ended < set(partitions):
                poll = reader.poll(1.0)
                found += poll.records
                ended |= poll.ends
            reader.close()
            return found
        finally:
            log.close()

    def ids(self) -> list[str]:
        """The ids of all events in the log."""
        return [
            str(row["id"])
            for record in self.records()
            if schema.schema_of(record.headers) == schema.EVENTS
            for row in events.decode(record.value).to_pylist()
        ]

    def heartbeats(self) -> list[tuple[int, Heartbeat]]:
        return [
            (record.partition, msgspec.json.decode(record.value, type=Heartbeat))
            for record in self.records()
            if schema.schema_of(record.headers) == schema.HEARTBEAT
        ]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    edge = Edge(f"sqlite:{tmp_path / 'log.db'}")
    try:
        edge.wait_ready()
        yield edge
    finally:
        edge.process.kill()
        edge.process.communicate()


def test_each_malformed_input_gets_the_right_answer_and_good_events_go_on(edge: Edge) -> None:
    """One bad request stops nothing else; only what was answered accepted is in the log."""
    answers = {
        b'{"service":"shop","id":"one"}': 200,
        b'[{"service":"shop","id":"two"},{"service":""}]': 207,
        b'{"service":"shop","id":"three"}\n{"service":\n': 207,
        b"": 400,
        b'{"service":': 400,
        b'[{"service":"shop","colour":"red"}]': 400,
        b'{"service":"shop","time":"2999-01-01T00:00:00Z"}': 400,
        b'{"service":"shop","attributes":{"x":"' + b"x" * 70_000 + b'"}}': 400,
        b"[" + b'{"service":"shop"},' * 20_000 + b'{"service":"shop"}]': 413,
        b'{"service":"' + b"x" * (16 << 20) + b'"}': 413,
        b"\xff\xfe": 400,
    }
    assert {body[:40]: edge.post(body) for body in answers} == {
        body[:40]: code for body, code in answers.items()
    }
    assert edge.post(b"service,shop", "text/csv") == 415
    assert edge.ask("GET", "/v1/events")[0] == 405
    assert edge.ask("GET", "/nothing")[0] == 404
    assert sorted(edge.ids()) == ["one", "three", "two"]


def test_what_was_answered_accepted_survives_kill_9(edge: Edge) -> None:
    """Several clients post until the process is killed; each event answered with 200 is in the log, once."""
    accepted: set[str] = set()
    enough = threading.Event()

    def client(name: str) -> None:
        number = 0
        while True:
            ids = [f"{name}-{number}-{i}" for i in range(50)]
            try:
                status = edge.post(json.dumps([{"service": "shop", "id": each} for each in ids]).encode())
            except (OSError, http.client.HTTPException):
                return
            assert status == 200
            accepted.update(ids)
            number += 1
            if len(accepted) > 5_000:
                enough.set()

    threads = [threading.Thread(target=client, args=(f"c{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(DEADLINE_S)
    os.kill(edge.process.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(DEADLINE_S)
    ids = edge.ids()
    assert accepted <= set(ids)
    assert len(ids) == len(set(ids))


def test_a_sender_sees_an_edge_through_its_death(edge: Edge) -> None:
    """Killed and started again while it sends: everything is answered, and the books balance."""
    sender = Sender(edge.url, WallClock(), run_id="run", batch_events=100, connections=2)
    sender.offer([{"service": "shop"} for _ in range(5_000)])
    os.kill(edge.process.pid, signal.SIGKILL)
    edge.process.communicate()
    sender.offer([{"service": "shop"} for _ in range(5_000)])
    edge.start()
    edge.wait_ready()
    totals = sender.close(DEADLINE_S)
    assert totals.sent == 10_000 == totals.accepted + totals.duplicate
    assert totals.unanswered == totals.refused == 0
    assert set(edge.ids()) == {f"run-{i}" for i in range(1, 10_001)}


def test_heartbeats_reach_every_partition_and_the_last_says_farewell(edge: Edge) -> None:
    """With no events at all the oldest one is the clock's now."""
    assert edge.stop() == 0
    beats = edge.heartbeats()
    for partition in range(4):
        mine = [beat for at, beat in beats if at == partition]
        assert len(mine) >= 2
        assert len({beat.process for beat in mine}) == 1
        assert [beat.leaving for beat in mine] == [False] * (len(mine) - 1) + [True]
        assert all(beat.oldest_us == beat.clock_us for beat in mine)
        assert [beat.clock_us for beat in mine] == sorted(beat.clock_us for beat in mine)


def test_stopping_writes_and_answers_what_was_taken(edge: Edge) -> None:
    """Clients post while SIGTERM comes: each answer is 200 and in the log, or 503, or no answer at all."""
    accepted: set[str] = set()
    others: set[int] = set()
    some = threading.Event()

    def client(name: str) -> None:
        number = 0
        while True:
            each = f"{name}-{number}"
            try:
                status = edge.post(json.dumps({"service": "shop", "id": each}).encode())
            except (OSError, http.client.HTTPException):
                return
            if status == 200:
                accepted.add(each)
                some.set()
            else:
                others.add(status)
            number += 1

    threads = [threading.Thread(target=client, args=(f"c{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    assert some.wait(DEADLINE_S)
    assert edge.stop() == 0
    for thread in threads:
        thread.join(DEADLINE_S)
    assert accepted <= set(edge.ids())
    assert others <= {429, 503}


def test_an_idle_connection_does_not_hold_up_the_stop(edge: Edge) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=DEADLINE_S)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    start = monotonic_s()
    assert edge.stop() == 0
    assert monotonic_s() - start < 5
    connection.close()


def test_a_port_in_use_is_a_clear_error(edge: Edge) -> None:
    """Exit code 2 and a message with the remedy; the first process goes on."""
    second = subprocess.run(
        [sys.executable, "-m", "smartscale", "ingest", "--log", edge.address, "--port", str(edge.port)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert second.returncode == 2
    assert f"port {edge.port} on 127.0.0.1 is in use" in second.stderr + second.stdout
    assert "--port" in second.stderr + second.stdout
    assert edge.post(b'{"service":"shop"}') == 200


@pytest.mark.kafka
def test_a_broker_that_goes_away_is_told_and_comes_back_by_itself(kafka_broker: KafkaBroker) -> None:
    """Paused: not ready, 503 with Retry-After, and health still good. Resumed: the same events are taken, counted once."""
    edge = Edge(kafka_broker.url)
    try:
        edge.wait_ready()
        sender = Sender(edge.url, WallClock(), run_id="run", batch_events=100)
        sender.offer([{"service": "shop"} for _ in range(1_000)])
        kafka_broker.pause()
        sender.offer([{"service": "shop"} for _ in range(1_000)])
        edge.wait_ready(503)
        assert edge.ask("GET", "/healthz")[0] == 200
        assert b"Kafka" in edge.ask("GET", "/readyz")[1]
        kafka_broker.resume()
        edge.wait_ready()
        totals = sender.close(DEADLINE_S)
        assert totals.sent == 2_000 == totals.accepted + totals.duplicate
        assert set(edge.ids()) == {f"run-{i}" for i in range(1, 2_001)}
        assert edge.stop() == 0
    finally:
        edge.process.kill()
        edge.process.communicate()
