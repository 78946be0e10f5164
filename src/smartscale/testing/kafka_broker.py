"""A real Apache Kafka on this machine: one broker or a cluster, started from jars with Java 17.

Session time-outs, coordinator topics and the JVM are set for a start within seconds and a dead member noticed
within seconds; everything else is Kafka as it comes. ``make kafka-jars`` fetches the jars.

``python -m smartscale.testing.kafka_broker --port 9092 --directory DIR`` runs one broker in the foreground.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from smartscale.clock import monotonic_s
from smartscale.errors import LogUnavailable, UserError

LIBS = Path(__file__).parents[3] / ".kafka" / "libs"
"""Where ``make kafka-jars`` puts the jars: below the project's folder."""

_CLUSTER_ID = "c21hcnRzY2FsZS1sb2NhbA"
"""Any 16 bytes in base64; every server of a cluster is formatted with the same."""

START_S = 60.0
"""A start takes about four seconds; on a busy machine several times that."""

_JVM = (
    "-Xms128m",
    "-Xmx384m",  # a test's data is small, and three of them must fit beside the tests
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # a broker that lives for a minute never repays the optimising compiler
    "-Xshare:auto",
)

_PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "BROKER",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # KIP-848 sets a member's time-outs on the broker. 6 s: a killed worker's partitions are free soon, and a
    # worker on a busy machine is not taken for dead.
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "500",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    "share.coordinator.state.topic.num.partitions": "1",
    # Transactions of a killed writer are aborted at their time-out, not up to 10 s later.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.initial.task.delay.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "log.cleaner.dedupe.buffer.size": str(8 << 20),
    "log.cleaner.backoff.ms": "1000",
    # A killed server may register again only once its old session is over (9 s as Kafka comes).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}

_LOG4J = """\
Configuration:
  status: ERROR
  Appenders:
    File:
      name: file
      fileName: {file}
      PatternLayout: {{pattern: "%d %p %c{{1}} %m%n"}}
  Loggers:
    Root: {{level: INFO, AppenderRef: {{ref: file}}}}
"""


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Node:
    """Where one server listens and keeps its files."""

    id: int
    port: int
    controller_port: int
    directory: Path

    @property
    def properties(self) -> Path:
        return self.directory / "server.properties"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"


class KafkaBroker:
    """One Kafka server process (broker and controller in one).

    ``start`` returns once clients can use it. The directory and the ports stay the same over ``stop`` or ``kill``
    and the next ``start``, so a restart is what a client sees in production. The process dies with its parent.
    """

    def __init__(
        self,
        port: int | None = None,
        directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
        quorum: Sequence[Node] = (),
        client: Mapping[str, str] | None = None,
    ) -> None:
        """``settings`` go to ``server.properties``; ``quorum`` lists a cluster's servers, this one first; ``client`` is what
        a client needs to be let in."""
        self._own_directory = directory is None and not quorum
        if not quorum:
            directory = Path(tempfile.mkdtemp(prefix="smartscale-kafka-")) if directory is None else directory
            quorum = (Node(1, port or free_port(), free_port(), directory.resolve()),)
        self._quorum, self._node = quorum, quorum[0]
        self._settings, self._client = dict(settings or {}), dict(client or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``HOST:PORT`` for clients."""
        return f"127.0.0.1:{self._node.port}"

    @property
    def url(self) -> str:
        """The log's address for ``open_log``."""
        return f"kafka://{self.address}"

    def start(self) -> Self:
        """Start (or start again) and wait until clients can use it.

        Raises ``UserError`` when the jars or Java are missing, ``LogUnavailable`` when it does not come up."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the process without waiting for it: the servers of a cluster wait for each other."""
        java = _java()
        self._node.directory.mkdir(parents=True, exist_ok=True)
        log4j = self._node.directory / "log4j2.yaml"
        log4j.write_text(_LOG4J.format(file=self._node.log))
        command = [java, *_JVM, f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{LIBS}/*"]
        properties = str(self._node.properties)
        self._write_properties()
        if not (self._node.data / "meta.properties").exists():
            formatted = subprocess.run(
                [*command, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", properties],
                capture_output=True,
                text=True,
                check=False,
            )
            if formatted.returncode != 0:
                raise LogUnavailable(
                    f"Kafka's storage was not formatted: {formatted.stderr or formatted.stdout}"
                )
        with (self._node.directory / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [*command, "kafka.Kafka", properties],
                stdout=console,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def wait_ready(self) -> None:
        """Wait until the broker answers clients; raises ``LogUnavailable`` with the end of its log if it does not."""
        deadline = monotonic_s() + START_S
        admin = AdminClient(
            {
                **self._client,
                "bootstrap.servers": self.address,
                "log_level": 0,
                "reconnect.backoff.max.ms": 100,
            }
        )
        while monotonic_s() < deadline and self.returncode is None:
            with contextlib.suppress(KafkaException):
                if len(admin.list_topics(timeout=1).brokers) == len(self._quorum):
                    return
        code = self.returncode
        self.kill()
        what = "did not answer in time" if code is None else f"ended with code {code}"
        raise LogUnavailable(f"the Kafka broker {self.address} {what}:\n{self._log_end()}")

    @property
    def returncode(self) -> int | None:
        """The process's exit code, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it in order (SIGTERM); by force after ``timeout_s``."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a power cut would end the process."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its directory if that was made for it."""
        self.kill()
        if self._own_directory:
            shutil.rmtree(self._node.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _write_properties(self) -> None:
        node, replicas = self._node, min(3, len(self._quorum))
        values = {
            **_PROPERTIES,
            "node.id": str(node.id),
            "controller.quorum.voters": ",".join(
                f"{n.id}@127.0.0.1:{n.controller_port}" for n in sorted(self._quorum, key=lambda n: n.id)
            ),
            "listeners": f"BROKER://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}",
            "log.dirs": str(node.data),
            "offsets.topic.replication.factor": str(replicas),
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(min(2, replicas)),
            "share.coordinator.state.topic.replication.factor": str(replicas),
            "share.coordinator.state.topic.min.isr": str(min(2, replicas)),
            **self._settings,
        }
        node.properties.write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def _log_end(self) -> str:
        files = [self._node.directory / "console.log", self._node.log]
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return "\n".join(lines[-30:])


class KafkaCluster:
    """Several Kafka servers that form one cluster, each broker and controller, for faults of one of them."""

    def __init__(self, servers: int = 3, settings: Mapping[str, str] | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="smartscale-kafka-"))
        nodes = [Node(i, free_port(), free_port(), self._directory / str(i)) for i in range(1, servers + 1)]
        self.brokers = [
            KafkaBroker(settings=settings, quorum=[node, *(n for n in nodes if n is not node)])
            for node in nodes
        ]

    @property
    def url(self) -> str:
        """The log's address for ``open_log``: all servers."""
        return "kafka://" + ",".join(broker.address for broker in self.brokers)

    def start(self) -> Self:
        """Start all servers and wait until each one knows all of them."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait_ready()
        return self

    def close(self) -> None:
        """Kill all servers and remove their files."""
        for broker in self.brokers:
            broker.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _java() -> str:
    """The path of Java. Raises ``UserError`` with the remedy when it or the jars are missing."""
    if not any(LIBS.glob("kafka_*.jar")):
        raise UserError(f"Kafka's jars are not in {LIBS}: run `make kafka-jars` (needs Maven and Java 17)")
    java = shutil.which("java")
    if java is None:
        raise UserError(
            "Java is missing: install Java 17 or later (Debian: apt-get install openjdk-17-jre-headless)"
        )
    return java


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent() -> None:
    """Ask the kernel to kill this child when its parent ends in whatever way, kill -9 included."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one broker until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="smartscale.testing.kafka_broker", description=main.__doc__)
    parser.add_argument("--port", type=int, default=9092, help="port for clients (default: 9092)")
    parser.add_argument("--directory", type=Path, help="where its files stay (default: removed at the end)")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    broker = KafkaBroker(options.port, options.directory)
    try:
        broker.start()
        sys.stdout.write(f"Apache Kafka listens on {broker.url}; stop it with Ctrl-C\n")
        sys.stdout.flush()
        while not stop.wait(0.5):
            if broker.returncode is not None:
                sys.stderr.write(f"Kafka ended with code {broker.returncode}:\n{broker._log_end()}\n")
                return 1
        broker.stop()
    except (UserError, LogUnavailable) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        broker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
