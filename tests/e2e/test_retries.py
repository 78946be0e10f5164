"""Retries on a real Kafka: whole requests sent again to another edge process, and a broker that stands still under load.
Whatever happens on the way, what is counted is what was sent, once."""

from __future__ import annotations

import http.client
import json
import random
import threading
from pathlib import Path

import psutil
import pytest

from smartscale.client.sender import Sender
from smartscale.clock import WallClock, monotonic_s
from smartscale.ledger.books import Balance
from smartscale.testing.kafka_broker import KafkaBroker
from smartscale.testing.processes import Pipeline, balance, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.kafka]

DEADLINE_S = 60.0
EACH = 20
"""Events of a request."""


def settled(running: Pipeline) -> Balance:
    """The books once combine has read everything."""
    with running.log() as log:
        found = balance(log, running.settings)

        def read() -> bool:
            nonlocal found
            found = balance(log, running.settings)
            return found.unread == 0

        wait_until(read, DEADLINE_S, lambda: f"{found}; {running.complaints()}")
        return found


class Client(threading.Thread):
    """Sends requests whose events have no ids, each under a key of its own, until it has read an answer for each.

    Some answers it does not wait for: it cuts the connection after sending, and sends the same again, to either process."""

    def __init__(self, name: str, ports: list[int], requests: int) -> None:
        super().__init__(name=name, daemon=True)
        self._ports, self._requests = ports, requests
        self._chance = random.Random(name)
        self.cut = self.attempts = self.answered = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        for number in range(self._requests):
            body = json.dumps([{"service": f"s{number % 5}"}] * EACH).encode()
            key = f"{self.name}-{number}"
            end_s = monotonic_s() + DEADLINE_S
            while not self._attempt(body, key):
                if monotonic_s() > end_s:
                    self.wrong.append(f"{key} got no answer")
                    return
            self.answered += 1

    def _attempt(self, body: bytes, key: str) -> bool:
        self.attempts += 1
        connection = http.client.HTTPConnection("127.0.0.1", self._chance.choice(self._ports), timeout=10)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        try:
            connection.request("POST", "/v1/events", body, headers)
            if self._chance.random() < 0.3:
                self.cut += 1
                return False
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            threading.Event().wait(0.05)
            return False
        finally:
            connection.close()
        if response.status in (429, 503):
            return False
        answer = json.loads(text)
        if response.status != 200 or answer["accepted"] + answer["duplicate"] != EACH:
            self.wrong.append(f"{key}: {response.status} {text[:200]!r}")
        return True


def test_a_request_sent_again_to_another_process_is_counted_once(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    """Two edge processes, answers lost, one process killed and started again meanwhile."""
    stages = ["ingest-0", "ingest-1", "combine"]
    with Pipeline(kafka_broker.url, tmp_path, {}, stages) as running:
        ports = [running.port(name) for name in stages[:2]]
        clients = [Client(f"client-{i}", ports, 120) for i in range(4)]
        for client in clients:
            client.start()
        for victim in ("ingest-0", "ingest-1"):
            before = sum(client.answered for client in clients)
            wait_until(
                lambda before=before: sum(c.answered for c in clients) > before + 60,  # type: ignore[misc]
                DEADLINE_S,
                lambda: "no progress",
            )
            running.kill(victim)
            running.start(victim)
        for client in clients:
            client.join(DEADLINE_S * 2)
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert sum(client.cut for client in clients) > 50
        found = settled(running)
        assert found.accepted - found.duplicates == 4 * 120 * EACH
        assert found.accepted > 4 * 120 * EACH  # repeats did reach the log
        assert found.difference == 0


def test_a_broker_that_stands_still_under_load_costs_no_event_and_no_memory(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    """Bodies come faster than a paused broker takes them: the edge pushes back within its bound, and goes on by itself."""
    settings = {"ingest.queue_bytes": 4 << 20, "topics.events": 2}
    with Pipeline(kafka_broker.url, tmp_path, settings, ["ingest", "combine"]) as running:
        process = psutil.Process(running.pid("ingest"))
        senders = [
            Sender(running.url, WallClock(), run_id=f"r{i}", batch_events=2000, connections=8, give_up_s=120)
            for i in range(2)
        ]
        event = {"service": "shop", "name": "GET /", "attributes": {"padding": "x" * 200}}

        def offer(count: int) -> None:
            for sender in senders:
                sender.offer([event] * count)

        offer(5_000)
        wait_until(
            lambda: all(s.totals().waiting == 0 for s in senders),
            DEADLINE_S,
            lambda: str(senders[0].totals()),
        )
        before = process.memory_info().rss
        kafka_broker.pause()
        offer(30_000)  # 2 × 30,000 × 280 bytes: four times what may wait
        wait_until(lambda: all("429" in s.totals().last_trouble or "503" in s.totals().last_trouble for s in senders),
                   DEADLINE_S, lambda: str(senders[0].totals()))  # fmt: skip
        grown = process.memory_info().rss - before
        kafka_broker.resume()
        totals = [sender.close(120) for sender in senders]
        for total in totals:
            assert (total.sent, total.unanswered, total.refused) == (35_000, 0, 0)
        found = settled(running)
        assert found.accepted - found.duplicates == 70_000
        assert found.difference == 0
        assert grown < 100 << 20, f"{grown >> 20} MiB more"
        assert running.terminate("ingest") == 0
