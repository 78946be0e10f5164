"""The command line: help for everything, one clear message for what is wrong, exit codes that mean something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from smartscale.cli.commands import cli

EVERY_FAULT = str(Path(__file__).parents[3] / "examples" / "scenarios" / "every-fault.yaml")
COMMANDS = sorted(get_command(cli).commands)  # type: ignore[attr-defined]  # typer gives a group here


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The real command, as a process."""
    return subprocess.run(
        [sys.executable, "-m", "smartscale", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SMARTSCALE_INGEST__PORT": "0"},
    )


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "policy"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    """`smartscale COMMAND --help`."""
    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0
    assert "Example: smartscale" in shown.output


def test_topics_are_created_and_shown_as_json(tmp_path: Path) -> None:
    """Twice gives the same: it verifies what exists."""
    first = run("topics", "--log", f"sqlite:{tmp_path}/log.db", "--json")
    second = run("topics", "--log", f"sqlite:{tmp_path}/log.db", "--json")
    assert first.returncode == 0, first.stderr
    assert {topic["name"] for topic in json.loads(first.stdout)} >= {
        "events",
        "partials",
        "metrics",
        "decisions",
    }
    assert json.loads(second.stdout) == json.loads(first.stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["topics", "--log", "redis:x"], "use sqlite:PATH for the embedded log or kafka://HOST:PORT"),
        (["topics", "--config", "/nowhere.toml"], "/nowhere.toml: not found"),
        (["tail", "metrics"], "no topic 'metrics'"),
        (["up", "--speed", "0"], "--speed 0: must be above 0"),
        (["up", "--policies", "/nowhere"], "/nowhere: not found"),
        (["up", "--scenario", "a", "--replay", "b"], "give one of them"),
        (["up", "--scenario", EVERY_FAULT], "fault clock_skew is one of the sender"),
        (["sample"], "needs a load: --scenario FILE or --replay FILE"),
        (["combine", "--log-format", "xml"], "use one of text, json"),
    ],
)
def test_wrong_input_gives_one_message_and_exit_code_2(tmp_path: Path, words: list[str], said: str) -> None:
    """No traceback: the message says what to do."""
    log = [] if "--log" in words else ["--log", f"sqlite:{tmp_path}/log.db"]
    place = ["--directory", str(tmp_path / "run")] if words[0] == "up" else []
    done = run(*words, *log, *place)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_names_the_file_and_the_key(tmp_path: Path) -> None:
    """And the key that was meant."""
    config = tmp_path / "settings.toml"
    config.write_text("[ingest]\nprot = 1\n")
    done = run("topics", "--config", str(config))
    assert done.returncode == 2
    assert str(config) in done.stderr
    assert "ingest.port" in done.stderr


def test_events_are_given_more_partitions_and_never_fewer(tmp_path: Path) -> None:
    """The settings' number is the least: a command without the option keeps what there is."""
    log = f"sqlite:{tmp_path}/log.db"
    assert run("topics", "--log", log).returncode == 0
    grown = run("topics", "--log", log, "--events-partitions", "6", "--json")
    after = run("topics", "--log", log, "--json")
    fewer = run("topics", "--log", log, "--events-partitions", "3")
    for shown in (grown, after):
        counts = {topic["name"]: topic["partitions"] for topic in json.loads(shown.stdout)}
        assert counts["events"] == 6, shown.stderr
    assert fewer.returncode == 2
    assert "events has 6 partitions: more can be added, none taken away" in fewer.stderr
