"""Ports for the processes: those asked for are checked, the others are the next free ones."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

from smartscale.errors import UserError

FIRST = 8070
"""Where the search begins; below the range that systems give out to outgoing connections."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


class Claims:
    """Ports promised to processes that have not opened them yet.

    Two ``smartscale up`` that start at the same time would find the same ports free; so each port is claimed by a
    locked file, which the kernel lets go of with this process, however it ends."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"smartscale-ports-{os.getuid()}"
        self._held: list[IO[str]] = []

    def take(self, count: int, first: int = FIRST, host: str = "127.0.0.1") -> list[int]:
        """The next ``count`` free ports from ``first``, claimed. Raises ``UserError`` if there are too few."""
        found: list[int] = []
        for port in range(first, 32768):
            if len(found) == count:
                return found
            if self._claim(port) and is_free(port, host):
                found.append(port)
        raise UserError(f"too few free ports from {first} on: {count} are needed on {host}")

    def fixed(self, port: int, host: str, setting: str) -> int:
        """This very port, claimed. Raises ``UserError`` if it is in use; ``setting`` is what chooses another."""
        if not (self._claim(port) and is_free(port, host)):
            raise UserError(
                f"port {port} on {host} is in use: stop what uses it, or choose another with the setting {setting} "
                "(0 lets `smartscale up` take a free one)"
            )
        return port

    def _claim(self, port: int) -> bool:
        self._folder.mkdir(exist_ok=True)
        file = (self._folder / str(port)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._held.append(file)
        return True

    def close(self) -> None:
        """Let go of all."""
        for file in self._held:
            file.close()
        self._held.clear()
