"""``smartscale history import``: from a file or from Prometheus into the log, or told why not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from smartscale import app
from smartscale.cli import history
from smartscale.cli.commands import cli
from smartscale.cli.history import Stretch, fit, parts
from smartscale.clock import MICROS, iso
from smartscale.config import Settings
from smartscale.errors import UserError
from smartscale.log.partitioner import service_partition
from smartscale.log.port import TopicPartition, read_all
from smartscale.log.topics import specs
from smartscale.records import past, schema, topics
from smartscale.records.past import PastPart
from smartscale.testing.fake_prometheus import FakePrometheus

MINUTE_US = 60 * MICROS


@pytest.fixture
def log(tmp_path: Path) -> str:
    address = f"sqlite:{tmp_path}/log.db"
    settings = Settings(log=address)
    opened = app.opened(settings)
    opened.create(specs(settings))
    opened.close()
    return address


def found(log: str, service: str) -> list[PastPart]:
    opened = app.opened(Settings(log=log))
    at = TopicPartition(
        topics.METRICS, service_partition("default", service, opened.topics()[topics.METRICS].partitions)
    )
    records = [r for r in read_all(opened, at, 0) if schema.schema_of(r.headers) == schema.PAST]
    opened.close()
    return [past.decode(record.value) for record in records]


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, ["history", "import", *words])
    if done.exception is not None:
        raise done.exception
    return done.output


def csv(folder: Path, rows: int) -> str:
    """Counts a minute from 2026-03-01: 60, 120, 180, …; the second is missing."""
    lines = [f"{iso(1_772_323_200 * MICROS + i * MINUTE_US)},{60 * (i + 1)}" for i in range(rows) if i != 1]
    file = folder / "shop.csv"
    file.write_text("\n".join(["timestamp,requests", *lines]) + "\n")
    return str(file)


def test_counts_a_minute_are_spread_over_the_steps_of_the_models(log: str, tmp_path: Path) -> None:
    """::

    minute   0           1     2             60, -, 180, … requests
    10 s     8 13 9 …    - …   31 27 …       six steps a minute: as many in all, apart by chance
    """
    said = run(csv(tmp_path, 5), "--service", "shop", "--log", log, "--json")
    (part,) = found(log, "shop")
    assert (part.step_us, part.start_us, part.service) == (10 * MICROS, 1_772_323_200 * MICROS, "shop")
    minutes = [part.rates[at : at + 6] for at in range(0, 30, 6)]
    assert minutes[1] == [None] * 6
    for number in (0, 2, 3, 4):
        counts = [10 * (rate or 0.0) for rate in minutes[number]]
        assert sum(counts) == pytest.approx(60 * (number + 1))
        assert len(set(counts)) > 1
    told = msgspec.json.decode(said, type=history.Imported)
    assert (told.values, told.gaps) == (30, 6)


def test_every_service_of_a_query_gets_its_own_past(log: str) -> None:
    """A point at t is the step that ends at t."""
    shop, pay = (("service", "shop"),), (("service", "pay"),)
    with FakePrometheus(
        {shop: lambda second: second, pay: lambda second: None if second == 60 else 2.0}
    ) as fake:
        run("--prometheus", fake.url, "--query", "rate", "--until", "1970-01-02T00:00:00Z", "--days", "1",
            "--log", log)  # fmt: skip
    (first,), (second,) = found(log, "shop"), found(log, "pay")
    assert first.start_us == 0
    assert first.rates[:3] == [10.0, 20.0, 30.0]
    assert second.rates[4:7] == [2.0, None, 2.0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a FILE, or --prometheus URL"),
        (["FILE"], "give --service NAME"),
        (["FILE", "--service", "shop", "--series", "p99"], "use rate"),
        (["FILE", "--service", "shop", "--column", "hits"], "no column 'hits'"),
        (["--prometheus", "URL"], "give --query PROMQL"),
        (["--prometheus", "URL", "--query", "rate", "--until", "soon"], "ISO 8601"),
        (["--prometheus", "URL", "--query", "rate", "--service", "shop"], "answers 2 series"),
        (["--prometheus", "URL", "--query", "rate", "--label", "app"], "sum by"),
        (["--prometheus", "prom:9090", "--query", "rate"], "of the Prometheus server"),
    ],
)
def test_wrong_input_is_told_with_its_remedy(log: str, tmp_path: Path, words: list[str], said: str) -> None:
    file = csv(tmp_path, 3)
    with FakePrometheus({(("pod", "a"),): lambda second: 1.0, (("pod", "b"),): lambda second: 1.0}) as fake:
        given = [{"FILE": file, "URL": fake.url}.get(word, word) for word in words]
        with pytest.raises(UserError, match=said):
            run(*given, "--log", log)
    assert found(log, "shop") == []


def test_only_what_the_models_remember_is_kept() -> None:
    kept = fit(Stretch("shop", 0, MINUTE_US, np.arange(100.0)), MINUTE_US, 30)
    assert (kept.first_us, len(kept.rates), kept.rates[0]) == (70 * MINUTE_US, 30, 70.0)


def test_steps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="multiple"):
        fit(Stretch("shop", 0, 15 * MICROS, np.ones(3)), 10 * MICROS, 30)


def test_a_long_past_goes_in_parts_that_join() -> None:
    rates = np.arange(2 * past.VALUES + 1, dtype=np.float64)
    made = list(parts(Stretch("shop", 0, MICROS, rates), "default", "rate", "a"))
    assert [one.part for one in made] == [0, 1, 2]
    assert {one.parts for one in made} == {3}
    assert [one.start_us for one in made] == [0, past.VALUES * MICROS, 2 * past.VALUES * MICROS]
    assert [rate for one in made for rate in one.rates] == rates.tolist()
