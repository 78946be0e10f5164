"""Identities as columns, and which were lately written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.identities import Identities, Recent

_HASHES = st.lists(st.one_of(st.none(), st.binary(min_size=16, max_size=16).filter(any)), max_size=20)


@given(_HASHES)
def test_the_column_holds_the_same_identities(hashes: list[bytes | None]) -> None:
    column = Identities.of(hashes).column()
    column.validate(full=True)
    assert column.to_pylist() == hashes


@given(_HASHES)
def test_what_was_added_is_a_repeat_and_an_event_without_identity_never_is(
    hashes: list[bytes | None],
) -> None:
    recent = Recent()
    identities = Identities.of(hashes)
    assert recent.repeats(identities).tolist() == []
    recent.add(identities)
    known = [i for i, each in enumerate(hashes) if each is not None]
    low = {hashes[i][:2] for i in known}  # type: ignore[index]  # known ones are not None
    if len(low) == len(known):  # no two share a place
        assert recent.repeats(identities).tolist() == known


def test_the_latest_comer_takes_the_place_of_another() -> None:
    """One slot: only the last identity is remembered."""
    recent = Recent(slots=1)
    recent.add(Identities.of([b"a" * 16]))
    recent.add(Identities.of([b"b" * 16]))
    assert recent.repeats(Identities.of([b"a" * 16, b"b" * 16])).tolist() == [1]
