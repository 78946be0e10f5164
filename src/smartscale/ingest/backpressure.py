"""When a client that was pushed back should come again.

With the log at work: the time in which what waits will have drained to half the queue,

    wait = max(0, waiting − limit / 2) / rate,

so that those who come back find room, and do not find it full again at once. ``rate`` is what the writer has lately made
durable a second. With the log gone there is no rate to go by: it has been gone for ``stalled_s``, so it is expected to stay
so for as long again, and the wait doubles from one attempt to the next. Every wait is made up to a quarter longer by
``spread`` in [0, 1), which is drawn for each answer: clients pushed back together should not return together.
"""

from __future__ import annotations

import math
from typing import Final

LEAST_S: Final = 1
"""Retry-After counts in whole seconds (RFC 9110, section 10.2.3), and 0 would mean at once."""
MOST_S: Final = 30
"""Chosen as a quarter of the time for which ids are remembered (``dedup.window_s``): retries come while they still are."""
STALLED_S: Final = 2.0
"""Nothing became durable for this long although something waits: the log is gone, not slow."""
_SPREAD: Final = 0.25


def retry_after_s(waiting: float, limit: float, rate_per_s: float, stalled_s: float, spread: float) -> int:
    """Whole seconds, from ``LEAST_S`` to ``MOST_S``. ``waiting``, ``limit`` and ``rate_per_s`` are in the same unit.

    600 of at most 1,000 wait and 50 a second drain: down to 500 takes 2 s.

    >>> retry_after_s(600, 1000, 50.0, stalled_s=0.0, spread=0.0)
    2
    >>> [retry_after_s(1000, 1000, 50.0, stalled, 0.0) for stalled in (1.0, 4.0, 8.0, 900.0)]
    [10, 4, 8, 30]
    """
    if stalled_s >= STALLED_S:
        wait_s = stalled_s
    else:
        excess = max(0.0, waiting - limit / 2)
        wait_s = excess / rate_per_s if rate_per_s > 0 else float(excess > 0)
    return max(LEAST_S, math.ceil(min(MOST_S, wait_s * (1 + _SPREAD * spread))))
