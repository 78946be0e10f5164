"""Every command that docs/evaluate.md shows for forecasts is run, in its order, in one folder."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smartscale.cli.commands import cli

ROOT = Path(__file__).parents[3]


def test_what_the_page_shows_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "docs/evaluate.md").read_text().partition("## Forecasts")[2].partition("\n## ")[0]
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)).splitlines()
    assert len(commands) == 3
    for command in commands:
        words, _, out = command.partition(" > ")
        done = CliRunner().invoke(cli, shlex.split(words)[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        if out:
            Path(out).write_text(done.stdout)
    told = json.loads(Path("shop.json").read_text())
    assert [one["steps"] for one in told["summary"]] == [6, 24]
    assert told["files"][0]["horizons"][1]["ratios"]["wql"]["naive"] < 0.7
    with Path("shop-forecasts.csv").open() as rows:
        assert len(list(csv.reader(rows))) == 1 + 100 * 24
    assert "<h2>shop</h2>" in Path("shop.html").read_text()
