"""Answers add up to what was sent, whatever the edge says; pauses grow, and respect what it asks for."""

from __future__ import annotations

import random

import pytest

from smartscale.client.answers import fate, pause_s, retry_after_s


@pytest.mark.parametrize(
    ("status", "body", "accepted", "duplicate", "refused", "reason"),
    [
        (200, b'{"accepted":3,"duplicate":0,"refused":0,"verdicts":[]}', 3, 0, 0, None),
        (
            207,
            b'{"accepted":1,"duplicate":1,"verdicts":[{"verdict":"refused","reason":"no"}]}',
            1,
            1,
            1,
            "no",
        ),
        (413, b'{"title":"too large","detail":"send less"}', 0, 0, 3, "send less"),
        (404, b"{}", 0, 0, 3, "answer 404"),
        (200, b"<html>", 0, 0, 3, "not the edge's"),
        (400, b'{"detail":"\xff"}', 0, 0, 3, "not the edge's"),
        (200, b'{"accepted":4}', 0, 0, 3, "not the edge's"),
        (200, b'{"accepted":-1,"duplicate":2}', 0, 0, 3, "not the edge's"),
    ],
)
def test_an_answer_accounts_for_every_event(
    status: int, body: bytes, accepted: int, duplicate: int, refused: int, reason: str | None
) -> None:
    told = fate(status, body, 3)
    assert told[:3] == (accepted, duplicate, refused)
    assert (reason is None) == (not told.reasons)
    assert reason is None or reason in told.reasons[0]


def test_pauses_double_up_to_a_bound_and_are_never_shorter_than_asked() -> None:
    chance = random.Random(1)
    for attempt, longest in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]):
        assert longest / 2 <= pause_s(attempt, 0.0, chance) <= longest
    assert pause_s(0, 7.0, chance) == 7.0
    assert pause_s(10**6, 0.0, chance) <= 5.0


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0.0), ("3", 3.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("-1", 0.0)]
)
def test_a_retry_after_is_read_in_seconds(header: str | None, seconds: float) -> None:
    assert retry_after_s(header) == seconds
