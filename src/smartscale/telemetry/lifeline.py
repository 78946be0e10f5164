"""Ends this process when its supervisor is gone, so that ``kill -9`` of ``smartscale up`` leaves no orphan.

The supervisor holds the write end of a pipe and never writes; every child inherits the read end. The kernel
closes the write end with the supervisor, however it dies, and the read end then reports end of file.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Final

from smartscale.errors import ConfigError

VARIABLE: Final = "SMARTSCALE_LIFELINE_FD"
GRACE_S: Final = 5.0
"""Real seconds from the loss of the supervisor to the end of this process at the latest; chosen because a
clean stop takes about one."""

log = logging.getLogger(__name__)


def watch(stop: threading.Event, environment: Mapping[str, str] | None = None) -> None:
    """Set ``stop`` when the lifeline breaks, and end the process if that has not ended it ``GRACE_S`` later.

    Without the variable there is no lifeline and nothing happens. Raises ``ConfigError`` for a wrong one.
    """
    text = (os.environ if environment is None else environment).get(VARIABLE)
    if text is None:
        return
    try:
        fd = int(text)
        os.fstat(fd)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"variable {VARIABLE}: {text!r} is no open file descriptor; leave it unset"
        ) from error
    threading.Thread(target=_wait, args=(fd, stop), name="lifeline", daemon=True).start()


def _wait(fd: int, stop: threading.Event) -> None:
    while os.read(fd, 1):
        pass  # the supervisor never writes; whatever came is no end of file
    log.warning("the supervisor is gone: stopping")
    stop.set()
    threading.Event().wait(GRACE_S)
    os._exit(4)
