"""Plays a load against the edge: what ``smartscale produce`` does.

One process by itself, or several: each says when it is ready, all start at the same instant, and tell once a second how
far they are. A worker that is lost is told in the report; workers end with whoever started them.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

import msgspec
from msgspec import structs

from smartscale.client.address import Address, Token
from smartscale.errors import PermanentError, RetryableError, UserError
from smartscale.producer import job as jobs
from smartscale.producer.job import Job, Start
from smartscale.producer.labels import Labels, true_faults, truth
from smartscale.producer.load import Load
from smartscale.producer.player import Counts, Progress
from smartscale.producer.rate_search import Found, Search, Target, Trial, trial
from smartscale.producer.report import Mark, Piece, Report, Setting, added, marks, merged

_LEAD_S: Final = 0.3
"""From the decision to start until the start: the first chunks are planned in it."""
_READY_S: Final = 60.0
"""How long a worker may take to be ready."""
_FIRST_PER_S: Final = 1000.0
"""Where a search for the highest rate begins."""
_REST_S: Final = 0.2
"""Between trials, so that what one left behind does not weigh on the next."""


def run(
    job: Job,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
    token: Token | None = None,
    on_labels: Callable[[Labels], None] | None = None,
) -> Report:
    """Send the load from now to its end or until ``stop``, and report.

    ``on_progress`` is called about once a second (real); ``on_labels`` with the truth of a scenario, as it starts. Raises
    ``UserError`` for a wrong load or address."""
    Address.of(job.options.url)
    load = jobs.opened(job.spec)
    truly = truth(load) if isinstance(load, Load) and on_labels is not None else None
    workers = _Workers(job, token) if job.workers > 1 else None
    try:
        if workers is None:
            jobs.warm_up(load)
        else:
            workers.until_ready(stop)
        begin = jobs.start(job, load, _LEAD_S)
        faults: list[Mark] = []
        if isinstance(load, Load):
            moved = load.starting_at(begin.world_us)
            faults = marks(true_faults(moved), begin.world_us, begin.reference.real_per_world)
            if truly is not None and on_labels is not None:
                on_labels(_dated(truly, moved))
        if workers is None:
            pieces = [jobs.share(job, load, begin, stop, on_progress, token)]
        else:
            pieces = workers.play(begin, stop, on_progress)
    finally:
        if workers is not None:
            workers.close()
    if not pieces:
        raise PermanentError("no process of the load generator came to its end")
    setting = Setting(
        job.spec.name,
        job.options.url,
        begin.world_us,
        job.workers,
        job.options.connections,
        job.options.batch,
    )
    return merged(pieces, setting, faults, job.workers - len(pieces))


def _dated(labels: Labels, load: Load) -> Labels:
    """The labels of a load that has been moved in time: a truth of weeks takes longer than a start may."""
    return structs.replace(labels, start_us=load.start_us, end_us=load.end_us, faults=true_faults(load))


def highest_rate(
    job: Job,
    target: Target,
    trial_s: float,
    stop: threading.Event,
    on_trial: Callable[[Trial], None],
    token: Token | None = None,
) -> Found:
    """The highest rate of ``job``'s load that is sustained within ``target``, by trials of ``trial_s`` real seconds.

    The search is ``rate_search``'s. A first second warms everything up and does not count. ``stop`` ends it with what was
    found so far. Raises ``RetryableError`` if nothing answers, ``UserError`` if everything is refused."""
    impatient = structs.replace(job.options, give_up_s=max(2.0, 10 * target.limit_ms / 1000))

    trials: list[Trial] = []

    def run_at(rate_per_s: float, seconds: float) -> Report:
        # Another seed each time: a repeated trial is to see other arrivals.
        spec = structs.replace(
            job.spec,
            rate_per_s=rate_per_s,
            for_s=seconds / job.clock.to_real_s(1.0),
            seed=(job.spec.seed or 1) + len(trials),
        )
        return run(structs.replace(job, spec=spec, options=impatient), stop, _untold, token)

    search = Search(_FIRST_PER_S)
    sustained: dict[float, tuple[Trial, Report]] = {}
    _check(run_at(_FIRST_PER_S, 1.0), stop)
    while not search.over and not stop.is_set():
        report = run_at(search.rate_per_s, trial_s * (3 if search.long else 1))
        if stop.is_set():
            break
        done = trial(search.rate_per_s, search.long, report, target)
        trials.append(done)
        on_trial(done)
        if done.sustained:
            sustained[done.rate_per_s] = (done, report)
        search = search.after(done)
        stop.wait(_REST_S)
    best = sustained.get(search.low)
    return Found(
        target,
        search.low,
        search.over and search.long and search.low > 0,
        search.limited,
        None if search.high == math.inf else search.high,
        best[0].accepted_per_s if best else 0.0,
        trials,
        best[1] if best else None,
    )


def _check(first: Report, stop: threading.Event) -> None:
    """Whether a search makes sense at all."""
    counts, url = first.counts, first.setting.url
    if counts.sent and counts.unanswered == counts.sent and not stop.is_set():
        raise RetryableError(f"{url} does not answer: {counts.last_trouble}")
    if counts.sent and counts.refused == counts.sent:
        raise UserError(f"{url} refuses every event: {'; '.join(counts.refusals[:1])}")


def _untold(_progress: Progress) -> None:
    """A trial is told when it is over."""


class _Workers:
    """Processes that each play a share."""

    def __init__(self, job: Job, token: Token | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: list[SpawnProcess] = []
        self._open: dict[Connection, int] = {}
        for worker in range(job.workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, job, token, worker), name=f"load-{worker}", daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._open[ours] = worker

    def close(self) -> None:
        """End all that still run."""
        for pipe in self._open:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def until_ready(self, stop: threading.Event) -> None:
        """Until every worker could start. Raises ``PermanentError`` if one cannot."""
        for pipe, worker in self._open.items():
            try:
                if not pipe.poll(_READY_S) or pipe.recv() != "ready":
                    raise EOFError
            except EOFError:
                raise PermanentError(f"process {worker} of the load generator could not start") from None
            if stop.is_set():
                return

    def play(
        self, begin: Start, stop: threading.Event, on_progress: Callable[[Progress], None]
    ) -> list[Piece]:
        """The pieces of those that came to their end."""
        for pipe in self._open:
            pipe.send(begin)
        pieces: list[Piece] = []
        latest: dict[int, Progress] = {}
        told, stopping = 0, False
        while self._open:
            if stop.is_set() and not stopping:
                stopping = True
                for pipe in self._open:
                    pipe.send("stop")
            heard = set(wait(list(self._open), timeout=0.2))
            for pipe in [pipe for pipe in self._open if pipe in heard]:
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionResetError):
                    del self._open[pipe]
                    continue
                if isinstance(message, Progress):
                    latest[self._open[pipe]] = message
                    told += 1
                else:
                    pieces.append(msgspec.msgpack.decode(message, type=Piece))
            if told >= len(latest) > 0:
                told = 0
                on_progress(_joined(list(latest.values())))
        return pieces


def _joined(parts: Sequence[Progress]) -> Progress:
    counts: Counts = added([part.counts for part in parts])
    return Progress(max(part.at_us for part in parts), max(part.behind_s for part in parts), counts)


def _work(pipe: Connection, job: Job, token: Token | None, worker: int) -> None:
    """A worker's life. It stops when told, not by signals that are meant for whoever started it; and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    load = jobs.opened(job.spec)
    jobs.warm_up(load)
    pipe.send("ready")
    begin = pipe.recv()
    stop = threading.Event()

    def listen() -> None:
        try:
            while True:
                pipe.recv()
                stop.set()
        except (EOFError, OSError):
            if not done.is_set():
                os._exit(4)

    done = threading.Event()
    threading.Thread(target=listen, name="listen", daemon=True).start()
    piece = jobs.share(job, load, begin, stop, pipe.send, token, worker)
    done.set()
    pipe.send(msgspec.msgpack.encode(piece))
