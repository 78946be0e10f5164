"""Text files as people keep them: plain or gzip."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from smartscale.errors import ConfigError


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text file for a ``with`` block, decompressed if it is gzip. Raises ``ConfigError``, there and in the block, if
    it cannot be read."""
    try:
        with path.open("rb") as probe:
            packed = probe.read(2) == b"\x1f\x8b"
        text: IO[str] = (gzip.open if packed else open)(
            path, "rt", encoding="utf-8-sig", errors="replace", newline=""
        )
        with text:
            yield text
    except FileNotFoundError:
        raise ConfigError(f"file {path}: not found; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"file {path}: damaged gzip data: {error}; fetch the file again") from error
    except OSError as error:
        raise ConfigError(f"file {path}: cannot be read: {error}") from error
