"""Ports for the processes: those asked for are checked, the others are the next free ones."""

from __future__ import annotations

import socket

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


def take(count: int, taken: set[int], first: int = FIRST, host: str = "127.0.0.1") -> list[int]:
    """The next ``count`` free ports from ``first`` that are not in ``taken``. Raises ``UserError`` if there are
    too few."""
    found: list[int] = []
    for port in range(first, 32768):
        if len(found) == count:
            break
        if port not in taken and is_free(port, host):
            found.append(port)
    if len(found) < count:
        raise UserError(f"too few free ports from {first} on: {count} are needed on {host}")
    return found


def check(port: int, host: str, setting: str) -> None:
    """Raises ``UserError`` if ``port`` is in use."""
    if not is_free(port, host):
        raise UserError(
            f"port {port} on {host} is in use: stop what uses it, or choose another with the setting {setting} "
            "(0 lets `smartscale up` take a free one)"
        )
