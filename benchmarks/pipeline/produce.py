"""The load generator: events and requests a second that one process sends, and what its own lateness is.

    python benchmarks/pipeline/produce.py [--trial 2]

The highest rate within p99 = 20 ms is searched (``--rate max``), for batches of 500 events and for single posts, against an
edge that answers at once (``testing.model_edge``), pinned to the last core; the generator has the others. Beside the rate:
processor time of the sending thread and its lag at that rate, and what planning and writing the events alone costs.
Where the edge was the limit, the processor time a request says what the generator could do. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

from smartscale.producer import service
from smartscale.producer.job import Job, LoadSpec, constant, opened
from smartscale.producer.load import Load
from smartscale.producer.plan import planned
from smartscale.producer.player import Options
from smartscale.producer.rate_search import Target, Trial


def planning_ns(rate_per_s: float) -> float:
    """Nanoseconds an event that is drawn and written as JSON, without being sent."""
    load = opened(LoadSpec(rate_per_s=rate_per_s))
    assert isinstance(load, Load)
    load = replace(constant(load, rate_per_s, 3.0))
    next(planned(load, "warm"))
    began = time.process_time()
    events = sum(len(chunk) for chunk in planned(load, "run"))
    return (time.process_time() - began) / events * 1e9


def measured(url: str, batch: int, trial_s: float) -> dict[str, object]:
    """The search for one size of batch."""
    trials: list[Trial] = []
    job = Job(spec=LoadSpec(rate_per_s=1.0), options=Options(url=url, batch=batch))
    found = service.highest_rate(job, Target("p99", 20.0), trial_s, threading.Event(), trials.append)
    report = found.report
    if report is None:
        raise RuntimeError(f"no rate was sustained: {trials}")
    generator = report.generator
    return {
        "events_per_s": round(found.accepted_per_s),
        "requests_per_s": round(report.counts.requests / report.elapsed_s),
        "sending_thread_cpu": round(generator.cpu_mean, 2),
        "sending_thread_us_per_request": round(
            generator.cpu_mean * report.elapsed_s / report.counts.requests * 1e6, 1
        ),
        "latency_ms": {level: report.latency_ms.at[level] for level in ("p50", "p99", "p99.9")},
        "lag_ms": {level: generator.lag_ms.at[level] for level in ("p50", "p99", "p99.9")},
        "fails_at_per_s": round(found.fails_at_per_s or 0),
        "generator_was_the_limit": found.limited,
        "trials": len(trials),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trial", type=float, default=2.0)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    edge = subprocess.Popen(
        [sys.executable, "-m", "smartscale.testing.model_edge"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert edge.stdout is not None
        url = f"http://127.0.0.1:{int(edge.stdout.readline())}"
        os.sched_setaffinity(edge.pid, cores[-1:])
        os.sched_setaffinity(0, cores[:-1] or cores)
        result = {
            "batches of 500": measured(url, 500, options.trial),
            "single posts": measured(url, 1, options.trial),
            "planning_and_writing_ns_per_event": round(planning_ns(200_000)),
        }
    finally:
        edge.kill()
        edge.wait()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
