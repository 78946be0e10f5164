"""What is to be sent, as a value that any process can open; and one process's share of it.

Every worker opens the same files and plans the same load, and sends only what is its own: so the whole is the same however
many there are.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from msgspec import structs

from smartscale.client.address import Token
from smartscale.clock import Anchor, Clock, ScaledClock, WallClock
from smartscale.errors import UserError
from smartscale.producer import scenario as scenarios
from smartscale.producer.chunk import Chunk
from smartscale.producer.load import Load, Source
from smartscale.producer.plan import planned
from smartscale.producer.player import Options, Progress, Reference, play
from smartscale.producer.replay import Recording, open_load
from smartscale.producer.report import Piece, piece
from smartscale.producer.services import Route, Service

_SWITCH_S: Final = 0.0005
"""How long the planning thread may keep the sending one from running (Python's default is ten times that)."""
_UNLIMITED_S: Final = 365 * 86_400.0
"""How long a constant load lasts without ``--for``: until somebody stops it."""


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which load: a ``scenario`` file, a ``replay`` file, or a constant ``rate_per_s``, alone or of a scenario's mix."""

    scenario: str | None = None
    replay: str | None = None
    rate_per_s: float | None = None
    """Requests a second, Poisson, without shapes and faults."""
    for_s: float | None = None
    """World seconds after which the load ends, if it does not before."""
    peak_per_s: float | None = None
    scale: float | None = None
    speed: float = 1.0
    seed: int | None = None
    """None: the scenario's own, or 1."""
    service: str = "replay"
    """Names what has no service of its own."""

    @property
    def name(self) -> str:
        """For people."""
        file = self.scenario or self.replay
        rate = f"{self.rate_per_s:,.0f} requests a second" if self.rate_per_s is not None else ""
        return " at ".join(filter(None, [Path(file).name if file else "", rate]))


def opened(spec: LoadSpec) -> Load | Recording:
    """The load. Raises ``UserError`` where it cannot be opened, or asks for two at once."""
    if spec.scenario is not None and spec.replay is not None:
        raise UserError("--scenario and --replay are two loads: give one of them")
    if spec.peak_per_s is not None and spec.scale is not None:
        raise UserError("--peak and --scale are two ways to say the same: give one of them")
    for flag, value in (
        ("--speed", spec.speed), ("--scale", spec.scale), ("--for", spec.for_s), ("--rate", spec.rate_per_s),
    ):  # fmt: skip
        if value is not None and not (0 < value < math.inf):
            raise UserError(f"{flag} {value:g}: must be greater than 0")
    if spec.replay is not None:
        if spec.rate_per_s is not None:
            raise UserError("--rate is for a scenario or alone; a replay takes --peak, --scale and --speed")
        found = open_load(
            Path(spec.replay),
            spec.peak_per_s,
            spec.service,
            spec.seed or 1,
            scale=spec.scale,
            speed=spec.speed,
        )
    elif (spec.peak_per_s, spec.scale, spec.speed) != (None, None, 1.0):
        raise UserError(
            "--peak, --scale and --speed are for --replay; the rates of a scenario are in its file"
        )
    elif spec.scenario is not None:
        found = scenarios.read(Path(spec.scenario), spec.seed)
        if spec.rate_per_s is not None:
            found = constant(found, spec.rate_per_s, spec.for_s or _UNLIMITED_S)
    elif spec.rate_per_s is not None:
        found = constant(_plain(spec.service, spec.seed or 1), spec.rate_per_s, spec.for_s or _UNLIMITED_S)
    else:
        raise UserError("nothing to produce: give --scenario FILE, --replay FILE or --rate NUMBER")
    if spec.for_s is None:
        return found
    if isinstance(found, Recording):
        return replace(found, for_s=spec.for_s)
    return replace(found, duration_s=min(found.duration_s, spec.for_s))


def constant(load: Load, rate_per_s: float, duration_s: float) -> Load:
    """The load's services in the proportions of their own rates, ``rate_per_s`` in all, without shapes and faults. Raises
    ``UserError`` if all are 0."""
    rates = [source.spec.rate for source in load.sources]
    if not sum(rates):
        raise UserError("--rate takes the mix of a scenario's services from their rates, and they are all 0")
    sources = [
        Source(
            source.number,
            structs.replace(source.spec, rate=rate_per_s * rate / sum(rates)),
            [],
            [],
            load.seed,
        )
        for source, rate in zip(load.sources, rates, strict=True)
    ]
    return replace(load, sources=sources, faults=(), duration_s=duration_s)


def _plain(name: str, seed: int) -> Load:
    routes = tuple(Route(name=route) for route in ("GET /items", "GET /items/{id}", "POST /orders"))
    return Load([Source(0, Service(name=name, rate=1.0, routes=routes), [], [], seed)], (), 0, 1.0, seed)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A load, how and by how many processes it is sent, and by which clock. The token travels beside it."""

    spec: LoadSpec
    options: Options
    workers: int = 1
    anchor: Anchor | None = None
    """Of the log's clock; None: the wall clock."""
    keep_times: bool = False
    """Events keep the times of the load instead of being moved to now; those that lie in the past are sent at once."""

    @property
    def clock(self) -> Clock:
        return WallClock() if self.anchor is None else ScaledClock(self.anchor)


@dataclass(frozen=True, slots=True)
class Start:
    """When a run begins: world time, what ties it to real time, and how its ids begin."""

    world_us: int
    reference: Reference
    run: str


def start(job: Job, load: Load | Recording, in_s: float) -> Start:
    """A start ``in_s`` real seconds from now. Ids differ from run to run, so that none is taken for a repeat."""
    clock = job.clock
    reference = Reference.now(clock, in_s)
    seed = load.seed if isinstance(load, Load) else load.path.name.partition(".")[0]
    world_us = load.start_us if job.keep_times else reference.world_us
    return Start(world_us, reference, f"{seed}-{reference.world_us:x}")


def warm_up(load: Load | Recording) -> None:
    """Plan a little, so that what is compiled on first use is compiled before it is needed."""
    if isinstance(load, Load):
        next(planned(replace(load, duration_s=min(load.duration_s, 1.0)), "warm-up"), None)


def share(
    job: Job,
    load: Load | Recording,
    begin: Start,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
    token: Token | None,
    worker: int = 0,
) -> Piece:
    """Send one worker's share of the load, to its end or until ``stop``."""
    options = structs.replace(job.options, connections=max(1, job.options.connections // job.workers))
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            played = runner.run(
                play(
                    _chunks(load, begin, worker, job.workers),
                    options,
                    begin.reference,
                    stop,
                    on_progress,
                    token=token,
                    past_at_once=job.keep_times,
                    seed=worker,
                )
            )
    finally:
        sys.setswitchinterval(before_s)
    if isinstance(load, Recording):
        return piece(played, load.skipped.lines, load.skipped.examples)
    return piece(played)


def _chunks(load: Load | Recording, begin: Start, worker: int, workers: int) -> Iterator[Chunk]:
    if isinstance(load, Recording):
        return load.chunks(begin.world_us, begin.run, worker, workers)
    return planned(load.starting_at(begin.world_us), begin.run, worker, workers)
