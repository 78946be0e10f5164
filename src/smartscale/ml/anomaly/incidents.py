"""Alerts that belong together are one incident, with a class that control can act on.

::

    raised evidence ──▶ watch (per kind, with the band expected when it began) ──▶ confirmed ──▶ incident
                          │ value back inside the band for QUIET steps                            │
                          ▼                                                                       ▼
                        dropped ───────────── no confirmed watch is left ───────────────────▶ closed

The band of a watch is **frozen** when it begins, since the forecast soon follows a surge: an incident lasts as long as
the value is beyond what was expected before it, not for as long as the forecast is surprised. After ``LASTING``
steps the new level is the normal one: a lasting surge or drop is told once more, as a level shift, and closed.
When demand returns into the band that was expected before, that is no news either.

``step`` is pure: the track of one service, what was seen, and the step give the new track and what to tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import numpy as np
import xxhash

from smartscale.clock import span_text
from smartscale.ml.anomaly.calibration import probability
from smartscale.ml.anomaly.evidence import (
    COMBINED,
    CREEP,
    DROP,
    ERRORS,
    GAUGE,
    LATENCY,
    MEDIAN,
    RULES,
    SURGE,
    ZERO,
    total,
)
from smartscale.records.forecasts import DATA_GAP, DEMAND_SURGE, FAULT, LEVEL_SHIFT, Incident

QUIET: Final = 3
"""Steps inside the band that end a watch: 30 s of 10 s, so that one calm step does not split an incident."""
LASTING: Final = {
    SURGE: 30,
    DROP: 30,
    **dict.fromkeys((ZERO, ERRORS, LATENCY, MEDIAN, CREEP, GAUGE, COMBINED), 360),
}
"""Steps after which what lasts is the new normal: a level after 5 minutes of 10 s, an outage after an hour."""
BACK: Final = 0.1
"""Of its largest change, what may be left of a gauge's when it is calm again."""
SETTLED: Final = 0.5
"""Of its largest change, what must be left for a lasting change of demand to be a new level, not a crowd going home."""
AFTERMATH: Final = 30
"""Steps for which demand may return to what it was before an incident, and overload may outlast its surge."""
WORSE: Final = 0.2
"""Change of severity that is told while an incident is open."""
JOINED: Final = 3
"""Steps within which a surge turns a fault told before it into its consequence."""


class Sight(NamedTuple):
    """One kind of one service at one step: what was seen, what was expected before, and whether it is raised."""

    kind: str
    seen: float
    expected: float
    low: float
    high: float
    effect: float
    raised: bool
    strength: float = 0.0
    """Of the evidence, see ``calibration``."""
    name: str = ""
    """Of the gauge."""


class Watch(msgspec.Struct, frozen=True):
    """A kind of evidence that began at step ``since``, beyond the band [low, high] expected then."""

    kind: str
    since: int
    expected: float
    low: float
    high: float
    last: int
    beyond: int
    """Steps seen beyond the band."""
    worst: float
    confirmed: bool
    strength: float = 0.0
    """Of all evidence together, at its strongest while beyond the band."""
    name: str = ""


class Open(msgspec.Struct, frozen=True):
    """The open incident of a service, as last told, and everything confirmed since it began: of each kind the worst."""

    told: Incident
    since: int
    signs: tuple[Watch, ...] = ()


class Track(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of one service between steps. The default is a calm service without a past."""

    watches: tuple[Watch, ...] = ()
    open: Open | None = None
    calm_low: float = 0.0
    calm_high: float = 0.0
    calm_until: int = -1
    """The band of demand expected before the last incident, valid until this step."""
    surge_until: int = -1
    """Until here, overload is the aftermath of a surge."""

    @property
    def is_calm(self) -> bool:
        return not self.watches and self.open is None


class Service(NamedTuple):
    """Whose step it is, what its demand is called, and whether demand has risen over the last minutes."""

    tenant: str
    service: str
    demand: str
    demand_rose: bool


_DEMAND: Final = (SURGE, DROP, ZERO)
_CLASS_OF: Final = {
    ZERO: DATA_GAP,
    SURGE: DEMAND_SURGE,
    ERRORS: FAULT,
    LATENCY: FAULT,
    MEDIAN: FAULT,
    CREEP: FAULT,
    GAUGE: FAULT,
    COMBINED: FAULT,
    DROP: LEVEL_SHIFT,
}
"""Most telling first: the first confirmed kind names the class."""


def step(
    track: Track, service: Service, sights: list[Sight], now: int, step_us: int
) -> tuple[Track, Incident | None]:
    """The track after step number ``now`` (ending at ``now * step_us``), and the next record of its incident, if any.

    ``sights`` holds every kind whose value is known; a kind left out (nothing to measure) counts as calm. Whether people
    are told is not decided here but in ``feedback``."""
    by_kind = {sight.kind: sight for sight in sights}
    strength = strength_of(track, service, sights, now)
    watches = [_follow(w, by_kind[w.kind], now, strength) if w.kind in by_kind else w for w in track.watches]
    watches = _silence_is_more_than_a_drop(watches, by_kind)
    watched = {watch.kind for watch in watches}
    watches += [
        _begin(s, now, strength)
        for s in sights
        if s.raised and s.kind not in watched and not _expected(s, track, now, service)
    ]
    ended = [w for w in watches if now - w.last >= QUIET]
    lasting = [w for w in watches if w.confirmed and _is_lasting(w, by_kind, now)]
    alive = [w for w in watches if w not in ended and w not in lasting]
    signs = _signs(track, [*alive, *ended, *lasting])
    storm = _is_storm(alive, by_kind)
    told = _tell(track, service, alive, ended, lasting, signs, now, step_us, storm)
    still = told or (track.open.told if track.open else None)
    since = track.open.since if track.open else now
    opened = Open(still, since, signs) if still and still.end_us is None else None
    low, high = (
        _calm_band(track, alive, by_kind) if opened and not track.open else (track.calm_low, track.calm_high)
    )
    shifted = told is not None and told.class_ == LEVEL_SHIFT and told.end_us is not None
    surged = any(w.kind == SURGE and w.confirmed for w in (*alive, *ended))
    return (
        Track(
            watches=tuple(alive),
            open=opened,
            calm_low=low,
            calm_high=high,
            calm_until=now if shifted else now + AFTERMATH if opened else track.calm_until,
            surge_until=now + AFTERMATH if surged else track.surge_until,
        ),
        told,
    )


def as_told(track: Track, incident: Incident) -> Track:
    """The track of a service whose open incident is known to people as ``incident`` from now on."""
    assert track.open is not None
    return msgspec.structs.replace(track, open=msgspec.structs.replace(track.open, told=incident))


def strength_of(track: Track, service: Service, sights: Iterable[Sight], now: int) -> float:
    """Of all evidence of a step, without that of demand that returns to what it was."""
    fresh = {s.kind: np.array(0.0 if _expected(s, track, now, service) else s.strength) for s in sights}
    return float(total(fresh)) if fresh else 0.0


def strength_at(track: Track, service: Service, sights: Iterable[Sight], now: int) -> float:
    """The same, once ``track`` has taken the step: what is still beyond the band of a watch is as strange as it was at
    its strangest, however used to it the models have become."""
    lasting = [w.strength for w in track.watches if w.last == now]
    return max([strength_of(track, service, sights, now), *lasting])


def is_new_normal(told: Incident) -> bool:
    """Whether errors or latency have to be learned anew. Demand is by its forecast, in any case."""
    return told.class_ == LEVEL_SHIFT and told.end_us is not None and not told.kinds.keys() & set(_DEMAND)


def _silence_is_more_than_a_drop(watches: list[Watch], by_kind: dict[str, Sight]) -> list[Watch]:
    """A drop that goes on to nothing at all is a gap, by the band from before the drop."""
    silent = DROP in by_kind and by_kind[DROP].seen == 0 and all(w.kind != ZERO for w in watches)
    return [
        msgspec.structs.replace(w, kind=ZERO, confirmed=True)
        if silent and w.kind == DROP and w.low > 0
        else w
        for w in watches
    ]


def _is_lasting(watch: Watch, by_kind: dict[str, Sight], now: int) -> bool:
    """Whether a watch is old enough to be the new normal. Demand that is on its way back is not, for a while."""
    age = now - watch.since
    if watch.kind not in (SURGE, DROP) or watch.kind not in by_kind or age >= 4 * LASTING[watch.kind]:
        return age >= LASTING[watch.kind]
    there = abs(by_kind[watch.kind].seen - watch.expected) >= SETTLED * abs(watch.worst - watch.expected)
    return age >= LASTING[watch.kind] and there


def _is_storm(watches: list[Watch], by_kind: dict[str, Sight]) -> bool:
    """Whether failures that are tried again explain the demand: without what failed, it is as usual.

    With a failing share p and r retries, arrivals multiply by 1 + p + ... + p^r <= 1 / (1 - p): the share that
    succeeds is at most the demand there was. A surge that overloads a service leaves more successes than usual."""
    surge = next((w for w in watches if w.kind == SURGE), None)
    failing = any(w.kind == ERRORS for w in watches)
    if surge is None or not failing or ERRORS not in by_kind or SURGE not in by_kind:
        return False
    demand, share = by_kind[SURGE].seen, by_kind[ERRORS].seen
    usual = max(surge.high, RULES[SURGE].effect * surge.expected)
    return demand > surge.high and demand * (1 - share) <= usual


def _calm_band(track: Track, alive: list[Watch], by_kind: dict[str, Sight]) -> tuple[float, float]:
    """What demand was expected to be before the incident that opens now."""
    before = next((w for w in alive if w.kind in _DEMAND), by_kind.get(SURGE))
    return (before.low, before.high) if before else (track.calm_low, track.calm_high)


def _begin(sight: Sight, now: int, strength: float) -> Watch:
    rule = RULES[sight.kind]
    return Watch(
        kind=sight.kind,
        since=now,
        expected=sight.expected,
        low=sight.low,
        high=sight.high,
        last=now,
        beyond=1,
        worst=sight.seen,
        confirmed=rule.steps <= 1 or sight.effect >= rule.strong,
        strength=strength,
        name=sight.name,
    )


def _follow(watch: Watch, sight: Sight, now: int, strength: float) -> Watch:
    """The watch after one more value, judged by its own frozen band."""
    rule = RULES[watch.kind]
    if watch.kind == ZERO:
        beyond, worst = sight.seen <= watch.low / 2, min(watch.worst, sight.seen)
    elif watch.kind == DROP:
        beyond, worst = sight.seen < watch.low, min(watch.worst, sight.seen)
    else:
        beyond, worst = sight.seen > watch.high, max(watch.worst, sight.seen)
    if watch.kind == GAUGE:  # near nothing, as of a queue, any band is too narrow to come back into
        beyond &= sight.seen - watch.expected > BACK * (watch.worst - watch.expected)
    if not beyond:
        return watch
    count = watch.beyond + 1
    strong = sight.raised and sight.effect >= rule.strong
    return msgspec.structs.replace(
        watch,
        last=now,
        beyond=count,
        worst=worst,
        confirmed=watch.confirmed or strong or count >= rule.steps,
        strength=max(watch.strength, strength),
    )


def _expected(sight: Sight, track: Track, now: int, service: Service) -> bool:
    """Demand that returns to what it was before the last incident, give or take what a rule calls an effect, is
    no new one. Gauges follow demand, and so do combinations with them."""
    if sight.kind in (GAUGE, COMBINED):
        return service.demand_rose or now <= track.calm_until
    watch = next((w for w in track.watches if w.kind in _DEMAND), None)
    if now <= track.calm_until:
        low, high = track.calm_low, track.calm_high
    elif watch is not None:
        low, high = watch.low, watch.high
    else:
        return False
    if sight.kind == SURGE:
        return sight.seen <= high * RULES[SURGE].effect
    return sight.kind == DROP and sight.seen >= low / RULES[DROP].effect


def _signs(track: Track, watches: list[Watch]) -> tuple[Watch, ...]:
    """Of each kind confirmed since the incident began the worst, the most telling kind first."""
    worst = {w.kind: w for w in track.open.signs} if track.open else {}
    for watch in watches:
        known = worst.get(watch.kind)
        if watch.confirmed and (known is None or _severity(watch) >= _severity(known)):
            worst[watch.kind] = watch
    return tuple(sorted(worst.values(), key=lambda w: list(_CLASS_OF).index(w.kind)))


def _tell(
    track: Track,
    service: Service,
    alive: list[Watch],
    ended: list[Watch],
    lasting: list[Watch],
    signs: tuple[Watch, ...],
    now: int,
    step_us: int,
    storm: bool,
) -> Incident | None:
    confirmed = [w for w in alive if w.confirmed]
    end_us = now * step_us
    if confirmed:
        return _open_or_update(track, service, confirmed, signs, end_us, now, step_us, storm)
    if track.open is None:
        return None
    before = track.open.told
    shift = next((w for w in lasting if w.kind != ZERO), None)
    if shift is not None:
        incident = _describe(service, (shift,), LEVEL_SHIFT, before.start_us, end_us, step_us)
        text = f"{incident.text}: taken as the new level"
        return _keep(before, msgspec.structs.replace(incident, text=text), end_us)
    last = max((w.last for w in (*lasting, *ended) if w.confirmed), default=now)
    incident = _describe(service, signs, before.class_, before.start_us, end_us, step_us)
    return _keep(before, incident, last * step_us)


def _open_or_update(
    track: Track,
    service: Service,
    confirmed: list[Watch],
    signs: tuple[Watch, ...],
    end_us: int,
    now: int,
    step_us: int,
    storm: bool,
) -> Incident | None:
    class_ = _class(track, service, confirmed, now, storm)
    if track.open is None:
        start_us = (min(w.since for w in confirmed) - 1) * step_us
        return _describe(service, signs, class_, start_us, end_us, step_us)
    before = track.open.told
    class_ = class_ if _may_become(before.class_, class_, now - track.open.since) else before.class_
    incident = _keep(before, _describe(service, signs, class_, before.start_us, end_us, step_us), None)
    changed = incident.class_ != before.class_ or incident.severity >= before.severity + WORSE
    return incident if changed else None


def _class(track: Track, service: Service, confirmed: list[Watch], now: int, storm: bool) -> str:
    kinds = {w.kind for w in confirmed}
    if storm and ZERO not in kinds:
        return FAULT
    found = next(class_ for kind, class_ in _CLASS_OF.items() if kind in kinds)
    # Overload follows demand: slow answers while demand has risen, or just after a surge, are its consequence.
    overload = kinds & _SLOW and (service.demand_rose or now <= track.surge_until)
    return DEMAND_SURGE if found == FAULT and overload else found


_SLOW: Final = {LATENCY, MEDIAN, CREEP}


def _may_become(before: str, after: str, age: int) -> bool:
    """Which changes of class are told: of an incident so young that what is behind it had not shown yet (a surge
    behind slow answers, failures behind retries), and silence."""
    if {before, after} == {FAULT, DEMAND_SURGE}:
        return age <= JOINED
    return after == DATA_GAP or before == LEVEL_SHIFT


def _keep(before: Incident, now: Incident, end_us: int | None) -> Incident:
    """``now`` as the next record of the incident ``before``."""
    return msgspec.structs.replace(
        now,
        id=before.id,
        notify=before.notify,
        silenced=before.silenced,
        end_us=end_us,
        severity=max(before.severity, now.severity),
    )


def _describe(
    service: Service, signs: tuple[Watch, ...], class_: str, start_us: int, now_us: int, step_us: int
) -> Incident:
    """An incident with these signs, at least one, the most telling first."""
    # The class's own kind first: retries of failures are more demand, but the failures are the news.
    signs = tuple(sorted(signs, key=lambda w: _CLASS_OF[w.kind] != class_))
    main = signs[0]
    label = f"{service.tenant}\x1f{service.service}\x1f{start_us}"
    return Incident(
        id=f"inc-{xxhash.xxh3_64_hexdigest(label.encode())[:12]}",
        tenant=service.tenant,
        service=service.service,
        class_=class_,
        start_us=start_us,
        end_us=None,
        updated_us=now_us,
        severity=max(_severity(w) for w in signs),
        metric=main.name or _METRIC.get(main.kind, service.demand),
        low=main.low,
        high=main.high,
        seen=main.worst,
        text="; ".join(_sentence(w, service.demand, step_us) for w in signs),
        expected=main.expected,
        kinds={w.kind: round(min(effect(w), MOST), 3) for w in signs},
        probability=round(float(probability(np.array(max(w.strength for w in signs)))), 4),
    )


_METRIC: Final = {
    ERRORS: "error_rate",
    LATENCY: "latency_p99_ms",
    MEDIAN: "latency_p50_ms",
    CREEP: "latency_p50_ms",
    COMBINED: "isolation",
}
MOST: Final = 1e6
"""Effects are told up to here: JSON has no infinity."""


def effect(watch: Watch) -> float:
    """How many times the expected value the worst one is (of a drop: is of it), of errors the points above; in the unit of
    ``evidence.RULES``."""
    worst, usual = watch.worst, watch.expected
    match watch.kind:
        case "drop":
            return usual / max(worst, 1e-9)
        case "zero":
            return 1.0
        case "errors":
            return worst - usual
        case _:
            return worst / max(usual, 1e-9)


def _severity(watch: Watch) -> float:
    """Share of the service that is concerned at worst, from 0.05 to 1; see ``records.forecasts.Incident``."""
    worst, usual = watch.worst, watch.expected
    part = {
        SURGE: 1 - usual / max(worst, 1e-9),
        **dict.fromkeys((*_SLOW, GAUGE, COMBINED), 1 - usual / max(worst, 1e-9)),
        DROP: 1 - worst / max(usual, 1e-9),
        ZERO: 1.0,
        ERRORS: 2 * (worst - usual),
    }[watch.kind]
    return round(min(1.0, max(0.05, part)), 3)


def _sentence(watch: Watch, demand: str, step_us: int) -> str:
    """What was seen at worst, what was expected, and for how long, with units."""
    lasted = span_text((watch.last - watch.since + 1) * step_us)
    if watch.kind == ERRORS:
        seen, usual = f"error rate {_percent(watch.worst)}", _percent(watch.expected)
        return f"{seen} for {lasted}, usually {usual} (up to {_percent(watch.high)})"
    if watch.kind == GAUGE:
        seen, usual = f"{watch.name} {_amount(watch.worst)}", _amount(watch.expected)
        return f"{seen} for {lasted}, lately {usual} (up to {_amount(watch.high)})"
    if watch.kind == COMBINED:
        return f"rate, errors, latency and gauges do not belong together for {lasted}"
    if watch.kind in _SLOW:
        level = "p99" if watch.kind == LATENCY else "median"
        seen, usual = f"{level} latency {_amount(watch.worst)} ms", _amount(watch.expected)
        seen = f"{seen}, creeping up," if watch.kind == CREEP else seen
        return f"{seen} for {lasted}, usually {usual} ms (up to {_amount(watch.high)})"
    seen = f"{demand} {_amount(watch.worst)} /s" if watch.worst > 0 else f"no {demand}"
    band = f"{_amount(watch.low)} to {_amount(watch.high)}"
    return f"{seen} for {lasted}, expected {_amount(watch.expected)} /s ({band})"


def _amount(value: float) -> str:
    """Three digits, whole numbers from a thousand on.

    >>> [_amount(x) for x in (0.04567, 23.12, 300.0, 12345.6)]
    ['0.0457', '23.1', '300', '12,346']
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
