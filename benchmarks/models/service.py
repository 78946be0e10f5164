"""What the ml service costs with thousands of series: a step, a refresh, a snapshot, a restart, memory.

Run: ``python benchmarks/models/service.py [--series 10000] [--boosting]``. Steps of a minute, 60 ahead, 9 quantiles, four
weeks of history. Prints one JSON object; times are CPU seconds of one core, the median of the steps, unless said otherwise:

- ``rows_s``: taking in a step's rows (a provisional one and a final one of each series), already decoded.
- ``refresh_s``: the quantiles of all values and peaks of all series, from one origin.
- ``advance_s``: a whole step: learning the final values, judging the new ones, a refresh.
- ``encode_s``, ``step_mb``: the step's forecast records as JSON.
- ``snapshot_s``, ``snapshot_mb``: a snapshot after each step; ``snapshot_mb_per_s`` is what the bound makes of it.
- ``restart_s``: real seconds to read the snapshot back from a SQLite log; the suffix costs ``advance_s`` a step.
- ``rss_mb``: the largest resident memory of the process before the restart, without the snapshot that this benchmark keeps
  at hand (``whole_snapshot_mb``); ``base_mb`` of it before the first row.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from smartscale.config import Settings
from smartscale.log.port import Message, TopicPartition
from smartscale.log.sqlite import SqliteLog
from smartscale.log.topics import specs
from smartscale.ml import snapshot
from smartscale.ml.anomaly.feedback import Plan
from smartscale.ml.forecast.boosting import Trainer
from smartscale.ml.partition import Models, State
from smartscale.ml.series.history import Past, encode
from smartscale.ml.series.rows import Row
from smartscale.ml.service import SNAPSHOT_BYTES_PER_S
from smartscale.records import topics
from smartscale.records.metrics import Progress

STEP_S, HORIZON, HISTORY = 60, 60, 40_320
STEP_US = STEP_S * 1_000_000
FIRST = 28_000_000
STEPS, WARM = 8, 3


def rows(at: int, final: bool, series: int, rng: np.random.Generator) -> list[Row]:
    counts = rng.poisson(1200, series).tolist()
    return [
        Row(
            tenant="default", service=f"service-{i}", kind="interaction", name="*", window="60s",
            start_us=(at - 1) * STEP_US, end_us=at * STEP_US, count=count, errors=count // 200, rate_per_s=count / STEP_S,
            revision=int(final), final=final, complete=True, latency_p99_ms=100.0 + i % 7, latency_p50_ms=20.0,
        )
        for i, count in enumerate(counts)
    ]  # fmt: skip


@contextmanager
def timed(spent: dict[str, list[float]], name: str) -> Iterator[None]:
    begin = time.process_time()
    yield
    spent[name].append(time.process_time() - begin)


def rss_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def fill(state: State, rng: np.random.Generator) -> None:
    """Four weeks that were seen: any values will do for what they cost."""
    state.models.seen[:] = HISTORY
    for row in range(len(state.models.past)):
        state.models.past[row] = encode(np.asarray(1 + 8 * rng.random(state.models.past.shape[1])))


def train(models: Models, state: State) -> None:
    """Give the boosting its trees at once."""
    booster, trainer = models.forecaster.mixture.booster, models.trainer
    if booster is None or trainer is None or state.learned is None:
        return
    state.boosted.job = booster.sample(Past(state.models.past, state.learned), state.models.seen)
    state.boosted.trees, state.boosted.made = trainer.finish(state.boosted.job), state.learned
    state.boosted.job = None


def restart_s(models: Models, kept: dict[bytes, bytes]) -> float:
    """Real seconds from a SQLite log to a state."""
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteLog(str(Path(folder) / "log.db"))
        log.create(specs(Settings()))
        publisher = log.publisher()
        for key in list(kept):
            publisher.append([Message(topics.ML_STATE, 0, kept.pop(key), key)])

        def records() -> Iterator[tuple[bytes, bytes]]:
            at, reader, ended = TopicPartition(topics.ML_STATE, 0), log.reader(), False
            reader.assign({at: 0})
            while not ended:
                poll = reader.poll(1.0)
                yield from ((r.key, r.value) for r in poll.records if r.key is not None)
                ended = at in poll.ends
            reader.close()

        begin = time.monotonic()
        found = snapshot.restore(models, 0, snapshot.small(records), records)
        assert found is not None
        return time.monotonic() - begin


def measure(series: int, with_boosting: bool) -> dict[str, object]:
    rng = np.random.default_rng(0)
    models = Models(
        float(STEP_S), HORIZON, HISTORY, Plan(0, 20), trainer=Trainer() if with_boosting else None
    )
    state, saved, kept = models.fresh(), snapshot.Saved(), dict[bytes, bytes]()
    base, spent = rss_mb(), defaultdict[str, list[float]](list)
    for step in range(STEPS):
        at = FIRST + step
        if step == WARM:
            fill(state, rng)
            train(models, state)
            saved, kept = snapshot.save(models, state, step, 0, snapshot.Saved())
            spent.clear()
        now = [*rows(at, False, series, rng), *rows(at - 1, True, series, rng)]
        with timed(spent, "rows_s"):
            for row in now:
                models.take(state, row)
        with timed(spent, "advance_s"):
            outcome = models.advance(
                state,
                Progress(0, 0, at * STEP_US, at * STEP_US, (at - 1) * STEP_US, (at - 1) * STEP_US, 0, []),
            )
        with timed(spent, "encode_s"):
            size = sum(len(value) for _, value in outcome.forecasts.encoded())
        with timed(spent, "refresh_s"):
            models.forecast(state, np.zeros(len(state.services)))
        with timed(spent, "snapshot_s"):
            saved, records = snapshot.save(models, state, step, 0, saved)
        kept |= records
        spent["snapshot_mb"].append(sum(map(len, records.values())) / 1e6)
        spent["step_mb"].append(size / 1e6)
    median = {name: float(np.median(values)) for name, values in spent.items()}
    every_s = max(Settings().ml.snapshot_s, median["snapshot_mb"] * 1e6 / SNAPSHOT_BYTES_PER_S, STEP_S)
    whole_mb, peak = sum(map(len, kept.values())) / 1e6, rss_mb()
    return {
        "id": "service",
        "series": series,
        "boosting": with_boosting,
        **{name: round(value, 3) for name, value in median.items()},
        "snapshot_mb_per_s": round(median["snapshot_mb"] / every_s, 2),
        "whole_snapshot_mb": round(whole_mb),
        "restart_s": round(restart_s(models, kept), 1),
        "rss_mb": peak - round(whole_mb),
        "base_mb": base,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--series", type=int, default=10_000)
    arguments.add_argument("--boosting", action="store_true")
    chosen = arguments.parse_args()
    print(json.dumps(measure(chosen.series, chosen.boosting), indent=2))


if __name__ == "__main__":
    main()
