"""``smartscale up``: the whole pipeline on one machine, as separate processes, until it is told to stop.

The shell around ``table.step``: it starts what the table says, tells it what it sees, and shows the rest.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live

from smartscale import app, clock
from smartscale.clock import MICROS, Anchor, Clock
from smartscale.config import Settings
from smartscale.errors import ConfigError, PolicyError
from smartscale.stream.windows import Families
from smartscale.supervisor import ports
from smartscale.supervisor.children import Children, Command
from smartscale.supervisor.observer import Observer, Seen
from smartscale.supervisor.run_directory import RunDirectory
from smartscale.supervisor.summary import Summary, judge, read_load_summary, table
from smartscale.supervisor.table import (
    Action,
    Drained,
    Gate,
    Input,
    Kill,
    Phase,
    Spec,
    Start,
    Stop,
    Tell,
    Terminate,
    step,
)
from smartscale.supervisor.table import table as new_table
from smartscale.telemetry import logs
from smartscale.view.terminal import Shown, StageLine, screen, summary_line

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
PROBE_S: Final = 0.5
SHOW_S: Final = 1.0
LINE_S: Final = 5.0
LOAD: Final = "sample"
RANKS: Final = {LOAD: 0, "ingest": 1, "combine": 2, "window": 3, "ml": 4, "control": 5}
"""In this order they stop; each is downstream of the one before."""
DRAIN_FLOOR_S: Final = 10.0
"""Real seconds that a pipeline may take to drain however fast its clock runs."""
DRAIN_MAX_S: Final = 120.0
"""Real seconds that are waited at most for the last windows; the minute's window at speed 1 needs about 95."""
READ_GATE: Final = Gate(RANKS["combine"], 5.0)
"""When a person asks for the end: what ingest wrote last is read, open windows stay open for the next start."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked of ``up``. ``load`` are the words after ``smartscale sample`` that name the load.
    ``for_s`` is real seconds."""

    settings: Settings
    config: Path | None
    directory: Path
    load: list[str] | None = None
    speed: float | None = None
    for_s: float | None = None
    keep_running: bool = False
    as_json: bool = False
    check: bool = False
    copies: Mapping[str, int] = field(default_factory=dict)


def up(options: Options) -> int:
    """Run until a signal, the time limit or the end of the load; gives the exit code.

    0: stopped cleanly, and the books balance. 1: they do not, or a check does not hold. 2: a stage's settings
    are wrong. Raises ``UserError`` for what is wrong before anything was started.
    """
    with RunDirectory(options.directory) as directory:
        logs.set_up("up", to=directory)
        claims = ports.Claims()
        prepared = _prepare(options, directory, claims)
        children = Children(prepared.commands, directory)
        observer = Observer(options.settings, f"{options.settings.windows.tumbling_s[0]:g}s")
        run = _Run(options, directory, prepared, children, observer)
        try:
            with _signals(run.signals):
                return run.run()
        finally:
            children.close()
            claims.close()
            _stop_replicas(prepared.settings)


@dataclass(frozen=True, slots=True)
class _Prepared:
    settings: Settings
    commands: list[Command]
    specs: list[Spec]
    world: Clock


def _prepare(options: Options, directory: RunDirectory, claims: ports.Claims) -> _Prepared:
    """Topics, the clock, ports and commands. Everything a person may have to mend is found here."""
    settings = options.settings
    if settings.ingest.tls_client_ca:
        raise ConfigError(
            "setting ingest.tls_client_ca: `up` has no client certificate to ask its edge with; start the stages singly"
        )
    chosen = settings.ingest.port and claims.fixed(settings.ingest.port, settings.ingest.host, "ingest.port")
    _check_policies(settings)
    event_log = app.opened(settings)
    try:
        app.prepare(event_log, settings)
        if options.speed is not None:
            now_us = clock.wall_ms() * 1000
            app.write_anchor(event_log, Anchor(now_us, options.speed, now_us))
        world = app.open_clock(event_log)
    finally:
        event_log.close()
    names = [
        (stage, slot) for stage in RANKS if stage != LOAD for slot in range(options.copies.get(stage, 1))
    ]
    if options.load is not None:
        names.append((LOAD, 0))
    taken = dict(zip(names, claims.take(len(names)), strict=True))
    if chosen:
        taken["ingest", 0] = chosen
    ingest_port = taken["ingest", 0]
    tls = bool(settings.ingest.tls_certificate)
    scheme = "https" if tls else "http"
    sample_directory = _sample_directory(settings, directory)
    (sample_directory / "summary.json").unlink(missing_ok=True)  # of an earlier run
    environment = {
        "SMARTSCALE_LOG": settings.log,
        "SMARTSCALE_INGEST__PORT": str(ingest_port),
        "SMARTSCALE_CONTROL__POLICIES": json.dumps(settings.control.policies),
        "SMARTSCALE_SAMPLE__DIRECTORY": json.dumps(str(sample_directory)),
    }
    common = ["--config", str(options.config.absolute())] if options.config else []
    commands = []
    for (stage, slot), port in taken.items():
        arguments = [stage, *common, "--slot", str(slot)]
        if stage != "ingest":
            arguments += ["--port", str(port)]
        if stage == LOAD and options.load is not None:
            arguments += [*options.load, "--url", f"{scheme}://{settings.ingest.host}:{ingest_port}"]
        commands.append(Command(f"{stage}-{slot}", arguments, port, environment, tls and stage == "ingest"))
    return _Prepared(
        msgspec.structs.replace(
            settings, sample=msgspec.structs.replace(settings.sample, directory=str(sample_directory))
        ),
        commands,
        [Spec(f"{stage}-{slot}", RANKS[stage], is_load=stage == LOAD) for stage, slot in taken],
        world,
    )


def _check_policies(settings: Settings) -> None:
    """A policy that is wrong is told before anything runs; none at all is fine, then nothing is scaled."""
    from smartscale.control import policy

    path = Path(settings.control.policies)
    if not path.exists():
        if settings.control.policies != Settings().control.policies:
            raise ConfigError(f"policies {path}: not found; check --policies or the setting control.policies")
        return
    problems = policy.check(path)
    if problems:
        raise PolicyError("\n".join(str(problem) for problem in problems))


def _sample_directory(settings: Settings, directory: RunDirectory) -> Path:
    """Below the run directory unless set, so that two runs never share their replicas."""
    chosen = settings.sample.directory
    return Path(chosen).absolute() if chosen != Settings().sample.directory else directory.path / "sample"


def _stop_replicas(settings: Settings) -> None:
    from smartscale.actuators import processes

    processes.stop_all(Path(settings.sample.directory) / "replicas")


@contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM. The handler only appends, so it can meet no lock."""

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """One run, from the first start to the summary."""

    def __init__(
        self,
        options: Options,
        directory: RunDirectory,
        prepared: _Prepared,
        children: Children,
        observer: Observer,
    ) -> None:
        self.options = options
        self.directory = directory
        self.prepared = prepared
        self.children = children
        self.observer = observer
        self.signals: list[int] = []
        self.told: list[str] = []
        self.console = Console(stderr=options.as_json)
        if not self.console.is_terminal:
            self.console.width = 120
        self._table = new_table(prepared.specs)
        self._signals_seen = 0
        self._round_at_gate: int | None = None
        self._wait = threading.Event()
        self._began_s = 0.0
        """When ``--for`` began to count: at the start, or that of the load."""
        self._load_began = False

    def run(self) -> int:
        self._tell("info", f"log {self.options.settings.log}, run directory {self.directory.path}")
        self.observer.start()
        live = self.console.is_terminal and not self.options.as_json
        with Live(console=self.console, screen=True, auto_refresh=False) if live else _nothing() as view:
            self._loop(view)
        self.observer.stop()
        summary = self._summary()
        (self.directory.path / "summary.json").write_bytes(msgspec.json.encode(summary))
        if self.options.as_json:
            sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        else:
            self.console.print(table(summary))
            self.console.print(f"log file: {self.directory.log_path}", style="dim", soft_wrap=True)
        return self._table.exit_code or (1 if summary.failures else 0)

    def _loop(self, view: Live | None) -> None:
        self._began_s = clock.monotonic_s()
        probe_s = show_s = 0.0
        while not self._table.ended:
            now_s = clock.monotonic_s()
            inputs: list[Input] = [*self.children.exited()]
            if now_s >= probe_s:
                probe_s = now_s + PROBE_S
                inputs += self.children.probed()
            inputs += self._asked(now_s)
            self._step(inputs, now_s)
            if now_s >= show_s:
                show_s = now_s + (SHOW_S if view else LINE_S)
                self._show(view)
            self._wait.wait(TICK_S)

    def _step(self, inputs: list[Input], now_s: float) -> None:
        running = {name for name, p in self._table.processes.items() if p.phase is not Phase.ENDED}
        known = [seen for seen in inputs if isinstance(seen, Stop | Drained) or seen.name in running]
        self._table, actions = step(self._table, known, now_s)
        for action in actions:
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Start(name):
                if self._table.processes[name].spec.is_load and not self._load_began:
                    self._load_began, self._began_s = True, clock.monotonic_s()
                self.children.start(name)
            case Terminate(name):
                self.children.terminate(name)
            case Kill(name):
                self.children.kill(name)
            case Tell(level, text):
                self._tell(level, text)

    def _asked(self, now_s: float) -> list[Input]:
        """What people, limits and the ledger ask for now."""
        if len(self.signals) > self._signals_seen:
            at_once = self._table.stopping_s is not None or len(self.signals) > 1
            self._signals_seen = len(self.signals)
            return [Stop("asked again", at_once=True) if at_once else Stop("asked to", gate=READ_GATE)]
        if self._table.stopping_s is None:
            if self._table.loads_ended and not self.options.keep_running:
                return [Stop("the load has ended", gate=self._counted_gate())]
            if self.options.for_s is not None and now_s - self._began_s >= self.options.for_s:
                gate = self._counted_gate() if self.options.load else READ_GATE
                return [Stop(f"the {self.options.for_s:g} s asked for are over", gate=gate)]
        if (
            self._table.gate is not None
            and self._table.gate_since_s is not None
            and self._is_drained(self._table.gate)
        ):
            return [Drained()]
        return []

    def _counted_gate(self) -> Gate:
        """Ingest lives on, so that its heartbeats carry the watermark past the last event's last window."""
        return Gate(RANKS["ingest"], _drain_limit_s(self.prepared))

    def _is_drained(self, gate: Gate) -> bool:
        """Whether all is counted (before ingest may stop) or at least read (before combine may), by a reading of
        the log that began after the gate was reached."""
        seen, lock = self.observer.look()
        with lock:
            if self._round_at_gate is None:
                self._round_at_gate = seen.rounds
            if seen.rounds < self._round_at_gate + 2 or seen.books is None:
                return False
            if gate.rank == RANKS["ingest"]:
                return seen.books.in_flight == 0
            return seen.books.unread + seen.books.between == 0

    def _tell(self, level: str, text: str) -> None:
        log.log(_LEVELS[level], "%s", text)
        self.told = [*self.told, text][-20:]
        if not self.console.is_terminal or level == "error":
            self.console.print(f"{level}: {text}", style=_STYLES[level], soft_wrap=True, highlight=False)

    def _show(self, view: Live | None) -> None:
        seen, lock = self.observer.look()
        with lock:
            shown = self._shown(seen)
            if view is not None:
                view.update(screen(shown), refresh=True)
            else:
                self.console.print(summary_line(shown), soft_wrap=True, highlight=False)

    def _shown(self, seen: Seen) -> Shown:
        stages = [
            StageLine(
                p.spec.name,
                p.phase.value,
                p.reason,
                p.restarts,
                seen.lags.get(p.spec.name.rpartition("-")[0]),
            )
            for p in self._table.processes.values()
        ]
        told = [*self.told, *([f"the view cannot read the log: {seen.trouble}"] if seen.trouble else [])]
        return Shown(
            f"smartscale up · {self.options.settings.log}", self.prepared.world.now_us(), seen.model, stages,
            seen.books, told=told,
        )  # fmt: skip

    def _summary(self) -> Summary:
        seen, _ = self.observer.look()
        books = seen.books
        load = read_load_summary(Path(self.prepared.settings.sample.directory))
        reach_us = round(2 * self.options.settings.ml.step_s * MICROS)
        told = [state for state in seen.told if load is None or state.updated_us <= load.end_us]
        verdicts, others = judge(load.faults if load else [], told, reach_us)
        return Summary(
            accepted=books.accepted if books else None,
            windowed=books.windowed if books else None,
            late=books.late if books else None,
            dead=books.dead if books else None,
            duplicates=books.duplicates if books else None,
            lost=books.lost if books else None,
            in_flight=books.in_flight if books else None,
            difference=books.difference if books else None,
            latency_p50_ms=seen.latencies.quantile(0.5),
            latency_p99_ms=seen.latencies.quantile(0.99),
            injected=verdicts,
            false_incidents=others,
            scale_outs=seen.scale_outs,
            scale_ins=seen.scale_ins,
            overload_s=load.overload_s if load else None,
            replica_hours=load.replica_hours if load else None,
            requests=load.requests if load else None,
            restarts=sum(p.restarts for p in self._table.processes.values()),
            failures=self._failures(seen),
        )

    def _failures(self, seen: Seen) -> list[str]:
        """What does not hold at the end."""
        books = seen.books
        if books is None:
            return [f"the ledger could not be read: {seen.trouble or 'no reading was finished'}"]
        holds = [(books.difference == 0, f"the books do not balance: difference {books.difference:,}")]
        if self.options.check:
            holds += [
                (books.in_flight == 0, f"{books.in_flight:,} events were still in flight at the end"),
                (books.accepted > 0, "no event was accepted"),
                (seen.scale_outs > 0, "nothing was scaled out"),
                (seen.scale_ins > 0, "nothing was scaled in"),
            ]
        return [text for good, text in holds if not good]


_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_STYLES: Final = {"info": "", "warning": "yellow", "error": "bold red"}


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _drain_limit_s(prepared: _Prepared) -> float:
    """Real seconds until the last window of the last event is final, by the settings, and a floor for the
    processes."""
    settings = prepared.settings
    longest_us = max(window.size_us for family in Families(settings.windows) for window in family.windows)
    world_s = longest_us / MICROS + settings.time.out_of_orderness_s + settings.time.allowed_lateness_s
    return min(DRAIN_MAX_S, prepared.world.to_real_s(world_s) + DRAIN_FLOOR_S)
