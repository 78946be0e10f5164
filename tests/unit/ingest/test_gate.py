"""Who is let in: tokens, quotas, shares of the memory; and what those are told who are not."""

from __future__ import annotations

from pathlib import Path

from tests.unit.ingest.test_app import Answer, Edge, ask, raw

from smartscale.ingest import tokens
from smartscale.ingest.access_log import AccessLog
from smartscale.ingest.gate import Gate

SHOP, BANK = "sst_of-the-shop", "sst_of-the-bank"
TOKENS = tokens.parse(tokens.entry("shop", SHOP) + tokens.entry("bank", BANK), "tokens.toml")


def post(edge: Edge, token: str | None = SHOP, body: bytes = b'{"service":"a"}', **headers: str) -> Answer:
    given = {"authorization": f"Bearer {token}"} if token else {}
    return ask(edge, body, **given, **headers)


def test_without_a_valid_token_nothing_is_read() -> None:
    """The challenge says whether the token was the trouble (RFC 6750)."""
    edge = Edge(TOKENS)
    status, headers, answer = post(edge, None)
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="smartscale"')
    assert answer["type"] == "urn:smartscale:problem:unauthenticated"
    status, headers, answer = post(edge, "sst_wrong")
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="smartscale", error="invalid_token"')
    assert "sst_wrong" not in str(answer)
    assert not edge.written
    assert edge.admission.bytes == 0
    assert edge.request(b"", method="GET", path="/healthz")[0] == 200


def test_the_tenant_comes_from_the_token_and_ids_are_the_tenants_own() -> None:
    edge = Edge(TOKENS)
    body = b'{"service":"a","id":"1"}'
    assert [post(edge, token, body)[2]["accepted"] for token in (SHOP, BANK)] == [1, 1]
    assert post(edge, SHOP, body)[2]["duplicate"] == 1
    assert [outcome.job.tenant for outcome in edge.outcomes] == ["shop", "bank", "shop"]
    assert post(edge, SHOP, b'{"service":"a","tenant":"bank"}')[0] == 400


def test_tokens_change_while_requests_come() -> None:
    edge = Edge(TOKENS)
    assert post(edge)[0] == 200
    edge.gate.renew(tokens.parse(tokens.entry("shop", "sst_next"), "file"))
    assert [post(edge)[0], post(edge, "sst_next")[0]] == [401, 200]


def test_who_overdraws_a_quota_is_told_exactly_how_long_to_wait_and_nobody_else_is() -> None:
    """100 events a second, 200 to begin with; a request of 700 leaves a debt of five seconds."""
    edge = Edge(TOKENS, quota_events_per_s=100)
    assert (
        post(edge, SHOP, b"\n".join([b'{"service":"a"}'] * 700), content_type="application/x-ndjson")[0]
        == 200
    )
    status, headers, answer = post(edge, SHOP)
    assert (status, headers["retry-after"]) == (429, "5")
    assert answer["type"] == "urn:smartscale:problem:quota"
    assert isinstance(answer["retry_after_s"], float)
    assert 4.5 < answer["retry_after_s"] <= 5
    assert post(edge, BANK)[0] == 200


def test_a_flood_of_one_tenant_leaves_room_for_the_others() -> None:
    """One may hold half; its further requests are pushed back, another's is let in; then the room is given back."""
    edge = Edge(TOKENS, queue_bytes=20_000)
    edge.hold = True
    wires = []

    def send(token: str) -> int:
        """0 if it was let in."""
        wire = edge.wire()
        wires.append(wire)
        wire.send(raw(b'{"service":"a"}' + b" " * 1000, {"authorization": f"Bearer {token}"}))
        return wire.answers()[0][0] if wire.answers() else 0

    flood = [send(SHOP) for _ in range(10)]
    assert flood == [0, 0, 0, 429, 429, 429, 429, 429, 429, 429]
    assert [send(BANK) for _ in range(2)] == [0, 0]
    edge.settle()
    assert [wire.answers()[0][0] for wire in wires].count(200) == 5
    assert edge.admission.bytes == 0
    assert send(SHOP) == 0


def test_one_body_larger_than_the_share_is_taken_if_the_tenant_has_no_other() -> None:
    edge = Edge(TOKENS, queue_bytes=20_000)
    assert post(edge, SHOP, b'{"service":"a"}' + b" " * 15_000)[0] == 200


def test_a_full_queue_says_when_it_will_have_drained() -> None:
    """60 of at most 64 kB wait, and 4 kB a second have drained lately: down to half takes 7 s."""
    edge = Edge(queue_bytes=64_000)
    edge.gate.drain._bytes = 4_000.0
    edge.gate.reserve("default", 60_000)
    gate = edge.gate
    gate.drain.last_s = 100.0
    assert gate.retry_after_s(100.0) == 7


def test_a_log_that_is_gone_is_asked_less_and_less_often() -> None:
    """From the moment something waits; when it drains again, so is the estimate."""
    edge = Edge()
    gate: Gate = edge.gate
    assert gate.retry_after_s(1000.0) == 1
    gate.waits(1000.0)
    assert [gate.retry_after_s(1000.0 + waited) for waited in (1, 5, 12, 100)] == [1, 5, 12, 30]
    gate.drained(10, 1, 1200.0)
    assert gate.retry_after_s(1300.0) == 1


def test_the_same_key_for_another_body_is_422_until_nothing_was_taken() -> None:
    edge = Edge()
    key = {"idempotency_key": "k"}
    assert ask(edge, {"service": "a"}, **key)[2]["accepted"] == 1
    assert ask(edge, {"service": "a"}, **key)[2]["duplicate"] == 1
    status, _, answer = ask(edge, {"service": "b"}, **key)
    assert (status, answer["type"]) == (422, "urn:smartscale:problem:key-reused")
    assert ask(edge, {"service": ""}, idempotency_key="j")[0] == 400
    assert ask(edge, {"service": "a"}, idempotency_key="j")[0] == 200
    assert edge.admission.bytes == 0


def test_options_head_and_the_document() -> None:
    edge = Edge()
    status, headers, _ = edge.request(b"", method="OPTIONS")
    assert (status, headers["allow"]) == (200, "POST, OPTIONS")
    assert edge.request(b"", method="OPTIONS", path="/metrics")[1]["allow"] == "GET, HEAD, OPTIONS"
    status, headers, answer = edge.request(b"", method="DELETE", path="/healthz")
    assert (status, headers["allow"], answer["type"]) == (
        405, "GET, HEAD, OPTIONS", "urn:smartscale:problem:method",
    )  # fmt: skip
    assert edge.request(b"", method="GET", path="/openapi.json")[2]["openapi"] == "3.1.0"


def test_the_access_log_has_no_secret(tmp_path: Path) -> None:
    """Neither the token, nor the query, nor a token in the path's place of a wrong request."""
    log = AccessLog(tmp_path / "access.log", "text")
    edge = Edge(TOKENS, log)
    wire = edge.wire()
    wire.send(
        raw(b'{"service":"a"}', {"authorization": f"Bearer {SHOP}"}, path="/v1/events?token=secret-of-mine")
    )
    assert wire.answers()[0][0] == 200
    post(edge, None)
    post(edge, SHOP, content_type="text/csv")
    log.start()
    log.close()
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert [line.split()[1:6] for line in lines] == [
        ["POST", "/v1/events", "200", "192.0.2.1", "shop"],
        ["POST", "/v1/events", "401", "192.0.2.1", "-"],
        ["POST", "/v1/events", "415", "192.0.2.1", "shop"],
    ]
    assert "accepted=1" in lines[0]
    assert "secret" not in "".join(lines)
    assert SHOP not in "".join(lines)
