"""A stage that was away for longer than records are kept: told in full, passed over only on demand, and then booked."""

from __future__ import annotations

import pytest

from smartscale.clock import MICROS
from smartscale.config import Settings, Time, Topics, Windows
from smartscale.errors import OffsetOutOfRange
from smartscale.ledger.books import Balance
from smartscale.ledger.reader import LedgerReader
from smartscale.testing.pipeline import Pipeline, Sent

KEPT = 400_000
"""Bytes of each topic: some hundred of the records below."""


def settings(accept_loss: bool = False, kept: int = KEPT) -> Settings:
    return Settings(
        topics=Topics(events=1, partials=1, retention_bytes=kept, accept_loss=accept_loss),
        time=Time(out_of_orderness_s=1, allowed_lateness_s=1, settle_s=1, idle_after_s=1),
        windows=Windows(tumbling_s=[10.0], sliding_s=[]),
    )


@pytest.fixture
def run() -> Pipeline:
    """A pipeline that has counted 20 s of events, and whose combine was away while 400 s more were written."""
    run = Pipeline(settings())
    seconds(run, 20, combine=True)
    return run


def seconds(run: Pipeline, count: int, combine: bool) -> None:
    """An event a second, each a record, and what the stages make of it."""
    for _ in range(count):
        now_us = run.clock.now_us()
        run.append(0, [Sent("shop", now_us, id=str(now_us), name="x" * 40)])
        run.beat()
        if combine:
            run.settle()
        run.clock.advance(1)


def books(run: Pipeline, kept: LedgerReader | None = None) -> Balance:
    return (kept or LedgerReader(run.log, run.settings)).update()


def test_what_was_lost_is_told_and_nothing_is_passed_over(run: Pipeline) -> None:
    """Topic, partition, offsets, how many records and of when; the position stays where it was."""
    before = run.log.committed("combine")
    run.crash_combine()
    seconds(run, 400, combine=False)
    with pytest.raises(
        OffsetOutOfRange, match=r"events/0 from offset \d+ to \d+ \(at most \d+ records, written before 2023-"
    ) as told:
        run.settle()
    assert "--accept-loss" in str(told.value)
    assert run.log.committed("combine") == before


def test_on_demand_it_goes_on_and_the_loss_has_a_term_of_its_own(run: Pipeline) -> None:
    """With books that were kept all the time, to the event."""
    ledger = LedgerReader(run.log, run.settings)
    run.crash_combine()
    for _ in range(40):  # the books are kept while combine is away
        ledger.update()
        seconds(run, 10, combine=False)
    ledger.update()
    run.settings = settings(accept_loss=True)
    run.settle()
    seconds(run, 30, combine=True)
    balance = ledger.update()
    assert balance.difference == 0, balance
    assert balance.lost > 100, balance
    assert balance.accepted == 450 == balance.windowed + balance.lost + balance.in_flight, balance


def test_the_windows_of_that_time_are_incomplete_and_no_others(run: Pipeline) -> None:
    """Final rows that overlap the loss say so; those before and after it are complete."""
    gone_us = run.clock.now_us()
    run.crash_combine()
    seconds(run, 400, combine=False)
    back_us = run.clock.now_us()
    run.settings = settings(accept_loss=True)
    run.settle()
    seconds(run, 30, combine=True)
    finals = [row for row in run.rows() if row.final]
    assert [row for row in finals if not row.complete]
    assert all(row.complete for row in finals if row.end_us <= gone_us - 10 * MICROS)
    assert all(row.complete for row in finals if row.start_us >= back_us)
    assert not any(row.complete for row in finals if gone_us <= row.start_us < gone_us + 100 * MICROS)


@pytest.mark.parametrize(("kept", "away_s"), [(60_000, 2), (KEPT, 400)])
def test_window_too_goes_on_only_on_demand_and_tells_what_it_lacks(kept: int, away_s: int) -> None:
    """Away for so long that partials it had read are gone and its open windows cannot be rebuilt, or unread ones too."""
    run = Pipeline(settings(kept=kept))
    ledger = LedgerReader(run.log, run.settings)
    for _ in range(29):
        seconds(run, 1, combine=True)
        ledger.update()
    run.crash_window()
    for _ in range(away_s):  # the books are kept while window is away
        seconds(run, 1, combine=False)
        while run.combine():
            pass
        ledger.update()
    with pytest.raises(OffsetOutOfRange, match=r"window was away .* partials/0 from offset \d+ to \d+"):
        run.settle()
    run.crash_window()
    run.settings = settings(True, kept)
    run.settle()
    for _ in range(30):
        seconds(run, 1, combine=True)
        balance = ledger.update()
        assert balance.difference == 0, balance
    assert balance.lost > 0, balance
    assert balance.accepted == balance.windowed + balance.lost + balance.in_flight, balance
    finals = [row for row in run.rows() if row.final]
    assert [row for row in finals if not row.complete]
    assert finals[-1].complete


def test_books_that_were_not_kept_say_so_and_believe_the_stages(run: Pipeline) -> None:
    """What was removed unread by everybody cannot be counted; it is told in records."""
    first = LedgerReader(run.log, run.settings)
    first.update()
    first.store()
    run.crash_combine()
    seconds(run, 400, combine=False)
    with pytest.raises(OffsetOutOfRange):
        books(run)
    run.settings = settings(accept_loss=True)
    run.settle()
    seconds(run, 30, combine=True)
    balance = books(run)
    assert (balance.difference, balance.lost) == (0, 0), balance
    assert balance.unbooked > 100, balance
