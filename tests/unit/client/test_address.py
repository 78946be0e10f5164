"""Addresses are taken apart, and tokens never show."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartscale.client.address import Address, read_token
from smartscale.errors import ConfigError, UserError


@pytest.mark.parametrize(
    ("url", "address", "netloc"),
    [
        ("http://edge:8070", Address("http", "edge", 8070, ""), "edge:8070"),
        ("https://edge/in/", Address("https", "edge", 443, "/in"), "edge"),
        ("http://[::1]:80", Address("http", "::1", 80, ""), "[::1]"),
    ],
)
def test_an_address_is_taken_apart(url: str, address: Address, netloc: str) -> None:
    assert Address.of(url) == address
    assert address.netloc == netloc


@pytest.mark.parametrize("url", ["localhost:8070", "ftp://x", "http://", "http://x:port", "http://[::1"])
def test_a_wrong_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="--url"):
        Address.of(url)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match="SMARTSCALE_TOKEN") as told:
        Address.of("http://me:hunter2@edge:8070")
    assert "hunter2" not in str(told.value)


def test_a_token_comes_from_the_file_or_else_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-file\n")
    monkeypatch.delenv("SMARTSCALE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("SMARTSCALE_TOKEN", "of-the-variable")
    told = [token.headers() for token in (read_token(None), read_token(file)) if token]
    assert told == [{"Authorization": "Bearer of-the-variable"}, {"Authorization": "Bearer of-the-file"}]


def test_a_token_that_can_be_none_is_told_without_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hunter2\r\nX-Evil: 1")
    for path in (file, tmp_path / "none"):
        with pytest.raises(ConfigError, match="token") as told:
            read_token(path)
        assert "hunter2" not in str(told.value)
