"""The edge's answers, without a network: requests go straight into the application."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, MutableMapping

import pytest

from smartscale import config
from smartscale.clock import ManualClock
from smartscale.errors import LogUnavailable
from smartscale.ingest.admission import Admission
from smartscale.ingest.http import App
from smartscale.ingest.writer import Job
from smartscale.telemetry.health import Health

NOW_US = 1_700_000_000_000_000


class Edge:
    """An application whose writer is played by the test: jobs wait in ``jobs`` until they are settled."""

    def __init__(self, **ingest: int) -> None:
        settings = config.load(
            environment={}, flags={f"ingest.{name}": value for name, value in ingest.items()}
        )
        self.admission = Admission(settings.ingest.queue_events, 1 << 20)
        self.jobs: list[Job] = []
        self.error: Exception | None = None
        self.hold = False
        self.health = Health("ingest")
        self.app = App(settings, ManualClock(NOW_US), self.health, self.admission, self._put)

    def _put(self, job: Job) -> None:
        self.jobs.append(job)
        if not self.hold:
            self.app.settle([(job, self.error)])

    async def request(
        self,
        body: bytes,
        headers: dict[str, str] | None = None,
        method: str = "POST",
        path: str = "/v1/events",
    ) -> tuple[int, dict[str, str], dict[str, object]]:
        """Status, headers and JSON of the answer."""
        given = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        sent: list[MutableMapping[str, object]] = []

        async def receive() -> MutableMapping[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(event: MutableMapping[str, object]) -> None:
            sent.append(event)

        await self.app(scope, receive, send)
        start, end = sent
        pairs = start["headers"]
        text = end["body"]
        assert isinstance(start["status"], int)
        assert isinstance(pairs, list)
        assert isinstance(text, bytes)
        answer = json.loads(text) if text.startswith(b"{") else {"text": text.decode()}
        return start["status"], {name.decode(): value.decode() for name, value in pairs}, answer


def ask(edge: Edge, body: object, **headers: str) -> tuple[int, dict[str, str], dict[str, object]]:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(
        edge.request(encoded, {name.replace("_", "-"): value for name, value in headers.items()})
    )


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


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
    assert len(edge.jobs[0].parcel.events) == 2


def test_nothing_usable_is_a_problem_with_status_400() -> None:
    """RFC 9457; nothing reaches the writer."""
    edge = Edge()
    status, headers, answer = ask(edge, [{"service": ""}])
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert (answer["status"], answer["refused"]) == (400, 1)
    assert "1 to 256" in str(answer["detail"])
    assert not edge.jobs


def test_malformed_json_says_where() -> None:
    status, _, answer = ask(Edge(), b'[{"service":"a" "b"}]')
    assert status == 400
    assert "byte 16" in str(answer["detail"])


def test_a_repeat_of_a_durable_event_is_a_duplicate_and_not_written_again() -> None:
    """The first attempt's answer may have been lost: the client sends it again."""

    async def scenario() -> None:
        edge = Edge()
        body = json.dumps([{"service": "a", "id": "1"}, {"service": "a"}]).encode()
        await edge.request(body)
        status, _, answer = await edge.request(body)
        assert status == 200
        assert (answer["accepted"], answer["duplicate"]) == (1, 1)
        assert [len(job.parcel.events) for job in edge.jobs] == [2, 1]

    run(scenario)


def test_an_event_that_was_not_written_is_no_duplicate() -> None:
    async def scenario() -> None:
        edge = Edge()
        edge.error = LogUnavailable("the broker is away")
        body = b'{"service":"a","id":"1"}'
        status, headers, answer = await edge.request(body)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "the broker is away" in str(answer["detail"])
        edge.error = None
        assert (await edge.request(body))[2]["accepted"] == 1

    run(scenario)


def test_the_idempotency_key_gives_ids_to_events_without_one() -> None:
    """Key and index; an event's own id stays."""
    edge = Edge()
    ask(
        edge,
        [{"service": "a"}, {"service": ""}, {"service": "a", "id": "own"}, {"service": "a"}],
        idempotency_key="k",
    )
    assert [event.id for event in edge.jobs[0].parcel.events] == ["k:0", "own", "k:3"]
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
    assert edge.jobs[0].parcel.events[0].service == "/s"


def test_too_much_at_once_is_refused_before_it_is_read() -> None:
    """By its announced length, by its real length, and by its number of events."""
    assert ask(Edge(max_body_bytes=10), {"service": "abc"})[0] == 413
    assert ask(Edge(max_body_bytes=10), {"service": "abc"}, content_length="5")[0] == 413
    assert ask(Edge(max_batch_events=1), [{"service": "a"}, {"service": "b"}])[0] == 413


def test_a_full_queue_pushes_back_and_takes_again_once_written() -> None:
    async def scenario() -> None:
        edge = Edge(queue_events=1)
        edge.hold = True
        first = asyncio.create_task(edge.request(b'{"service":"a"}'))
        await asyncio.sleep(0)  # let it reach the writer
        status, headers, _ = await edge.request(b'{"service":"b"}')
        assert (status, headers["retry-after"]) == (429, "1")
        edge.app.settle([(edge.jobs[0], None)])
        assert (await first)[0] == 200
        assert edge.admission.events == 0

    run(scenario)


def test_a_stopping_process_takes_nothing_more() -> None:
    edge = Edge()
    edge.admission.closed = True
    assert ask(edge, {"service": "a"})[0] == 503


def test_the_oldest_event_counts_from_admission_until_it_is_durable() -> None:
    async def scenario() -> None:
        edge = Edge()
        edge.hold = True
        request = asyncio.create_task(edge.request(b'{"service":"a","time":"2020-01-01T00:00:00Z"}'))
        await asyncio.sleep(0)
        assert edge.admission.oldest_us(NOW_US) == 1_577_836_800_000_000
        edge.app.settle([(edge.jobs[0], None)])
        await request
        assert edge.admission.oldest_us(NOW_US) == NOW_US

    run(scenario)


def test_a_body_that_does_not_arrive_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had reserved is given back."""
    monkeypatch.setattr("smartscale.ingest.http.READ_S", 0.01)

    async def scenario() -> None:
        edge = Edge()
        sent: list[MutableMapping[str, object]] = []

        async def receive() -> MutableMapping[str, object]:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(event: MutableMapping[str, object]) -> None:
            sent.append(event)

        headers = [(b"content-length", b"1000")]
        scope = {"type": "http", "method": "POST", "path": "/v1/events", "headers": headers}
        await edge.app(scope, receive, send)
        assert sent[0]["status"] == 408
        assert edge.admission.bytes == 0

    run(scenario)


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    """Its events are written all the same, and what it held is given back."""

    async def scenario() -> None:
        edge = Edge()
        edge.hold = True
        request = asyncio.create_task(edge.request(b'{"service":"a"}'))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request])
        edge.app.settle([(edge.jobs[0], None)])
        assert (edge.admission.events, edge.admission.bytes) == (0, 0)

    run(scenario)


def test_health_and_metrics_are_answered() -> None:
    async def scenario() -> None:
        edge = Edge()
        assert (await edge.request(b"", method="GET", path="/healthz"))[0] == 200
        assert (await edge.request(b"", method="GET", path="/readyz"))[0] == 503
        edge.health.ready()
        assert (await edge.request(b"", method="GET", path="/readyz"))[0] == 200
        await edge.request(b'[{"service":"a"},{"service":""}]')
        metrics = str((await edge.request(b"", method="GET", path="/metrics"))[2]["text"])
        assert 'smartscale_ingest_events_total{reason="invalid-service",verdict="refused"} 1.0' in metrics
        assert 'smartscale_ingest_requests_total{status="207"} 1.0' in metrics

    run(scenario)


def test_wrong_paths_and_methods_say_what_is_right() -> None:
    async def scenario() -> None:
        status, headers, _ = await Edge().request(b"", method="GET")
        assert (status, headers["allow"]) == (405, "POST")
        assert (await Edge().request(b"", path="/v2/events"))[0] == 404

    run(scenario)
