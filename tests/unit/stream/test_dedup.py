"""Repeats within the deduplication window are found, and memory is given back after it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.stream.combine.dedup import RepeatFilter, Words

WINDOW_MS = 1000


def words(identities: list[int]) -> Words:
    """Identities as two words each; the lowest bit of the first is not told apart."""
    return np.array([[2 * one, one % 3] for one in identities], np.uint64).reshape(-1, 2)


@given(st.lists(st.lists(st.integers(0, 300), max_size=100), max_size=12))
def test_within_the_window_it_is_a_set(batches: list[list[int]]) -> None:
    """A Python set says which of each batch have been seen before, within the batch too."""
    seen, known = RepeatFilter(WINDOW_MS), set[int]()
    for written_ms, batch in enumerate(batches):
        expected = []
        for one in batch:
            expected.append(one in known)
            known.add(one)
        assert seen.repeats(words(batch), written_ms * 80).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5)), max_size=60))
def test_an_identity_is_remembered_for_one_window_at_least_and_one_and_a_half_at_most(
    written: list[tuple[int, int]],
) -> None:
    """A repeat within the window since the last sight is found; one after a window and a half is not."""
    seen, last = RepeatFilter(WINDOW_MS), dict[int, int]()
    for at_ms, one in sorted(written):
        repeat = bool(seen.repeats(words([one]), at_ms)[0])
        since = at_ms - last.get(one, -(10**9))
        if since <= WINDOW_MS:
            assert repeat
        if since >= 1.5 * WINDOW_MS:
            assert not repeat
        last[one] = at_ms


def test_a_generation_goes_whole() -> None:
    """
    ::

        ms       0        500       1000      1500
        written  1000 ids                     one id
        held     [--generation 0--)           the first 1000 are gone
    """
    seen = RepeatFilter(WINDOW_MS)
    seen.repeats(words(list(range(1000))), 499)
    assert len(seen) == 1000
    seen.repeats(words([5000]), 1500)
    assert len(seen) == 1


def test_the_oldest_can_be_forgotten_early() -> None:
    """That is how memory stays bounded; a repeat of what was forgotten counts again."""
    seen = RepeatFilter(WINDOW_MS)
    seen.repeats(words([1, 2]), 0)
    seen.repeats(words([3]), 600)
    assert seen.forget_oldest() == 2
    assert len(seen) == 1
    assert seen.repeats(words([1, 3]), 700).tolist() == [False, True]
    assert RepeatFilter(WINDOW_MS).forget_oldest() == 0


@pytest.mark.parametrize("bits", [0, 6])
def test_a_hundred_thousand_identities_of_one_partition_of_many(bits: int) -> None:
    """The first word's low bits are alike within a partition: that neither confuses nor slows the table down."""
    random = np.random.default_rng(7)
    identities = random.integers(0, 2**63, (100_000, 2), np.uint64)
    identities[:, 0] = identities[:, 0] >> np.uint64(bits) << np.uint64(bits)
    seen = RepeatFilter(WINDOW_MS)
    assert not seen.repeats(identities, 0).any()
    assert seen.repeats(identities, 900).all()
