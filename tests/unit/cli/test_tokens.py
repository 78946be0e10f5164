"""``smartscale tokens``: shown once, stored as a hash."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smartscale.cli.tokens import tokens_cli, until
from smartscale.errors import ConfigError, UserError
from smartscale.ingest import tokens

run = CliRunner().invoke


def test_a_token_is_printed_once_and_only_its_hash_is_in_the_file(tmp_path: Path) -> None:
    """What people wrote into the file stays; only its owner can read a new one."""
    file = tmp_path / "tokens.toml"
    first = run(tokens_cli, ["create", "shop", "--file", str(file), "--name", 'the "ci"'])
    assert first.exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("# ours\n" + file.read_text())
    second = run(tokens_cli, ["create", "bank", "--file", str(file), "--expires", "2999-01-01"])
    made = [first.stdout.strip(), second.stdout.strip()]
    text = file.read_text()
    known = tokens.parse(text, "file")
    assert [known.tenant(f"Bearer {token}", 0) for token in made] == ["shop", "bank"]
    assert text.startswith("# ours\n")
    assert not any(token in text for token in made)
    listed = run(tokens_cli, ["list", "--file", str(file), "--json"])
    assert [(row["tenant"], row["name"], row["state"]) for row in json.loads(listed.stdout)] == [
        ("shop", 'the "ci"', "good"),
        ("bank", "", "good"),
    ]
    assert "bank" in run(tokens_cli, ["list", "--file", str(file)]).stdout


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file named, a broken one (left as it is), a tenant that cannot be."""
    monkeypatch.delenv("SMARTSCALE_CONFIG", raising=False)
    assert isinstance(run(tokens_cli, ["create", "shop"]).exception, ConfigError)
    broken = tmp_path / "tokens.toml"
    broken.write_text("[[tokens")
    assert isinstance(run(tokens_cli, ["create", "shop", "--file", str(broken)]).exception, ConfigError)
    assert broken.read_text() == "[[tokens"
    fresh = str(tmp_path / "fresh.toml")
    assert isinstance(run(tokens_cli, ["create", "a\x1fb", "--file", fresh]).exception, ConfigError)
    assert isinstance(run(tokens_cli, ["list", "--file", fresh]).exception, UserError)


def test_spans_and_days() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert until("90d", now) == datetime(2026, 4, 1, tzinfo=UTC)
    assert until("2027-01-31", now) == datetime(2027, 1, 31, tzinfo=UTC)
    for wrong in ("soon", "2025-01-01", "99999999999d"):
        with pytest.raises(UserError):
            until(wrong, now)
