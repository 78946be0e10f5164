"""Everything the README tells a newcomer to type is typed here."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from smartscale import clock

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    """The README's shell blocks: ``sh`` ones run as they are, ``console`` ones are told about."""
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A folder that looks like the clone after `make demo`: the command in .venv/bin, and the examples."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_the_commands_work_in_their_order(newcomer: Path) -> None:
    """Start the pipeline, post events, look at them, check the policy, stop with Ctrl-C."""
    port = free_port()
    environment = {**os.environ, "SMARTSCALE_INGEST__PORT": str(port)}
    start = next(block for block in blocks("console") if "up --policies" in block)
    pipeline = subprocess.Popen(
        start.split(),
        cwd=newcomer,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until_ready(port, pipeline)
        said = [
            subprocess.run(
                ["bash", "-e", "-c", block.replace(":8070", f":{port}")],
                cwd=newcomer, env=environment, capture_output=True, text=True, timeout=60, check=False,
            )
            for block in blocks("sh")
        ]  # fmt: skip
    finally:
        if pipeline.poll() is None:
            pipeline.send_signal(signal.SIGINT)
        told, _ = pipeline.communicate(timeout=60)
    assert [done.returncode for done in said] == [0] * len(said), [done.stderr for done in said]
    answer = json.loads(said[0].stdout)
    assert answer == json.loads(re.search(r'`(\{"accepted".*?\})`', README).group(1))  # type: ignore[union-attr]
    assert "event of shop" in said[1].stdout
    assert "accepted 2 =" in said[1].stdout
    assert "no mistake found" in said[2].stdout
    assert pipeline.returncode == 0, told


def until_ready(port: int, pipeline: subprocess.Popen[str]) -> None:
    deadline_s = clock.monotonic_s() + 60
    while clock.monotonic_s() < deadline_s and pipeline.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            subprocess.run(["sleep", "0.1"], check=True)
    pipeline.kill()
    said, _ = pipeline.communicate()
    raise AssertionError(f"the pipeline is not ready after 60 s: {said}")


def make_traffic(folder: Path, minutes: int) -> None:
    """A trace of one's own: ``traffic.csv.gz``."""
    rows = [
        f"2026-01-01T{minute // 60:02d}:{minute % 60:02d}:00Z,{100 + minute % 60}"
        for minute in range(minutes)
    ]
    with gzip.open(folder / "traffic.csv.gz", "wt") as file:
        file.write("\n".join(["timestamp,requests", *rows]) + "\n")


def test_a_trace_of_ones_own_is_evaluated_and_imported(newcomer: Path) -> None:
    """As the README says it, on a file made here."""
    make_traffic(newcomer, 600)
    block = next(block for block in blocks("console") if "evaluate forecasts" in block)
    done = subprocess.run(
        ["bash", "-e", "-c", f".venv/bin/smartscale topics > /dev/null\n{block}"],
        cwd=newcomer, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "shop: 3,600 values of 10 s" in done.stdout
    assert "plotly" in (newcomer / "forecasts.html").read_text().lower()


def test_a_trace_of_ones_own_is_replayed(newcomer: Path) -> None:
    """As the README says it, on a file made here, for ten seconds."""
    make_traffic(newcomer, 60)
    block = next(block for block in blocks("console") if "--replay traffic.csv.gz" in block)
    command = block.replace("\\\n", " ").split()
    done = subprocess.run(
        [*command, "--for", "10", "--json"],
        cwd=newcomer, env={**os.environ, "SMARTSCALE_INGEST__PORT": "0"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["accepted"] > 0
    assert summary["difference"] == 0


def test_every_file_and_make_target_that_the_pages_name_exists() -> None:
    """Links and targets of README and docs."""
    makefile = (ROOT / "Makefile").read_text()
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        text = page.read_text()
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text):
            assert f"\n{target}:" in makefile, f"{page.name} names make {target}"
