"""Lines of access logs as events: what ``smartscale produce --replay`` and ``smartscale ingest tail`` read.

Three kinds of line, told apart by themselves:

- Apache's and nginx's common and combined formats, also with how long the request took behind them: seconds with a point
  (nginx's ``$request_time``) or whole microseconds (Apache's ``%D``), alone or as ``rt=0.005``;
- Envoy's default format (milliseconds);
- a JSON object, its fields found by the names that nginx, Envoy, Caddy, Traefik and loggers commonly use, or named by the
  user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from smartscale.clock import MICROS, parse_iso_us
from smartscale.errors import UserError
from smartscale.records.events_json import MAX_LABEL, EventIn

Parsed = tuple[int, EventIn]
"""When it was (us) and the event, still without a time."""

LATENCIES: Final = {
    "duration_us": 1e-3, "latency_us": 1e-3, "duration_ms": 1.0, "latency_ms": 1.0, "duration_s": 1e3,
    "latency_s": 1e3, "exec_seconds": 1e3, "seconds": 1e3, "response_time_ms": 1.0, "duration_ns": 1e-6,
    "latency_ns": 1e-6, "request_time": 1e3, "Duration": 1e-6, "elapsed_ms": 1.0, "took_ms": 1.0,
}  # fmt: skip
"""Fields that hold how long a request took, and the factor to milliseconds: ``request_time`` is nginx's, ``Duration``
Traefik's."""

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "time": (
        "time", "timestamp", "@timestamp", "time_iso8601", "time_local", "ts", "StartUTC", "start_time", "msec", "date",
    ),
    "status": ("status", "status_code", "response_code", "http_status", "DownstreamStatus", "statusCode", "code"),
    "method": ("method", "request_method", "http_method", "RequestMethod", "request.method", "verb"),
    "path": (
        "path", "uri", "request_uri", "url", "request_path", "RequestPath", "request.uri", "request.url", "request",
    ),
    "name": ("route", "http.route", "name"),
    "service": ("service", "service_name", "service.name"),
}  # fmt: skip
"""What is looked for in a JSON line, and under which names; the first that is there counts. A name with points is looked
for as it is and, if it is not there, as a path into nested objects."""


def line_event(line: str, service: str, fields: Mapping[str, str] | None = None) -> Parsed:
    """The request that a line tells of. ``fields``: names of a JSON line's fields, by what they hold (``FIELDS``, and
    ``latency_s``, ``latency_ms``, ``latency_us`` and ``latency_ns`` for a duration of that unit).

    Raises ValueError, with the reason, for a line that is none.

    >>> line_event('::1 - - [17/May/2015:10:05:03 +0000] "GET /a?b=1 HTTP/1.1" 200 23', "web")[1].name
    'GET /a'
    """
    if line.lstrip().startswith("{"):
        return _json(line, service, fields or {})
    if found := _ENVOY.match(line):
        return _envoy(found, service)
    if found := _COMBINED.match(line):
        return _combined(found, service)
    raise ValueError(f"not a line of an access log: {line[:60]!r}")


def checked_fields(given: Iterable[str]) -> dict[str, str]:
    """``WHAT=NAME`` of a command line as ``line_event`` takes it. Raises ``UserError``."""
    known = [*FIELDS, *_UNITS]
    fields = {}
    for pair in given:
        what, _, name = pair.partition("=")
        if what not in known or not name:
            raise UserError(f"--field {pair!r}: use WHAT=NAME, where WHAT is one of {', '.join(known)}")
        fields[what] = name
    return fields


def status(text: str) -> int | None:
    """An HTTP status; None for "" and for 0, by which proxies say that there was none. Raises ValueError."""
    if text in ("", "0", "000", "-"):
        return None
    code = int(text) if text.isascii() and text.isdigit() else -1
    if not 100 <= code <= 599:
        raise ValueError(f"status {text[:20]!r} is no HTTP status")
    return code


def route(method: str, path: str) -> str:
    """A request's name: method and path without the query, which would make every request a name of its own."""
    return _CONTROL.sub("?", f"{method} {path.partition('?')[0]}".strip())[:MAX_LABEL]


def templated(name: str) -> str:
    """A name whose path has no numbers, UUIDs or long hexadecimal ids any more, which would make every object a name of
    its own.

    >>> templated("GET /users/17/orders/9f1c2a7e-1111-4222-8333-123456789abc")
    'GET /users/{id}/orders/{id}'
    """
    return _IDENTIFIER.sub("{id}", name)


_IDENTIFIER: Final = re.compile(
    r"(?<=/)(?:[0-9]+|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|(?=[a-zA-Z]*[0-9])[0-9a-fA-F]{16,})(?=/|$)"
)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")

_QUOTED: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_COMBINED: Final = re.compile(
    r'\S+ \S+ .*?\[(?P<time>[^\]]+)\] "(?P<method>[A-Z]+)? ?(?P<path>\S*)[^"]*" (?P<status>\d{3})'
    rf"(?: (?:\d+|-))?(?: {_QUOTED} {_QUOTED})?(?P<rest>.*)$",
    re.DOTALL,
)
"""A line in Apache's common and combined log formats ("%h %l %u %t \\"%r\\" %>s %b ..."), and what follows them."""
_SECONDS: Final = re.compile(r"(?:^|[\s=\"])(\d+\.\d+)(?=[\s\"]|$)")
_MICROSECONDS: Final = re.compile(r"\s*(\d+)\s*")


def _combined(found: re.Match[str], service: str) -> Parsed:
    rest = found["rest"]
    latency_ms = None
    if seconds := _SECONDS.search(rest):
        latency_ms = _milliseconds(seconds[1], 1e3)
    elif micros := _MICROSECONDS.fullmatch(rest):
        latency_ms = _milliseconds(micros[1], 1e-3)
    event = EventIn(
        service=service,
        name=route(found["method"] or "", found["path"]),
        status=status(found["status"]),
        latency_ms=latency_ms,
    )
    return _clf_us(found["time"]), event


@lru_cache(maxsize=1024)
def _clf_us(text: str) -> int:
    """A time as the common log format has it; many lines share one. Raises ValueError."""
    return int(datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z").timestamp()) * MICROS


_ENVOY: Final = re.compile(
    r'\[(?P<time>[^\]]+)\] "(?P<method>\S+) (?P<path>\S+)[^"]*" (?P<status>\d+) \S+ (?:\S+ \S+ "[^"]*" )?'
    r"\d+ \d+ (?P<latency>\d+|-) "
)
"""Envoy's default format, also as Istio has it; its time is the request's start."""


def _envoy(found: re.Match[str], service: str) -> Parsed:
    latency_ms = None if found["latency"] == "-" else _milliseconds(found["latency"], 1.0)
    event = EventIn(
        service=service,
        name=route(found["method"], found["path"]),
        status=status(found["status"]),
        latency_ms=latency_ms,
    )
    return parse_iso_us(found["time"]) + round((latency_ms or 0) * 1000), event


def _milliseconds(text: object, factor: float) -> float:
    """Raises ValueError for what is no duration."""
    latency_ms = round(float(str(text)) * factor, 3)
    if not 0 <= latency_ms < 2**31:
        raise ValueError(f"duration {str(text)[:20]!r} is out of range")
    return latency_ms


_UNITS: Final = {"latency_ns": 1e-6, "latency_us": 1e-3, "latency_ms": 1.0, "latency_s": 1e3}
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def _json(line: str, service: str, fields: Mapping[str, str]) -> Parsed:
    try:
        found = _decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None

    def get(what: str) -> Any:
        names = (fields[what],) if what in fields else FIELDS[what]
        return next((value for name in names if (value := _at(found, name)) is not None), None)

    time, code, method, path, name = (get(what) for what in ("time", "status", "method", "path", "name"))
    if time is None:
        raise ValueError(f"no time; name its field with --field time=NAME: {line[:60]!r}")
    if code is None and path is None and name is None:
        raise ValueError(f"no status, path or name: {line[:60]!r}")
    if isinstance(path, str) and method is None and (request := _REQUEST.fullmatch(path)):
        method, path = request.groups()
    own_service = get("service")
    event = EventIn(
        service=own_service if isinstance(own_service, str) and own_service else service,
        name=_CONTROL.sub("?", name)[:MAX_LABEL]
        if isinstance(name, str)
        else route(str(method or ""), str(path or "")),
        status=status(str(code if code is not None else "")),
        latency_ms=_json_latency(found, fields),
    )
    return _any_time_us(time), event


_REQUEST: Final = re.compile(r"([A-Z]+) (\S+)(?: HTTP/\S+)?")


def _at(found: Mapping[str, Any], name: str) -> Any:
    """The value of a field, which may be a path into nested objects."""
    if name in found:
        return found[name]
    value: Any = found
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _json_latency(found: Mapping[str, Any], fields: Mapping[str, str]) -> float | None:
    """Milliseconds; None if there are none. A plain ``duration`` is seconds if it has a fraction (Caddy), else
    milliseconds (Envoy)."""
    for what, factor in _UNITS.items():
        if what in fields:
            value = _at(found, fields[what])
            return None if value in (None, "", "-") else _milliseconds(value, factor)
    for name, factor in LATENCIES.items():
        if found.get(name) not in (None, "", "-"):
            return _milliseconds(found[name], factor)
    value = found.get("duration")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _milliseconds(value, 1e3 if isinstance(value, float) else 1.0)
    return None


_EPOCHS: Final = ((1e17, 1000), (1e14, 1), (1e11, 1 / 1000), (0, 1 / MICROS))
"""From which number on a time counts nanoseconds, microseconds, milliseconds or seconds since 1970, and the divisor to
microseconds: each unit's times from 1973 on."""
_LATEST_NS: Final = 2.5e20
"""Before the year 9999."""


def _any_time_us(time: object) -> int:
    """A time as text (ISO 8601, UTC where it names no zone, or the common log format) or as a number since 1970. Raises
    ValueError."""
    if isinstance(time, str) and not _NUMBER.fullmatch(time):
        return _clf_us(time) if "/" in time else parse_iso_us(time)
    number = float(time) if isinstance(time, str | int | float) and not isinstance(time, bool) else -1.0
    for least, divisor in _EPOCHS:
        if least <= number < _LATEST_NS:
            return round(number / divisor)
    raise ValueError(f"time {time!r:.40} is none")


_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
