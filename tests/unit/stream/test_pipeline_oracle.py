"""The whole stream processor against the oracle: every aggregate, whatever the order, the batches and the processes.

Events of several services go through combine and window by the in-process driver. Services have windows and groups of their
own. The oracle (``testing.oracle``: plain loops over the raw events) says every final row; a second one is SQL.
"""

from __future__ import annotations

import random

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.config import Settings, Time, Topics, WindowRule, Windows
from smartscale.testing import START_US, Pipeline, Sent
from smartscale.testing.oracle import check_finals, check_revisions, final_windows

SETTINGS = Settings(
    topics=Topics(events=3, partials=2),
    time=Time(
        out_of_orderness_s=2, allowed_lateness_s=60, settle_s=2, idle_after_s=1.5, heartbeat_timeout_s=3
    ),
    windows=Windows(
        tumbling_s=[10.0, 20.0],
        sliding_s=[[15.0, 5.0]],
        histogram_from_s=20,
        key_ttl_s=40,
        aggregates=["requests", "latency", "values", "users"],
        rules=[
            WindowRule(services="batch-*", tumbling_s=[30.0], sliding_s=[[60.0, 20.0]], forecast=False),
            WindowRule(services="eu-*", group_by=["region", "tier"]),
        ],
    ),
)
SERVICES = ("shop", "batch-mail", "batch-report", "eu-shop")
EVENTS = st.builds(
    Sent,
    service=st.sampled_from(SERVICES),
    time_us=st.integers(START_US, START_US + 50 * MICROS - 1),
    name=st.sampled_from(["/", "/x"]),
    latency_us=st.none() | st.integers(0, 10**7) | st.integers(0, 2**33),
    error=st.booleans(),
    value=st.none()
    | st.sampled_from([0.0, -1.5, 2.0])
    | st.floats(-1e300, 1e300).filter(lambda value: value == 0 or abs(value) > 1e-300),
    user=st.none() | st.sampled_from(["ann", "bob", "cem", "dee"]),
    attributes=st.none()
    | st.fixed_dictionaries({"region": st.sampled_from(["fr", "de"])}, optional={"tier": st.just("gold")}),
)


def checked(run: Pipeline, sent: list[Sent]) -> None:
    """Every final row is what the oracle says, and revisions only grew."""
    watermark_us = min(told[-1].final_us for told in run.progress().values())
    check_finals(run.rows(), final_windows(sent, SETTINGS.windows, watermark_us), SETTINGS.windows)
    check_revisions(run.rows())


@settings(max_examples=40)
@given(
    st.lists(st.lists(EVENTS, min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_final_windows_are_the_oracles_for_any_order_any_batches_and_any_number_of_processes(
    batches: list[list[Sent]], combiners: int, windowers: int, chance: random.Random
) -> None:
    """Any arrival order within the allowed lateness (60 s, more than the span), any split into records and transactions, one
    to four combiners and windowers which take turns in any order, every aggregate, groups and windows per pattern."""
    run = Pipeline(SETTINGS, rows_per_step=chance.choice([1, 10, 60_000]))
    for batch in batches:
        run.append(chance.randrange(SETTINGS.topics.events), batch)
        if chance.random() < 0.7:
            run.combine(max_bytes=chance.choice([1, 1 << 20]), slot=str(chance.randrange(combiners)))
        if chance.random() < 0.7:
            run.window(max_bytes=chance.choice([1, 1 << 20]), slot=str(chance.randrange(windowers)))
    run.clock.set_us(START_US + 50 * MICROS)
    run.run_to_end(slots=[str(slot) for slot in range(max(combiners, windowers))])
    checked(run, [one for batch in batches for one in batch])


def test_final_windows_are_those_of_a_query_in_sql() -> None:
    """DuckDB over the raw events: count, errors, exact percentiles, last value and distinct users of every 10 s and key."""
    chance = random.Random(7)
    sent = [
        Sent(
            chance.choice(["shop", "eu-shop"]),
            START_US + chance.randrange(60 * MICROS),
            chance.choice(["/", "/x"]),
            latency_us=round(chance.lognormvariate(10, 1)),
            error=chance.random() < 0.1,
            value=chance.choice([None, chance.gauss(0, 100)]),
            user=f"user-{chance.randrange(300)}",
        )
        for _ in range(6000)
    ]
    run = Pipeline(SETTINGS)
    for first in range(0, len(sent), 500):
        run.append(first % 3, sent[first : first + 500])
        run.combine()
    run.run_to_end()
    table = pa.table(
        {
            "service": [one.service for one in sent],
            "kind": [one.kind for one in sent],
            "name": [one.name for one in sent],
            "time": [one.time_us for one in sent],
            "latency": [one.latency_us for one in sent],
            "error": [one.error for one in sent],
            "value": [one.value for one in sent],
            "person": [one.user for one in sent],
        }
    )
    with duckdb.connect() as query:
        query.register("sent", table)
        wanted = query.execute(
            "select service, kind, name, (time // 10000000 + 1) * 10000000, count(*), count(*) filter (error), "
            "quantile_disc(latency, 0.5), quantile_disc(latency, 0.99), quantile_disc(value, 0.95), arg_max(value, time), "
            "count(distinct person) from sent group by all order by all"
        ).fetchall()
    found = {(r.service, r.kind, r.name, r.end_us): r for r in run.finals(window="10s") if r.name != "*"}
    counted = {key: row for key, row in found.items() if row.count}
    assert len(counted) == len(wanted)
    for *key, count, errors, p50, p99, value_p95, last, people in wanted:
        row = counted[tuple(key)]
        assert (row.count, row.errors, row.users, row.value_last) == (count, errors, people, last)
        assert row.latency_p50_ms == pytest.approx(p50 / 1000, rel=0.0217)
        assert row.latency_p99_ms == pytest.approx(p99 / 1000, rel=0.0217)
        assert (row.value_p95 is None) == (value_p95 is None)
        assert value_p95 is None or row.value_p95 == pytest.approx(value_p95, rel=0.0217)
