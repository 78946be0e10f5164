"""The file of tokens, followed while the edge runs: an edit takes effect without a restart."""

from __future__ import annotations

import logging
from pathlib import Path

from smartscale.errors import ConfigError
from smartscale.ingest.tokens import Tokens, parse

LOG = logging.getLogger(__name__)

_Seen = tuple[int, int, int]


class TokensFile:
    """``tokens`` is what was last read without a mistake; a broken file keeps the old ones in force, and is told."""

    def __init__(self, path: Path) -> None:
        """Raises ``ConfigError`` if the file cannot be read or is wrong."""
        self.path = path
        self.mistake = ""
        """What is wrong with the file as it is now; empty if nothing."""
        self._seen = _state(path)
        self.tokens: Tokens = _read(path)

    def refresh(self) -> bool:
        """Read the file again if it has changed; True if other tokens are in force now. Cheap: one ``stat``."""
        try:
            seen = _state(self.path)
            if seen == self._seen and not self.mistake:
                return False
            tokens = _read(self.path)
        except ConfigError as error:
            if str(error) != self.mistake:
                LOG.error("%s; the tokens read before stay in force", error)
            self.mistake = str(error)
            return False
        changed = tokens != self.tokens
        self._seen, self.tokens, self.mistake = seen, tokens, ""
        if changed:
            LOG.info("%s: %d tokens of %d tenants", self.path, len(tokens.grants), len(tokens.tenants))
        return changed


def _state(path: Path) -> _Seen:
    """Changes with every edit: an editor writes in place (time, size) or puts another file there (inode)."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> Tokens:
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> ConfigError:
    why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return ConfigError(
        f"file {path} (setting ingest.tokens_file) cannot be read: {why}; `smartscale tokens create` makes one"
    )
