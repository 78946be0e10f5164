"""``smartscale incidents``: what was strange, why, what was said about it; and saying something.

What people say goes to ``metrics``, where ml reads it in order with everything else, and comes back in ``incidents`` once
ml has heard it."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from smartscale import app, calendars
from smartscale.cli.dead_letters import plain, since_ms
from smartscale.cli.incidents_watch import watch
from smartscale.cli.options import ConfigOption, JsonOption, LogOption, console, opened, print_json, settings
from smartscale.clock import iso, monotonic_s, span_text
from smartscale.config import Settings
from smartscale.errors import UserError
from smartscale.log.partitioner import service_key, service_partition
from smartscale.log.port import Log, Message, TopicPartition, append_all, read_all
from smartscale.records import forecasts, people, schema, topics
from smartscale.records.explain import explain
from smartscale.records.forecasts import CLASSES, KINDS, Incident
from smartscale.records.people import ACK, FALSE_ALARM, Feedback, Mute, Notice, Unmute

incidents_cli = typer.Typer(
    help="What was strange: list and explain incidents, say what you think of them, mute those you expect.",
    epilog="Example: smartscale incidents list --open",
    no_args_is_help=True,
)

ServiceOption = Annotated[str | None, typer.Option("--service", help="Only this service's.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.")]
WhoOption = Annotated[str | None, typer.Option("--who", help="Who says so (default: the user's name).")]
CommentOption = Annotated[str, typer.Option("--comment", help="Why; shown with the incident.")]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait until ml has heard it.")
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The incident's id, or its beginning.")]
_TURN_S: Final = 0.2


@dataclass(slots=True)
class Told:
    """Everything in the topic ``incidents``: the newest state of each incident, notice and mute, and what was said."""

    incidents: dict[str, Incident] = field(default_factory=dict)
    said: dict[str, dict[str, Feedback]] = field(default_factory=dict)
    """By incident, then by id."""
    mutes: dict[str, Mute] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)

    def one(self, name: str) -> Incident:
        """The incident whose id is ``name`` or, alone, begins so. Raises ``UserError``."""
        found = [id_ for id_ in self.incidents if id_ == name or id_.startswith(name)]
        if name in found:
            found = [name]
        if not found:
            raise UserError(
                f"no incident {name!r} in the log; `smartscale incidents list` shows those there are"
            )
        if len(found) > 1:
            raise UserError(f"{name!r} may be {', '.join(sorted(found)[:5])}: give more of the id")
        return self.incidents[found[0]]

    def what_was_said(self, incident: str) -> list[Feedback]:
        return sorted(self.said.get(incident, {}).values(), key=lambda one: one.time_us)


def read(log: Log) -> Told:
    """The topic ``incidents`` from its beginning to its end. Raises ``UserError`` if there is none."""
    spec = log.topics().get(topics.INCIDENTS)
    if spec is None:
        raise UserError("the log has no topic 'incidents' yet: run `smartscale topics`")
    told = Told()
    for partition in range(spec.partitions):
        for record in read_all(log, TopicPartition(topics.INCIDENTS, partition)):
            match schema.known(record.headers):
                case schema.INCIDENT:
                    incident = forecasts.decode_incident(record.value)
                    told.incidents[incident.id] = incident
                case schema.FEEDBACK:
                    said = people.decode_feedback(record.value)
                    told.said.setdefault(said.incident, {})[said.id] = said
                case schema.MUTE:
                    mute = people.decode_mute(record.value)
                    told.mutes[mute.name] = mute
                case schema.UNMUTE:
                    told.mutes.pop(people.decode_unmute(record.value).name, None)
                case schema.NOTICE:
                    notice = people.decode_notice(record.value)
                    told.notices[notice.id] = notice
    return told


@incidents_cli.command(
    "list", epilog="Example: smartscale incidents list --open --since 1h --service shop --class fault"
)
def listed(
    only_open: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="WHEN", help="Only those there since: 30m, 12h, 7d or an ISO 8601 time."
        ),
    ] = None,
    service: ServiceOption = None,
    tenant: TenantOption = None,
    class_: Annotated[
        str | None, typer.Option("--class", help=f"Only this class: {', '.join(CLASSES)}.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest ones at most.")] = 50,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show incidents, the newest last: class, service, since when, how severe, what was seen, and who has seen it."""
    if class_ is not None and class_ not in CLASSES:
        raise UserError(f"--class {class_!r}: use one of {', '.join(CLASSES)}")
    with opened(settings(log, config)) as event_log:
        now_us = app.open_clock(event_log).now_us()
        told = read(event_log)
    since_us = (since_ms(since, now_us // 1000) or 0) * 1000
    found = [
        one
        for one in sorted(told.incidents.values(), key=lambda i: (i.start_us, i.id))
        if (not only_open or one.end_us is None)
        and (one.end_us is None or one.end_us >= since_us)
        and service in (None, one.service)
        and tenant in (None, one.tenant)
        and class_ in (None, one.class_)
    ]
    if as_json:
        for one in found[-limit:]:
            print_json(_plain(told, one))
        return
    for one in found[-limit:]:
        until_us = max(now_us, one.updated_us) if one.end_us is None else one.end_us
        lasted = span_text(until_us - one.start_us)
        line = (
            f"{one.id}  {one.class_} of {one.service}, severity {one.severity:.2f}, since {iso(one.start_us)}"
        )
        console.print(plain(f"{line} for {lasted}, {_state(told, one)}"))
        console.print(plain(f"    {one.text}"))
    console.print(f"{len(found):,} incidents, {min(len(found), limit):,} shown")
    for notice in told.notices.values():
        if notice.time_us >= since_us:
            console.print(plain(notice.text))


def _state(told: Told, one: Incident) -> str:
    """In a word or two: open or over, and what people know of it."""
    words = ["open" if one.end_us is None else "over"]
    said = told.what_was_said(one.id)
    if said:
        words.append(f"{'false alarm' if said[-1].said == FALSE_ALARM else 'seen'} ({said[-1].who})")
    elif not one.notify:
        words.append("not told")
    return ", ".join(words)


def _plain(told: Told, one: Incident) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(one)
    return {**fields, "said": [msgspec.to_builtins(word) for word in told.what_was_said(one.id)]}


@incidents_cli.command("show", epilog="Example: smartscale incidents show inc-3f2a")
def show(
    id_: IdArgument, log: LogOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Explain an incident: what was seen and expected, since when, how sure, how severe and why, which class and why,
    whether people were told, what else was strange at the time, and what was said about it."""
    with opened(settings(log, config)) as event_log:
        told = read(event_log)
    one = told.one(id_)
    answers = explain(one, told.incidents.values(), told.what_was_said(one.id))
    if as_json:
        print_json({**_plain(told, one), "explanation": dict(answers)})
        return
    table = Table("", one.id, show_edge=False, box=None, pad_edge=False)
    table.columns[1].overflow = "fold"
    for question, answer in answers:
        lines = [plain(line) for line in answer.split("\n")]
        for place, line in enumerate(lines):
            table.add_row(question if place == 0 else "", line)
    console.print(table)


@incidents_cli.command("ack", epilog='Example: smartscale incidents ack inc-3f2a --comment "rolling back"')
def ack(
    id_: IdArgument,
    comment: CommentOption = "",
    who: WhoOption = None,
    wait: WaitOption = 5.0,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that you have seen an incident: repeats of it stay silent, until an hour after its end.

    A plain outage, a new kind of evidence, or something graver is told all the same."""
    _say(ACK, id_, comment, who, wait, log, config, as_json)


@incidents_cli.command(
    "false-alarm", epilog='Example: smartscale incidents false-alarm inc-3f2a --comment "the nightly export"'
)
def false_alarm(
    id_: IdArgument,
    comment: CommentOption = "",
    who: WhoOption = None,
    wait: WaitOption = 5.0,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that an incident was none: later ones of its kinds at this service must be larger to be told.

    Two such words silence alarms of that size; it fades by half in two weeks, and never silences a plain outage. What comes
    back on a schedule is better muted."""
    _say(FALSE_ALARM, id_, comment, who, wait, log, config, as_json)


def _say(
    word: str,
    name: str,
    comment: str,
    who: str | None,
    wait_s: float,
    log: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    with opened(settings(log, config)) as event_log:
        one = read(event_log).one(name)
        said = Feedback(
            id=uuid.uuid4().hex,
            said=word,
            incident=one.id,
            tenant=one.tenant,
            service=one.service,
            class_=one.class_,
            kinds=one.kinds,
            severity=one.severity,
            end_us=one.end_us,
            time_us=app.open_clock(event_log).now_us(),
            who=_who(who),
            comment=comment,
        )
        partition = service_partition(one.tenant, one.service, event_log.topics()[topics.METRICS].partitions)
        key = service_key(one.tenant, one.service)
        heard = publish(event_log, [partition], key, schema.FEEDBACK, people.encode(said), wait_s)
    _answer(said, people.said_text(said), heard, as_json)


def _who(given: str | None) -> str:
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def publish(
    log: Log, partitions: Sequence[int], key: bytes | None, name: str, value: bytes, wait_s: float
) -> bool:
    """Write what somebody said to these partitions of ``metrics``; whether ml has heard it in all of them within the wait
    (real seconds). Raises the log's error if it could not be written."""
    sides = [TopicPartition(topics.INCIDENTS, p) for p in partitions]
    ends = {at: bounds.end for at, bounds in log.bounds(sides).items()}
    headers = schema.headers(name)
    append_all(log, [Message(topics.METRICS, p, value, key, headers) for p in partitions])
    unheard, deadline_s = set(sides), monotonic_s() + wait_s
    reader = log.reader()
    try:
        reader.assign(ends)
        while unheard and monotonic_s() < deadline_s:
            polled = reader.poll(_TURN_S)
            unheard -= {record.at for record in polled.records if record.value == value}
    finally:
        reader.close()
    return not unheard


def _answer(said: Feedback | Mute | Unmute, text: str, heard: bool, as_json: bool) -> None:
    if as_json:
        print_json({**msgspec.to_builtins(said), "heard": heard})
        return
    console.print(plain(text))
    if not heard:
        console.print(
            "It is in the log, and counts as soon as ml reads it; ml has not answered yet: is it running?"
        )


@incidents_cli.command(
    "mute",
    epilog="Example: smartscale incidents mute backup --service 'db-*' --days mon,thu --at 02:00-04:00 --zone Europe/Berlin",
)
def mute(
    name: Annotated[str, typer.Argument(help="What it is called; the same name replaces it.")],
    service: Annotated[str, typer.Option("--service", help="Pattern of services, such as 'db-*'.")] = "*",
    tenant: Annotated[str, typer.Option("--tenant", help="Pattern of tenants.")] = "*",
    class_: Annotated[str, typer.Option("--class", help="Only these classes, such as demand-surge.")] = "",
    kind: Annotated[
        str, typer.Option("--kind", help=f"Only if all kinds of evidence are of these: {', '.join(KINDS)}.")
    ] = "",
    for_: Annotated[
        str | None, typer.Option("--for", metavar="SPAN", help="From now on for 30m, 2h or 7d.")
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", metavar="TIME", help="ISO 8601; local without offset.")
    ] = "",
    to: Annotated[str, typer.Option("--to", metavar="TIME", help="ISO 8601; local without offset.")] = "",
    days: Annotated[
        str, typer.Option("--days", help=f"Again and again on these: {', '.join(calendars.DAYS)}.")
    ] = "",
    at: Annotated[str, typer.Option("--at", metavar="HH:MM-HH:MM", help="Between these local times.")] = "",
    zone: Annotated[str | None, typer.Option("--zone", help="Time zone (default: ml.zone).")] = None,
    country: Annotated[
        str | None, typer.Option("--country", help="Whose holidays: DE, US-CA (default: ml.country).")
    ] = None,
    comment: CommentOption = "",
    who: WhoOption = None,
    wait: WaitOption = 5.0,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say when you want to hear nothing of some incidents: once, or again and again.

    They are recorded with the reason, and scaling acts on them; those still open at the end are told then. Mutes that are
    to last are better kept in the settings, as ml.muted."""
    chosen = settings(log, config)
    with opened(chosen) as event_log:
        if for_ is not None:
            now_us = app.open_clock(event_log).now_us()
            from_, to = iso(now_us), iso(now_us + _span_us(for_))
        said = Mute(
            name=name,
            services=service,
            tenants=tenant,
            classes=_words(class_),
            kinds=_words(kind),
            from_=from_,
            to=to,
            days=_words(days),
            at=at,
            zone=zone or chosen.ml.zone,
            country=country or chosen.ml.country,
            who=_who(who),
            comment=comment,
        )
        if (wrong := calendars.problem(said)) is not None:
            raise UserError(f"--{wrong}")
        everywhere = range(event_log.topics()[topics.METRICS].partitions)
        heard = publish(event_log, everywhere, None, schema.MUTE, people.encode(said), wait)
    _answer(said, people.said_text(said), heard, as_json)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _span_us(text: str) -> int:
    """Microseconds of ``2h``. Raises ``UserError``."""
    now_ms = 1 << 50
    if not text[:1].isdigit() or text[-1:] not in "smhd":
        raise UserError(f"--for {text!r}: give a span such as 30m, 12h or 7d")
    return (now_ms - (since_ms(text, now_ms) or 0)) * 1000


@incidents_cli.command("unmute", epilog="Example: smartscale incidents unmute backup")
def unmute(
    name: Annotated[str, typer.Argument(help="What the mute is called.")],
    comment: CommentOption = "",
    who: WhoOption = None,
    wait: WaitOption = 5.0,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lift a mute that was made by command, before its time."""
    chosen = settings(log, config)
    with opened(chosen) as event_log:
        if name not in read(event_log).mutes:
            where = (
                "it is in the settings: take it out there"
                if name in _set(chosen)
                else "see `incidents mutes`"
            )
            raise UserError(f"no mute {name!r} was made by command; {where}")
        said = Unmute(name=name, who=_who(who), comment=comment)
        everywhere = range(event_log.topics()[topics.METRICS].partitions)
        heard = publish(event_log, everywhere, None, schema.UNMUTE, people.encode(said), wait)
    _answer(said, people.said_text(said), heard, as_json)


def _set(chosen: Settings) -> set[str]:
    return {one.name for one in chosen.ml.muted}


@incidents_cli.command("mutes", epilog="Example: smartscale incidents mutes --json")
def mutes(log: LogOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the mutes there are, by command and in the settings, and which hold now."""
    chosen = settings(log, config)
    with opened(chosen) as event_log:
        now_us = app.open_clock(event_log).now_us()
        made = [one for one in read(event_log).mutes.values() if not calendars.is_over(one, now_us)]
    rows = []
    for where, one in [("command", m) for m in made] + [("settings", m) for m in chosen.ml.mutes()]:
        until_us = calendars.muted_until(one, now_us)
        rows.append(
            {
                **msgspec.to_builtins(one),
                "where": where,
                "until": _until(until_us),
                "when": people.when_text(one),
            }
        )
    if as_json:
        for row in rows:
            print_json({key: value for key, value in row.items() if key != "when"})
        return
    table = Table("name", "by", "what and when", "holds now", "comment")
    for row in rows:
        until = f"until {row['until']}" if row["until"] else "no"
        table.add_row(
            *(plain(str(cell)) for cell in (row["name"], row["where"], row["when"], until, row["comment"]))
        )
    console.print(table)


def _until(us: int | None) -> str | None:
    return None if us is None else "it is lifted" if us == calendars.FOREVER else iso(us)


incidents_cli.command(
    "watch", epilog="Example: smartscale incidents watch --webhook https://chat.example/hooks/ops --ends"
)(watch)
