"""Frames survive any cut of the stream."""

from __future__ import annotations

import socket
from pathlib import Path

from smartscale.sample.protocol import Answers, Connection, Draining, Frame, Hello, Serve, connect, listen

FRAMES: list[Frame] = [Hello(50.0), Serve([(1, 10), (2, 20)], 1.5), Answers([(1, 200, 30)]), Draining()]


def test_frames_arrive_whole_even_byte_by_byte() -> None:
    """Fed one byte at a time, each frame appears with its last byte."""
    ours, theirs = socket.socketpair()
    wire, probe = socket.socketpair()
    sender, receiver = Connection(wire), Connection(ours)
    for frame in FRAMES:
        sender.send(frame)
    received: list[Frame] = []
    for byte in probe.recv(1 << 16):
        theirs.send(bytes([byte]))
        received += receiver.receive()[0]
    assert received == FRAMES
    for each in (ours, theirs, wire, probe):
        each.close()


def test_a_closed_peer_is_told_after_its_last_frame() -> None:
    """Nothing that was sent is lost by the close."""
    one, other = socket.socketpair()
    sender, receiver = Connection(one), Connection(other)
    sender.send(Draining())
    sender.close()
    assert receiver.receive() == ([Draining()], False)
    assert not receiver.send(Hello(1.0)) or not receiver.send(Hello(1.0))
    receiver.close()


def test_sockets_work_in_folders_with_long_names(tmp_path: Path) -> None:
    """unix(7) allows 108 bytes of address; folders are longer."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    server = listen(folder / "r.sock")
    connection = connect(folder / "r.sock")
    assert connection is not None
    connection.close()
    server.close()
    assert connect(folder / "gone.sock") is None
