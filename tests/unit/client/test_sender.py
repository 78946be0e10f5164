"""The sender against a small edge that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from smartscale.client.address import Token
from smartscale.client.sender import Sender, SenderFull
from smartscale.clock import ManualClock, monotonic_s
from smartscale.errors import UserError
from smartscale.records.events_json import EventIn
from smartscale.testing.fake_edge import Answer, FakeEdge, accept

DEADLINE_S = 10.0


@pytest.fixture
def edge() -> Iterator[FakeEdge]:
    with FakeEdge() as edge:
        yield edge


def sender(edge: FakeEdge, **options: float) -> Sender:
    given: dict[str, float] = {"linger_s": 0.001, **options}
    return Sender(edge.url, ManualClock(1_000_000), run_id="run", **given)  # type: ignore[arg-type]  # numbers all


def test_every_event_gets_an_id_and_a_time_of_its_own_unless_it_has_one(edge: FakeEdge) -> None:
    with_both = {"service": "a", "id": "mine", "time": "2020-01-01T00:00:00Z"}
    ours = sender(edge)
    ours.offer([{"service": "a"}, EventIn(service="b"), with_both])
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.accepted, totals.unanswered) == (3, 3, 0)
    assert edge.received == [
        {"service": "a", "id": "run-1", "time": "1970-01-01T00:00:01Z"},
        {"service": "b", "id": "run-2", "time": "1970-01-01T00:00:01Z"},
        with_both,
    ]


def test_batches_are_at_most_as_large_as_asked(edge: FakeEdge) -> None:
    ours = sender(edge, batch_events=10, linger_s=5.0)
    ours.offer([{"service": "a"}] * 95)
    assert ours.close(DEADLINE_S).accepted == 95
    assert sorted(len(request) for request in edge.requests) == [5] + [10] * 9


@pytest.mark.parametrize(
    "trouble", [(503, {}), (429, {}), (500, {}), None], ids=["503", "429", "500", "no answer"]
)
def test_what_got_no_answer_is_sent_again_with_the_same_ids(edge: FakeEdge, trouble: Answer | None) -> None:
    """The first two attempts fail; the third is counted, once."""
    edge.answer = lambda number, given: trouble if number <= 2 else accept(given)
    ours = sender(edge)
    ours.offer([{"service": "a"}, {"service": "b"}])
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.accepted, totals.requests, totals.retries) == (2, 2, 3, 2)
    assert edge.requests[0] == edge.requests[1] == edge.requests[2]
    assert totals.last_trouble


def test_the_books_balance_over_every_kind_of_verdict(edge: FakeEdge) -> None:
    """sent = accepted + duplicate + refused + unanswered; a whole request may be refused as well."""
    answers: list[Answer] = [
        (207, {"accepted": 1, "duplicate": 1, "refused": 1, "verdicts": [{"verdict": "refused", "reason": "no"}]}),
        (413, {"detail": "too large"}),
    ]  # fmt: skip
    edge.answer = lambda number, given: answers[number - 1]
    ours = sender(edge, batch_events=3, connections=1)
    ours.offer([{"service": "a"}] * 6)
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.accepted, totals.duplicate, totals.refused, totals.unanswered) == (
        6,
        1,
        1,
        4,
        0,
    )
    assert list(totals.refusals) == ["no", "too large"]


def test_it_gives_up_after_its_time_and_says_so(edge: FakeEdge) -> None:
    edge.answer = lambda number, given: (503, {"detail": "the log is away"})
    ours = sender(edge, give_up_s=0.3)
    ours.offer([{"service": "a"}])
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.unanswered, totals.waiting) == (1, 1, 0)
    assert "the log is away" in totals.last_trouble


def test_a_full_queue_takes_nothing(edge: FakeEdge) -> None:
    """Bounded memory: events count until they are answered."""
    held = threading.Event()
    edge.answer = lambda number, given: accept(given) if held.wait(DEADLINE_S) else None
    ours = sender(edge, queue_events=2)
    ours.offer([{"service": "a"}] * 2)
    with pytest.raises(SenderFull):
        ours.offer([{"service": "b"}], timeout_s=0.05)
    with pytest.raises(ValueError, match="never fit"):
        ours.offer([{"service": "b"}] * 3)
    held.set()
    ours.offer([{"service": "c"}], timeout_s=DEADLINE_S)
    assert ours.close(DEADLINE_S).accepted == 3


def test_closing_waits_no_longer_than_it_may_and_counts_the_rest_as_unanswered(edge: FakeEdge) -> None:
    edge.answer = lambda number, given: (503, {})
    ours = sender(edge)
    ours.offer([{"service": "a"}] * 7)
    start = monotonic_s()
    totals = ours.close(0.2)
    assert monotonic_s() - start < 5
    assert (totals.sent, totals.unanswered) == (7, 7)
    with pytest.raises(ValueError, match="closed"):
        ours.offer([{"service": "a"}])


@pytest.mark.parametrize("url", ["localhost:8070", "ftp://x", "http://"])
def test_a_wrong_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="--url"):
        Sender(url, ManualClock(0))


def test_every_request_carries_the_token_and_nothing_shows_it(edge: FakeEdge) -> None:
    token = Token("s3cret-token")
    edge.answer = lambda number, given: (401, {"detail": "no such token"})
    ours = Sender(edge.url, ManualClock(0), linger_s=0.0, token=token)
    ours.offer([{"service": "a"}])
    totals = ours.close(DEADLINE_S)
    assert edge.headers[0]["Authorization"] == "Bearer s3cret-token"
    assert (totals.refused, list(totals.refusals)) == (1, ["no such token"])
    assert "s3cret" not in f"{token!r} {token} {vars(ours)} {totals}"
