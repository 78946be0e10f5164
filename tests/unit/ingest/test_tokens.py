"""Who may send: tokens from a file that changes while the edge runs."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smartscale.errors import ConfigError
from smartscale.ingest import tokens
from smartscale.ingest.tokens import Denied
from smartscale.ingest.tokens_file import TokensFile

NOW_US = 1_800_000_000_000_000


def test_a_token_stands_for_its_tenant() -> None:
    """Several tokens a tenant: that is how one is changed without a gap."""
    old, new, other = tokens.new_token(), tokens.new_token(), tokens.new_token()
    text = tokens.entry("shop", old) + tokens.entry("shop", new, "ci") + tokens.entry("bank", other)
    known = tokens.parse(text, "file")
    assert [known.tenant(f"Bearer {each}", NOW_US) for each in (old, new, other)] == ["shop", "shop", "bank"]
    assert known.tenant(f"bearer  {old} ", NOW_US) == "shop"  # RFC 9110: the scheme's case does not matter


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "Authorization: Bearer"),
        ("", "Bearer"),
        ("Basic dXNlcjpwYXNz", "Bearer"),
        ("Bearer", "Bearer"),
        ("Bearer wrong", "not known"),
        ("Bearer \udcff", "not known"),
    ],
)
def test_whoever_is_not_known_is_denied_with_401_and_told_what_to_do(header: str | None, says: str) -> None:
    denied = tokens.parse(tokens.entry("shop", "sst_x"), "file").tenant(header, NOW_US)
    assert isinstance(denied, Denied)
    assert denied.status == 401
    assert says in denied.detail
    assert "dXNl" not in denied.detail


def test_an_expired_or_disabled_token_is_403() -> None:
    """It holds up to, and not at, its end."""
    end = datetime.fromtimestamp(NOW_US / 1e6, UTC)
    known = tokens.parse(
        tokens.entry("shop", "a", expires=end) + tokens.entry("shop", "b") + "disabled = true", "file"
    )
    assert known.tenant("Bearer a", NOW_US - 1) == "shop"
    expired, disabled = known.tenant("Bearer a", NOW_US), known.tenant("Bearer b", NOW_US)
    assert isinstance(expired, Denied)
    assert isinstance(disabled, Denied)
    assert (expired.status, disabled.status) == (403, 403)
    assert "expired" in expired.detail
    assert "disabled" in disabled.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[tokens]]\ntenant = 'shop'\nsha256 = 'sst_clear'", "hash of the token and not the token"),
        ("[[tokens]]\ntenant = ''\nsha256 = '" + "0" * 64 + "'", "1 to 64"),
        ('[[tokens]]\ntenant = "a\\u001fb"\nsha256 = \'' + "0" * 64 + "'", "printable"),
        ("[[tokens]]\nsha256 = '" + "0" * 64 + "'", "tenant"),
        (2 * ("[[tokens]]\ntenant = 'a'\nsha256 = '" + "0" * 64 + "'\n"), "twice"),
        ("[[token]]", "token"),
        ("[tenants.shop]\nevents_per_s = -1", "negative"),
        ("[[tokens]]\ntenant='a'\nexpires=2027-01-01T00:00:00\nsha256='" + "0" * 64 + "'", "zone"),
        ("tokens = ", "end of document"),
    ],
)
def test_a_wrong_file_is_told_with_the_place_and_without_a_secret(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match="file somewhere") as caught:
        tokens.parse(text, "somewhere")
    assert says in str(caught.value)
    assert "sst_clear" not in str(caught.value)


def test_the_file_is_followed_while_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Edited in place, replaced, broken (the old tokens stay in force, told once), removed, mended."""
    file = tmp_path / "tokens.toml"
    file.write_text(tokens.entry("shop", "a"))
    followed = TokensFile(file)
    assert not followed.refresh()

    file.write_text(tokens.entry("shop", "a") + tokens.entry("bank", "b"))
    assert followed.refresh()
    assert followed.tokens.tenant("Bearer b", 0) == "bank"

    beside = tmp_path / "new"
    beside.write_text(tokens.entry("shop", "c"))
    os.replace(beside, file)
    assert followed.refresh()
    assert followed.tokens.tenant("Bearer c", 0) == "shop"
    assert isinstance(followed.tokens.tenant("Bearer b", 0), Denied)

    with caplog.at_level(logging.ERROR):
        file.write_text("[[tokens]]\n")
        assert [followed.refresh() for _ in range(3)] == [False] * 3
        file.unlink()
        assert not followed.refresh()
    assert [record.getMessage().count("stay in force") for record in caplog.records] == [1, 1]
    assert followed.mistake
    assert followed.tokens.tenant("Bearer c", 0) == "shop"

    file.write_text(tokens.entry("shop", "d"))
    assert followed.refresh()
    assert not followed.mistake
    assert followed.tokens.tenant("Bearer d", 0) == "shop"


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokens create"):
        TokensFile(tmp_path / "nowhere.toml")


def test_tokens_have_256_random_bits() -> None:
    made = {tokens.new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(each.startswith("sst_") and len(each) == 4 + 43 for each in made)


def test_a_grant_shows_no_hash() -> None:
    grant = next(iter(tokens.parse(tokens.entry("shop", "a"), "file").grants.values()))
    assert tokens.digest_of("a").hex() not in repr(grant)
    assert repr(tokens.digest_of("a")) not in repr(grant)
