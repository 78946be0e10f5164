"""Reads the whole lines of a file that grows, is renamed, replaced or cut to nothing.

What can happen to a log file, and what is done:

- renamed, and a new one made in its place (``create``): the old one is read to its end, until its writer has let go of
  it for ``GRACE_S``; then the new one from its beginning;
- copied and cut to nothing (``copytruncate``): its size falls behind the position, or its first line is another one. What
  had not been read is read from the copy; then the file from its beginning;
- either of them while nobody followed, also several times: the rotated files beside it are read in their order, from the
  one that was being read on;
- gone: it is waited for.

A rotated file is looked for under names that start with the file's own, not compressed. If it is not found, what it held
is lost to us, and this is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from smartscale.clock import monotonic_s
from smartscale.errors import ConfigError
from smartscale.ingest.tail.state import Position

LOG = logging.getLogger(__name__)

GRACE_S: Final = 2.0
"""Real. How long a renamed file must have been silent before the new one is read: its writer may still hold it."""
_FIRST_LINE: Final = 4096
"""Bytes of the first line that tell a file from another one."""
_LONGEST: Final = 1 << 20
"""Bytes of a line at most; what is longer is no line of an access log and is passed over."""


@dataclass(frozen=True, slots=True)
class Line:
    """``end`` is the position behind it: what to remember once it is answered."""

    text: str
    start: int
    end: Position

    @property
    def event_id(self) -> str:
        """The same whenever this line is read."""
        return f"{self.end.identity}-{self.start}"


class Follower:
    """One file. ``read`` gives what is there and never waits.

    Without a position it starts at the file's end (a file that appears later is read from its beginning), or at its
    beginning if ``from_beginning``."""

    def __init__(
        self,
        path: Path,
        position: Position | None,
        from_beginning: bool,
        now_s: Callable[[], float] = monotonic_s,
    ) -> None:
        """Raises ``ConfigError`` if the file is there and cannot be read."""
        self._path, self._now_s = path, now_s
        try:
            path.open("rb").close()
        except FileNotFoundError:
            LOG.warning("%s is not there yet", path)
        except OSError as error:
            raise ConfigError(f"file {path}: cannot be read: {error.strerror}") from error
        self._at = position
        self._offset = 0
        self._file: BinaryIO | None = None
        self._silent_since_s = now_s()
        if position is not None:
            self._resume(position)
        elif not from_beginning and (file := _opened(path)):
            self._switch(file)
            self._offset = _last_line_end(file)
            self._known()

    @property
    def position(self) -> Position | None:
        """How far has been read; None as long as the file has no whole line."""
        return self._at and msgspec.structs.replace(self._at, offset=self._offset)

    def read(self, most: int) -> list[Line]:
        """The next whole lines, at most so many; none if there are none now."""
        if self._file is None:
            file = _opened(self._path)
            if file is None:
                return []
            self._switch(file)
        assert self._file is not None
        data = os.pread(self._file.fileno(), _LONGEST, self._offset)
        if self._was_cut(len(data)):
            self._continue_in_copy()
            return self.read(most)
        lines = self._lines(data, most)
        if lines:
            self._silent_since_s = self._now_s()
        elif self.is_rotated and self._now_s() - self._silent_since_s >= GRACE_S:
            lines = self._lines(data, most, to_the_end=True)
            self._next()
            return lines or self.read(most)
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self, data: bytes, most: int, to_the_end: bool = False) -> list[Line]:
        """The whole lines of what was read at the offset, which moves behind them; ``to_the_end``: also one that has no
        line break yet, nor ever will."""
        pieces = data.split(b"\n")
        endless = len(pieces) == 1 and len(data) == _LONGEST  # so much of it is passed over
        if not pieces[-1] or not (to_the_end or endless):
            pieces.pop()
        if not pieces or not self._known():
            return []
        assert self._at is not None
        lines, end = [], self._offset + len(data)
        for piece in pieces[:most]:
            start, self._offset = self._offset, min(self._offset + len(piece) + 1, end)
            behind = msgspec.structs.replace(self._at, offset=self._offset)
            lines.append(Line(piece.decode(errors="replace"), start, behind))
        return lines

    def _known(self) -> bool:
        """Whether the file has an identity; it gets one with its first whole line."""
        if self._at is None and self._file is not None and (first := _first_line(self._file)):
            inode = os.fstat(self._file.fileno()).st_ino
            seed = f"{socket.gethostname()}\0{inode}\0".encode() + first
            self._at = Position(_hash(seed), inode, _hash(first), len(first), self._offset)
        return self._at is not None

    def _was_cut(self, read: int) -> bool:
        """Whether the file is another one now than when its first line was read: asked after reading."""
        assert self._file is not None
        size = os.fstat(self._file.fileno()).st_size
        return size < self._offset + read or (self._at is not None and not _holds(self._file, self._at))

    @property
    def is_rotated(self) -> bool:
        """Whether the file that is read is not the one of that name any more."""
        if self._file is None:
            return False
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def _resume(self, position: Position) -> None:
        """Find the file that the position is in: the one of that name, or one it has been rotated to or copied to."""
        candidates = [self._path, *(path for path, _ in self._rotated())]
        candidates.sort(key=lambda path: _inode(path) != position.inode)
        for candidate in candidates:
            file = _opened(candidate)
            if file is None:
                continue
            if _holds(file, position) and os.fstat(file.fileno()).st_size >= position.offset:
                self._switch(file)
                self._at, self._offset = position, position.offset
                return
            file.close()
        LOG.warning(
            "%s: the file that was read up to byte %d is gone; lines behind it, if any, are lost",
            self._path,
            position.offset,
        )
        self._at, self._offset = None, 0

    def _continue_in_copy(self) -> None:
        """The file was cut to nothing: go on in its copy, if there is one, else from the beginning."""
        position = self.position
        self.close()
        self._offset = 0
        if position is not None:
            self._resume(position)

    def _next(self) -> None:
        """A rotated file is done: the next younger one, in the end the one of the followed name."""
        assert self._file is not None
        done = os.fstat(self._file.fileno())
        younger = [
            path
            for path, stat in self._rotated()
            if stat.st_mtime_ns > done.st_mtime_ns and stat.st_ino != done.st_ino
        ]
        self.close()
        self._at, self._offset = None, 0
        file = _opened(younger[0] if younger else self._path)
        if file is not None:
            self._switch(file)

    def _rotated(self) -> list[tuple[Path, os.stat_result]]:
        """Rotated files beside the followed one, oldest first."""
        found = []
        for path in self._path.parent.iterdir():
            name = path.name
            if name.startswith(self._path.name) and _ROTATED.fullmatch(name[len(self._path.name) :]):
                with contextlib.suppress(FileNotFoundError):  # it may go any time
                    found.append((path, path.stat()))
        return sorted(found, key=lambda pair: pair[1].st_mtime_ns)

    def _switch(self, file: BinaryIO) -> None:
        self.close()
        self._file = file
        self._silent_since_s = self._now_s()


_ROTATED: Final = re.compile(r"[-._]\d[-\d._T:]*")
"""What a rotated file's name has behind the followed one's: a number or a date."""


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _opened(path: Path) -> BinaryIO | None:
    """The file, or None if there is none, or none yet that may be read: one that is being rotated gets its owner last."""
    try:
        return path.open("rb", buffering=0)
    except (FileNotFoundError, PermissionError):
        return None


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _first_line(file: BinaryIO) -> bytes:
    """The first line, cut at ``_FIRST_LINE``; empty if it is not whole yet."""
    head = os.pread(file.fileno(), _FIRST_LINE, 0)
    line, newline, _ = head.partition(b"\n")
    return line + newline if newline or len(head) == _FIRST_LINE else b""


def _holds(file: BinaryIO, position: Position) -> bool:
    """Whether this is the file that the position is of."""
    head = os.pread(file.fileno(), position.first_line_bytes, 0)
    return len(head) == position.first_line_bytes and _hash(head) == position.first_line


def _last_line_end(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    size = os.fstat(file.fileno()).st_size
    start = max(0, size - _LONGEST)
    return start + os.pread(file.fileno(), _LONGEST, start).rfind(b"\n") + 1
