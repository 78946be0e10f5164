"""``smartscale dead-letters``: shown by filters, sent again once."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smartscale import config
from smartscale.cli.dead_letters import dead_letters_cli, plain, since_ms
from smartscale.errors import UserError
from smartscale.ledger.books import Books, bases_of
from smartscale.log import open_log
from smartscale.log.port import Message, TopicPartition, read_all
from smartscale.log.topics import specs
from smartscale.records import dead_letters, schema, topics
from smartscale.records.dead_letters import DeadLetter
from smartscale.stream.windows import Families

run = CliRunner().invoke

GOOD = DeadLetter(
    "far-future", "ingest", "ahead", 1, 1_000_000, tenant="shop", service="cart", payload='{"service":"cart"}'
)
OWN_ID = DeadLetter(
    "far-future",
    "ingest",
    "ahead",
    1,
    0,
    tenant="shop",
    payload='{"service":"a","id":"own","time":"2030-01-01T00:00:00Z"}',
)
STILL_BAD = DeadLetter("invalid-service", "ingest", "no", 1, 0, tenant="shop", payload='{"service":""}')
CUT = DeadLetter("too-large", "ingest", "long", 1, 0, tenant="shop", payload='{"service":"x')
COUNTED = DeadLetter("far-future", "ingest", "more", 900, 0, tenant="shop")
LATE = DeadLetter("late", "window", "late", 7, 0, "partials/0", 5, "shop", "cart", payload='{"count":7}')
THIRD = DeadLetter(
    "malformed", "combine", "?", 1, 0, "theirs/0", 2, payload=base64.b64encode(b'{"service":"b"}').decode()
)
OTHER = DeadLetter("far-future", "ingest", "ahead", 1, 0, tenant="bank", payload='{"service":"c"}')


class Stub:
    """An edge that refuses events without a service, and remembers what it got."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []
        self.fail_first = 0
        self.auth: set[str | None] = set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                stub.auth.add(self.headers["authorization"])
                status, answer = stub.answer(body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, body: list[dict[str, object]]) -> tuple[int, object]:
        if self.fail_first:
            self.fail_first -= 1
            return 503, {"detail": "away"}
        bad = [i for i, event in enumerate(body) if not event["service"]]
        self.events += [event for event in body if event["service"]]
        verdicts = [{"index": i, "verdict": "refused", "reason": "still bad"} for i in bad]
        return 207, {
            "accepted": len(body) - len(bad),
            "duplicate": 0,
            "refused": len(bad),
            "verdicts": verdicts,
        }


@pytest.fixture
def edge() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


def write(address: str, *letters: DeadLetter) -> None:
    log = open_log(address)
    log.create(specs(config.load(environment={})))
    publisher = log.publisher()
    publisher.append(
        [
            Message(
                topics.DEAD_LETTERS, 1, dead_letters.encode(each), headers=schema.headers(schema.DEAD_LETTER)
            )
            for each in letters
        ]
    )
    publisher.close()
    log.close()


def shown(address: str, *options: str) -> list[dict[str, object]]:
    result = run(dead_letters_cli, ["list", "--log", address, "--json", *options])
    assert result.exit_code == 0, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def replayed(address: str, edge: Stub, *options: str) -> dict[str, object]:
    result = run(dead_letters_cli, ["replay", "--log", address, "--url", edge.url, "--json", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_letters_are_shown_by_filters(address: str) -> None:
    write(address, GOOD, LATE, OTHER, COUNTED)
    assert len(shown(address)) == 4
    assert [each["service"] for each in shown(address, "--stage", "window")] == ["cart"]
    assert len(shown(address, "--reason", "far-future", "--tenant", "shop")) == 2
    assert shown(address, "--since", "1m", "--service", "none") == []
    assert len(shown(address, "--limit", "1")) == 1
    table = run(dead_letters_cli, ["list", "--log", address])
    assert "4 letters of 909 events" in table.stdout


def test_a_replay_sends_what_can_be_sent_and_says_why_the_rest_stays(address: str, edge: Stub) -> None:
    """Own ids and times stay; others come from the letter. What is refused again is not marked."""
    write(address, GOOD, OWN_ID, STILL_BAD, CUT, COUNTED, LATE)
    edge.fail_first = 1
    outcome = replayed(address, edge, "--tenant", "shop")
    assert (outcome["accepted"], outcome["refused"], outcome["unanswered"]) == (2, 1, 0)
    assert outcome["refusals"] == ["still bad"]
    stays = outcome["stays"]
    assert isinstance(stays, dict)
    assert sorted(stays.values()) == [1, 7, 900]
    assert edge.events == [
        {"service": "cart", "id": "dead-letter-1-0", "time": "1970-01-01T00:00:01Z"},
        {"service": "a", "id": "own", "time": "2030-01-01T00:00:00Z"},
    ]
    assert [each["replayed"] for each in shown(address)] == [True, True, False, False, False, False]


def test_a_second_replay_sends_nothing_again(address: str, edge: Stub) -> None:
    write(address, GOOD)
    replayed(address, edge)
    assert replayed(address, edge)["events"] == 0
    assert len(edge.events) == 1


def test_a_dry_run_sends_nothing(address: str, edge: Stub) -> None:
    write(address, GOOD)
    assert replayed(address, edge, "--dry-run")["events"] == 1
    assert not edge.events
    assert not shown(address)[0]["replayed"]


def test_letters_of_third_parties_are_decoded(address: str, edge: Stub) -> None:
    write(address, THIRD)
    assert replayed(address, edge)["accepted"] == 1
    assert edge.events[0]["service"] == "b"


def test_events_of_several_tenants_are_not_sent_under_one_token(
    address: str, edge: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(address, GOOD, OTHER)
    result = run(dead_letters_cli, ["replay", "--log", address, "--url", edge.url])
    assert isinstance(result.exception, UserError)
    assert "--tenant" in str(result.exception)
    monkeypatch.setenv("SMARTSCALE_TOKEN", "sst_x")
    assert replayed(address, edge, "--tenant", "bank")["accepted"] == 1
    assert edge.auth == {"Bearer sst_x"}


def test_a_mark_is_nothing_to_the_ledger(address: str, edge: Stub) -> None:
    """Neither are letters of what the edge refused: they were never accepted."""
    write(address, GOOD, COUNTED)
    replayed(address, edge)
    log = open_log(address)
    books = Books(4, bases_of(Families(config.Windows())))
    for partition in range(4):
        for record in read_all(log, TopicPartition(topics.DEAD_LETTERS, partition)):
            books.take_dead_letter(record)
    log.close()
    balance = books.balance()
    assert (balance.accepted, balance.dead, balance.late, balance.difference) == (0, 0, 0, 0)


def test_what_a_sender_wrote_cannot_command_the_terminal(address: str) -> None:
    wrote = "field \x1b[2J[bold]x"
    assert plain(wrote).plain == "field ?[2J[bold]x"
    write(address, DeadLetter("unknown-field", "ingest", wrote, 1, 0, tenant="shop"))
    assert "\x1b" not in run(dead_letters_cli, ["list", "--log", address]).stdout


def test_spans_and_times() -> None:
    assert since_ms(None, 5) is None
    assert since_ms("30m", 3_600_000) == 1_800_000
    assert since_ms("1970-01-01T00:00:02Z", 0) == 2000
    with pytest.raises(UserError):
        since_ms("yesterday", 0)
