"""Longer windows merged from rows of the log, against the raw events."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smartscale import app
from smartscale.cli.commands import cli
from smartscale.clock import MICROS, iso
from smartscale.config import Settings, Windows
from smartscale.errors import UserError
from smartscale.history import merged
from smartscale.log.port import Message
from smartscale.records import histogram, topics
from smartscale.testing import START_US, Pipeline, Sent
from smartscale.testing.oracle import LEVELS

WINDOWS = Windows(aggregates=["requests", "latency", "values", "users"])
MINUTES = 10


def traffic(seed: int) -> list[Sent]:
    """Ten minutes of requests and measurements of one service."""
    chance = random.Random(seed)
    return [
        Sent(
            "shop",
            START_US + chance.randrange(MINUTES * 60 * MICROS),
            chance.choice(["/", "/x"]),
            latency_us=round(chance.lognormvariate(10, 2)),
            error=chance.random() < 0.1,
            value=chance.choice([None, None, chance.gauss(0, 1e6)]),
            user=f"user-{chance.randrange(5000)}",
        )
        for _ in range(8000)
    ]


def driven(sent: list[Sent]) -> Pipeline:
    run = Pipeline(Settings(windows=WINDOWS))
    for first in range(0, len(sent), 1000):
        run.append(first % 4, sent[first : first + 1000])
    run.clock.set_us(START_US + MINUTES * 60 * MICROS)
    run.run_to_end()
    return run


def exact(values: list[float], level: float) -> float:
    return sorted(values)[math.ceil(level * len(values)) - 1]


@pytest.mark.parametrize("kind", [topics.INTERACTION, topics.METRIC])
def test_a_longer_windows_percentiles_are_within_the_error_of_one_histogram(kind: str) -> None:
    """Five minutes from the middle: counts to the event, percentiles within 2.17 % of the raw events', users within five
    standard errors, whatever the number of rows merged."""
    sent = traffic(1)
    run = driven(sent)
    from_us = (START_US // (60 * MICROS) + 3) * 60 * MICROS
    to_us = from_us + 300 * MICROS
    found = merged(run.log, run.settings, "shop", from_us + 1, to_us - 1, kind=kind)
    inside = [one for one in sent if from_us <= one.time_us < to_us and one.kind == kind]
    assert (found.start_us, found.end_us, found.rows) == (from_us, to_us, 5)
    assert (found.count, found.errors) == (len(inside), sum(one.error for one in inside))
    assert (found.final, found.complete, found.reached) == (True, True, True)
    latencies = [float(one.latency_us) for one in inside if one.latency_us is not None]
    assert found.latency_ms is not None
    for level, ms in zip(LEVELS, found.latency_ms.values(), strict=True):
        assert ms * 1000 == pytest.approx(exact(latencies, level), rel=histogram.RELATIVE_ERROR, abs=1)
    assert found.latency_mean_ms == pytest.approx(sum(latencies) / len(latencies) / 1000)
    assert found.latency_max_ms == max(latencies) / 1000
    people = len({one.user for one in inside})
    assert found.users == pytest.approx(people, rel=0.11)
    values = [one.value for one in inside if one.value is not None]
    assert found.value_count == len(values)
    if values:
        assert found.value is not None
        for level, value in zip(LEVELS, found.value.values(), strict=True):
            assert value == pytest.approx(exact(values, level), rel=histogram.RELATIVE_ERROR)
        assert (found.value_min, found.value_max) == (min(values), max(values))
        assert found.value_last == max(inside, key=lambda one: one.time_us).value


def test_a_range_that_the_log_has_not_come_to_is_not_final() -> None:
    """What is there is told, with the reason to wait."""
    run = driven(traffic(2))
    end_us = START_US + MINUTES * 60 * MICROS
    found = merged(run.log, run.settings, "shop", START_US, end_us + 3600 * MICROS)
    assert found.count > 0
    assert (found.final, found.reached) == (False, False)


def test_without_rows_that_carry_histograms_the_reason_is_told() -> None:
    """And what to set."""
    run = Pipeline(Settings(windows=Windows(histogram_from_s=3600)))
    with pytest.raises(UserError, match=r"windows\.histogram_from_s"):
        merged(run.log, run.settings, "shop", 0, 1)


def test_the_command_shows_a_table_and_json(tmp_path: Path) -> None:
    """On the embedded log, with the rows that the driver made; bad times are told."""
    run = driven(traffic(3))
    settings = Settings(log=f"sqlite:{tmp_path}/log.db", windows=WINDOWS)
    log = app.opened(settings)
    app.prepare(log, settings)
    publisher = log.publisher()
    rows = run.log.records(topics.METRICS)
    for answer in publisher.append([Message(r.topic, r.partition, r.value, r.key, r.headers) for r in rows]):
        assert not isinstance(answer, Exception)
    publisher.close()
    log.close()
    words = ["percentiles", "shop", "--log", settings.log]
    words += ["--from", iso(START_US), "--to", iso(START_US + 600 * MICROS)]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0, shown.output
    assert "latency p99" in shown.output
    assert "(± 2.17%)" in shown.output
    told = json.loads(CliRunner().invoke(cli, [*words, "--json"]).output)
    sent = [one for one in traffic(3) if one.kind == topics.INTERACTION]
    assert told["count"] == len(sent)
    assert told["users_low"] <= told["users"] <= told["users_high"]
