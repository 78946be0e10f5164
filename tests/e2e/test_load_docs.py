"""Every command that docs/load.md shows is run; and the load generator as a user meets it: stopped, killed, misled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from smartscale.cli.commands import cli
from smartscale.errors import UserError
from smartscale.producer.labels import read
from smartscale.testing.fake_edge import FakeEdge
from smartscale.testing.model_edge import model_edge

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
CAPACITY = 2000
"""Events a second of the server that the commands meet; their search must find it, whatever else the machine does."""
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/load.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with model_edge("--capacity", str(CAPACITY)) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def produce(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "smartscale", "produce", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[-1][:60] for block in BLOCKS])
def test_what_the_page_shows_works(block: str, url: str, folder: Path) -> None:
    command = f"{sys.executable} -m smartscale produce --url {url}"
    script = block.replace("smartscale produce host", f"{command.replace(' --url', ' host --url')}")
    script = re.sub(r"^smartscale produce(?! host)", command, script, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "--report" in block:
        assert "<svg" in (folder / "load.html").read_text()
        report = json.loads((folder / "load.json").read_text())
        assert report["counts"]["accepted"] == report["counts"]["sent"] > 200
    if "--rate max" in block:
        found = re.search(r"^([\d,]+) requests a second", done.stdout, re.MULTILINE)
        assert found is not None
        assert CAPACITY * 0.6 < int(found[1].replace(",", "")) < CAPACITY * 1.25
    if "--labels" in block:
        assert [service.service for service in read(folder / "labels.json").services] == ["shop"]


def test_ctrl_c_ends_it_with_the_report_of_what_was_sent(url: str) -> None:
    for workers in ("1", "2"):
        running = produce("--rate", "50", "--workers", workers, "--url", url, "--json")
        assert running.stderr is not None
        assert running.stderr.readline()  # the first line of progress
        running.send_signal(signal.SIGINT)
        told, _ = running.communicate(timeout=60)
        assert running.returncode == 0
        report = json.loads(told)
        assert not report["complete"]
        assert report["counts"]["sent"] == report["counts"]["accepted"] > 0


def test_its_processes_end_with_it_however_it_ends(url: str) -> None:
    running = produce("--rate", "50", "--workers", "2", "--url", url)
    assert running.stderr is not None
    assert running.stderr.readline()
    workers = psutil.Process(running.pid).children(recursive=True)
    assert len(workers) >= 2
    running.kill()
    running.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_the_token_is_in_the_requests_and_nowhere_else(tmp_path: Path) -> None:
    """Not in the arguments, the answer, the report or an error of any process."""
    file = tmp_path / "token"
    file.write_text("hush-hush\n")
    page = tmp_path / "page.html"
    with FakeEdge() as edge:
        edge.answer = lambda number, given: (401, {"detail": "unknown token"})
        running = produce("--rate", "20", "--for", "2", "--workers", "2", "--token-file", str(file),
                          "--url", edge.url, "--json", "--report", str(page))  # fmt: skip
        assert running.stderr is not None
        first = running.stderr.readline()
        shown = " ".join(
            word for process in [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
            for word in process.cmdline()
        )  # fmt: skip
        told, errors = running.communicate(timeout=60)
        assert running.returncode == 1
        assert edge.headers[0]["Authorization"] == "Bearer hush-hush"
    assert "unknown token" in told
    assert "hush" not in shown + first + told + errors + page.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to produce"),
        (["--rate", "many"], "use a number of requests a second, or max"),
        (["--rate", "1", "--url", "edge:8070"], "use http://HOST:PORT"),
        (["--rate", "1", "--report", "/nowhere/report.html"], "no folder /nowhere"),
        (["--rate", "max", "--target", "fast"], "write it like p99=50ms"),
        (["--rate", "1", "--token-file", "/nowhere"], "cannot be read as a token"),
        (["--replay", "/nowhere.csv"], "not found"),
        (["--rate", "1", "--labels", "labels.json"], "truth of a --scenario that ends"),
        (["--scenario", "a.yaml", "--peak", "3"], "are for --replay"),
    ],
)
def test_wrong_input_is_told_at_once(words: list[str], said: str) -> None:
    told = CliRunner().invoke(cli, ["produce", *words])
    assert isinstance(told.exception, UserError)
    assert said in str(told.exception)
