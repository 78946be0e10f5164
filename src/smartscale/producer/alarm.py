"""Wakes an event loop at an instant, to a few tens of microseconds.

uvloop's own timers count whole milliseconds, as libuv's do: every request would leave up to a millisecond late, more than
a good answer takes. The kernel's timer (``timerfd``) does not; Python has it from 3.13 on, so it is called here by
its C name (timerfd_create(2)).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = 0o2004000
_ABSOLUTE: Final = 1
_BILLION: Final = 1_000_000_000


class _Timer(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls ``ring`` on the loop at an instant set by ``at``; a later ``at`` replaces an earlier one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        """Raises OSError where the kernel has no such timer."""
        self._loop, self._ring = loop, ring
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._descriptor, self._rang)

    def at(self, instant_s: float) -> None:
        """``instant_s`` on the clock of ``monotonic_s``; one that has passed rings at once."""
        seconds, nanoseconds = divmod(max(1, round(instant_s * _BILLION)), _BILLION)
        timer = _Timer(0, 0, seconds, nanoseconds)
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(timer), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Never ring again."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _rang(self) -> None:
        os.read(self._descriptor, 8)
        self._ring()
