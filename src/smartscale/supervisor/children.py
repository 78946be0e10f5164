"""Real processes behind the table: start, signal, probe, and their output into the one log file."""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from smartscale.supervisor.run_directory import RunDirectory
from smartscale.supervisor.table import Exited, Probed
from smartscale.telemetry import lifeline

PROBE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a process: arguments of ``smartscale``, variables beside the supervisor's own, and the port
    that answers ``/readyz``."""

    name: str
    arguments: Sequence[str]
    port: int
    environment: Mapping[str, str]
    tls: bool = False
    """It speaks HTTPS on that port."""


class Children:
    """The processes of one ``smartscale up``.

    Each runs in a session of its own, so that Ctrl-C reaches only the supervisor, and holds the read end of the
    lifeline, so that none outlives the supervisor (``telemetry.lifeline``).
    """

    def __init__(self, commands: Sequence[Command], directory: RunDirectory) -> None:
        self._commands = {command.name: command for command in commands}
        self._directory = directory
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._probes: dict[str, Future[Probed]] = {}
        self._pool = ThreadPoolExecutor(max(1, len(commands)), thread_name_prefix="probe")
        self._lifeline, self._held = os.pipe()

    def start(self, name: str) -> None:
        command = self._commands[name]
        process = subprocess.Popen(
            [sys.executable, "-m", "smartscale", *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **command.environment, lifeline.VARIABLE: str(self._lifeline)},
            pass_fds=(self._lifeline,),
            start_new_session=True,
        )
        self._running[name] = process
        threading.Thread(target=self._copy, args=(process,), name=f"log of {name}", daemon=True).start()

    def _copy(self, process: subprocess.Popen[str]) -> None:
        """The process's lines into the log file, until it and all that inherited its output have ended."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._directory.write(line)

    def terminate(self, name: str) -> None:
        self._signal(name, signal.SIGTERM)

    def kill(self, name: str) -> None:
        self._signal(name, signal.SIGKILL)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._running.get(name)
        if process is not None:
            process.send_signal(number)

    def pid(self, name: str) -> int | None:
        process = self._running.get(name)
        return None if process is None else process.pid

    def exited(self) -> list[Exited]:
        """Those that have ended since the last call."""
        gone = [Exited(name, code) for name, p in self._running.items() if (code := p.poll()) is not None]
        for seen in gone:
            del self._running[seen.name]
            self._probes.pop(seen.name, None)
        return gone

    def probed(self) -> list[Probed]:
        """Answers of ``/readyz`` since the last call; asks each again. Never waits."""
        answers = []
        for name in self._running:
            probe = self._probes.get(name)
            if probe is None or probe.done():
                if probe is not None:
                    answers.append(probe.result())
                self._probes[name] = self._pool.submit(_probe, self._commands[name])
        return answers

    def close(self) -> None:
        """Kill what still runs and let go of the lifeline."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._pool.shutdown(wait=False, cancel_futures=True)
        os.close(self._held)
        os.close(self._lifeline)


def _probe(command: Command) -> Probed:
    name, port = command.name, command.port
    connection: http.client.HTTPConnection
    if command.tls:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=PROBE_TIMEOUT_S, context=_OWN_CHILD
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read(4096).decode(errors="replace").strip()
        return Probed(name, answer.status == http.client.OK, text or f"status {answer.status}")
    except (OSError, http.client.HTTPException) as error:
        return Probed(name, False, f"no answer on port {port}: {type(error).__name__}")
    finally:
        connection.close()


_OWN_CHILD: Final = ssl.create_default_context()
"""Its certificate is for the name that clients use, so it is not checked: only the child's own answer is asked for."""
_OWN_CHILD.check_hostname = False
_OWN_CHILD.verify_mode = ssl.CERT_NONE
