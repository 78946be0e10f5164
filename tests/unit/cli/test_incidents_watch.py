"""``smartscale incidents watch``: each incident that is to be told goes out, once if nothing fails, and never less."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from smartscale import clock
from smartscale.cli import incidents_watch
from smartscale.cli.incidents_watch import ENDED, NOTICE, OPENED, News, Watcher, to_command, to_webhook
from smartscale.client.address import Token
from smartscale.config import Settings, Topics
from smartscale.errors import UserError
from smartscale.log.port import Message
from smartscale.log.topics import specs
from smartscale.records import forecasts, people, schema, topics
from smartscale.records.forecasts import FAULT, Incident
from smartscale.testing.memory_log import MemoryLog


def incident(name: str, *, notify: bool = True, over: bool = False, severity: float = 0.4) -> bytes:
    made = Incident(
        name, "default", "shop", FAULT, 0, 9 if over else None, 9, severity, "error_rate", 0, 0.1, 0.3, "text", notify
    )  # fmt: skip
    return forecasts.encode(made)


class World:
    """A log, and whoever is told by a watch on it."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.log.create(specs(Settings(topics=Topics(events=1, partials=1))))
        self.got: list[tuple[str, str]] = []
        self.fails = 0
        self.start()

    def sink(self, news: News) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("nobody answers")
        self.got.append((news.event, news.id))

    def start(self) -> None:
        """A watch that begins, or begins again."""
        self.watcher = Watcher(self.log, self.sink, ends=True, give_up_s=3600)
        self.worker = self.log.worker("watch", [topics.INCIDENTS], "0")
        self.turn(1)

    def stop(self) -> None:
        self.worker.close()
        self.watcher.close()

    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.watcher.turn(self.worker)

    def write(self, *values: bytes, name: str = schema.INCIDENT) -> None:
        publisher = self.log.publisher()
        publisher.append(
            [Message(topics.INCIDENTS, 0, value, None, schema.headers(name)) for value in values]
        )

    def settle(self) -> list[tuple[str, str]]:
        """Turns until all is read and passed; what was told meanwhile."""
        self.got.clear()
        at = next(iter(self.log.committed("watch")))
        deadline_s = clock.monotonic_s() + 20
        while self.log.committed("watch")[at].offset < self.log.bounds([at])[at].end:
            assert clock.monotonic_s() < deadline_s
            self.turn(1)
        return list(self.got)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(incidents_watch, "POLL_S", 0.01)
    monkeypatch.setattr(incidents_watch, "FIRST_PAUSE_S", 0.01)
    made = World()
    yield made
    made.stop()


def test_what_is_to_be_told_goes_out_once_and_its_end(world: World) -> None:
    """Later records of an incident are no news; silenced ones are not told until they are to be."""
    world.write(
        incident("a"), incident("b", notify=False), incident("a", severity=0.9), incident("a", over=True)
    )
    assert world.settle() == [(OPENED, "a"), (ENDED, "a")]
    world.write(incident("b"), incident("b", over=True), incident("c", notify=False, over=True))
    assert world.settle() == [(OPENED, "b"), (ENDED, "b")]
    notice = people.Notice(
        id="n",
        kind="budget-spent",
        partition=0,
        day="2026-11-25",
        allowed=5,
        silenced=1,
        time_us=0,
        text="spent",
    )
    world.write(people.encode(notice), name=schema.NOTICE)
    assert world.settle() == [(NOTICE, "n")]


def test_a_new_group_begins_now_and_a_restart_goes_on(world: World) -> None:
    """What went out does not go out again; what came meanwhile does."""
    world.write(incident("a"))
    assert world.settle() == [(OPENED, "a")]
    world.stop()
    world.write(incident("a", severity=0.9), incident("b"))
    world.start()
    assert world.settle() == [(OPENED, "b")]
    assert world.log.worker("other", [topics.INCIDENTS], "0") is not None


def test_what_cannot_be_told_is_tried_again_in_order(world: World) -> None:
    """And after a restart in the middle of it."""
    world.fails = 3
    world.write(incident("a"), incident("b"))
    world.turn(2)
    world.stop()
    world.start()
    assert world.settle() == [(OPENED, "a"), (OPENED, "b")]
    assert world.fails == 0


def test_what_nobody_takes_for_too_long_is_given_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """So that it does not hold up the rest for ever; the log says so."""
    world.watcher._give_up_s = 0
    world.fails = 1
    world.write(incident("a"), incident("b"))
    assert world.settle() == [(OPENED, "b")]
    assert "opened a is given up: nobody answers" in caplog.text


NEWS = News(OPENED, "inc-1", "fault of shop", msgspec.json.decode(incident("inc-1"), type=Incident))


def test_a_command_gets_the_news(tmp_path: Path) -> None:
    """JSON on its input, the essentials as variables; its failure is one."""
    file = tmp_path / "out"
    to_command(f'cat > {file}; echo " $INCIDENT_CLASS $INCIDENT_SERVICE $INCIDENT_ID" >> {file}')(NEWS)
    body, _, words = file.read_text().rpartition("} ")
    told = json.loads(body + "}")
    assert (told["event"], told["id"], told["incident"]["class"]) == ("opened", "inc-1", "fault")
    assert words == "fault shop inc-1\n"
    with pytest.raises(Exception, match="exit status 3"):
        to_command("exit 3")(NEWS)


def test_a_webhook_gets_the_news() -> None:
    """With the token, and a key that is the same when it is sent again; an error of the server is one."""
    got: list[tuple[str | None, str | None, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.headers["Authorization"], self.headers["Idempotency-Key"], body["text"]))
            self.send_response(204 if len(got) == 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        send = to_webhook(f"http://127.0.0.1:{server.server_address[1]}/hook", Token("abc"))
        send(NEWS)
        with pytest.raises(OSError, match="503"):
            send(NEWS)
    finally:
        server.shutdown()
        server.server_close()
    assert got[0] == got[1] == ("Bearer abc", "inc-1-opened", "fault of shop")
    with pytest.raises(UserError, match="--webhook"):
        to_webhook("chat.example", None)
