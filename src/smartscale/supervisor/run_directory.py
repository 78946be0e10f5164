"""The directory of one ``smartscale up``: its lock, its log file and what its parts keep there."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from smartscale.errors import UserError

LOG_FILE: Final = "smartscale.log"
LOG_BYTES: Final = 64 << 20
"""The log file is set aside (as ``.1``, replacing the one before) beyond this, so that the disk is bounded."""


class RunDirectory:
    """Held for the length of a ``with`` block by one process at a time.

    Raises ``UserError`` if another ``smartscale up`` holds it or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._held = (self.path / "lock").open("a+")
        except OSError as error:
            raise UserError(
                f"the run directory {self.path} cannot be written: {error.strerror}; choose another with --directory"
            ) from error
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.seek(0)
            holder = self._held.read().strip() or "unknown"
            self._held.close()
            raise UserError(
                f"another `smartscale up` (process {holder}) runs in {self.path}: stop it first, "
                "or choose another directory with --directory"
            ) from None
        self._held.truncate(0)
        self._held.write(f"{os.getpid()}\n")
        self._held.flush()
        self._log = self._open_log()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
        self._held.truncate(0)
        self._held.close()

    @property
    def log_path(self) -> Path:
        return self.path / LOG_FILE

    def write(self, line: str) -> None:
        """Add a line to the log file. Safe from any thread."""
        with self._lock:
            if self._log.tell() > LOG_BYTES:
                self._log.close()
                self.log_path.replace(self.log_path.with_suffix(".log.1"))
                self._log = self._open_log()
            self._log.write(line if line.endswith("\n") else line + "\n")
            self._log.flush()

    def _open_log(self) -> IO[str]:
        return self.log_path.open("a", encoding="utf-8", errors="replace")
