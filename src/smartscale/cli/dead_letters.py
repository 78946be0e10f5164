"""``smartscale dead-letters``: what was set aside, and sending it again.

Replaying takes two steps, so that it is harmless to repeat it: the events are sent through the edge, each with its own id
or one made from its letter's place in the log; once they are answered, a letter of ``MARK`` that names their places is
written to the same topic, and the next replay leaves them out. A crash between the two sends the same ids again, which are
counted once as long as ids are remembered (``dedup.window_s``).
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from smartscale.cli.options import ConfigOption, JsonOption, LogOption, console, opened, print_json, settings
from smartscale.client.address import Address, Token, read_token
from smartscale.client.asking import ask
from smartscale.clock import iso, monotonic_s, parse_iso_us, wall_ms
from smartscale.errors import LogUnavailable, RetryableError, UserError
from smartscale.log.port import Log, Message, TopicPartition, append_all, read_all
from smartscale.records import dead_letters, schema, topics
from smartscale.records.dead_letters import DeadLetter

dead_letters_cli = typer.Typer(
    help="What could not be counted where it belonged, with the reason.",
    epilog="Example: smartscale dead-letters list --stage ingest --since 1h",
    no_args_is_help=True,
)

MARK: Final = "replayed"
"""Reason of a letter that stands for nothing itself: it names the letters that were sent again."""
_CHUNK: Final = 500
"""Events of one request, and places that one mark names."""
_GIVE_UP_S: Final = 60.0
"""Real. An edge that takes nothing for so long ends a replay; what was taken is marked."""

ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="Only this reason, such as invalid-name or late.")
]
StageOption = Annotated[
    str | None, typer.Option("--stage", help="Only what this stage set aside: ingest, combine, window, ml.")
]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.")]
ServiceOption = Annotated[str | None, typer.Option("--service", help="Only this service's.")]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="WHEN", help="Only those written since: 30m, 12h, 7d or an ISO 8601 time."
    ),
]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; None: any. ``since_ms`` is wall-clock time of writing."""

    reason: str | None = None
    stage: str | None = None
    tenant: str | None = None
    service: str | None = None
    since_ms: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        wanted = (self.reason, self.stage, self.tenant, self.service)
        found = (letter.reason, letter.stage, letter.tenant, letter.service)
        return all(want is None or want == have for want, have in zip(wanted, found, strict=True))


@dataclass(frozen=True, slots=True)
class Found:
    """A letter and its place in the log. ``replayed``: a mark names it."""

    partition: int
    offset: int
    written_ms: int
    letter: DeadLetter
    replayed: bool

    @property
    def place(self) -> str:
        return f"{self.partition}@{self.offset}"


@dead_letters_cli.command(
    "list", epilog="Example: smartscale dead-letters list --reason late --since 1h --json"
)
def listed(
    reason: ReasonOption = None,
    stage: StageOption = None,
    tenant: TenantOption = None,
    service: ServiceOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest ones at most.")] = 50,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show dead letters, the newest last: when, who set them aside, why, and for how many events each stands."""
    chosen = Filter(reason, stage, tenant, service, since_ms(since, wall_ms()))
    with opened(settings(log, config)) as event_log:
        found = list(read(event_log, chosen))
    shown = sorted(found, key=lambda one: one.written_ms)[-limit:]
    if as_json:
        for one in shown:
            print_json(_plain(one))
        return
    table = Table("written", "place", "stage", "reason", "tenant/service", "events", "detail")
    for column in table.columns:
        column.overflow = "fold"
    for one in shown:
        letter = one.letter
        about = f"{letter.tenant}/{letter.service}" if letter.tenant or letter.service else letter.source
        why = f"{letter.reason} (replayed)" if one.replayed else letter.reason
        cells = (
            iso(one.written_ms * 1000)[:19],
            one.place,
            letter.stage,
            why,
            about,
            f"{letter.count:,}",
            letter.detail,
        )
        table.add_row(*(plain(cell) for cell in cells))
    console.print(table)
    events = sum(one.letter.count for one in found)
    console.print(f"{len(found):,} letters of {events:,} events, {len(shown):,} shown")


@dead_letters_cli.command(
    "replay",
    epilog="Example: smartscale dead-letters replay --stage ingest --reason too-many-services --dry-run",
)
def replay(
    reason: ReasonOption = None,
    stage: StageOption = None,
    tenant: TenantOption = None,
    service: ServiceOption = None,
    since: SinceOption = None,
    url: Annotated[
        str, typer.Option("--url", help="Where the ingest stage listens.")
    ] = "http://127.0.0.1:8070",
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="The tenant's token (or SMARTSCALE_TOKEN)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send the events of dead letters again, through the edge: after the limit was raised or the clock was mended.

    Each letter once: what was taken is marked in the log. Letters of aggregates (late rows) hold no events and stay."""
    chosen = Filter(reason, stage, tenant, service, since_ms(since, wall_ms()))
    with opened(settings(log, config)) as event_log:
        found = [one for one in read(event_log, chosen) if not one.replayed]
        ready = [(one, event) for one in found if (event := event_of(one)) is not None]
        tenants = {one.letter.tenant for one, _ in ready}
        if len(tenants) > 1:
            raise UserError(
                f"these letters are of {len(tenants)} tenants ({', '.join(sorted(tenants))}): choose one with --tenant, and "
                "give its token, which says whose the events become"
            )
        outcome = Outcome(len(found), len(ready), why_not(found))
        if ready and not dry_run:
            outcome = _send(event_log, ready, outcome, Edge(url, read_token(token_file)), quiet=as_json)
    if as_json:
        print_json(outcome)
    else:
        _tell(outcome, dry_run)
    raise typer.Exit(0 if outcome.unanswered == 0 else 1)


class Outcome(msgspec.Struct, frozen=True):
    """What a replay came to. ``stays``: reasons why letters hold nothing to send, and for how many each."""

    letters: int
    events: int
    stays: Mapping[str, int]
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    unanswered: int = 0
    refusals: Sequence[str] = ()


def read(log: Log, chosen: Filter) -> Iterator[Found]:
    """The letters that ``chosen`` means, by partition and offset. Reads the topic twice: marks come behind their letters."""
    spec = log.topics().get(topics.DEAD_LETTERS)
    if spec is None:
        raise UserError("the log has no topic 'dead-letters' yet: run `smartscale topics`")
    replayed = {
        place
        for _, letter in _letters(log, spec.partitions, None)
        if letter.reason == MARK
        for place in msgspec.json.decode(letter.payload, type=list[str])
    }
    for (partition, offset, written_ms), letter in _letters(log, spec.partitions, chosen.since_ms):
        if letter.reason != MARK and chosen.takes(letter):
            yield Found(partition, offset, written_ms, letter, f"{partition}@{offset}" in replayed)


def _letters(
    log: Log, partitions: int, since_ms: int | None
) -> Iterator[tuple[tuple[int, int, int], DeadLetter]]:
    for at in (TopicPartition(topics.DEAD_LETTERS, p) for p in range(partitions)):
        first = None if since_ms is None else log.offset_at(at, since_ms)
        for record in read_all(log, at, first):
            yield (record.partition, record.offset, record.timestamp_ms), dead_letters.decode(record.value)


def event_of(found: Found) -> dict[str, object] | None:
    """The event to send for a letter, None if it holds none.

    Its own id stays, so that it is counted once with whatever else carries it; without one its letter's place is its id. One
    without a time gets that of its refusal."""
    letter = found.letter
    text: bytes | None = None
    if letter.stage == "ingest":
        text = letter.payload.encode()
    elif (letter.stage, letter.reason) == ("combine", dead_letters.MALFORMED):  # a third party's JSON
        try:
            text = base64.b64decode(letter.payload, validate=True)
        except binascii.Error:
            return None
    try:
        event = msgspec.json.decode(text or b"")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    given = {"id": f"dead-letter-{found.partition}-{found.offset}", "time": iso(letter.time_us)}
    return {**event, **{field: value for field, value in given.items() if event.get(field) is None}}


def why_not(found: Sequence[Found]) -> dict[str, int]:
    """Why letters cannot be sent again, and how many events stand behind each reason."""
    reasons: dict[str, int] = {}
    for one in found:
        if event_of(one) is None:
            reason = _reason_to_stay(one.letter)
            reasons[reason] = reasons.get(reason, 0) + one.letter.count
    return reasons


def _reason_to_stay(letter: DeadLetter) -> str:
    if letter.reason == dead_letters.LATE:
        return (
            "late rows are aggregates of events that are in the log: raise time.allowed_lateness_s, so that the next ones "
            "are in time"
        )
    if letter.stage == "ingest" and not letter.payload:
        return "only counted, beyond ingest.dead_letters_per_s, or no text to keep: the sender has to send them again"
    if letter.stage == "ingest":
        return "not a whole JSON object (cut off, or malformed): the sender has to send them again"
    return "records another version wrote or that are damaged: their payload is in the letter (`list --json`)"


class Edge:
    """Posts events to the edge, again until they have their verdicts."""

    def __init__(self, url: str, token: Token | None) -> None:
        """Raises ``UserError`` for an address that is none."""
        self._address = Address.of(url)
        self._headers = {"Content-Type": "application/json", **(token.headers() if token else {})}

    def post(self, events: Sequence[Mapping[str, object]]) -> Verdicts:
        """Raises ``RetryableError`` if it takes nothing for a minute, ``UserError`` if it refuses the whole request."""
        body = msgspec.json.encode(events)
        give_up_s = monotonic_s() + _GIVE_UP_S
        while True:
            status, text, again_s = self._attempt(body)
            if status in (200, 207, 400):
                return msgspec.json.decode(text, type=Verdicts)
            if status not in (0, 408, 429, 500, 502, 503, 504):
                raise UserError(f"the edge answered {status}: {text[:500].decode(errors='replace')}")
            if monotonic_s() + again_s > give_up_s:
                raise LogUnavailable(
                    f"the edge at {self._address.netloc} takes nothing: {text[:200].decode()}"
                )
            threading.Event().wait(again_s)

    def _attempt(self, body: bytes) -> tuple[int, bytes, float]:
        """Status (0: no answer), body, and seconds after which to try again."""
        reply = ask(self._address, "POST", "/v1/events", body, self._headers)
        again = reply.headers.get("Retry-After", "")
        return reply.status, reply.body, float(again) if again.isdigit() else 1.0


class _Verdict(msgspec.Struct):
    index: int
    verdict: str
    reason: str


class Verdicts(msgspec.Struct):
    """What the replay reads of an answer."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    verdicts: list[_Verdict] = []


def _send(
    event_log: Log,
    ready: Sequence[tuple[Found, Mapping[str, object]]],
    outcome: Outcome,
    edge: Edge,
    quiet: bool,
) -> Outcome:
    """Send what is ready in requests of some hundreds, and mark what was taken after each."""
    with Progress(console=console, disable=quiet, transient=True) as progress:
        bar = progress.add_task("sending", total=len(ready))
        for start in range(0, len(ready), _CHUNK):
            part = ready[start : start + _CHUNK]
            try:
                answer = edge.post([event for _, event in part])
            except RetryableError as error:
                return msgspec.structs.replace(
                    outcome, unanswered=len(ready) - start, refusals=[*outcome.refusals, str(error)]
                )
            refused = {one.index: one.reason for one in answer.verdicts if one.verdict == "refused"}
            _mark(event_log, [found for place, (found, _) in enumerate(part) if place not in refused])
            outcome = msgspec.structs.replace(
                outcome,
                accepted=outcome.accepted + answer.accepted,
                duplicate=outcome.duplicate + answer.duplicate,
                refused=outcome.refused + answer.refused,
                refusals=list(dict.fromkeys([*outcome.refusals, *refused.values()]))[:10],
            )
            progress.advance(bar, len(part))
    return outcome


def _mark(log: Log, taken: Sequence[Found]) -> None:
    """Note durably that these need not be sent again."""
    if not taken:
        return
    letter = DeadLetter(
        reason=MARK,
        stage="replay",
        detail=f"{len(taken)} letters were sent again",
        count=0,
        time_us=wall_ms() * 1000,
        payload=msgspec.json.encode([one.place for one in taken]).decode(),
    )
    message = Message(
        topics.DEAD_LETTERS, 0, dead_letters.encode(letter), headers=schema.headers(schema.DEAD_LETTER)
    )
    append_all(log, [message])


def plain(text: str) -> Text:
    """Text that others have chosen, for a terminal: nothing in it is taken as a command or as markup."""
    return Text("".join(c if c.isprintable() else "?" for c in text))


def _plain(one: Found) -> dict[str, object]:
    return {
        "place": one.place,
        "written": iso(one.written_ms * 1000),
        "replayed": one.replayed,
        **msgspec.structs.asdict(one.letter),
    }


def _tell(outcome: Outcome, dry_run: bool) -> None:
    for reason, events in outcome.stays.items():
        console.print(f"{events:,} events stay: {reason}")
    if dry_run:
        console.print(
            f"{outcome.events:,} of {outcome.letters:,} letters would be sent (--dry-run: nothing was)"
        )
        return
    console.print(
        f"{outcome.events:,} of {outcome.letters:,} letters sent: {outcome.accepted:,} accepted, "
        f"{outcome.duplicate:,} there already, {outcome.refused:,} refused again, {outcome.unanswered:,} unanswered"
    )
    for reason in outcome.refusals:
        console.print("  ", plain(reason))


_SPAN: Final = re.compile(r"(\d+)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def since_ms(text: str | None, now_ms: int) -> int | None:
    """The wall-clock milliseconds that ``--since`` means. Raises ``UserError``.

    >>> since_ms("2h", 10_000_000)
    2800000
    """
    if text is None:
        return None
    span = _SPAN.fullmatch(text)
    if span:
        return max(0, now_ms - int(span[1]) * _SECONDS[span[2]] * 1000)
    try:
        return parse_iso_us(text) // 1000
    except ValueError:
        raise UserError(
            f"--since {text!r}: give a span such as 30m, 12h or 7d, or an ISO 8601 time"
        ) from None
