"""Scales real processes of this machine.

A registry folder per target, ``ROOT/NAME/``, is the truth; nothing is kept in memory that a successor needs:

- ``fleet.json``: wanted count and fence, replaced atomically;
- ``ID.json``: one replica: pid and start time (which together identify a process for good), when it was started;
- ``ID.sock``: the path ``{ready}``, which the replica creates once it serves (for the sample service, its socket);
- ``lock``: held by whoever changes the folder;
- ``replicas.log``: what replicas write.

Every call first reconciles, as a Kubernetes ReplicaSet does: dead replicas are forgotten and replaced, draining
ones that overstay are killed, missing ones started. So the fleet heals while decisions change nothing.

What a crash of the controller leaves behind:

1. record written, process not yet started: the record has no pid and no process carries its mark; it is dropped;
2. process started, pid not yet written: the process is found by its mark in ``/proc`` and adopted;
3. afterwards: everything is in the registry, and the successor adopts it.

Replicas live in sessions of their own and survive the controller. They end with the supervisor: the lifeline (see
``telemetry.lifeline``) is passed on to them. Linux only (``/proc``, pidfd).
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import select
import signal
import statistics
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from smartscale.actuators.port import Fence, Fleet, Target, fenced
from smartscale.clock import Clock, monotonic_s, wall_ms
from smartscale.errors import PermanentError, RetryableError
from smartscale.records.decisions import Decision
from smartscale.telemetry import lifeline

log = logging.getLogger(__name__)

LOCK_S: Final = 5.0
"""Real. How long to wait for the registry's lock; holders need milliseconds."""
DRAIN_S: Final = 15.0
"""Real. How long a replica may drain after SIGTERM before it is killed; longer than most request time-outs."""
BACK_OFF_S: Final = (0.5, 30.0)
"""Real. First and longest pause after replicas that die before they were ready, doubling: as Kubernetes'
CrashLoopBackOff, only quicker to start."""
MARK: Final = "SMARTSCALE_REPLICA"
"""Environment variable of a replica: its record's path, by which it can be found without its pid."""


class _Replica(msgspec.Struct, frozen=True):
    """A replica's record. ``pid`` is 0 while it is being started; ``start_ticks`` is field 22 of /proc/PID/stat;
    ``draining_s`` the monotonic time of SIGTERM."""

    id: str
    started_us: int
    started_ms: int
    pid: int = 0
    start_ticks: int = 0
    draining_s: float | None = None


class _Record(msgspec.Struct, frozen=True):
    """``fleet.json``. ``failures`` counts deaths before ready in a row, ``retry_s`` is when to start again
    (monotonic)."""

    desired: int = 0
    fence: Fence = Fence()
    failures: int = 0
    retry_s: float = 0.0


class ProcessActuator:
    """Starts and stops processes, registered below ``root``.

    ``command`` starts a replica of a target that names none. In its words ``{id}``, ``{ready}``, ``{directory}``
    and ``{started_us}`` (world time of the start) are filled in. A command without ``{ready}`` counts as ready
    while it runs."""

    def __init__(
        self,
        root: Path,
        clock: Clock,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root.absolute()
        self._clock = clock
        self._command = tuple(command)
        self._environment = dict(os.environ if environment is None else environment)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._children_lock = threading.Lock()

    def observe(self, target: Target) -> Fleet:
        """See the port. A target never applied to is not created."""
        directory = self._root / target.name
        if not (directory / "fleet.json").exists():
            return Fleet(desired=0, ready=0)
        with _locked(directory):
            return self._reconcile(directory, target, _read(directory))

    def apply(self, target: Target, decision: Decision) -> Fleet:
        """See the port."""
        directory = self._root / target.name
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            record = _read(directory)
            fence = fenced(record.fence, target, decision, self._clock.now_us())
            record = msgspec.structs.replace(record, desired=decision.desired, fence=fence)
            _write(directory / "fleet.json", record)
            return self._reconcile(directory, target, record)

    def _reconcile(self, directory: Path, target: Target, record: _Record) -> Fleet:
        """Make the processes what the record says, as far as can be done without waiting."""
        self._reap()
        command = target.command or self._command
        needs_ready = any("{ready}" in word for word in command)
        alive, ready = [], []
        died_early = False
        for replica in _replicas(directory):
            if not _lives(replica):
                died_early |= replica.draining_s is None and needs_ready and not _is_ready(directory, replica)
                _forget(directory, replica)
            elif replica.draining_s is not None:
                if monotonic_s() - replica.draining_s > DRAIN_S:
                    _signal(replica, signal.SIGKILL)
            else:
                alive.append(replica)
                if not needs_ready or _is_ready(directory, replica):
                    ready.append(replica)
        record = self._back_off(directory, record, died_early=died_early, any_ready=bool(ready))
        newest_first = sorted(alive, key=lambda r: (r.started_us, r.id), reverse=True)
        for replica in newest_first[: max(0, len(alive) - record.desired)]:
            _drain(directory, replica)
            alive.remove(replica)
        ready = [replica for replica in ready if replica in alive]
        if monotonic_s() >= record.retry_s:
            alive += [self._start(directory, command) for _ in range(record.desired - len(alive))]
        speed = 1 / self._clock.to_real_s(1.0)
        lead = [_ready_after_s(directory, replica) * speed for replica in ready] if needs_ready else []
        return Fleet(
            desired=record.desired,
            ready=len(ready) if needs_ready else len(alive),
            starting=len(alive) - len(ready) if needs_ready else 0,
            draining=sum(replica.draining_s is not None for replica in _replicas(directory)),
            lead_time_s=statistics.median(lead) if lead else None,
        )

    def _back_off(self, directory: Path, record: _Record, *, died_early: bool, any_ready: bool) -> _Record:
        """Replicas that die before they serve are replaced ever more slowly; one that serves ends that."""
        if died_early:
            first, longest = BACK_OFF_S
            pause_s = min(longest, first * 2**record.failures)
            record = msgspec.structs.replace(
                record, failures=min(record.failures + 1, 16), retry_s=monotonic_s() + pause_s
            )
        elif any_ready and record.failures:
            record = msgspec.structs.replace(record, failures=0, retry_s=0.0)
        else:
            return record
        _write(directory / "fleet.json", record)
        return record

    def _start(self, directory: Path, command: Sequence[str]) -> _Replica:
        if not command:
            raise PermanentError(
                f"target {directory.name}: no command to start a replica with; give spec.scaleTargetRef.command"
            )
        started_us = self._clock.now_us()
        replica = _Replica(secrets.token_hex(4), started_us, wall_ms())
        words = {
            "{id}": replica.id,
            "{ready}": str(_ready_path(directory, replica)),
            "{directory}": str(directory),
            "{started_us}": str(started_us),
        }
        _write(_path(directory, replica), replica)
        environment = {**self._environment, MARK: str(_path(directory, replica))}
        fd = self._environment.get(lifeline.VARIABLE)
        with (directory / "replicas.log").open("ab") as output:
            try:
                child = subprocess.Popen(
                    [_fill(word, words) for word in command],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=() if fd is None else (int(fd),),
                )
            except OSError as error:
                _forget(directory, replica)
                raise RetryableError(
                    f"target {directory.name}: {command[0]} cannot be started: {error}"
                ) from error
        with self._children_lock:
            self._children[child.pid] = child
        ticks = _start_ticks(child.pid)
        replica = msgspec.structs.replace(replica, pid=child.pid, start_ticks=ticks or 0)
        _write(_path(directory, replica), replica)
        return replica

    def _reap(self) -> None:
        """Collect children that have ended, so that none stays a zombie."""
        with self._children_lock:
            self._children = {pid: child for pid, child in self._children.items() if child.poll() is None}


def stop_all(root: Path, drain_s: float = 5.0) -> int:
    """End every replica registered below ``root``: SIGTERM, and SIGKILL after ``drain_s`` real seconds.

    Returns how many were told to end. The wanted counts become 0, the fences stay. Idempotent."""
    stopped: list[tuple[Path, _Replica]] = []
    deadline_s = monotonic_s() + drain_s
    for fleet in sorted(root.absolute().glob("*/fleet.json")):
        directory = fleet.parent
        with _locked(directory):
            try:
                _write(fleet, msgspec.structs.replace(_read(directory), desired=0))
            except PermanentError as error:
                log.error("%s (its replicas are ended all the same)", error)
            for replica in _replicas(directory):
                if _lives(replica):
                    _drain(directory, replica)
                    stopped.append((directory, replica))
                else:
                    _forget(directory, replica)
    for directory, replica in stopped:
        if not _wait_end(replica, deadline_s - monotonic_s()):
            _signal(replica, signal.SIGKILL)
            _wait_end(replica, LOCK_S)
        _forget(directory, replica)
    return len(stopped)


def _fill(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the registry's lock. Raises ``RetryableError`` after ``LOCK_S``."""
    deadline_s = monotonic_s() + LOCK_S
    with (directory / "lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic_s() > deadline_s:
                    raise RetryableError(
                        f"{directory}/lock is held by another process for {LOCK_S:g} s"
                    ) from None
                threading.Event().wait(0.01)  # flock has no wait with a time-out
        yield


def _read(directory: Path) -> _Record:
    try:
        return msgspec.json.decode((directory / "fleet.json").read_bytes(), type=_Record)
    except FileNotFoundError:
        return _Record()
    except msgspec.MsgspecError as error:
        raise PermanentError(f"{directory}/fleet.json cannot be read: {error}; remove the folder") from error


def _write(path: Path, value: msgspec.Struct) -> None:
    """Replace a file atomically: a reader sees the old or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(value))
    temporary.replace(path)


def _path(directory: Path, replica: _Replica) -> Path:
    return directory / f"{replica.id}.json"


def _ready_path(directory: Path, replica: _Replica) -> Path:
    return directory / f"{replica.id}.sock"


def _is_ready(directory: Path, replica: _Replica) -> bool:
    return _ready_path(directory, replica).exists()


def _ready_after_s(directory: Path, replica: _Replica) -> float:
    """Real seconds from start to ready."""
    try:
        return max(0.0, _ready_path(directory, replica).lstat().st_mtime - replica.started_ms / 1000)
    except FileNotFoundError:
        return 0.0


def _replicas(directory: Path) -> list[_Replica]:
    """The registered replicas; one whose pid was never written is looked for by its mark."""
    found = []
    for path in sorted(directory.glob("*.json")):
        if path.name == "fleet.json":
            continue
        replica = msgspec.json.decode(path.read_bytes(), type=_Replica)
        if replica.pid == 0:
            pid = _marked(path)
            replica = msgspec.structs.replace(replica, pid=pid, start_ticks=_start_ticks(pid) or 0)
            if pid:
                _write(path, replica)
        found.append(replica)
    return found


def _marked(path: Path) -> int:
    """The pid of the process whose environment carries the record's path; 0 if there is none."""
    wanted = f"{MARK}={path}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended, or belongs to another user and so is none of ours
            if wanted in words:
                return int(process.name)
    return 0


def _forget(directory: Path, replica: _Replica) -> None:
    _ready_path(directory, replica).unlink(missing_ok=True)
    _path(directory, replica).unlink(missing_ok=True)


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none or it is a zombie.

    Source: proc(5), /proc/PID/stat, fields 3 (state) and 22 (starttime); the command in field 2 may hold spaces
    and brackets, so fields are counted from the last closing one."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _lives(replica: _Replica) -> bool:
    return replica.pid != 0 and _start_ticks(replica.pid) == replica.start_ticks


def _signal(replica: _Replica, number: signal.Signals) -> None:
    """Signal this very process: the pidfd pins it, then its start time proves that it is the one meant."""
    try:
        pidfd = os.pidfd_open(replica.pid)
    except ProcessLookupError:
        return
    try:
        if _lives(replica):
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _drain(directory: Path, replica: _Replica) -> None:
    _write(_path(directory, replica), msgspec.structs.replace(replica, draining_s=monotonic_s()))
    _signal(replica, signal.SIGTERM)


def _wait_end(replica: _Replica, timeout_s: float) -> bool:
    """Whether the process ends within ``timeout_s`` real seconds."""
    try:
        pidfd = os.pidfd_open(replica.pid)
    except ProcessLookupError:
        return True
    try:
        if not _lives(replica):
            return True
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(max(0.0, timeout_s) * 1000))
    finally:
        os.close(pidfd)
