"""Load profiles: a TOML file that says which services get how much load, and which faults happen when.

``examples/load.toml`` shows every field. The rate of the load is the **sum of its phases**, shared among the services
by weight; faults are the ground truth that detectors are judged by.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from smartscale.clock import MICROS
from smartscale.errors import ConfigError
from smartscale.producer.rates import RateCurve, Rates

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the profile."""


class Latency(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Log-normal: the usual shape of response times. ``sigma`` is the standard deviation of the logarithm."""

    median_ms: _Positive = 20.0
    sigma: _NotNegative = 0.5


class Route(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: _Name
    weight: _Positive = 1.0
    latency: Latency | None = None
    """None: the service's."""


class Service(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: _Name
    weight: _Positive = 1.0
    """Share of the load, relative to the other services."""
    error_rate: _Share = 0.001
    latency: Latency = Latency()
    routes: Annotated[list[Route], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [Route(name="GET /")]
    )


class Constant(
    Table, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="constant"
):
    per_s: _NotNegative
    start_s: _NotNegative = 0.0
    duration_s: _Positive = math.inf


class Step(Table, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="step"):
    """From ``start_s`` to the end of the load ``per_s`` more (less, if negative)."""

    per_s: float
    start_s: _NotNegative


class Ramp(Table, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="ramp"):
    """A straight line from ``from_per_s`` to ``to_per_s``."""

    from_per_s: float = 0.0
    to_per_s: float
    start_s: _NotNegative = 0.0
    duration_s: _Positive


class Burst(Table, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="burst"):
    """Half a sine wave on top: up to ``peak_per_s`` more in the middle."""

    peak_per_s: _NotNegative
    start_s: _NotNegative
    duration_s: _Positive


class Sine(Table, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="sine"):
    """A wave around 0, to be added to a constant: ``amplitude_per_s * sin(2 pi (t - start_s) / period_s)``."""

    amplitude_per_s: _NotNegative
    period_s: _Positive
    start_s: _NotNegative = 0.0
    duration_s: _Positive = math.inf


Phase = Constant | Step | Ramp | Burst | Sine

FaultKind = Literal["error_spike", "latency_step", "drop_to_zero", "surge"]


class Fault(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that goes wrong on purpose, over ``[start_s, start_s + duration_s)`` of the load.

    ``size``: for ``error_spike`` the probability that a request fails, for ``latency_step`` the factor on latency,
    for ``surge`` the factor on the service's rate; ``drop_to_zero`` has none."""

    service: _Name
    kind: FaultKind
    start_s: _NotNegative
    duration_s: _Positive
    size: _NotNegative = 0.5

    def active_at(self, since_start_s: float) -> bool:
        """Whether it is in effect this many seconds after the load's start."""
        return self.start_s <= since_start_s < self.start_s + self.duration_s


class Profile(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A profile file as it is written."""

    duration_s: _Positive
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 1
    services: Annotated[list[Service], msgspec.Meta(min_length=1)]
    phases: Annotated[list[Phase], msgspec.Meta(min_length=1)]
    faults: list[Fault] = []


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be produced: a rate shared among services, and the faults that are part of it."""

    base: RateCurve
    """Requests a second over all services, before faults."""
    services: Sequence[Service]
    faults: Sequence[Fault] = ()
    seed: int = 1

    @property
    def start_us(self) -> int:
        return self.base.start_us

    @property
    def end_us(self) -> int:
        return self.base.end_us

    def starting_at(self, start_us: int) -> Load:
        """The same load, moved in world time (a profile's own start is 0)."""
        return replace(self, base=self.base.starting_at(start_us))

    def curve(self, service: str) -> RateCurve:
        """The rate of one service: its share of the base, times its surges, 0 where it drops to zero."""
        weights = {each.name: each.weight for each in self.services}
        rates = self.base.rates * (weights[service] / sum(weights.values()))
        since_s = (np.arange(len(rates)) + 0.5) * self.base.interval_us / MICROS
        for fault in self.faults:
            if fault.service == service and fault.kind in ("surge", "drop_to_zero"):
                factor = fault.size if fault.kind == "surge" else 0.0
                active = (since_s >= fault.start_s) & (since_s < fault.start_s + fault.duration_s)
                rates = np.where(active, rates * factor, rates)
        return RateCurve(self.base.start_us, self.base.interval_us, rates)


def read(path: Path) -> Load:
    """The load of a profile file, starting at world time 0. Raises ``ConfigError`` naming file, key and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"file {path}: not found; check the path given with --profile") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"file {path}: cannot be read: {error}") from error
    return parse(text, f"file {path}")


def parse(text: str, where: str = "profile") -> Load:
    """As ``read``, for the text itself; ``where`` starts every error message."""
    try:
        profile = msgspec.convert(tomllib.loads(text), Profile)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        message, _, key = str(error).partition(" - at `$")
        raise ConfigError(
            f"{where}: {key.strip('.`') or 'top level'}: {message}; see examples/load.toml for every field"
        ) from error
    _check(profile, where)
    base = RateCurve.sampled(lambda seconds: _rate(profile, seconds), profile.duration_s)
    return Load(base, profile.services, profile.faults, profile.seed)


def _check(profile: Profile, where: str) -> None:
    """What types cannot say."""
    names = [service.name for service in profile.services]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(
                f"{where}: services[{index}].name: {name!r} is there twice; give each service one table"
            )
    for index, phase in enumerate(profile.phases):
        if phase.start_s >= profile.duration_s:
            raise ConfigError(
                f"{where}: phases[{index}].start_s: {phase.start_s:g} is not before the end of the load "
                f"(duration_s = {profile.duration_s:g}); start it earlier or lengthen the load"
            )
    for index, fault in enumerate(profile.faults):
        if fault.service not in names:
            raise ConfigError(
                f"{where}: faults[{index}].service: no service {fault.service!r}; known: {', '.join(names)}"
            )
        if fault.kind == "error_spike" and fault.size > 1:
            raise ConfigError(
                f"{where}: faults[{index}].size: {fault.size:g} is no probability; "
                "an error_spike takes one from 0 to 1"
            )


def _rate(profile: Profile, seconds: Rates) -> Rates:
    return sum((_phase_rate(phase, seconds) for phase in profile.phases), np.zeros_like(seconds))


def _phase_rate(phase: Phase, seconds: Rates) -> Rates:
    since = seconds - phase.start_s
    length = math.inf if isinstance(phase, Step) else phase.duration_s
    match phase:
        case Constant() | Step():
            rate = np.full_like(since, phase.per_s)
        case Ramp():
            rate = phase.from_per_s + (phase.to_per_s - phase.from_per_s) * since / phase.duration_s
        case Burst():
            rate = phase.peak_per_s * np.sin(math.pi * since / phase.duration_s)
        case Sine():
            rate = phase.amplitude_per_s * np.sin(2 * math.pi * since / phase.period_s)
    return np.where((since >= 0) & (since < length), rate, 0.0)
