"""``smartscale scenario``: what each command prints and writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from typer.testing import CliRunner

from smartscale.cli.scenarios import scenario_cli
from smartscale.errors import UserError
from smartscale.producer import labels
from smartscale.producer.preview import Preview

EXAMPLES = Path(__file__).parents[3] / "examples" / "scenarios"


def run(*words: object) -> str:
    """What the command prints; an error of the user's is raised as it is."""
    done = CliRunner().invoke(scenario_cli, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_check_says_what_every_example_would_send_within_80_columns(file: Path) -> None:
    said = run("check", file)
    assert "events, at most" in said
    assert max(map(len, said.splitlines())) <= max(80, len(said.splitlines()[0]))
    found = msgspec.json.decode(run("check", file, "--json"), type=Preview)
    assert sum(service.requests for service in found.services) > 0
    for fault in found.faults[:3]:
        assert fault.kind in said


@pytest.mark.parametrize("words", [["check"], ["labels", "--out", "x"], ["windows", "--out", "x"]])
def test_a_wrong_file_is_told(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("duration: 1m\nservices:\n- name: s\n  rat: 5\n")
    with pytest.raises(
        UserError, match=r"s\.yaml, line 4, services\[0\]\.rat: no such field; did you mean rate\?"
    ):
        run(words[0], file, *words[1:])


def test_schemas_are_printed_as_json() -> None:
    assert json.loads(run("schema"))["title"] == "SmartScale scenario"
    assert json.loads(run("schema", "--labels"))["title"] == "SmartScale labels"


def test_labels_are_written_for_the_file_s_own_dates(tmp_path: Path) -> None:
    run("labels", EXAMPLES / "every-fault.yaml", "--out", tmp_path / "l.json", "--step", 60)
    told = labels.read(tmp_path / "l.json")
    assert (told.step_s, len(told.services[0].rate_per_s), len(told.faults)) == (60, 75, 13)


def test_windows_are_written_for_all_services_or_one(tmp_path: Path) -> None:
    """Another seed gives others, and four weeks of 10 s windows are a matter of seconds."""
    file = EXAMPLES / "weekly.yaml"
    run("windows", file, "--out", tmp_path / "a.csv", "--service", "shop", "--step", 60)
    run("windows", file, "--out", tmp_path / "b.csv", "--service", "shop", "--step", 60, "--seed", 4)
    a, b = pd.read_csv(tmp_path / "a.csv"), pd.read_csv(tmp_path / "b.csv")
    assert len(a) == 28 * 24 * 60
    assert a["requests"].tolist() != b["requests"].tolist()
    assert "service" not in a.columns
    with pytest.raises(UserError, match=r"--service nope: not in .*there are: shop, batch"):
        run("windows", file, "--out", tmp_path / "c.csv", "--service", "nope")
    with pytest.raises(UserError, match="cannot be written"):
        run("windows", EXAMPLES / "calm.yaml", "--out", tmp_path / "none" / "c.csv")
