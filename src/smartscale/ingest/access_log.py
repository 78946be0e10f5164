"""One line a request into a file, written by a thread of its own: the event loop only appends to a bounded queue.

A line holds what a request was and what became of it, and never what it carried: no header but the media type, no query, no
body. Where the disk is slower than the requests, lines are dropped and counted, and the number is told in the file.
The file may be moved away at any time (``logrotate``): the next lines go to a new one under the same name.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import Final, Literal, TextIO

import msgspec

from smartscale.clock import iso

LOG = logging.getLogger(__name__)

FORMATS: Final = ("text", "json")
MAX_LINES: Final = 10_000
"""Waiting at most; chosen as half a second of the most requests that one process answers, two megabytes."""
_FLUSH_S: Final = 0.5
"""Real. Lines are gathered this long."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """One request. ``path`` is without its query."""

    time_us: int
    method: str
    path: str
    status: int
    peer: str
    """The client's address."""
    tenant: str
    media_type: str
    bytes_in: int
    accepted: int
    duplicate: int
    refused: int
    duration_ms: float

    def text(self) -> str:
        return (
            f"{iso(self.time_us)} {_plain(self.method)} {_plain(self.path)} {self.status} {_plain(self.peer)} "
            f"{_plain(self.tenant)} {_plain(self.media_type)} in={self.bytes_in} accepted={self.accepted} "
            f"duplicate={self.duplicate} refused={self.refused} ms={self.duration_ms:.1f}"
        )

    def json(self) -> str:
        about = {"time": iso(self.time_us), **msgspec.structs.asdict(self)}
        del about["time_us"]
        return msgspec.json.encode(about).decode()


def _plain(text: str) -> str:
    """A word of a text line: what a client chose must not look like other fields or lines."""
    return "".join(c if c.isprintable() and not c.isspace() else "?" for c in text[:200]) or "-"


class AccessLog(threading.Thread):
    """``put`` from any thread; never waits."""

    def __init__(self, path: Path, form: Literal["text", "json"]) -> None:
        """Raises ``OSError`` if the file cannot be opened."""
        super().__init__(name="access-log", daemon=True)
        self._path, self._form = path, form
        self._lines: deque[Line] = deque()
        self._closing = threading.Event()
        self._file: TextIO | None = self._opened()
        self.dropped = 0
        """Lines that were not written, because the queue was full or the file could not be written."""

    def put(self, line: Line) -> None:
        if len(self._lines) >= MAX_LINES:
            self.dropped += 1
        else:
            self._lines.append(line)

    def close(self) -> None:
        """Write what waits and end."""
        self._closing.set()
        self.join()

    def run(self) -> None:
        told = 0
        while True:
            closing = self._closing.wait(_FLUSH_S)
            told = self._write(told)
            if closing and not self._lines:
                break
        if self._file is not None:
            self._file.close()

    def _write(self, told: int) -> int:
        """Write what waits; gives the number of dropped lines that have been told."""
        count = len(self._lines)
        lines = [self._lines.popleft() for _ in range(count)]
        try:
            file = self._current()
            if self.dropped > told:
                LOG.warning(
                    "the access log dropped %d lines: %s is too slow", self.dropped - told, self._path
                )
            file.writelines(f"{line.json() if self._form == 'json' else line.text()}\n" for line in lines)
            file.flush()
        except OSError as error:
            self.dropped += count
            LOG.warning("the access log %s cannot be written, %d lines dropped: %s", self._path, count, error)
            self._file = None
        return self.dropped

    def _current(self) -> TextIO:
        """The file under the name now: another one if it was moved away."""
        if self._file is not None:
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                    return self._file
            except FileNotFoundError:
                pass  # moved away: a new one is made
            self._file.close()
        self._file = self._opened()
        return self._file

    def _opened(self) -> TextIO:
        return self._path.open("a", encoding="utf-8")
