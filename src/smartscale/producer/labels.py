"""The truth of a load: what was really going on, to score detectors, forecasts and the generator itself with.

``truth`` is a pure function of the load. As a file it is one JSON object, ``Labels``, whose JSON Schema ``smartscale
scenario schema --labels`` prints.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from smartscale.clock import MICROS
from smartscale.producer import faults
from smartscale.producer.load import Load, Source
from smartscale.producer.rates import Rates

VERSION: Final = 1
_SAMPLES: Final = 10
"""Instants of a step that are averaged."""


class TrueFault(msgspec.Struct, frozen=True):
    """A fault of one service over world time ``[start_us, end_us)``, cut at the load's end.

    ``class`` is what a detector should call it: demand-surge, fault, data-gap, level-shift, or none for what must not be
    told. ``size`` is in the unit of its kind; None: it has none. A permanent fault ends with the load."""

    service: str
    kind: str
    start_us: int
    end_us: int
    size: float | None
    class_: str = msgspec.field(name="class")


class TrueService(msgspec.Struct, frozen=True):
    """The expected values of one service, a list entry a step.

    ``rate_per_s``: requests that arrive a second; ``demand_per_s``: those of them that are no retries; ``error_rate``: the
    share that fails; ``latency_p50_ms`` and ``latency_p99_ms`` over all routes. A rate of 0 is a true silence. What the
    sender hides (a data gap, late or repeated events, a wrong clock) does not change the truth."""

    service: str
    rate_per_s: list[float]
    demand_per_s: list[float]
    error_rate: list[float]
    latency_p50_ms: list[float]
    latency_p99_ms: list[float]


class Labels(msgspec.Struct, frozen=True):
    """The truth of a run. Step i of each service is ``[start_us + i * step_s, start_us + (i + 1) * step_s)``; the last one
    may reach beyond ``end_us``. ``scenario`` is the SHA-256 of the scenario, ``seed`` included in it."""

    version: int
    scenario: str
    about: str
    seed: int
    start_us: int
    end_us: int
    step_s: float
    services: list[TrueService]
    faults: list[TrueFault]


def truth(load: Load, step_s: float = 10.0) -> Labels:
    """What is true of each service in each step. The cost is that of 10 instants a step and service."""
    return Labels(
        VERSION,
        load.digest,
        load.about,
        load.seed,
        load.start_us,
        load.end_us,
        step_s,
        [_service(source, load, step_s) for source in load.sources],
        true_faults(load),
    )


def true_faults(load: Load) -> list[TrueFault]:
    """Every fault of every service it concerns, in the order of their starts; none that the load ends before."""
    found = [
        TrueFault(
            source.name,
            faults.kind(fault),
            load.start_us + round(fault.start * MICROS),
            load.start_us + round(min(fault.end_s, load.duration_s) * MICROS),
            faults.size(fault),
            faults.CLASSES[type(fault)],
        )
        for source in load.sources
        for fault in source.faults
        if fault.start < load.duration_s
    ]
    return sorted(found, key=lambda fault: (fault.start_us, fault.service))


def steps_of(load: Load, step_s: float) -> int:
    """How many steps a load has; the last may reach beyond its end."""
    return max(1, int(np.ceil(load.duration_s / step_s - 1e-9)))


def _service(source: Source, load: Load, step_s: float) -> TrueService:
    steps = steps_of(load, step_s)
    instants = (np.arange(steps * _SAMPLES, dtype=np.float64) + 0.5) * (step_s / _SAMPLES)
    course = source.course(instants)
    inside = instants < load.duration_s
    rate, failing = course.rate * inside, source.failing(course)
    level = (
        course.load.reshape(steps, _SAMPLES).mean(axis=1),
        course.stretch.reshape(steps, _SAMPLES).mean(axis=1),
    )

    def latency_ms(share: float) -> list[float]:
        return _told(source.quantiles.at(np.full(steps, share), level[0]) * level[1])

    return TrueService(
        source.name,
        _told(_mean(rate)),
        _told(_mean(course.demand * inside)),
        _told(_mean(failing * rate) / np.maximum(_mean(rate), 1e-12)),
        latency_ms(0.5),
        latency_ms(0.99),
    )


def _mean(values: Rates) -> Rates:
    """Of each step."""
    means: Rates = values.reshape(-1, _SAMPLES).mean(axis=1)
    return means


def _told(values: Rates) -> list[float]:
    """Rounded, so that files stay small."""
    told: list[float] = np.round(values, 4).tolist()
    return told


def write(path: Path, labels: Labels) -> None:
    """Write the file: whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(msgspec.json.encode(labels) + b"\n")
    os.replace(part, path)


def read(path: Path) -> Labels:
    """The labels of a file. Raises msgspec.ValidationError if it holds none, OSError if it cannot be read."""
    return msgspec.json.decode(path.read_bytes(), type=Labels)


def schema() -> dict[str, Any]:
    """The JSON Schema of labels files."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "SmartScale labels",
        **msgspec.json.schema(Labels),
    }
