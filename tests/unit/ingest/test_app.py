"""The edge's answers, without a network: bytes go straight into a connection, whose transport is played by the test."""

from __future__ import annotations

import asyncio
import gzip
import json

from smartscale import config
from smartscale.clock import ManualClock
from smartscale.errors import LogUnavailable
from smartscale.ingest.access_log import AccessLog
from smartscale.ingest.admission import REQUEST_BYTES, Admission
from smartscale.ingest.decode import Job, Outcome, Rules, decode
from smartscale.ingest.gate import Gate
from smartscale.ingest.http import App
from smartscale.ingest.identities import Recent
from smartscale.ingest.server import PIPELINED, Bounds, Connection, Server
from smartscale.ingest.tokens import Quota, Tokens
from smartscale.records.events_json import user_hasher
from smartscale.telemetry.health import Health

NOW_US = 1_700_000_000_000_000
Answer = tuple[int, dict[str, str], dict[str, object]]


class Wire(asyncio.Transport):
    """What the client sees of a connection."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.received = b""
        self.closed = self.paused = False
        self.connection = Connection(server)
        self.connection.connection_made(self)

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def hang_up(self) -> None:
        self.connection.connection_lost(None)

    def answers(self) -> list[Answer]:
        """Status, headers and JSON of the answers so far."""
        found, rest = [], self.received
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            if status.endswith("100 Continue"):
                continue
            size = int(headers["content-length"])
            text, rest = rest[:size], rest[size:]
            answer = json.loads(text) if text.startswith(b"{") else {"text": text.decode()}
            found.append((int(status.split()[1]), headers, answer))
        return found

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.received += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("192.0.2.1", 5000) if name == "peername" else default


class Edge:
    """An application whose writer is played by the test: while ``hold``, jobs wait in ``jobs`` until they are settled."""

    def __init__(
        self, tokens: Tokens | None = None, access_log: AccessLog | None = None, **ingest: float
    ) -> None:
        settings = config.load(
            environment={}, flags={f"ingest.{name}": value for name, value in ingest.items()}
        )
        self.admission = Admission(settings.ingest.queue_bytes)
        self.jobs: list[Job] = []
        self.outcomes: list[Outcome] = []
        self.written: list[str | None] = []
        self.services: list[str] = []
        """The ids and services of the events that were written."""
        self.error: Exception | None = None
        self.hold = False
        self.health = Health("ingest")
        self._recent = Recent()
        taken = settings.ingest
        self._rules = Rules(
            60_000_000, taken.max_event_bytes, taken.max_batch_events, taken.max_body_bytes, user_hasher(b"")
        )
        quota = Quota(taken.quota_events_per_s, taken.quota_bytes_per_s)
        self.gate = Gate(self.admission, quota, taken.tenant_share, tokens, chance=lambda: 0.0)
        self.app = App(
            settings, ManualClock(NOW_US), self.health, self.admission, self.gate, self._put, access_log
        )
        self.server = Server(self.app)

    def _put(self, job: Job) -> None:
        self.jobs.append(job)
        if not self.hold:
            self.settle()

    def settle(self) -> None:
        """Play the writer."""
        jobs, self.jobs = self.jobs, []
        found, outcomes = decode(jobs, self._rules, 1 << 24)
        for place in self._recent.repeats(found.identities).tolist():
            outcomes[found.owners[place]].repeats = [int(found.places[place])]
        if self.error is None:
            self._recent.add(found.identities)
            self.written += found.batch["id"].to_pylist()
            self.services += found.batch["service"].to_pylist()
        for outcome in outcomes:
            outcome.error = self.error
        self.outcomes += outcomes
        self.app.settle(outcomes)

    def wire(self) -> Wire:
        return Wire(self.server)

    def request(
        self,
        body: bytes,
        headers: dict[str, str] | None = None,
        method: str = "POST",
        path: str = "/v1/events",
    ) -> Answer:
        wire = self.wire()
        wire.send(raw(body, headers, method, path))
        (answer,) = wire.answers()
        return answer


def raw(
    body: bytes, headers: dict[str, str] | None = None, method: str = "POST", path: str = "/v1/events"
) -> bytes:
    """A request as it goes over the wire."""
    given = {
        "host": "edge",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(edge: Edge, body: object, **headers: str) -> Answer:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return edge.request(encoded, {name.replace("_", "-"): value for name, value in headers.items()})


def test_good_events_are_answered_200() -> None:
    status, _, answer = ask(Edge(), [{"service": "a"}, {"service": "b"}])
    assert (status, answer) == (200, {"accepted": 2, "duplicate": 0, "refused": 0, "verdicts": []})


def test_an_empty_array_is_nothing_to_complain_about() -> None:
    assert ask(Edge(), [])[0] == 200


def test_a_mixture_is_answered_207_with_verdicts_for_those_not_accepted() -> None:
    edge = Edge()
    status, _, answer = ask(edge, [{"service": "a"}, {"service": ""}, {"service": "b"}])
    assert status == 207
    assert (answer["accepted"], answer["refused"]) == (2, 1)
    assert [(v["index"], v["verdict"]) for v in answer["verdicts"]] == [(1, "refused")]  # type: ignore[attr-defined]  # JSON
    assert edge.written == [None, None]


def test_nothing_usable_is_a_problem_with_status_400() -> None:
    """RFC 9457; nothing reaches the log."""
    edge = Edge()
    status, headers, answer = ask(edge, [{"service": ""}])
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert (answer["status"], answer["refused"]) == (400, 1)
    assert "1 to 256" in str(answer["detail"])
    assert not edge.written


def test_malformed_json_says_where() -> None:
    status, _, answer = ask(Edge(), b'[{"service":"a" "b"}]')
    assert status == 400
    assert "byte 16" in str(answer["detail"])


def test_a_repeat_of_a_durable_event_is_a_duplicate_and_not_written_again() -> None:
    """The first attempt's answer may have been lost: the client sends it again."""
    edge = Edge()
    body = json.dumps([{"service": "a", "id": "1"}, {"service": "a"}]).encode()
    edge.request(body)
    status, _, answer = edge.request(body)
    assert status == 200
    assert (answer["accepted"], answer["duplicate"]) == (1, 1)
    assert answer["verdicts"] == [
        {"index": 0, "verdict": "duplicate", "reason": "an event with this id is already in the log"}
    ]


def test_an_event_that_was_not_written_is_no_duplicate() -> None:
    edge = Edge()
    edge.error = LogUnavailable("the broker is away")
    body = b'{"service":"a","id":"1"}'
    status, headers, answer = edge.request(body)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "the broker is away" in str(answer["detail"])
    edge.error = None
    assert edge.request(body)[2]["accepted"] == 1


def test_the_idempotency_key_gives_ids_to_events_without_one() -> None:
    """Key and index; an event's own id stays."""
    edge = Edge()
    ask(
        edge,
        [{"service": "a"}, {"service": ""}, {"service": "a", "id": "own"}, {"service": "a"}],
        idempotency_key="k",
    )
    assert edge.written == ["k:0", "own", "k:3"]
    assert ask(Edge(), {"service": "a"}, idempotency_key="")[0] == 400


def test_other_media_types_and_encodings_are_told_what_is_read() -> None:
    status, _, answer = ask(Edge(), {"service": "a"}, content_type="text/csv")
    assert status == 415
    assert "application/x-ndjson" in str(answer["detail"])
    status, headers, _ = ask(Edge(), {"service": "a"}, content_encoding="br")
    assert (status, headers["accept-encoding"]) == (415, "gzip, zstd")
    assert (
        ask(Edge(), b'{"service":"a"}\n{"service":"b"}', content_type="application/x-ndjson; charset=utf-8")[
            0
        ]
        == 200
    )


def test_a_packed_body_is_unpacked_and_held_to_the_limit() -> None:
    body = gzip.compress(json.dumps([{"service": "a"}] * 100).encode())
    assert ask(Edge(), body, content_encoding="gzip")[2]["accepted"] == 100
    assert ask(Edge(max_body_bytes=1000), body, content_encoding="gzip")[0] == 413
    assert ask(Edge(), body[:-1], content_encoding="gzip")[0] == 400


def test_a_cloudevent_may_come_in_headers() -> None:
    """Binary content mode: whatever the media type of the data is."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "/s",
        "ce_type": "t",
        "content_type": "text/csv",
    }
    edge = Edge()
    assert ask(edge, b"a;b", **headers)[2]["accepted"] == 1
    assert edge.services == ["/s"]


def test_too_much_at_once_is_refused_before_it_is_read() -> None:
    """By its announced length, and by its number of events."""
    assert ask(Edge(max_body_bytes=10), {"service": "abc"})[0] == 413
    assert ask(Edge(max_batch_events=1), [{"service": "a"}, {"service": "b"}])[0] == 413


def test_a_full_queue_pushes_back_and_takes_again_once_written() -> None:
    body = b'{"service":"a"}'
    edge = Edge(queue_bytes=REQUEST_BYTES + len(body))
    edge.hold = True
    first = edge.wire()
    first.send(raw(body))
    status, headers, _ = edge.request(body)
    assert (status, headers["retry-after"]) == (429, "1")
    edge.settle()
    assert first.answers()[0][0] == 200
    assert (edge.admission.bytes, edge.admission.requests) == (0, 0)
    edge.hold = False
    assert edge.request(body)[0] == 200


def test_a_stopping_process_takes_nothing_more() -> None:
    """Not even a body that was already coming: nothing may be written behind the last heartbeat."""
    edge = Edge()
    text = raw(b'{"service":"a"}')
    wire = edge.wire()
    wire.send(text[:-5])
    edge.admission.closed = True
    wire.send(text[-5:])
    assert wire.answers()[0][0] == 503
    assert ask(edge, {"service": "a"})[0] == 503
    assert edge.admission.bytes == 0


def test_a_body_counts_as_oldest_from_its_receipt_until_it_is_durable() -> None:
    edge = Edge()
    edge.hold = True
    text = raw(b'{"service":"a","time":"2020-01-01T00:00:00Z"}')
    wire = edge.wire()
    wire.send(text[:-1])
    assert edge.admission.oldest_us(NOW_US + 9) == NOW_US + 9
    wire.send(text[-1:])
    assert edge.admission.oldest_us(NOW_US + 9) == NOW_US
    edge.settle()
    assert edge.admission.oldest_us(NOW_US + 9) == NOW_US + 9


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    """What it had reserved is given back, and the connection is closed."""
    edge = Edge()
    wire = edge.wire()
    wire.send(raw(b"", {"content-length": "1000"}))
    assert edge.admission.bytes > 1000
    wire.connection.check(edge.server.now_s + Bounds().body_s - 1)
    assert not wire.answers()
    wire.connection.check(edge.server.now_s + Bounds().body_s)
    assert wire.answers()[0][0] == 408
    assert wire.closed
    assert edge.admission.bytes == 0


def test_a_head_that_trickles_in_is_cut_off_and_an_idle_connection_later() -> None:
    """More bytes do not prolong a head's time; a request that has ended gives the next one its own."""
    edge = Edge()
    slow, idle = edge.wire(), edge.wire()
    slow.send(b"POST /v1/")
    idle.send(raw(b'{"service":"a"}'))
    start_s = edge.server.now_s
    edge.server.now_s += 20
    slow.send(b"events")
    for wire in (slow, idle):
        wire.connection.check(start_s + Bounds().body_s)
    closed = [wire.closed for wire in (slow, idle)]
    idle.connection.check(start_s + Bounds().idle_s)
    assert [*closed, idle.closed] == [True, False, True]


def test_a_request_that_waits_for_the_log_is_never_cut_off() -> None:
    edge = Edge()
    edge.hold = True
    wire = edge.wire()
    wire.send(raw(b'{"service":"a"}'))
    wire.connection.check(edge.server.now_s + 3600)
    edge.settle()
    assert wire.answers()[0][0] == 200


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    """Before its body has come, or after: then its events are written all the same."""
    edge = Edge()
    edge.hold = True
    waiting, sending = edge.wire(), edge.wire()
    waiting.send(raw(b'{"service":"a"}'))
    sending.send(raw(b"", {"content-length": "1000"}))
    waiting.hang_up()
    sending.hang_up()
    edge.settle()
    assert edge.written == [None]
    assert (edge.admission.requests, edge.admission.bytes) == (0, 0)
    assert not edge.server.connections


def test_answers_leave_in_the_order_of_their_requests() -> None:
    """Three at once: the first waits for the writer, the second could be answered at once."""
    edge = Edge()
    edge.hold = True
    wire = edge.wire()
    wire.send(
        raw(b'{"service":"a"}') + raw(b"", method="GET", path="/healthz") + raw(b'[{"service":"b"}, 1]')
    )
    assert not wire.answers()
    edge.settle()
    assert [status for status, _, _ in wire.answers()] == [200, 200, 207]


def test_a_client_that_pipelines_too_much_is_not_read_from_for_a_while() -> None:
    edge = Edge()
    edge.hold = True
    wire = edge.wire()
    wire.send(raw(b'{"service":"a"}') * (PIPELINED + 1))
    paused = [wire.paused]
    edge.settle()
    paused.append(wire.paused)
    assert paused == [True, False]
    assert len(wire.answers()) == PIPELINED + 1


def test_a_body_in_chunks_is_read_within_the_same_limits() -> None:
    def chunked(body: bytes) -> bytes:
        head = raw(b"", {"transfer-encoding": "chunked"}).replace(b"content-length: 0\r\n", b"")
        return head + b"5\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\ntrailer: x\r\n\r\n" % (
            body[:5],
            len(body) - 5,
            body[5:],
        )

    edge = Edge(max_body_bytes=20)
    wire = edge.wire()
    wire.send(chunked(b'{"service":"a"}'))
    wire.send(chunked(b'{"service":"abcdefghijk"}'))
    wire.send(chunked(b'{"service":"b"}'))
    assert [status for status, _, _ in wire.answers()] == [200, 413, 200]
    assert edge.admission.bytes == 0


def test_a_client_that_asks_first_is_told_to_send_its_body_or_why_not() -> None:
    edge = Edge(max_body_bytes=100)
    wire = edge.wire()
    wire.send(raw(b"", {"expect": "100-continue", "content-length": "15"}))
    assert wire.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(b'{"service":"a"}')
    assert wire.answers()[0][0] == 200
    refused = edge.wire()
    refused.send(raw(b"", {"expect": "100-continue", "content-length": "101"}))
    assert refused.received.startswith(b"HTTP/1.1 413 ")


def test_what_is_no_http_is_answered_after_what_came_before_and_the_connection_closed() -> None:
    edge = Edge()
    wire = edge.wire()
    wire.send(raw(b'{"service":"a"}') + b"GARBAGE\r\n\r\n")
    assert [status for status, _, _ in wire.answers()] == [200, 400]
    assert wire.answers()[1][1]["connection"] == "close"
    assert wire.closed
    wire.send(raw(b'{"service":"b"}'))
    assert len(edge.written) == 1


def test_a_connection_is_closed_if_the_client_says_so() -> None:
    edge = Edge()
    wire = edge.wire()
    wire.send(raw(b'{"service":"a"}', {"connection": "close"}))
    assert wire.answers()[0][1]["connection"] == "close"
    assert wire.closed


def test_a_client_that_takes_no_answers_is_cut_off() -> None:
    edge = Edge()
    wire = edge.wire()
    wire.connection.pause_writing()
    assert wire.paused
    wire.connection.check(edge.server.now_s + Bounds().body_s)
    assert wire.closed


def test_health_and_metrics_are_answered() -> None:
    edge = Edge()
    assert edge.request(b"", method="GET", path="/healthz")[0] == 200
    assert edge.request(b"", method="GET", path="/readyz")[0] == 503
    edge.health.ready()
    assert edge.request(b"", method="GET", path="/readyz")[0] == 200
    edge.request(b'[{"service":"a"},{"service":""}]')
    metrics = str(edge.request(b"", method="GET", path="/metrics")[2]["text"])
    assert 'smartscale_ingest_events_total{format="json",tenant="default",verdict="refused"} 1.0' in metrics
    assert 'smartscale_ingest_refused_events_total{reason="invalid-service"} 1.0' in metrics
    assert 'smartscale_ingest_requests_total{format="json",status="207"} 1.0' in metrics
    assert 'smartscale_ingest_request_seconds_count{format="json"} 1.0' in metrics


def test_wrong_paths_and_methods_say_what_is_right() -> None:
    status, headers, _ = Edge().request(b"", method="GET")
    assert (status, headers["allow"]) == (405, "POST, OPTIONS")
    assert Edge().request(b"", path="/v2/events")[0] == 404


def test_a_server_on_a_real_socket_answers_and_stops() -> None:
    """An idle connection does not hold up the stop, and one that waits for its answer gets it."""
    edge, received = Edge(), list[bytes]()

    async def scenario() -> None:
        await edge.server.start("127.0.0.1", 0)
        port = edge.server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        _, idle = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw(b'{"service":"a"}'))
        received.append(await reader.readuntil(b"}"))
        edge.hold = True
        writer.write(raw(b'{"service":"b"}'))
        while not edge.jobs:
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.05, edge.settle)
        await edge.server.stop(5.0)
        received.append(await reader.read())
        idle.close()
        writer.close()

    asyncio.run(scenario())
    assert [text.startswith(b"HTTP/1.1 200 ") for text in received] == [True, True]
    assert not edge.server.connections
