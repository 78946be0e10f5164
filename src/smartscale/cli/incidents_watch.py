"""``smartscale incidents watch``: every incident that people are to be told of goes out, once at least.

A member of a group reads ``incidents``; its position moves past an incident only once it went out, so a restart goes on
where the one before ended. Which open incidents went out already is in the position's metadata: their later records are
no news.

One piece of news at a time, in the order of the log, tried again after ever longer pauses; a thread does it, so that the
membership stays alive meanwhile.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from smartscale import app
from smartscale.cli.options import ConfigOption, LogFormatOption, LogOption, SlotOption, settings
from smartscale.client.address import Address, Token, read_token
from smartscale.clock import monotonic_s
from smartscale.errors import ConfigError, UserError
from smartscale.log.port import Log, Position, Record, TopicPartition, Worker
from smartscale.records import forecasts, people, schema, topics
from smartscale.records.forecasts import Incident, headline
from smartscale.records.people import Notice
from smartscale.stage import Context, keep_working
from smartscale.telemetry import logs

log = logging.getLogger(__name__)

POLL_S: Final = 0.25
OPENED: Final = "opened"
ENDED: Final = "ended"
NOTICE: Final = "notice"
TIMEOUT_S: Final = 30.0
"""Real. What a command or a server may take for one piece of news."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
KEPT: Final = 150
"""Ids of open incidents that went out, per partition: they fit the 4,000 bytes of a position's metadata."""


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes out, as JSON. ``id`` and ``event`` together are the same whenever it goes out again."""

    event: str
    id: str
    text: str
    incident: Incident | None = None
    notice: Notice | None = None


Sink = Callable[[News], None]
"""Sends a piece of news; raises ``OSError`` or ``subprocess.SubprocessError`` if it could not."""


class Watcher:
    """What one member of the group has read and not yet sent. ``ends``: also tell when an incident is over."""

    def __init__(self, event_log: Log, sink: Sink, ends: bool, give_up_s: float) -> None:
        self._log = event_log
        self._sink = sink
        self._ends = ends
        self._give_up_s = give_up_s
        self._queue: deque[Record] = deque()
        self._owned: dict[TopicPartition, dict[str, None]] = {}
        """Ids that went out and are open, in order, by partition."""
        self._pool = ThreadPoolExecutor(1, "news")
        self._attempt: Future[None] | None = None
        self._since_s, self._due_s, self._pause_s = 0.0, 0.0, FIRST_PAUSE_S

    def turn(self, worker: Worker) -> None:
        """One poll, and what can be sent."""
        poll = worker.poll(POLL_S)
        for at in poll.revoked:
            self._owned.pop(at, None)
            self._queue = deque(record for record in self._queue if record.at != at)
        for at, position in poll.assigned.items():
            self._take(worker, at, position)
        self._queue.extend(poll.records)
        if self._queue:
            worker.pause(self._owned)
            self._work(worker)
        if not self._queue:
            worker.resume(self._owned)

    def start_over(self) -> None:
        """Forget what was read: it is read again."""
        self._queue.clear()
        self._owned.clear()
        self._attempt = None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, worker: Worker, at: TopicPartition, position: Position | None) -> None:
        """A group that is new begins now: what was before is for `incidents list`."""
        if position is None:
            end = self._log.bounds([at])[at].end
            worker.seek(at, end)
            with worker.transaction() as transaction:
                transaction.commit_positions({at: Position(end)})
        told = position.metadata if position is not None else ""
        self._owned[at] = dict.fromkeys(msgspec.json.decode(told, type=list[str]) if told else [])

    def _work(self, worker: Worker) -> None:
        """Send in order until one has to wait; the position follows what went out."""
        moved: dict[TopicPartition, int] = {}
        while self._queue:
            record = self._queue[0]
            told = self._owned[record.at]
            news = news_of(record, told, self._ends)
            if news is not None and not self._sent(news):
                break
            _note(told, record)
            moved[record.at] = record.offset + 1
            self._queue.popleft()
        if moved:
            with worker.transaction() as transaction:
                transaction.commit_positions(
                    {
                        at: Position(offset, msgspec.json.encode(list(self._owned[at])).decode())
                        for at, offset in moved.items()
                    }
                )

    def _sent(self, news: News) -> bool:
        """Whether it has gone out, or was given up. Starts an attempt if none is under way and it is time for one."""
        if self._attempt is None:
            if self._since_s == 0.0:
                self._since_s = monotonic_s()
            if monotonic_s() >= self._due_s:
                self._attempt = self._pool.submit(self._sink, news)
            return False
        if not self._attempt.done():
            return False
        attempt, self._attempt = self._attempt, None
        try:
            attempt.result()
        except (OSError, subprocess.SubprocessError) as error:
            if monotonic_s() - self._since_s < self._give_up_s:
                log.warning(
                    "%s %s did not go out, again in %g s: %s", news.event, news.id, self._pause_s, error
                )
                self._due_s = monotonic_s() + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                return False
            log.error("%s %s is given up: %s", news.event, news.id, error)
        else:
            log.info("%s %s went out", news.event, news.id)
        self._since_s, self._due_s, self._pause_s = 0.0, 0.0, FIRST_PAUSE_S
        return True


def _note(told: dict[str, None], record: Record) -> None:
    """Which incidents are open and went out, after a record that was dealt with."""
    if schema.known(record.headers) != schema.INCIDENT:
        return
    incident = forecasts.decode_incident(record.value)
    if incident.end_us is not None:
        told.pop(incident.id, None)
    elif incident.notify:
        told[incident.id] = None
        while len(told) > KEPT:
            del told[next(iter(told))]


def news_of(record: Record, told: Container[str], ends: bool) -> News | None:
    """What people are to be told by a record, when the incidents ``told`` are open and went out already."""
    match schema.known(record.headers):
        case schema.NOTICE:
            notice = people.decode_notice(record.value)
            return News(NOTICE, notice.id, notice.text, notice=notice)
        case schema.INCIDENT:
            incident = forecasts.decode_incident(record.value)
            if incident.end_us is not None:
                text = f"over: {headline(incident)}"
                return News(ENDED, incident.id, text, incident) if ends and incident.id in told else None
            if incident.notify and incident.id not in told:
                return News(OPENED, incident.id, headline(incident), incident)
    return None


def to_stdout(news: News) -> None:
    """One line of JSON."""
    sys.stdout.write(msgspec.json.encode(news).decode() + "\n")
    sys.stdout.flush()


def to_command(command: str) -> Sink:
    """A shell command that gets the news as JSON on its input, and what matters most as variables."""

    def send(news: News) -> None:
        more = {"INCIDENT_EVENT": news.event, "INCIDENT_ID": news.id, "INCIDENT_TEXT": news.text}
        if news.incident is not None:
            more |= {"INCIDENT_CLASS": news.incident.class_, "INCIDENT_SERVICE": news.incident.service}
        subprocess.run(
            command,
            shell=True,
            input=msgspec.json.encode(news),
            env={**os.environ, **more},
            timeout=TIMEOUT_S,
            check=True,
        )

    return send


def to_webhook(url: str, token: Token | None) -> Sink:
    """A POST of the news as JSON; the header ``Idempotency-Key`` is the same whenever it is sent again. Raises
    ``UserError`` for an address that is none."""
    Address.of(url, "the webhook", "--webhook")
    headers = {"Content-Type": "application/json", **(token.headers() if token else {})}

    def send(news: News) -> None:
        body, key = msgspec.json.encode(news), f"{news.id}-{news.event}"
        request = urllib.request.Request(url, body, {**headers, "Idempotency-Key": key}, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass

    return send


def watch(
    command: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="Run this with the JSON on its input."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="POST the JSON there.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="Bearer token for the webhook (or SMARTSCALE_TOKEN)."
        ),
    ] = None,
    ends: Annotated[bool, typer.Option("--ends", help="Also tell when an incident is over.")] = False,
    give_up: Annotated[
        float, typer.Option("--give-up", min=0, metavar="SECONDS", help="Try one piece of news for so long.")
    ] = 3600.0,
    group: Annotated[
        str,
        typer.Option("--group", help="Who is told: each group gets every incident, from its first start on."),
    ] = "watch",
    slot: SlotOption = "0",
    log: LogOption = None,
    config: ConfigOption = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Tell people of every incident that is to be told, as it opens: by a command, a webhook, or lines on stdout.

    Runs until Ctrl-C. Each goes out at least once, whatever is restarted; `id` and `event` tell repeats."""
    if command is not None and webhook is not None:
        raise UserError("give --exec or --webhook, not both; start a second watch with another --group")
    if log_format not in logs.FORMATS:
        raise ConfigError(f"--log-format {log_format!r}: use one of {', '.join(logs.FORMATS)}")
    sink: Sink = to_stdout
    if command is not None:
        sink = to_command(command)
    elif webhook is not None:
        sink = to_webhook(webhook, read_token(token_file))

    def run(context: Context) -> None:
        watcher = Watcher(context.log, sink, ends, give_up)
        try:
            keep_working(context, group, [topics.INCIDENTS], watcher.turn, watcher.start_over)
        finally:
            watcher.close()

    logs.set_up(f"watch-{slot}", log_format)
    sys.exit(app.run_stage("watch", settings(log, config), slot, None, run))
