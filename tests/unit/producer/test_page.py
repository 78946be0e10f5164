"""The report as a page and as a table: all they say is in the value they are made of."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from rich.console import Console

from smartscale.producer.page import page
from smartscale.producer.player import Counts
from smartscale.producer.rate_search import Found, Target, Trial, found_table
from smartscale.producer.recorder import Recorder
from smartscale.producer.report import Mark, Piece, Report, Setting, merged, table


def measured(requests: int = 500) -> Report:
    recorder = Recorder(100.0)
    for place in range(requests):
        due_s = 100 + place / 100
        recorder.given(due_s, 0.0001, 2)
        recorder.settled(due_s, due_s + 0.001, due_s + 0.001, due_s + 0.003 + place / 1e5, (2, 0, 0, 0))
    recorder.flush()
    told = Counts(
        sent=2 * requests, accepted=2 * requests, requests=requests, refusals=["field [/a] is not known"]
    )
    one = Piece(
        True, told, recorder.latency.sparse(), recorder.service.sparse(), recorder.delay.sparse(),
        recorder.lag.sparse(), recorder.loop.sparse(), recorder.timeline.wire(), 5.0, 5.0, 0.1, 0.2, 0.0,
    )  # fmt: skip
    setting = Setting("<b>shop</b>", "http://edge", 10**15, 1, 8, 2)
    return merged([one], setting, [Mark("shop", "surge", 1.0, 2.0)])


@pytest.mark.parametrize("requests", [0, 1, 500])
def test_the_page_is_whole_needs_nothing_else_and_takes_no_markup(requests: int) -> None:
    report = measured(requests)
    told = page(report)
    assert "<b>shop</b>" not in told.split("<script")[0]
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?://(?!edge)", told)
    for svg in re.findall(r"<svg.*?</svg>", told, re.DOTALL):
        ElementTree.fromstring(svg)
    assert told.count("<svg") == 4
    assert "surge" in told
    held = re.search(r'id="report">(.*?)</script>', told, re.DOTALL)
    assert held is not None
    assert msgspec.json.decode(held[1].replace("<\\/", "</"), type=Report) == report


def test_the_table_tells_figures_and_judgement() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(measured()))
    told = captured.get()
    assert "1,000 events" in told
    assert "<b>shop</b> → http://edge" in told
    assert "field [/a] is not known" in told
    assert "NOT TRUSTWORTHY" not in told
    # 3 ms to 8 ms evenly: p50 5.5, max 7.99
    assert re.search(r"latency\s+│\s+5\.\d+", told)
    assert re.search(r"\b7\.99\b", told)


def test_parts_of_several_processes_are_added() -> None:
    report = measured()
    assert report.planned_per_s == 200
    assert report.latency_ms.count == 500
    assert np.isclose(report.latency_ms.mean, 5.495, atol=0.01)
    assert sum(report.slices.counts["accepted"]) == 1000


def test_a_search_is_told_with_every_trial() -> None:
    """In the order of the rates, with the reason of each that failed; on the page and in the table."""
    trials = [
        Trial(4000.0, False, False, "p99 above 50 ms", 80.0, 3900.0, 9, False),
        Trial(2000.0, True, True, "", 12.0, 1990.0, 99, False),
    ]
    found = Found(Target("p99", 50.0), 2000.0, True, False, 4000.0, 1990.0, trials, measured())
    told = page(measured(), found)
    assert "Highest rate with p99 within 50 ms: 2,000 requests a second" in told
    assert told.index(">1,990<") < told.index(">3,900<")
    console = Console(width=120)
    with console.capture() as captured:
        console.print(found_table(found))
    assert (
        "2,000 requests a second, 1,990 accepted events a second; 4,000 was not sustained" in captured.get()
    )
    assert "no: p99 above 50 ms" in captured.get()
