"""What balancer and replicas say to each other, over a Unix socket: frames of four bytes of length and MessagePack.

All instants are world time in microseconds, decided by whoever computes them and not by when a frame arrives: so
the jitter of a busy machine is not multiplied by the speed of a scaled clock.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import msgspec


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first frame of a replica."""

    capacity_per_s: float


class Serve(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Requests to a replica, each an id and its arrival, in order. ``slowdown`` multiplies their service times."""

    requests: list[tuple[int, int]]
    slowdown: float = 1.0


class Answers(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Finished requests, each an id, a status and its end."""

    finished: list[tuple[int, int, int]]


class Draining(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The replica takes no more; the balancer closes its writing side and waits for the rest of the answers."""


Frame = Hello | Serve | Answers | Draining

OK: Final = 200
SERVER_ERROR: Final = 500
LOST: Final = 502
REJECTED: Final = 503
TIMED_OUT: Final = 504

_PREFIX: Final = 4
_READ: Final = 1 << 18
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


class Connection:
    """A socket that sends and receives frames without ever blocking.

    The buffers are bounded by what either side may have outstanding (see ``balancer``)."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self.socket = peer
        self._received = bytearray()
        self._to_send = bytearray()

    def send(self, frame: Frame) -> bool:
        """Queue a frame and send what goes; False if the peer is gone."""
        payload = _encode(frame)
        self._to_send += len(payload).to_bytes(_PREFIX, "big") + payload
        return self.flush()

    def flush(self) -> bool:
        """Send what goes now; False if the peer is gone."""
        try:
            while self._to_send:
                del self._to_send[: self.socket.send(self._to_send)]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    @property
    def is_flushed(self) -> bool:
        return not self._to_send

    def receive(self) -> tuple[list[Frame], bool]:
        """The frames that are there, and whether the peer may still send more."""
        is_open = True
        try:
            while is_open:
                data = self.socket.recv(_READ)
                is_open = bool(data)
                self._received += data
        except BlockingIOError:
            is_open = True
        except OSError:
            is_open = False
        return self._frames(), is_open

    def _frames(self) -> list[Frame]:
        frames, at = [], 0
        while len(self._received) - at >= _PREFIX:
            end = at + _PREFIX + int.from_bytes(self._received[at : at + _PREFIX], "big")
            if end > len(self._received):
                break
            frames.append(_decode(memoryview(self._received)[at + _PREFIX : end]))
            at = end
        del self._received[:at]
        return frames

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer is gone already; receive() tells it

    def close(self) -> None:
        self.socket.close()


def short_path(path: Path, folder: int) -> str:
    """An address of a socket in the open ``folder`` (a file descriptor) that fits the 108 bytes of unix(7)."""
    return f"/proc/self/fd/{folder}/{path.name}"


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, however long that is."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(short_path(path, folder))
        server.listen()
        server.setblocking(False)
    finally:
        os.close(folder)
    return server


def connect(path: Path) -> Connection | None:
    """A connection to the replica at ``path``; None if it is not there any more."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError:
        return None
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.connect(short_path(path, folder))
    except OSError:
        peer.close()
        return None
    finally:
        os.close(folder)
    return Connection(peer)
