"""The table of processes: what ``smartscale up`` does next, given what it has seen.

Pure: ``step(table, inputs, now_s) -> (table, actions)``. Invariants:

- A process that ends unasked is started again after a back-off that doubles with every failure in a row and is
  forgotten after ``HEALTHY_S`` of being ready.
- Exit code 2 means that a person must act: it is told, and everything is stopped.
- Processes stop in the order of their ``rank``: one rank has ended before the next is asked to. A ``Gate`` may
  hold a rank back while the pipeline drains.
- After ``Stop(at_once=True)`` everything is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

BACK_OFF_S: Final = 0.5
"""First wait before a restart: long enough not to spin, short enough not to be seen in the metrics."""
BACK_OFF_MAX_S: Final = 30.0
HEALTHY_S: Final = 60.0
"""Ready for this long: the failures before are forgotten."""
STOP_LIMIT_S: Final = 15.0
"""A process that has not ended this long after SIGTERM is killed; a stage needs its last transaction, at most
10 s on Kafka."""
WRONG_INPUT: Final = 2


@dataclass(frozen=True, slots=True)
class Spec:
    """A process to keep running. ``rank``: lower ones stop first. ``is_load``: it starts once all others are
    ready, and its exit with code 0 is its end, not a failure."""

    name: str
    rank: int
    is_load: bool = False


class Phase(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Process:
    """One process as seen from outside. ``since_s``: when ``phase`` began; in ``WAITING`` the time to start.
    ``failures`` counts those in a row, ``restarts`` all."""

    spec: Spec
    phase: Phase = Phase.WAITING
    since_s: float = 0.0
    restarts: int = 0
    failures: int = 0
    reason: str = "not started yet"


@dataclass(frozen=True, slots=True)
class Gate:
    """Processes of ``rank`` and above are not asked to stop before ``Drained``, for at most ``limit_s``."""

    rank: int
    limit_s: float


@dataclass(frozen=True, slots=True)
class Table:
    """Everything the supervisor remembers. ``stopping_s`` is when the stop began, ``gate`` what is still waited
    for, ``gate_since_s`` since when; ``exit_code`` is what it ends with."""

    processes: Mapping[str, Process]
    stopping_s: float | None = None
    gate: Gate | None = None
    gate_since_s: float | None = None
    exit_code: int = 0
    ended: bool = False

    @property
    def rank(self) -> int | None:
        """The lowest rank that has not ended."""
        return min((p.spec.rank for p in self.processes.values() if p.phase is not Phase.ENDED), default=None)

    @property
    def loads_ended(self) -> bool:
        """There was a load, and it is over."""
        loads = [p for p in self.processes.values() if p.spec.is_load]
        return bool(loads) and all(p.phase is Phase.ENDED for p in loads)


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone; a negative code is the signal that ended it."""

    name: str
    code: int


@dataclass(frozen=True, slots=True)
class Probed:
    """What ``/readyz`` answered."""

    name: str
    ready: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """A person, a time limit or the end of the load asks for the end."""

    reason: str
    at_once: bool = False
    exit_code: int = 0
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """What the gate waits for has come about."""


Input = Exited | Probed | Stop | Drained


@dataclass(frozen=True, slots=True)
class Start:
    name: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""

    name: str


@dataclass(frozen=True, slots=True)
class Tell:
    """A line for the person. ``level``: info, warning or error."""

    level: str
    text: str


Action = Start | Terminate | Kill | Tell


@dataclass(slots=True)
class _Draft:
    """The table being changed within one step."""

    table: Table
    processes: dict[str, Process]
    actions: list[Action] = field(default_factory=list)

    def set(self, process: Process) -> None:
        self.processes[process.spec.name] = process
        self.table = replace(self.table, processes=dict(self.processes))

    def tell(self, level: str, text: str) -> None:
        self.actions.append(Tell(level, text))

    def live(self) -> list[Process]:
        return [
            p for p in self.processes.values() if p.phase in (Phase.STARTING, Phase.READY, Phase.STOPPING)
        ]


def table(specs: Iterable[Spec]) -> Table:
    """All processes waiting to be started."""
    return Table({spec.name: Process(spec) for spec in specs})


def step(table: Table, inputs: Sequence[Input], now_s: float) -> tuple[Table, list[Action]]:
    """Take in what was seen, then do what is due at ``now_s`` (monotonic real seconds)."""
    draft = _Draft(table, dict(table.processes))
    for seen in inputs:
        match seen:
            case Exited(name, code):
                _exited(draft, draft.processes[name], code, now_s)
            case Probed(name, ready, reason):
                _probed(draft, draft.processes[name], ready, reason, now_s)
            case Stop():
                _stop(draft, seen, now_s)
            case Drained() if draft.table.gate_since_s is not None:
                draft.table = replace(draft.table, gate=None, gate_since_s=None)
    if draft.table.stopping_s is None:
        _start_due(draft, now_s)
    else:
        _stop_next(draft, now_s)
    return draft.table, draft.actions


def back_off_s(failures: int) -> float:
    """Wait before the start after ``failures`` failures in a row.

    >>> [back_off_s(n) for n in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 30.0]
    """
    return float(min(BACK_OFF_MAX_S, BACK_OFF_S * 2 ** min(failures - 1, 30)))


def _exited(draft: _Draft, process: Process, code: int, now_s: float) -> None:
    name = process.spec.name
    if process.phase is Phase.STOPPING or (process.spec.is_load and code == 0):
        draft.set(replace(process, phase=Phase.ENDED, since_s=now_s, reason=_how(code)))
        if process.phase is not Phase.STOPPING:
            draft.tell("info", f"{name} has finished")
        elif code != 0:
            draft.tell("warning", f"{name} did not stop cleanly: {_how(code)}")
        return
    if draft.table.stopping_s is not None:
        draft.set(replace(process, phase=Phase.ENDED, since_s=now_s, reason=_how(code)))
        return
    if code == WRONG_INPUT:
        draft.set(replace(process, phase=Phase.ENDED, since_s=now_s, reason="wrong input"))
        draft.tell(
            "error",
            f"{name} cannot run with these settings (its message is above): mend them and start again",
        )
        _stop(draft, Stop(f"{name} needs a person", exit_code=WRONG_INPUT), now_s)
        return
    was_healthy = process.phase is Phase.READY and now_s - process.since_s >= HEALTHY_S
    failures = 1 if was_healthy else process.failures + 1
    wait_s = back_off_s(failures)
    draft.set(
        replace(
            process, phase=Phase.WAITING, since_s=now_s + wait_s, failures=failures,
            restarts=process.restarts + 1, reason=_how(code),
        )
    )  # fmt: skip
    draft.tell("warning", f"{name} ended: {_how(code)}; starting it again in {wait_s:g} s")


def _probed(draft: _Draft, process: Process, ready: bool, reason: str, now_s: float) -> None:
    name = process.spec.name
    match process.phase, ready:
        case Phase.STARTING, True:
            draft.set(replace(process, phase=Phase.READY, since_s=now_s, reason=reason))
            draft.tell("info", f"{name} is ready")
        case Phase.READY, False:
            draft.set(replace(process, phase=Phase.STARTING, since_s=now_s, reason=reason))
            draft.tell("warning", f"{name} is not ready: {reason}")
        case (Phase.STARTING, False) if reason != process.reason:
            draft.set(replace(process, reason=reason))


def _stop(draft: _Draft, stop: Stop, now_s: float) -> None:
    if stop.at_once:
        draft.tell("warning", f"stopping at once: {stop.reason}")
        began_s = now_s if draft.table.stopping_s is None else draft.table.stopping_s
        draft.table = replace(draft.table, stopping_s=began_s, gate=None, gate_since_s=None)
        for process in draft.live():
            draft.actions.append(Kill(process.spec.name))
            draft.set(replace(process, phase=Phase.STOPPING, since_s=now_s))
    elif draft.table.stopping_s is None:
        draft.tell("info", f"stopping: {stop.reason}")
        draft.table = replace(draft.table, stopping_s=now_s, gate=stop.gate, exit_code=stop.exit_code)


def _start_due(draft: _Draft, now_s: float) -> None:
    stages_ready = all(p.phase is Phase.READY for p in draft.processes.values() if not p.spec.is_load)
    for process in list(draft.processes.values()):
        due = process.phase is Phase.WAITING and now_s >= process.since_s
        if due and (stages_ready or not process.spec.is_load):
            draft.actions.append(Start(process.spec.name))
            draft.set(replace(process, phase=Phase.STARTING, since_s=now_s, reason="starting"))


def _stop_next(draft: _Draft, now_s: float) -> None:
    for process in list(draft.processes.values()):
        if process.phase is Phase.WAITING:
            draft.set(replace(process, phase=Phase.ENDED, since_s=now_s))
    rank = draft.table.rank
    if rank is None:
        draft.table = replace(draft.table, ended=True)
        return
    if (
        draft.table.gate is not None
        and rank >= draft.table.gate.rank
        and not _may_go_on(draft, draft.table.gate, now_s)
    ):
        return
    for process in draft.live():
        if process.spec.rank != rank:
            continue
        if process.phase is not Phase.STOPPING:
            draft.actions.append(Terminate(process.spec.name))
            draft.set(replace(process, phase=Phase.STOPPING, since_s=now_s))
        elif now_s - process.since_s >= STOP_LIMIT_S:
            draft.tell(
                "warning", f"{process.spec.name} has not ended {STOP_LIMIT_S:g} s after SIGTERM: killing it"
            )
            draft.actions.append(Kill(process.spec.name))
            draft.set(replace(process, since_s=now_s))


def _may_go_on(draft: _Draft, gate: Gate, now_s: float) -> bool:
    """Whether the gate has been waited for long enough."""
    since_s = draft.table.gate_since_s
    if since_s is None:
        draft.table = replace(draft.table, gate_since_s=now_s)
        return False
    if now_s - since_s < gate.limit_s:
        return False
    draft.tell("warning", f"not drained within {gate.limit_s:g} s; the next start carries on from here")
    draft.table = replace(draft.table, gate=None, gate_since_s=None)
    return True


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
