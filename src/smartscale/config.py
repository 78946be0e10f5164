"""Settings: defaults, then a TOML file, then the environment, then flags; each layer overrides the one before.

An environment variable is ``SMARTSCALE_`` and the key's path joined by two underscores:
``SMARTSCALE_TIME__ALLOWED_LATENESS_S=10``; ``SMARTSCALE_LOG`` is the log's address. Every error names the place
and the key, and says how to mend it.

Durations end in ``_s``. Those about the world described follow the clock (a replay scales them); those marked
"real" are wall time whatever the clock does.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from smartscale import calendars
from smartscale.errors import ConfigError, UserError
from smartscale.records.people import Mute

_SECRET = frozenset({"user_key", "kafka"})
"""Settings that no log line, error or traceback may show."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of settings. Shown without its secrets."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        fields = msgspec.structs.asdict(self)
        return [(name, "..." if name in _SECRET and value else value) for name, value in fields.items()]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


class Topics(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Partitions and retention. The partition counts but ``events`` are fixed for the log's life."""

    events: int = 4
    """Partitions of ``events``; may grow later."""
    partials: int = 4
    """Partitions of ``partials``, ``metrics`` and everything keyed by a service."""
    retention_bytes: int = 4 << 30
    """Kept per topic (embedded) or partition (Kafka). 4 GiB is hours of a busy machine's events, and bounds the disk."""
    accept_loss: bool = False
    """Let stages go on behind what retention removed before they had read it. Meant for one start: what is lost is told, has
    a term of its own in the ledger, and makes the windows of that time incomplete."""


class Time(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Event time, watermarks and lateness."""

    out_of_orderness_s: float = 2.0
    """How far events may be out of order before they need the allowed lateness (world time)."""
    allowed_lateness_s: float = 30.0
    """How long after the watermark a pane still takes events (world time); covers a restart and its retries."""
    max_future_s: float = 60.0
    """An event further in the future than this is refused at the edge (world time): clock skew is smaller."""
    heartbeat_s: float = 1.0
    """Real. Each edge process writes a heartbeat to every partition this often."""
    heartbeat_timeout_s: float = 5.0
    """Real. An edge process silent for this long counts as gone; five heartbeats may be lost."""
    idle_after_s: float = 1.5
    """Real. A partition without events for this long, while edge processes live, is idle: heartbeats advance it."""
    settle_s: float = 5.0
    """Real. Heartbeats of an edge process count as evidence of idleness only after it has lived this long: clients
    that were cut off by a restart have come back by then."""
    missing_after_s: float = 15.0
    """Real. A partition without any live edge process for this long no longer delays provisional windows."""


class WindowRule(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Windows of some services: ``[[windows.for]]`` in a settings file. The first rule that fits a service counts."""

    services: str
    """A pattern over names of services: ``*`` any text, ``?`` any character, ``[ab]`` one of these."""
    tumbling_s: list[float] | None = None
    """Instead of ``windows.tumbling_s``."""
    sliding_s: list[list[float]] | None = None
    """Instead of ``windows.sliding_s``."""
    group_by: list[str] | None = None
    """Instead of ``windows.group_by``."""
    forecast: bool = True
    """False: these services have no window of ``ml.step_s`` and are not forecast."""


class Windows(Section, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"rules": "for"}):
    """Windows over event time, half-open and aligned to the epoch (world time), and what they compute."""

    tumbling_s: list[float] = msgspec.field(default_factory=lambda: [10.0, 60.0])
    sliding_s: list[list[float]] = msgspec.field(default_factory=lambda: [[60.0, 5.0]])
    """Pairs of size and slide."""
    histogram_from_s: float = 60.0
    """Rows of tumbling windows at least this long carry their histogram."""
    key_ttl_s: float = 3600.0
    """A key silent for this long no longer gets windows of count zero."""
    aggregates: list[str] = msgspec.field(default_factory=lambda: ["requests", "latency", "values"])
    """What is computed. ``users`` (distinct users) is built in too; it is off because it costs 8 bytes a user and pane."""
    modules: list[str] = []
    """Python modules that register further aggregations, imported by combine and window at their start."""
    group_by: list[str] = []
    """Attributes of events that are part of the key; a row's group then reads ``region=eu``."""
    max_groups: int = 1000
    """Grouped keys of one service at most; what comes beyond them goes to the group ``__other__`` and is counted."""
    rules: list[WindowRule] = []
    """``[[windows.for]]``: other windows or groups for some services."""


class Dedup(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Repeats of an event id within a partition are counted once."""

    window_s: float = 120.0
    """Real. How long ids are remembered; longer than a client keeps retrying."""
    max_ids: int = 20_000_000
    """Bound on remembered ids of one combine process (about 50 bytes each); the oldest go first."""


class Ingest(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The edge."""

    host: str = "127.0.0.1"
    port: int = 8070
    linger_ms: float = 5.0
    """Real. How long events wait to be gathered into one record; at most 20."""
    record_events: int = 5000
    """Events in a record at most."""
    max_event_bytes: int = 64 << 10
    max_body_bytes: int = 16 << 20
    max_batch_events: int = 20_000
    queue_bytes: int = 32 << 20
    """Bytes of requests in memory, from before a body is read until it is answered; beyond it the edge answers 429."""
    compression: str = "lz4"
    """lz4, zstd or none."""
    user_key: str = ""
    """Key of the hash that stands for a user (at most 64 bytes); the same for every process, kept secret. With the empty
    default a pseudonym can be found by trying names."""
    tokens_file: str = ""
    """Bearer tokens and tenants (`smartscale tokens create`), read again when it changes. Empty: whoever reaches the port
    may send, as tenant `default`."""
    quota_events_per_s: float = 0.0
    """What a tenant may send on average, unless the tokens file says otherwise for it; 0: no bound."""
    quota_bytes_per_s: float = 0.0
    tenant_share: float = 0.5
    """Part of the memory for waiting bodies that one tenant may hold where there are tokens, so that one tenant's flood
    leaves room for the others."""
    max_services: int = 10_000
    """Different services of a tenant in `label_ttl_s`, each edge process for itself; events with more are refused. 0: no
    bound."""
    max_names: int = 50_000
    """Different names of a tenant, each counted once for every service that uses it."""
    max_label_chars: int = 256
    """Of a service or a name; at most 256."""
    max_id_chars: int = 512
    """Of an id: two UUIDs and an address fit."""
    max_attributes: int = 128
    """Attributes of an event: as many as OpenTelemetry's default limit of a span's."""
    max_attribute_bytes: int = 16 << 10
    """Of an event's attributes together, as JSON."""
    label_ttl_s: float = 3600.0
    """Real. A service or name not used for this long no longer counts; as long as `windows.key_ttl_s` by default."""
    dead_letters_per_s: float = 20.0
    """Refused events that are kept one by one in `dead-letters`, each second; of the others only the number is told."""
    body_timeout_s: float = 30.0
    """Real. How long a body may take to arrive, because it holds room that others want; half a minute for the largest body
    is half a megabyte a second."""
    header_timeout_s: float = 15.0
    """Real. How long the head of a request, or a TLS handshake, may take."""
    idle_timeout_s: float = 75.0
    """Real. How long a connection may be idle between two requests; longer than a minute, at which many clients send."""
    max_header_bytes: int = 16 << 10
    """Of a request's head; at least 8 KiB."""
    max_connections: int = 4096
    """Connections at a time, four times the senders that one edge is expected to have; a further one is closed at once."""
    tls_certificate: str = ""
    """PEM file with the certificate chain; with it and its key the port speaks HTTPS alone."""
    tls_key: str = ""
    """PEM file with the certificate's key."""
    tls_client_ca: str = ""
    """PEM file with the authority whose certificates clients must show; empty: they need none."""
    tls_min_version: str = "1.2"
    """1.2 or 1.3: older ones are broken, and 1.2 is what many agents still speak."""
    access_log: str = ""
    """A file that gets one line a request; empty: none."""
    access_log_format: str = "text"
    """text or json."""


class Combine(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    transaction_s: float = 0.25
    """Real. A transaction is committed at least this often while there is input (at most 1)."""
    transaction_bytes: int = 32 << 20
    """And once this much has been read."""
    json_topics: list[str] = msgspec.field(default_factory=list)
    """Third parties' topics of single JSON events, read beside ``events``."""


MOST_STEP_S = 600.0
MOST_HORIZON_S = 7200.0


class CalendarRule(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """By which clock and holidays some services live: ``[[ml.calendars]]``. The first rule that fits a service counts."""

    services: str
    """A pattern over names of services, as in ``windows.for``."""
    zone: str = "UTC"
    """Time zone (IANA name): the season of a day follows its clock, across daylight-saving changes."""
    country: str = ""
    """Country or region (DE, DE-BY) whose holidays are forecast from the last Sundays and holidays; needs a long history."""


class Ml(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    step_s: float = 10.0
    """Spacing of the series: the tumbling window that is forecast (world time); one of ``windows.tumbling_s``."""
    horizon_steps: int = 30
    """Steps ahead: 30 steps of 10 s are five minutes, more than most lead times."""
    history_steps: int = 8640
    """Steps remembered per series: a day of 10 s."""
    methods: list[str] = []
    """Forecasting methods of third parties, ``MODULE:NAME`` each (docs/extending.md), that join the mixture."""
    boosting: bool = True
    """Whether one gradient boosting is trained over all series of a partition in the background, as one more method."""
    snapshot_s: float = 30.0
    """Real. How often the state is written to the log."""
    alerts_per_day: int = 20
    """Notifications a day at most, over all services; control reads the unsilenced state. Each partition has its share, so
    give at least ``topics.partials`` of them."""
    zone: str = "UTC"
    """Time zone (IANA name) of the day of ``alerts_per_day``, and of ``ml.muted`` that name none."""
    country: str = ""
    """Whose holidays those of ``ml.muted`` are that name none: DE, or with a region DE-BY."""
    muted: list[Mute] = []
    """``[[ml.muted]]``: when people want to hear nothing of some incidents, once or again and again."""

    calendars: list[CalendarRule] = []
    """``[[ml.calendars]]``: local time and holidays in the forecasts of some services. Without one, a day is that of UTC."""

    def mutes(self) -> tuple[Mute, ...]:
        """``muted``, with time zone and country."""
        return tuple(
            msgspec.structs.replace(mute, zone=mute.zone or self.zone, country=mute.country or self.country)
            for mute in self.muted
        )


class Control(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    policies: str = "policies"
    """A policy file, or a folder of them."""
    interval_s: float = 15.0
    """World time between two evaluations of a policy, as HPA's sync period."""
    stale_s: float = 60.0
    """World time after which metrics are too old to scale in on."""


class Sample(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sample service that the closed loop scales."""

    directory: str = ".run/sample"
    capacity_per_s: float = 50.0
    """Requests one replica serves a second (world time)."""
    startup_s: float = 20.0
    """World time from start to ready."""
    timeout_s: float = 10.0
    """World time after which a queued request fails."""


class Settings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set."""

    log: str = "sqlite:smartscale.db"
    topics: Topics = Topics()
    time: Time = Time()
    windows: Windows = Windows()
    dedup: Dedup = Dedup()
    ingest: Ingest = Ingest()
    combine: Combine = Combine()
    ml: Ml = Ml()
    control: Control = Control()
    sample: Sample = Sample()
    kafka: dict[str, str] = {}
    """Passed to the Kafka client as they are: security.protocol, sasl.username, ... (librdkafka's names)."""


PREFIX = "SMARTSCALE_"


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Settings from a TOML file, the environment and flags (keys with dots: ``ingest.port``).

    Raises ``ConfigError`` naming the file or variable, the key and the remedy.

    >>> load(environment={"SMARTSCALE_INGEST__PORT": "9000"}).ingest.port
    9000
    >>> load(environment={"SMARTSCALE_INGEST__PROT": "9000"})
    Traceback (most recent call last):
        ...
    smartscale.errors.ConfigError: variable SMARTSCALE_INGEST__PROT: no setting 'ingest.prot'; did you mean 'ingest.port'?
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read(file)
        _validate(values, f"file {file}")
    for variable, text in sorted((os.environ if environment is None else environment).items()):
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX) not in _RESERVED:
            key = variable.removeprefix(PREFIX).lower().replace("__", ".")
            _put(values, key, _parse(text, key), f"variable {variable}")
            _validate(values, f"variable {variable}")
    for key, value in (flags or {}).items():
        if value is not None:
            _put(values, key, value, f"flag for {key}")
            _validate(values, f"flag for {key}")
    settings = _validate(values, "settings")
    _check(settings)
    return settings


_RESERVED = frozenset({"CONFIG", "LIFELINE_FD", "SOAK", "SOAK_S", "TEST_KAFKA", "TEST_SEED", "TOKEN"})
"""Variables with the prefix that are no settings."""


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"file {file}: not found; check the path given with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"file {file}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"file {file}: not valid TOML: {error}") from error


def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Types by the names used in files: ``windows.for`` is ``Windows.rules``, since ``for`` is a word of Python."""
    hints = get_type_hints(struct)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(struct)}


def known_keys() -> list[str]:
    """Every key, with dots."""
    keys = []
    for name, kind in _fields(Settings).items():
        if isinstance(kind, type) and issubclass(kind, Section):
            keys += [f"{name}.{inner}" for inner in _fields(kind)]
        else:
            keys.append(name)
    return keys


def _suggest(key: str) -> str:
    import difflib

    close = difflib.get_close_matches(key, known_keys(), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known_keys())}"


def _put(values: dict[str, Any], key: str, value: object, where: str) -> None:
    head, _, tail = key.partition(".")
    if key not in known_keys() and head != "kafka":
        raise ConfigError(f"{where}: no setting {key!r}{_suggest(key)}")
    if tail:
        values.setdefault(head, {})[tail] = value
    else:
        values[head] = value


def _parse(text: str, key: str) -> object:
    """An environment variable's text as TOML would read it; what is no TOML value is a string."""
    if key == "log" or key.startswith("kafka."):
        return text
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _validate(values: Mapping[str, Any], where: str) -> Settings:
    for name, table in values.items():
        kind = _fields(Settings).get(name)
        if kind is None:
            raise ConfigError(f"{where}: no setting {name!r}{_suggest(name)}")
        if isinstance(kind, type) and issubclass(kind, Section) and isinstance(table, dict):
            for inner in table:
                if inner not in _fields(kind):
                    raise ConfigError(
                        f"{where}: no setting {name + '.' + inner!r}{_suggest(f'{name}.{inner}')}"
                    )
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise ConfigError(f"{where}: {path.rstrip('`') or 'settings'}: {message}; mend the value") from error


def _check(settings: Settings) -> None:
    """What types cannot say."""
    rules = [
        (settings.topics.events >= 1, "topics.events must be at least 1"),
        (settings.topics.partials >= 1, "topics.partials must be at least 1"),
        (0 <= settings.ingest.linger_ms <= 20, "ingest.linger_ms must be from 0 to 20"),
        (0 < settings.combine.transaction_s <= 1, "combine.transaction_s must be above 0 and at most 1"),
        (
            settings.ingest.compression in ("lz4", "zstd", "none"),
            "ingest.compression must be lz4, zstd or none",
        ),
        (len(settings.ingest.user_key.encode()) <= 64, "ingest.user_key must have at most 64 bytes"),
        (
            min(settings.ingest.quota_events_per_s, settings.ingest.quota_bytes_per_s) >= 0,
            "ingest.quota_events_per_s and ingest.quota_bytes_per_s must not be negative; 0 means no bound",
        ),
        (0 < settings.ingest.tenant_share <= 1, "ingest.tenant_share must be above 0 and at most 1"),
        (
            min(settings.ingest.max_services, settings.ingest.max_names) >= 0 < settings.ingest.label_ttl_s,
            "ingest.max_services and ingest.max_names must not be negative, ingest.label_ttl_s must be above 0",
        ),
        (
            min(
                settings.ingest.body_timeout_s,
                settings.ingest.header_timeout_s,
                settings.ingest.idle_timeout_s,
            )
            > 0,
            "ingest.body_timeout_s, ingest.header_timeout_s and ingest.idle_timeout_s must be above 0",
        ),
        (1 <= settings.ingest.max_label_chars <= 256, "ingest.max_label_chars must be from 1 to 256"),
        (
            min(
                settings.ingest.max_id_chars,
                settings.ingest.max_attributes,
                settings.ingest.max_attribute_bytes,
            )
            >= 1,
            "ingest.max_id_chars, ingest.max_attributes and ingest.max_attribute_bytes must be at least 1",
        ),
        (settings.ingest.max_header_bytes >= 8 << 10, "ingest.max_header_bytes must be at least 8192"),
        (settings.ingest.max_connections >= 1, "ingest.max_connections must be at least 1"),
        (
            bool(settings.ingest.tls_certificate) == bool(settings.ingest.tls_key),
            "ingest.tls_certificate and ingest.tls_key belong together: give both or none",
        ),
        (
            bool(settings.ingest.tls_certificate) or not settings.ingest.tls_client_ca,
            "ingest.tls_client_ca needs ingest.tls_certificate and ingest.tls_key",
        ),
        (settings.ingest.tls_min_version in ("1.2", "1.3"), "ingest.tls_min_version must be 1.2 or 1.3"),
        (
            settings.ingest.access_log_format in ("text", "json"),
            "ingest.access_log_format must be text or json",
        ),
        (settings.time.out_of_orderness_s >= 0, "time.out_of_orderness_s must not be negative"),
        (settings.time.allowed_lateness_s >= 0, "time.allowed_lateness_s must not be negative"),
        *_window_rules("windows", settings.windows.tumbling_s, settings.windows.sliding_s),
        (
            settings.ml.step_s in settings.windows.tumbling_s,
            "ml.step_s must be one of windows.tumbling_s, the rows that ml reads",
        ),
        ("requests" in settings.windows.aggregates, "windows.aggregates must hold requests"),
        (settings.windows.max_groups >= 1, "windows.max_groups must be at least 1"),
        (
            sum(len(rule.services) for rule in settings.windows.rules) <= 2000,
            "windows.for has patterns of more than 2000 characters in all: use fewer rules",
        ),
        *_ml_rules(settings.ml),
        (settings.ml.alerts_per_day >= 0, "ml.alerts_per_day must not be negative; 0 tells nobody anything"),
        *_calendar_rules(settings.ml),
    ]
    for rule in settings.windows.rules:
        where = f"windows.for {rule.services!r}"
        rules += _window_rules(where, rule.tumbling_s, rule.sliding_s)
        forecastable = rule.tumbling_s is None or settings.ml.step_s in rule.tumbling_s
        rules.append(
            (
                forecastable or not rule.forecast,
                f"{where}: tumbling_s lacks ml.step_s ({settings.ml.step_s:g}), so these services could not be forecast: "
                "add it, or say forecast = false",
            )
        )
    for holds, message in rules:
        if not holds:
            raise ConfigError(f"settings: {message}")


def _ml_rules(ml: Ml) -> list[tuple[bool, str]]:
    """Steps up to 10 min, horizons up to 2 h, histories that hold one."""
    return [
        (
            0 < ml.step_s <= MOST_STEP_S,
            f"ml.step_s is {ml.step_s:g}: give a tumbling window of at most {MOST_STEP_S:g} s",
        ),
        (ml.horizon_steps >= 1, "ml.horizon_steps must be at least 1"),
        (
            ml.horizon_steps * ml.step_s <= MOST_HORIZON_S,
            f"ml.horizon_steps is {ml.horizon_steps}: with steps of {ml.step_s:g} s that is "
            f"{ml.horizon_steps * ml.step_s:g} s ahead, and forecasts reach {MOST_HORIZON_S:g} s; give at most "
            f"{int(MOST_HORIZON_S // max(ml.step_s, 1e-9))}",
        ),
        (
            ml.history_steps >= ml.horizon_steps,
            f"ml.history_steps ({ml.history_steps}) must be at least ml.horizon_steps ({ml.horizon_steps})",
        ),
        (ml.snapshot_s >= 0, "ml.snapshot_s must not be negative; 0 writes one with every transaction"),
    ]


def _calendar_rules(ml: Ml) -> list[tuple[bool, str]]:
    named = [("ml.zone", ml.zone, ml.country)]
    named += [(f"ml.calendars {one.services!r}", one.zone, one.country) for one in ml.calendars]
    for place, zone, country in named:
        try:
            calendars.zone(zone)
            if country:
                calendars.holidays_of(country)
        except UserError as error:
            return [(False, f"{place}: {error}")]
    found = [(place, calendars.problem(mute)) for place, mute in enumerate(ml.mutes())]
    names = [mute.name for mute in ml.muted]
    twice = sorted({name for name in names if names.count(name) > 1})
    return [
        (
            not ml.calendars or 3600 % ml.step_s == 0,
            f"ml.calendars needs steps that divide an hour; ml.step_s is {ml.step_s:g}",
        ),
        *((wrong is None, f"ml.muted[{place}] {names[place]!r}: {wrong}") for place, wrong in found),
        (not twice, f"ml.muted: two are called {', '.join(map(repr, twice))}; give each a name of its own"),
    ]


def _window_rules(
    where: str, tumbling_s: list[float] | None, sliding_s: list[list[float]] | None
) -> list[tuple[bool, str]]:
    return [
        (tumbling_s is None or all(s > 0 for s in tumbling_s), f"{where}.tumbling_s must be above 0"),
        (tumbling_s is None or bool(tumbling_s), f"{where}.tumbling_s must name at least one window"),
        (
            all(len(pair) == 2 and pair[0] >= pair[1] > 0 for pair in sliding_s or []),
            f"{where}.sliding_s must hold pairs [size, slide] with size >= slide > 0 (a longer slide would lose events)",
        ),
    ]
