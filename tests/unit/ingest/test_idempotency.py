"""Keys of whole requests, as far as one process can know them."""

from __future__ import annotations

from smartscale.ingest.idempotency import Keys


def test_a_key_is_for_one_body_of_one_tenant() -> None:
    keys = Keys()
    assert keys.claim("shop", "k", b"a")
    assert keys.claim("shop", "k", b"a")
    assert not keys.claim("shop", "k", b"b")
    assert keys.claim("bank", "k", b"b")
    assert keys.claim("shop", "k", b"a")  # the refused attempt has changed nothing


def test_a_request_of_which_nothing_was_taken_may_be_mended() -> None:
    keys = Keys()
    assert keys.claim("shop", "k", b"a")
    keys.release("shop", "k")
    assert keys.claim("shop", "k", b"b")
    keys.release("shop", "unknown")


def test_only_the_latest_are_remembered() -> None:
    keys = Keys(most=2)
    for key in ("a", "b", "a", "c"):  # a was used again, so b is the oldest
        assert keys.claim("t", key, b"1")
    assert not keys.claim("t", "a", b"2")
    assert keys.claim("t", "b", b"2")
