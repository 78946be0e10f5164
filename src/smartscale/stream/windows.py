"""Windows and panes as formulas.

A window is ``[start, start + size)`` with ``start`` a multiple of ``slide`` since the epoch; tumbling is
``slide == size``. A pane is ``[k * pane, (k + 1) * pane)`` with ``pane`` the greatest common divisor of all sizes and
slides, so that every window is a whole number of panes and a pane is in a window wholly or not at all.

Sliding 6 every 2, pane 2 (an instant is in size / slide windows)::

    time   0   2   4   6   8
    w0     [-----------)
    w1         [-----------)
    w2             [-----------)
    t=5              ^ in w0, w1, w2
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smartscale.clock import MICROS
from smartscale.config import Windows


@dataclass(frozen=True, slots=True)
class Window:
    """One kind of window; size and slide in microseconds.

    >>> Window(60_000_000, 5_000_000).label
    '60s/5s'
    >>> Window(10_000_000, 10_000_000).label
    '10s'
    """

    size_us: int
    slide_us: int

    @property
    def label(self) -> str:
        size = f"{self.size_us / MICROS:g}s"
        return size if self.size_us == self.slide_us else f"{size}/{self.slide_us / MICROS:g}s"

    @property
    def tumbling(self) -> bool:
        return self.size_us == self.slide_us

    def first_end_after(self, us: int) -> int:
        """The least end of a window that is greater than ``us``.

        >>> Window(6, 2).first_end_after(6), Window(6, 2).first_end_after(7)
        (8, 8)
        """
        return self.size_us + self.slide_us * ((us - self.size_us) // self.slide_us + 1)

    def ends_containing(self, us: int) -> Iterator[int]:
        """Ends of the windows that contain the instant, ascending.

        >>> list(Window(6, 2).ends_containing(5))
        [6, 8, 10]
        """
        end = self.first_end_after(us)
        while end - self.size_us <= us:
            yield end
            end += self.slide_us


def windows_of(settings: Windows) -> list[Window]:
    """Every configured window, the shortest tumbling one first."""
    tumbling = sorted({round(size * MICROS) for size in settings.tumbling_s})
    sliding = sorted({(round(size * MICROS), round(slide * MICROS)) for size, slide in settings.sliding_s})
    return [Window(size, size) for size in tumbling] + [
        Window(size, slide) for size, slide in sliding if size != slide or size not in tumbling
    ]


def pane_us(windows: Sequence[Window]) -> int:
    """The pane that all windows share.

    >>> pane_us([Window(10, 10), Window(60, 5)])
    5
    """
    return math.gcd(*(length for window in windows for length in (window.size_us, window.slide_us)))
