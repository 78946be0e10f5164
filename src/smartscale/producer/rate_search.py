"""The highest rate that a server sustains within a latency target, found by short trials; values in, values out.

1. The rate doubles until a trial fails (or halves until one passes): an edge between two rates.
2. Bisection, geometric, until the two are within ``CLOSE`` of each other.
3. A trial three times as long confirms the lower one; where it fails, the search goes on below, in steps that double: a
   short trial passes well above the capacity while the queue is still short of the target.

A single trial proves little on a machine that does other work: while doubling, one that fails is repeated; near the edge,
two of at most three decide.

>>> search = Search(1000.0)
>>> while not search.over:
...     search = search.after(Trial(search.rate_per_s, search.long, search.rate_per_s <= 6_500, "", 1.0, 1.0, 1, False))
>>> 6_500 / CLOSE < search.low <= 6_500
True
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smartscale.errors import UserError
from smartscale.producer.recorder import LEVELS
from smartscale.producer.report import Report, figure

CLOSE: Final = 1.05
"""The answer is within 5 %: runs on one machine differ by more."""
_LEAST_PER_S: Final = 1.0
"""Nothing slower is tried: a trial of seconds would hold hardly a request."""
_MOST_PER_S: Final = 1e8
_CONFIRMATIONS: Final = 5


class Target(msgspec.Struct, frozen=True):
    """A latency that a percentile must not exceed."""

    level: str
    limit_ms: float

    @classmethod
    def read(cls, text: str) -> Target:
        """``p99=50ms``, ``p99.9=0.2s`` or ``max=1s``. Raises ``UserError``."""
        found = re.fullmatch(r"(p[\d.]+|max)\s*=\s*(\d+(?:\.\d+)?)\s*(ms|s)", text.strip())
        if not found or (found[1] not in LEVELS and found[1] != "max") or not float(found[2]) > 0:
            raise UserError(
                f"--target {text}: write it like p99=50ms, with one of {', '.join(LEVELS)} or max, and ms or s"
            )
        return cls(found[1], float(found[2]) * (1000 if found[3] == "s" else 1))

    def of(self, report: Report) -> float:
        """What the report has for this percentile, in ms."""
        return report.latency_ms.max if self.level == "max" else report.latency_ms.at[self.level]

    def __str__(self) -> str:
        return f"{self.level} within {self.limit_ms:g} ms"


class Trial(msgspec.Struct, frozen=True):
    """One run at one rate. ``reached_ms`` is the latency at the target's percentile."""

    rate_per_s: float
    long: bool
    sustained: bool
    why: str
    """Why not; empty if it was."""
    reached_ms: float
    accepted_per_s: float
    requests: int
    limited: bool
    """It failed, and the generator itself was in the way."""


def trial(rate_per_s: float, long: bool, report: Report, target: Target) -> Trial:
    """What a run says about its rate. Sustained: the target is met, and every request was answered, at its first attempt,
    with its events taken."""
    reached_ms, counts = target.of(report), report.counts
    troubles = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(counts.trouble.items()))
    if counts.unanswered or counts.trouble:
        why = f"not answered at once ({troubles or 'given up'})"
    elif counts.refused:
        why = f"{counts.refused:,} events refused ({'; '.join(counts.refusals[:1])})"
    elif reached_ms > target.limit_ms:
        why = f"{target.level} above {target.limit_ms:g} ms"
    else:
        why = ""
    return Trial(
        rate_per_s, long, not why, why, reached_ms, report.accepted_per_s, report.latency_ms.count,
        bool(why) and not report.generator.trustworthy,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Search:
    """Where a search is: ``rate_per_s`` is to be tried next."""

    rate_per_s: float
    low: float = 0.0
    """Highest rate that was sustained."""
    high: float = math.inf
    """Lowest rate that was not."""
    long: bool = False
    """The next trial is to confirm ``low``."""
    votes: Sequence[Trial] = ()
    """Trials at this rate."""
    confirmations: int = 0
    over: bool = False
    limited: bool = False
    """At the lowest rate that was not sustained the generator was in the way: the server may sustain more."""

    def after(self, done: Trial) -> Search:
        """The search after the trial it asked for."""
        votes = [*self.votes, done]
        passed = sum(vote.sustained for vote in votes)
        failed = len(votes) - passed
        if done.sustained and self.high == math.inf and failed == 0:
            return self._passed()
        if passed < 2 and failed < 2:
            return replace(self, votes=votes)
        if passed >= 2:
            return self._passed()
        return replace(self._failed(), limited=sum(vote.limited for vote in votes) >= 2)

    def _passed(self) -> Search:
        if self.long:
            return replace(self, over=True)
        if self.high == math.inf and self.rate_per_s < _MOST_PER_S:
            return replace(self, low=self.rate_per_s, rate_per_s=self.rate_per_s * 2, votes=())
        return self._between(self.rate_per_s, self.high)

    def _failed(self) -> Search:
        if self.long:
            if self.confirmations + 1 == _CONFIRMATIONS:
                return replace(self, over=True, low=0.0)
            below = self.rate_per_s / CLOSE ** (2**self.confirmations)
            return replace(
                self,
                high=self.rate_per_s,
                low=below,
                rate_per_s=below,
                votes=(),
                confirmations=self.confirmations + 1,
            )
        if not self.low:
            below = self.rate_per_s / 2
            return replace(self, high=self.rate_per_s, rate_per_s=below, votes=(), over=below < _LEAST_PER_S)
        return self._between(self.low, self.rate_per_s)

    def _between(self, low: float, high: float) -> Search:
        close = high / low <= CLOSE
        return replace(
            self, low=low, high=high, votes=(), long=close, rate_per_s=low if close else math.sqrt(low * high)
        )


class Found(msgspec.Struct, frozen=True):
    """What a search found, with its evidence. ``rate_per_s`` in requests of the load a second, 0 if none was sustained."""

    target: Target
    rate_per_s: float
    confirmed: bool
    """A longer trial at this rate met the target too."""
    limited: bool
    """At the lowest rate that failed the generator was in the way: the server may sustain more."""
    fails_at_per_s: float | None
    """Lowest rate that was not sustained."""
    accepted_per_s: float
    """Events a second, in the longest trial at that rate."""
    trials: list[Trial]
    report: Report | None
    """Of the last trial at that rate."""


def found_table(found: Found) -> Group:
    """What was found for people, on a terminal."""
    trials = Table(title=f"highest rate with {found.target}", title_justify="left")
    for column in (
        "requests a second",
        "accepted events a second",
        found.target.level,
        "requests",
        "sustained",
    ):
        trials.add_column(column, justify="left" if column == "sustained" else "right")
    for each in sorted(found.trials, key=lambda each: (each.rate_per_s, each.long)):
        verdict = "yes" if each.sustained else escape(f"no: {each.why}")
        trials.add_row(
            f"{each.rate_per_s:,.0f}",
            f"{each.accepted_per_s:,.0f}",
            f"{figure(each.reached_ms)} ms",
            f"{each.requests:,}",
            f"{verdict}{', over three times the time' if each.long else ''}",
        )
    if not found.rate_per_s:
        return Group(trials, Text("no rate was sustained", style="bold red"))
    end = "" if found.fails_at_per_s is None else f"; {found.fails_at_per_s:,.0f} was not sustained"
    lines = [
        Text(
            f"{found.rate_per_s:,.0f} requests a second, {found.accepted_per_s:,.0f} accepted events a second{end}",
            style="bold",
        )
    ]
    if found.limited:
        lines.append(
            Text(
                "the generator was the limit, the server may sustain more: use more --workers",
                style="bold red",
            )
        )
    elif not found.confirmed:
        lines.append(Text("not confirmed by a longer trial", style="yellow"))
    return Group(trials, *lines)
