"""One `smartscale up` at a time in a run directory, and ports that are free."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from smartscale.errors import UserError
from smartscale.supervisor import ports
from smartscale.supervisor.run_directory import RunDirectory


def test_a_second_one_is_refused_while_the_first_holds_it(tmp_path: Path) -> None:
    """With its process id and the remedy; afterwards the directory is free again."""
    with RunDirectory(tmp_path / "run"):
        with pytest.raises(UserError, match=r"another `smartscale up` \(process \d+\).*--directory"):
            RunDirectory(tmp_path / "run").__enter__()
    with RunDirectory(tmp_path / "run") as again:
        again.write("a line")
        assert again.log_path.read_text() == "a line\n"


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Here a file is in its place."""
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        RunDirectory(tmp_path / "run" / "inner").__enter__()


def test_a_port_in_use_is_told_with_the_setting_that_chooses_another() -> None:
    """Before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .* is in use.*ingest.port"):
            ports.Claims().fixed(port, "127.0.0.1", "ingest.port")


def test_two_that_start_at_the_same_time_never_get_the_same_port() -> None:
    """Although nobody listens there yet; a claim that was let go of can be had again."""
    first, second = ports.Claims(), ports.Claims()
    one, other = first.take(3), second.take(3)
    assert not set(one) & set(other)
    first.close()
    third = ports.Claims()
    assert set(third.take(3)) & set(one)
    second.close()
    third.close()
