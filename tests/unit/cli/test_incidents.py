"""``smartscale incidents``: filters, explanations, and words that reach ml."""

from __future__ import annotations

import json
import uuid
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from smartscale import app, config
from smartscale.cli.commands import cli
from smartscale.clock import MICROS, iso, parse_iso_us, wall_ms
from smartscale.config import Settings
from smartscale.log import open_log
from smartscale.log.partitioner import service_partition
from smartscale.log.port import Log, Message, TopicPartition, read_all
from smartscale.log.topics import specs
from smartscale.records import forecasts, people, schema, topics
from smartscale.records.forecasts import DATA_GAP, DEMAND_SURGE, FAULT, Incident

PARTITIONS = 2
NOON = parse_iso_us("2026-11-25T12:00:00Z")
OPEN = Incident(
    "inc-aa01", "default", "shop", FAULT, NOON, None, NOON + 40 * MICROS, 0.58, "error_rate", 0.0, 0.054, 0.294,
    "error rate 29.4 % for 40 s, usually 0.4 % (up to 5.4 %)", expected=0.004, kinds={"errors": 0.29}, probability=0.998,
)  # fmt: skip
OVER = Incident(
    "inc-aa02", "default", "cart", DEMAND_SURGE, NOON, NOON + 60 * MICROS, NOON + 60 * MICROS, 0.67, "arrivals", 80.0,
    120.0, 300.0, "arrivals 300 /s for 60 s, expected 100 /s (80 to 120)", False, 100.0, {"surge": 3.0},
    silenced="mute window 'sale' until 2026-11-25T13:00:00Z",
)  # fmt: skip
LONG_AGO = Incident(
    "inc-bb01", "bank", "api", DATA_GAP, NOON - 86_400 * MICROS, NOON - 86_000 * MICROS, NOON - 86_000 * MICROS, 1.0,
    "rate", 80.0, 120.0, 0.0, "no rate", kinds={"zero": 1.0},
)  # fmt: skip
NOTICE = people.Notice(
    id="budget-2026-11-25-0", kind="budget-spent", partition=0, day="2026-11-25", allowed=5, silenced=3, time_us=NOON,
    text="alert budget of 2026-11-25 spent: 3 incidents silenced",
)  # fmt: skip


def append(log: Log, *records: tuple[str, bytes]) -> None:
    messages = [Message(topics.INCIDENTS, 0, value, None, schema.headers(name)) for name, value in records]
    with closing(log.publisher()) as publisher:
        assert all(isinstance(answer, int) for answer in publisher.append(messages))


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log with three incidents and a notice."""
    address = f"sqlite:{tmp_path / 'log.db'}"
    with closing(open_log(address, {})) as log:
        log.create(specs(config.load(environment={}, flags={"topics.partials": PARTITIONS})))
        opened = msgspec.structs.replace(OVER, end_us=None)
        told = [(schema.INCIDENT, forecasts.encode(one)) for one in (OPEN, opened, LONG_AGO, OVER)]
        append(log, *told, (schema.NOTICE, people.encode(NOTICE)))
    monkeypatch.setenv("SMARTSCALE_LOG", address)
    monkeypatch.setenv("COLUMNS", "200")
    return address


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["incidents", *words])


def rows(*words: str) -> list[dict[str, object]]:
    done = run(*words, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ["inc-bb01", "inc-aa01", "inc-aa02"]),
        (["--open"], ["inc-aa01"]),
        (["--service", "cart"], ["inc-aa02"]),
        (["--tenant", "bank"], ["inc-bb01"]),
        (["--class", "fault"], ["inc-aa01"]),
        (["--limit", "1"], ["inc-aa02"]),
        (["--since", iso(NOON)], ["inc-aa01", "inc-aa02"]),
    ],
)
@pytest.mark.usefixtures("address")
def test_list_shows_what_was_asked_for_the_newest_last(words: list[str], found: list[str]) -> None:
    """The newest state of each; filters add up."""
    assert [row["id"] for row in rows("list", *words)] == found


@pytest.mark.usefixtures("address")
def test_list_for_people_says_who_knows_of_it_and_that_the_budget_was_spent() -> None:
    """One line an incident."""
    shown = run("list").stdout
    assert "3 incidents, 3 shown" in shown
    assert "over, not told" in shown
    assert NOTICE.text in shown


def test_show_explains_in_words_and_numbers(address: str) -> None:
    """What, when, seen and expected, how sure, how severe, why, what else, and what was said."""
    said = people.Feedback(
        id="1", said=people.ACK, incident=OPEN.id, tenant="default", service="shop", class_=FAULT, kinds=OPEN.kinds,
        severity=0.58, end_us=None, time_us=NOON + 60 * MICROS, who="ann", comment="rolling back",
    )  # fmt: skip
    with closing(open_log(address, {})) as log:
        append(log, (schema.FEEDBACK, people.encode(said)))
    explanation = rows("show", "inc-aa01")[0]["explanation"]
    assert explanation == {
        "what": "fault of shop (tenant default)",
        "when": "since 2026-11-25T12:00:00Z, open for 40 s",
        "seen": "error rate 29.4 % for 40 s, usually 0.4 % (up to 5.4 %)",
        "expected": "error_rate from 0.0 to 5.4 %, most likely 0.4",
        "how sure": "99.8 % that something is out of the ordinary",
        "how severe": "0.58 of 1: errors 29 points above the expected",
        "why this class": "errors or slow answers that demand does not explain; control holds the replicas",
        "told": "yes",
        "at the time": "inc-aa02 demand-surge of cart since 2026-11-25T12:00:00Z: "
        "arrivals 300 /s for 60 s, expected 100 /s (80 to 120)",
        "said": "2026-11-25T12:01:00Z ann has seen inc-aa01 of shop (fault): rolling back",
    }
    assert "rolling back" in run("show", "inc-aa01").stdout
    assert "no: mute window 'sale' until" in run("show", "inc-aa02").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "inc-zz"], "no incident 'inc-zz' in the log"),
        (["show", "inc-aa"], "'inc-aa' may be inc-aa01, inc-aa02: give more"),
        (["list", "--class", "flood"], "use one of demand-surge, fault, data-gap, level-shift"),
        (["mute", "x"], "--to: give its end"),
        (["mute", "x", "--for", "soon"], "--for 'soon': give a span such as 30m"),
        (["mute", "x", "--days", "mo"], "--days: no day 'mo'"),
        (["unmute", "x"], "no mute 'x' was made by command; see `incidents mutes`"),
    ],
)
@pytest.mark.usefixtures("address")
def test_mistakes_are_told_with_the_remedy(words: list[str], message: str) -> None:
    """Nothing is written."""
    done = run(*words)
    assert done.exit_code != 0
    assert message in str(done.exception)


def heard(log: Log) -> list[tuple[int, bytes, bytes]]:
    """What stands in ``metrics``: partition, schema and value."""
    partitions = [TopicPartition(topics.METRICS, p) for p in range(log.topics()[topics.METRICS].partitions)]
    return [(r.partition, r.headers[schema.SCHEMA], r.value) for at in partitions for r in read_all(log, at)]


def test_words_are_written_where_ml_reads_of_the_service(address: str) -> None:
    """Feedback to the service's partition, mutes to all; and it is said that nobody has heard them yet."""
    done = run("false-alarm", "inc-aa01", "--who", "ann", "--comment", "an export", "--wait", "0")
    assert done.exit_code == 0, done.exception
    assert "ann calls a false alarm inc-aa01 of shop (fault): an export" in done.stdout
    assert "ml has not answered yet: is it running?" in done.stdout
    muted = rows(
        "mute",
        "sale",
        "--service",
        "c*",
        "--days",
        "fri",
        "--at",
        "22:00-06:00",
        "--who",
        "ann",
        "--wait",
        "0",
    )
    with closing(open_log(address, {})) as log:
        found = heard(log)
    assert [(partition, name) for partition, name, _ in found if name == b"feedback/1"] == [
        (service_partition("default", "shop", PARTITIONS), b"feedback/1")
    ]
    said = people.decode_feedback(next(value for _, name, value in found if name == b"feedback/1"))
    assert (said.said, said.incident, said.kinds, said.severity) == (
        people.FALSE_ALARM, OPEN.id, OPEN.kinds, OPEN.severity,
    )  # fmt: skip
    mutes = [(partition, people.decode_mute(value)) for partition, name, value in found if name == b"mute/1"]
    mute = people.Mute(name="sale", services="c*", days=("fri",), at="22:00-06:00", zone="UTC", who="ann")
    assert mutes == [(0, mute), (1, mute)]
    assert muted[0]["heard"] is False


def test_mutes_shows_those_of_the_log_and_of_the_settings_that_are_not_over(
    address: str, tmp_path: Path
) -> None:
    """And until when they hold now; one that was lifted is gone."""
    with closing(open_log(address, {})) as log:
        made = [
            people.Mute(name="now", to=iso(wall_ms() * 1000 + 3600 * MICROS)),
            people.Mute(name="over", to="2020-01-01T00:00:00Z"),
            people.Mute(name="lifted", at="00:00-24:00"),
        ]
        append(log, *((schema.MUTE, people.encode(one)) for one in made))
        append(log, (schema.UNMUTE, people.encode(people.Unmute(name="lifted"))))
    file = tmp_path / "s.toml"
    file.write_text('[[ml.muted]]\nname = "never"\nfrom = "2099-01-01"\nto = "2099-01-02"\n')
    shown = rows("mutes", "--config", str(file))
    assert [(row["name"], row["where"], row["until"] is None) for row in shown] == [
        ("now", "command", False),
        ("never", "settings", True),
    ]
    assert "take it out there" in str(run("unmute", "never", "--config", str(file)).exception)


@pytest.mark.kafka
def test_the_same_on_kafka(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer comes back from whoever hears it."""
    from smartscale.cli.incidents import publish, read

    settings = Settings(log=kafka_url)
    name = uuid.uuid4().hex
    said = people.encode(people.Mute(name=name, at="00:00-24:00"))
    with closing(app.opened(settings)) as log:
        app.prepare(log, settings)
        assert not publish(log, [0, 1], None, schema.MUTE, said, 0.1)
        assert (0, b"mute/1", said) in heard(log)
        append(log, (schema.MUTE, said))
        assert read(log).mutes[name].at == "00:00-24:00"
