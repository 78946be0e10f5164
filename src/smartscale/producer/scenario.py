"""Scenarios: a YAML file that says which services get which load, how they answer, and what goes wrong when.

``docs/scenarios.md`` explains every field, ``examples/scenarios`` has files to start from, and ``smartscale scenario
schema`` prints the JSON Schema. The same file and seed always give the same events.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smartscale import yaml_file
from smartscale.clock import MICROS
from smartscale.errors import ConfigError
from smartscale.producer import parts, rates
from smartscale.producer.faults import AnyFault, FlashCrowd
from smartscale.producer.load import Load, sources
from smartscale.producer.parts import Part, Seconds
from smartscale.producer.rates import RateCurve
from smartscale.producer.services import Service
from smartscale.producer.shapes import Curve, Shape

MONDAY: Final = datetime(2026, 1, 5, tzinfo=UTC)
"""Where a scenario without a start begins: a Monday, at midnight."""


class Scenario(Part, frozen=True):
    """A scenario file as it is written.

    ``start`` says what time of which day it is at the beginning, for diurnal and weekly shapes; events are dated so, unless
    the load is moved to now. A fault concerns the ``services`` it names, or all."""

    duration: Seconds
    services: Annotated[tuple[Service, ...], Meta(min_length=1)]
    about: str = ""
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 1
    start: Annotated[datetime, Meta(tz=True)] = MONDAY
    shapes: tuple[Shape, ...] = ()
    faults: tuple[AnyFault, ...] = ()


def read(path: Path, seed: int | None = None) -> Load:
    """The load of a scenario file, with the CSV files it names; drawn from another ``seed`` if that is given.

    Raises ``ConfigError`` naming file, line, field and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"file {path}: not found; check the path given with --scenario") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"file {path}: cannot be read: {error}") from error
    scenario = parse(text, f"file {path}")
    if seed is not None:
        scenario = msgspec.structs.replace(scenario, seed=seed)
    named = [*scenario.shapes, *(shape for service in scenario.services for shape in service.shapes)]
    curves = {
        shape: rates.from_csv(path.parent / shape.file, 1.0, shape.column)
        for shape in named
        if isinstance(shape, Curve)
    }
    return compiled(scenario, curves)


def parse(text: str, where: str = "scenario") -> Scenario:
    """The scenario of a file's text; ``where`` starts every error message."""
    scenario = yaml_file.parse(text, Scenario, where, "see `smartscale scenario schema`", parts.decode)
    problem = next(iter(_problems(scenario)), None)
    if problem is not None:
        field, message = problem
        raise ConfigError(f"{where}, line {yaml_file.line(text, field)}, {field}: {message}")
    return scenario


def compiled(scenario: Scenario, curves: dict[Curve, RateCurve] | None = None) -> Load:
    """The load of a scenario; ``curves`` has the rates of each curve shape in it."""
    curves = curves or {}
    start_us = round(scenario.start.timestamp() * MICROS)
    return Load(
        sources(scenario.services, scenario.shapes, scenario.faults, start_us, scenario.seed, curves),
        scenario.faults,
        start_us,
        float(scenario.duration),
        scenario.seed,
        _digest(scenario, curves),
        scenario.about,
    )


def load_of(text: str) -> Load:
    """The load of a scenario's text, without files: for tests and experiments."""
    return compiled(parse(text))


def schema() -> dict[str, Any]:
    """The JSON Schema of scenario files."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "SmartScale scenario",
        **msgspec.json.schema(Scenario, schema_hook=parts.schema),
    }


def _digest(scenario: Scenario, curves: dict[Curve, RateCurve]) -> str:
    """SHA-256 of the scenario's meaning: comments and order of fields do not count, the curves do."""
    told = msgspec.json.encode(scenario, enc_hook=parts.encode, order="deterministic")
    digest = hashlib.sha256(told)
    for curve in sorted(curves, key=lambda shape: (shape.file, shape.column)):
        digest.update(curves[curve].rates.tobytes())
    return digest.hexdigest()


def _problems(scenario: Scenario) -> list[tuple[str, str]]:
    """What types cannot say: field and what to do about it."""
    if not scenario.duration > 0:
        return [("duration", "a load must last longer than 0 s")]
    problems: list[tuple[str, str]] = []
    names: set[str] = set()
    for index, service in enumerate(scenario.services):
        at = f"services[{index}]"
        problems += [(f"{at}.{field}", message) for field, message in _service_problems(service)]
        own = {service.name.replace("{n}", str(n)) for n in range(1, service.count + 1)}
        problems += [
            (f"{at}.name", f"{name!r} is there twice; give each service one entry")
            for name in sorted(own & names)
        ]
        names |= own
    places = [("shapes", scenario.shapes)]
    places += [(f"services[{n}].shapes", service.shapes) for n, service in enumerate(scenario.services)]
    for place, shapes in places:
        for index, shape in enumerate(shapes):
            for name in ("period", "decay", "duration"):
                if getattr(shape, name, 1.0) <= 0:
                    problems.append((f"{place}[{index}].{name}", "must be longer than 0 s"))
    for index, fault in enumerate(scenario.faults):
        unknown = [name for name in fault.services if name not in names]
        if unknown:
            known = ", ".join(sorted(names)[:10])
            problems.append((f"faults[{index}].services", f"no service {unknown[0]!r}; known: {known}"))
        found = _fault_problems(fault, scenario.duration)
        problems += [(f"faults[{index}].{field}", message) for field, message in found]
    return problems


def _service_problems(service: Service) -> list[tuple[str, str]]:
    problems = []
    if (service.count > 1) != ("{n}" in service.name):
        problems.append(("name", "write {n} for the number in the name of services with a count above 1"))
    if service.metrics is not None and service.capacity is None:
        problems.append(("metrics", "they follow the load: give the service a capacity"))
    if service.metrics is not None and service.metrics.interval <= 0:
        problems.append(("metrics.interval", "must be longer than 0 s"))
    if service.overload is not None and service.capacity is None:
        problems.append(("overload", "give the service a capacity, of which the load is a share"))
    if service.overload is not None and service.overload.full <= service.overload.start:
        problems.append(("overload.full", "must be greater than start"))
    return problems


def _fault_problems(fault: AnyFault, duration_s: float) -> list[tuple[str, str]]:
    problems = []
    if fault.start >= duration_s:
        message = "is not before the end of the load; start it earlier or lengthen the load"
        problems.append(("start", message))
    if fault.duration is not None and fault.duration <= 0:
        problems.append(("duration", "must be longer than 0 s"))
    elif isinstance(fault, FlashCrowd) and fault.duration is None:
        problems.append(("duration", "is missing; say when the crowd is gone"))
    elif isinstance(fault, FlashCrowd) and fault.rise >= fault.end_s - fault.start:
        problems.append(("rise", "must be shorter than the fault"))
    return problems
