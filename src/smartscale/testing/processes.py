"""Real stage processes on one log: started, killed, started again, and none left behind."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from smartscale import app, config
from smartscale.clock import monotonic_s
from smartscale.ledger.books import Balance
from smartscale.ledger.reader import LedgerReader
from smartscale.log.port import Log, TopicPartition, read_all
from smartscale.records import metrics, schema, topics
from smartscale.supervisor.ports import Claims
from smartscale.telemetry import lifeline

STAGES: Final = ("ingest", "combine", "window", "ml", "control")
READY_S: Final = 60.0
"""Real. A stage is ready within a second or two, on a machine busy with tests much later."""
FIRST_PORT: Final = 18_000
"""Away from where users' own pipelines listen."""
LOOK_S: Final = 0.1
"""Real. Between two looks at a condition that nobody announces."""

_POLICY: Final = """\
apiVersion: smartscale.io/v1alpha1
kind: ScalingPolicy
metadata: {name: checkout}
spec:
  service: checkout
  scaleTargetRef: {kind: DryRun, name: checkout}
  minReplicas: 1
  maxReplicas: 10
  capacityPerReplica: 50
  mode: {scaleOut: Auto, scaleIn: Auto}
"""


def smartscale(
    *arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, its output captured."""
    return subprocess.run(
        [sys.executable, "-m", "smartscale", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **(environment or {})},
        check=False,
    )


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a GET; status 0 and the reason if there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)
    finally:
        connection.close()


def wait_until(holds: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    """Wait for a condition; raises ``AssertionError`` with ``what()`` if it does not come."""
    pause, deadline_s = threading.Event(), monotonic_s() + timeout_s
    while not holds():
        if monotonic_s() > deadline_s:
            raise AssertionError(f"after {timeout_s:g} s: {what()}")
        pause.wait(LOOK_S)


class Pipeline:
    """The stages of one log as processes. A stage's name may carry its slot: ``combine-1``.

    ``settings`` are keys with dots, written to a file for ``--config``; ``pipeline.settings`` are the same for the
    test. The processes end with this one, however it ends (``telemetry.lifeline``). As a context manager it makes the
    topics, starts every stage, waits until all are ready, and stops them at the end."""

    def __init__(
        self,
        log: str,
        directory: Path,
        settings: Mapping[str, object],
        stages: Sequence[str] = STAGES,
    ) -> None:
        self.directory = directory
        self.stages = tuple(stages)
        directory.mkdir(parents=True, exist_ok=True)
        self._claims = Claims()
        self._ports = dict(zip(self.stages, self._claims.take(len(self.stages), FIRST_PORT), strict=True))
        self.config = directory / "smartscale.toml"
        (directory / "policies").mkdir(exist_ok=True)
        (directory / "policies" / "checkout.yaml").write_text(_POLICY)
        chosen = {"log": log, "control.policies": str(directory / "policies"), **settings}
        lines = [f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in chosen.items()]
        self.config.write_text("".join(lines))
        self.settings = config.load(self.config, environment={})
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lifeline, self._held = os.pipe()
        self.old: set[str] = set()
        """Stages that write as the version before did, from their next start on."""
        self.starts: dict[str, int] = dict.fromkeys(self.stages, 0)

    @property
    def url(self) -> str:
        """Where the first ingest stage listens."""
        return f"http://127.0.0.1:{self.port('ingest')}"

    def port(self, name: str) -> int:
        return self._ports[name]

    def prepare(self) -> None:
        """Make the topics, by the command that users give."""
        made = smartscale("topics", "--config", str(self.config))
        assert made.returncode == 0, f"exit code {made.returncode}: {made.stderr} {made.stdout}"

    def widen(self, partitions: int) -> None:
        """Give ``events`` more partitions while everything runs, by the command that users give; again if a broker is away
        just now."""
        arguments = ("topics", "--events-partitions", str(partitions), "--config", str(self.config))
        told: list[str] = []

        def done() -> bool:
            made = smartscale(*arguments)
            told.append(f"exit code {made.returncode}: {made.stderr}")
            return made.returncode == 0

        wait_until(done, READY_S, lambda: told[-1])

    def start(self, *names: str) -> None:
        """Start these stages (default: all); returns at once."""
        for name in names or self.stages:
            stage, _, slot = name.partition("-")
            program = ["smartscale.testing.old_stages" if name in self.old else "smartscale", stage]
            command = [sys.executable, "-m", *program, "--slot", slot or "0"]
            command += ["--port", str(self._ports[name]), "--config", str(self.config)]
            with self._log_file(name).open("ab") as output:
                self._running[name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, lifeline.VARIABLE: str(self._lifeline)},
                    pass_fds=(self._lifeline,),
                    start_new_session=True,
                )
            self.starts[name] += 1

    def wait_ready(self, *names: str, timeout_s: float = READY_S) -> None:
        """Wait until ``/readyz`` of these stages (default: all) answers 200."""
        for name in names or self.stages:

            def is_ready(name: str = name) -> bool:
                return get(self._ports[name], "/readyz")[0] == http.client.OK

            def why(name: str = name) -> str:
                return f"{name} is not ready: {get(self._ports[name], '/readyz')[1]}\n{self.tail(name)}"

            wait_until(is_ready, timeout_s, why)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """kill -9, and wait until the process is gone."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def terminate(self, name: str, timeout_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout_s)

    def stall(self, name: str) -> None:
        """Stop it in its tracks (SIGSTOP) until ``wake``: its connections stay open and nothing answers."""
        self._running[name].send_signal(signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """Let it go on where it was."""
        self._running[name].send_signal(signal.SIGCONT)

    def ended(self) -> dict[str, int]:
        """Exit codes of stages that have ended by themselves; they are forgotten, ``start`` starts them again."""
        gone = {name: code for name, p in self._running.items() if (code := p.poll()) is not None}
        for name in gone:
            del self._running[name]
        return gone

    def log(self) -> closing[Log]:
        """The event log, closed at the end of the block."""
        return closing(app.opened(self.settings))

    def text(self, name: str) -> str:
        """Everything a stage has written to its output."""
        file = self._log_file(name)
        return file.read_text(errors="replace") if file.exists() else ""

    def tail(self, name: str, lines: int = 30) -> str:
        return "\n".join(self.text(name).splitlines()[-lines:])

    def complaints(self) -> dict[str, int]:
        """Warnings, errors and tracebacks in all outputs, by stage and text, numbers left out."""
        found: dict[str, int] = {}
        for name in self.stages:
            for line in self.text(name).splitlines():
                if re.match(r"\S+ (warning|error|critical)", line) or line.startswith("Traceback"):
                    told = re.sub(r"\d+", "#", re.sub(r"^\S+ ", "", line))[:200]
                    found[told] = found.get(told, 0) + 1
        return found

    def wait_final(self, until_us: int, timeout_s: float) -> None:
        """Wait until every tumbling window that ends at or before ``until_us`` is final and nothing is in flight."""
        with self.log() as log:
            closed = dict.fromkeys(range(self.settings.topics.partials), 0)
            ledger, reader = LedgerReader(log, self.settings), log.reader()
            reader.assign({at: bounds.begin for at, bounds in log.bounds(_all(log, topics.METRICS)).items()})
            balance = ledger.update()

            def settled() -> bool:
                nonlocal balance
                for record in reader.poll(1.0).records:
                    if record.headers[schema.SCHEMA] == schema.PROGRESS.encode():
                        closed[record.partition] = metrics.decode_progress(record.value).closed_us
                if min(closed.values()) < until_us:
                    return False
                balance = ledger.update()
                return balance.in_flight == 0

            def why() -> str:
                behind = {p: round((until_us - us) / 1e6, 1) for p, us in closed.items() if us < until_us}
                return f"not final by seconds: {behind}; {balance}; {self.complaints()}"

            try:
                wait_until(settled, timeout_s, why)
            finally:
                reader.close()
                ledger.close()

    def close(self) -> None:
        """Stop what still runs: in order, then by force."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # one that a test has stalled
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        os.close(self._held)
        os.close(self._lifeline)
        self._claims.close()

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _log_file(self, name: str) -> Path:
        return self.directory / f"{name}.log"


def metric_rows(log: Log) -> Iterator[metrics.MetricRow]:
    """Every row of ``metrics``, each partition in its order."""
    for at in _all(log, topics.METRICS):
        for record in read_all(log, at):
            if schema.schema_of(record.headers) == schema.METRIC:
                yield metrics.decode_row(record.value)


def balance(log: Log, settings: config.Settings) -> Balance:
    """The ledger's balance now."""
    with closing(LedgerReader(log, settings)) as ledger:
        return ledger.update()


def _all(log: Log, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, p) for p in range(log.topics()[topic].partitions)]
