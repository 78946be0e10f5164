"""One line per thing worth telling, to stderr: readable text, or JSON for machines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final, Protocol

import msgspec

from smartscale import clock

FORMATS: Final = ("text", "json")


class _Text(logging.Formatter):
    """``12:00:01.123 warning combine-0: message``."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03d %(level)-7s {process}: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.level = record.levelname.lower()
        return super().format(record)


class _Json(logging.Formatter):
    """One JSON object a line: ``time`` (ISO 8601, UTC), ``level``, ``process``, ``logger``, ``message``, ``error``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": clock.iso(int(record.created * clock.MICROS)),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


class Writer(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...


def set_up(process: str, form: str = "text", to: Writer | None = None) -> None:
    """Send this process's log to ``to`` (default: stderr), marked with its name. ``form``: ``text`` or ``json``."""
    handler = logging.StreamHandler(to or sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
