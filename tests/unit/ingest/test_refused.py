"""Refused events become dead letters: all are counted, few are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.refused import Letters, Refused, messages
from smartscale.records import dead_letters
from smartscale.records.events_json import PAYLOAD

BAD = Refused("shop", "invalid-name", "`name` must be shorter", b'{"service":"cart","name":"*"}')


def test_a_letter_holds_the_event_its_service_and_the_reason() -> None:
    (letter,) = Letters(10).take([BAD], 5_000_000, 1.0)
    assert (letter.reason, letter.stage, letter.tenant, letter.service, letter.count) == (
        "invalid-name", "ingest", "shop", "cart", 1,
    )  # fmt: skip
    assert letter.payload == '{"service":"cart","name":"*"}'
    assert letter.time_us == 5_000_000


def test_what_is_no_json_or_too_long_is_kept_as_far_as_it_goes() -> None:
    payloads = [b"\xff\xfe", b"[" * 9000, b"x" * 100_000, b""]
    letters = Letters(10).take([Refused("t", "malformed", "no", each) for each in payloads], 0, 1.0)
    assert [letter.service for letter in letters] == [""] * 4
    assert max(len(letter.payload) for letter in letters) == PAYLOAD


def test_a_flood_is_told_by_its_numbers() -> None:
    """Ten a second, fifty to begin with: of 1,000 at once fifty are kept, the rest is one letter; the next second ten."""
    letters = Letters(10)
    first = letters.take([BAD] * 1000, 0, 100.0)
    assert len(first) == 51
    assert first[-1].count == 950
    assert first[-1].reason == "invalid-name"
    assert "the first: `name` must be shorter" in first[-1].detail
    assert len(letters.take([BAD] * 1000, 0, 100.5)) == 5  # and 995 wait to be told
    (told,) = letters.take([], 0, 101.1)
    assert told.count == 995


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 300)), max_size=30),
    st.sampled_from([0.0, 1.0, 50.0]),
)
def test_counts_add_up_and_bytes_are_bounded_however_they_come(
    rounds: list[tuple[float, int]], per_s: float
) -> None:
    letters, now_s, told, kept, refused = Letters(per_s), 0.0, 0, 0, 0
    for pause_s, count in rounds:
        now_s += pause_s
        found = letters.take([BAD] * count, 0, now_s)
        told += sum(letter.count for letter in found)
        kept += sum(bool(letter.payload) for letter in found)
        refused += count
    found = letters.take([], 0, now_s, last=True)
    assert told + sum(letter.count for letter in found) == refused
    assert kept <= per_s * (5 + now_s) + 1


def test_letters_are_spread_over_the_partitions() -> None:
    made = messages(Letters(10).take([BAD] * 8, 0, 1.0), 4)
    assert sorted(message.partition for message in made) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert dead_letters.decode(made[0].value).reason == "invalid-name"
