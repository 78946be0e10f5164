"""How far each file has been sent: a small JSON file, replaced as a whole, held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from smartscale.errors import ConfigError


class Position(msgspec.Struct, frozen=True):
    """Everything before ``offset`` has been answered.

    A file is known by the hash of its first line, and by its inode as long as it has not been copied. ``identity`` starts
    the ids of its lines' events; it stays the same in a copy."""

    identity: str
    inode: int
    first_line: str
    first_line_bytes: int
    offset: int


class _Stored(msgspec.Struct):
    files: dict[str, Position] = {}


class State:
    """The positions by path. As a context manager it holds the file for this process alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._stored = _Stored()

    def __enter__(self) -> Self:
        """Raises ``ConfigError`` if the file cannot be used, or another process uses it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(
                self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._path.exists():
                self._stored = msgspec.json.decode(self._path.read_bytes(), type=_Stored)
        except BlockingIOError:
            self._close()
            raise ConfigError(
                f"file {self._path}: another process follows files with it; give this one its own (--state)"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            self._close()
            raise ConfigError(
                f"file {self._path}: cannot be used as the state: {error}; remove it, or name another (--state)"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def get(self, path: Path) -> Position | None:
        return self._stored.files.get(str(path))

    def put(self, path: Path, position: Position) -> None:
        """Durable when it returns: a crash leaves either the old file or the new one."""
        self._stored.files[str(path)] = position
        fresh = self._path.with_name(self._path.name + ".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self._stored)))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
