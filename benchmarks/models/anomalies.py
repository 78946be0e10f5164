"""Incidents on the load generator's labelled faults and clean weeks: what is told, when, as what, and what is told falsely.

Run: ``python benchmarks/models/anomalies.py [--seeds 1 101] [--faulty 48] [--clean 84] [--days 2]``. Prints one JSON value,
by seed. Constants were chosen with seed 1; seed 101 was not looked at before.

Windows of many services are drawn (``smartscale.producer.windows``) and go through the models side by side as the ml
stage would take them, step by step. Time is event time.

- ``told``: of each kind of fault the share that is told **with the right class** in time (30 s after the first complete
  window of the fault, a slow leak before +30 %), with the lower 95 % bound (Clopper and Pearson), and quantiles of the
  delay in seconds after that window's end; ``as_last``: the same, of those whose last record has the right class.
- ``false``: incidents that no fault explains, of services without any fault, a service and week, with the upper 95 %
  bound (Poisson); by kind of service and kinds of evidence. ``beside_faults``: those of the services with faults.
- ``reliability``: how often a service-step is within a fault, by the probability told for it (``Forecast.anomaly``):
  ten bins; ``error`` is the mean difference, weighted by steps (expected calibration error, Naeini et al. 2015).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from smartscale.clock import MICROS
from smartscale.ml.anomaly.feedback import Plan
from smartscale.ml.partition import Forecasts, Models
from smartscale.ml.series.rows import Row
from smartscale.producer import scenario
from smartscale.producer.labels import TrueFault, true_faults
from smartscale.producer.load import Load
from smartscale.producer.models import queued
from smartscale.producer.windows import Windows, windows
from smartscale.records.forecasts import Incident
from smartscale.records.metrics import Progress

STEP_S: Final = 10
STEP_US: Final = STEP_S * MICROS
WEEK_S: Final = 7 * 86_400
LEARNT_S: Final = 3600
"""Probabilities are judged from here on."""

TAIL: Final = (
    "latency: {model: mixture, body: {model: lognormal, median_ms: 20, sigma: 0.5}, "
    "tail: {model: lognormal, median_ms: 600, sigma: 0.8}, tail_share: 0.01}"
)
CLEAN: Final = {
    "poisson": "rate: 40, spread: 0.6",
    "diurnal": "rate: 60, spread: 0.8, shapes: [{kind: diurnal, amplitude: 0.6}, {kind: weekly}]",
    "large": "rate: 800, spread: 0.8, shapes: [{kind: diurnal, amplitude: 0.7, peak: '20:00'}]",
    "self-similar": (
        "rate: 80, spread: 0.8, arrivals: {process: self_similar, sessions: 60}, "
        "shapes: [{kind: diurnal, amplitude: 0.4}]"
    ),
    "wild": "rate: 80, spread: 0.8, arrivals: {process: self_similar, sessions: 20, hurst: 0.85}",
    "hawkes": (
        "rate: 30, spread: 0.3, arrivals: {process: hawkes, branching: 0.6, decay: 2s}, "
        "shapes: [{kind: diurnal, amplitude: 0.5}]"
    ),
    "low": "rate: 1.5, spread: 0.8, shapes: [{kind: diurnal, amplitude: 0.6}]",
    "errors": "rate: 60, spread: 0.5, error_rate: 0.03",
    "heavy-tail": f"rate: 30, spread: 0.5, {TAIL}",
    "near-capacity": (
        "rate: 100, capacity: {per_s: 190}, overload: {}, shapes: [{kind: diurnal, amplitude: 0.6}]"
    ),
    "ramps": (
        "rate: 30, shapes: [{kind: ramp, to: 4, start: 3h, duration: 20m}, {kind: sine, amplitude: 0.5, period: 3h}]"
    ),
    "constant": "rate: 50, arrivals: {process: constant}, latency: {model: gamma, mean_ms: 50, shape: 8}",
}
"""Services without faults: kinds of load that a detector could take for one."""
FAULTY: Final = (
    "rate: {rate}",
    "rate: {rate}, shapes: [{{kind: diurnal, amplitude: 0.4, peak: '{hour:02d}:00'}}]",
    "rate: {rate}, arrivals: {{process: self_similar, sessions: 60}}",
    "rate: {rate}, arrivals: {{process: hawkes, branching: 0.5, decay: 1s}}",
    "rate: {rate}, error_rate: 0.02",
    "rate: {rate}, " + TAIL.replace("{", "{{").replace("}", "}}"),
    "rate: {rate}, capacity: {{per_s: {capacity}}}, overload: {{}}, shapes: [{{kind: diurnal, amplitude: 0.3}}]",
    "rate: {rate}, latency: {{model: gamma, mean_ms: 50, shape: 1.2}}",
)
FAULTS: Final = {
    "drop_to_zero": "",
    "error_spike": ", size: 0.2",
    "latency_step": ", size: 3",
    "retry_storm": ", size: {storm}, retries: 3",
    "flash_crowd": ", size: 3, rise: {rise}s",
    "slow_leak": ", size: 0.01",
}
LEAK_S: Final = 1800
"""A leak of 1 % a minute has reached +30 %."""


def clean(seed: int, services: int, days: float) -> str:
    """The scenario of services without faults."""
    count = max(1, round(services / len(CLEAN)))
    each = [f'  - {{name: "{kind}-{{n}}", count: {count}, {text}}}' for kind, text in CLEAN.items()]
    if count == 1:
        each = [line.replace("-{n}", "-1") for line in each]
    return "\n".join([f"seed: {seed}", f"duration: {days * 86_400:.0f}s", "services:", *each])


def faulty(seed: int, services: int) -> str:
    """The scenario of services, each with every fault twice in random order, 25 to 55 minutes apart."""
    chance, each, wrong, latest = np.random.default_rng(seed), [], [], 0.0
    for number in range(services):
        rate = round(36 * float(np.exp(chance.exponential(1.0))), 1)
        load = {"rate": rate, "hour": int(chance.integers(24)), "capacity": round(3 * rate)}
        each.append(f"  - {{name: s{number}, {FAULTY[number % len(FAULTY)].format(**load)}}}")
        at = 7200 + 600 * chance.random()
        for kind in chance.permutation([*FAULTS, *FAULTS]).tolist():
            lasts = LEAK_S if kind == "slow_leak" else int(chance.integers(240, 420))
            size = {"storm": chance.choice([0.3, 0.5]), "rise": chance.choice([10, 30])}
            what = f"kind: {kind}, services: [s{number}]{FAULTS[kind].format(**size)}"
            wrong.append(f"  - {{{what}, start: {at:.1f}s, duration: {lasts}s}}")
            at += lasts + 1500 + 1800 * chance.random()
        latest = max(latest, at)
    lines = [f"seed: {seed}", f"duration: {latest:.0f}s", "services:", *each, "faults:", *wrong]
    return "\n".join(lines)


class Run(NamedTuple):
    """What came of a scenario. ``probability`` of shape (services, steps)."""

    services: list[str]
    faults: list[TrueFault]
    start_us: int
    incidents: list[Incident]
    probability: npt.NDArray[np.float32]
    cpu_s: float


def run(text: str, label: str) -> Run:
    """Draw a scenario and take it through the models."""
    load = scenario.load_of(text)
    drawn, means = windows(load, STEP_S), gauges(load)
    models = Models(float(STEP_S), 3, 8640, Plan(0, 10**9))
    state, told = models.fresh(), list[Incident]()
    steps = drawn.count.shape[1]
    probability = np.zeros((len(drawn.services), steps), np.float32)
    place = {service: i for i, service in enumerate(drawn.services)}
    begun = time.process_time()
    for step in range(steps):
        end_us = drawn.start_us + (step + 1) * STEP_US
        for row in (*rows(drawn, step), *gauge_rows(means, step, end_us)):
            models.take(state, row)
        made = models.advance(state, Progress(0, 0, end_us, end_us, end_us, end_us, 0, []))
        told += [record for record in made.incidents if isinstance(record, Incident)]
        assert isinstance(made.forecasts, Forecasts)
        for row_at, (_, service, _) in made.forecasts.series:
            probability[place[service], step] = made.forecasts.anomaly[row_at]
        if step % 720 == 0:
            print(f"\r{label}: {100 * step / steps:3.0f} %", end="", file=sys.stderr, flush=True)
    print(f"\r{label}: done ", file=sys.stderr)
    cpu_s = time.process_time() - begun
    return Run(drawn.services, true_faults(load), drawn.start_us, told, probability, cpu_s)


def gauges(load: Load) -> dict[str, npt.NDArray[np.float64]]:
    """CPU, memory and queue of every service with a capacity, (steps, 3), as the load generator's metrics follow its load;
    2 % noise, one reading a step."""
    steps = math.ceil(load.duration_s / STEP_S)
    found = {}
    for source in load.sources:
        capacity = source.spec.capacity
        if capacity is not None:
            used = source.course(np.arange(0.5, steps, 1.0) * STEP_S).load
            noise = np.exp(0.02 * source.chance(99).standard_normal((steps, 3)))
            cpu, memory = 5 + 95 * np.minimum(used, 1.0), 500 + 500 * used
            found[source.name] = np.column_stack([cpu, memory, queued(used, capacity.servers)]) * noise
    return found


GAUGES: Final = ("cpu_percent", "memory_mb", "queue_depth")


def gauge_rows(means: dict[str, npt.NDArray[np.float64]], step: int, end_us: int) -> Iterator[Row]:
    """The rows of the gauges of one step."""
    for service, each in means.items():
        for name, mean in zip(GAUGES, each[step].tolist(), strict=True):
            yield Row(
                "default", service, "metric", name, "10s", end_us - STEP_US, end_us, 1, 0, 0.1, 1, True, True,
                None, mean, None, mean,
            )  # fmt: skip


def rows(drawn: Windows, step: int) -> Sequence[Row]:
    """The rows of one step, final and complete."""
    end_us = drawn.start_us + (step + 1) * STEP_US
    columns = (
        drawn.count[:, step],
        drawn.errors[:, step],
        drawn.latency_ms[:, step, 0],
        drawn.latency_ms[:, step, 3],
    )
    return [
        Row(
            "default", service, "interaction", "*", "10s", end_us - STEP_US, end_us, count, errors,
            count / STEP_S, 1, True, True, p99 if count else None, None, p50 if count else None,
        )
        for service, count, errors, p50, p99 in zip(drawn.services, *(c.tolist() for c in columns), strict=True)
    ]  # fmt: skip


def deadline_us(fault: TrueFault) -> tuple[int, int]:
    """End of the first complete window of a fault, and until when it is to be told."""
    first = -(-fault.start_us // STEP_US) * STEP_US + STEP_US
    return first, fault.start_us + LEAK_S * MICROS if fault.kind == "slow_leak" else first + 30 * MICROS


def told(found: Run) -> tuple[dict[str, Any], set[str]]:
    """``told`` of the module's docstring, and the incidents that faults explain."""
    of_service: dict[str, list[Incident]] = defaultdict(list)
    for record in found.incidents:
        of_service[record.service].append(record)
    last = {record.id: record.class_ for record in found.incidents}
    results: dict[str, list[tuple[float | None, bool]]] = defaultdict(list)
    explained: set[str] = set()
    for fault in found.faults:
        first_us, until_us = deadline_us(fault)
        mine = [
            record
            for record in of_service[fault.service]
            if fault.start_us < record.updated_us <= fault.end_us + 60 * MICROS
        ]
        explained |= {record.id for record in mine}
        right = [
            r for r in mine if r.class_ == fault.class_ and r.end_us is None and r.updated_us <= until_us
        ]
        delay = (right[0].updated_us - first_us) / MICROS if right else None
        results[fault.kind].append((delay, bool(right) and last[right[0].id] == fault.class_))
    return {kind: summary(each) for kind, each in results.items()}, explained


def summary(each: list[tuple[float | None, bool]]) -> dict[str, Any]:
    delays = [delay for delay, _ in each if delay is not None]
    count, in_time = len(each), len(delays)
    lower = float(stats.beta.ppf(0.05, in_time, count - in_time + 1)) if in_time else 0.0
    quantiles = np.quantile(delays, [0.5, 0.95, 1.0]).round(1).tolist() if delays else []
    return {
        "faults": count,
        "in_time": in_time,
        "share": round(in_time / count, 4),
        "at_least": round(lower, 4),
        "delay_s": dict(zip(("median", "95 %", "longest"), quantiles, strict=False)),
        "as_last": sum(right for _, right in each),
    }


def false(found: Run, explained: set[str]) -> dict[str, Any]:
    """Incidents that no fault explains, by kind of service and of evidence."""
    last = {record.id: record for record in found.incidents if record.id not in explained}
    weeks = len(found.services) * found.probability.shape[1] * STEP_S / WEEK_S
    kinds = Counter(
        f"{r.service.rpartition('-')[0]}: {r.class_} ({'+'.join(r.kinds)})" for r in last.values()
    )
    return {
        "incidents": len(last),
        "service_weeks": round(weeks, 1),
        "a_service_week": round(len(last) / weeks, 3),
        "at_most": round(float(stats.chi2.ppf(0.95, 2 * len(last) + 2)) / 2 / weeks, 3),
        "by": dict(sorted(kinds.items())),
    }


def pairs(found: Run) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Probability, and whether a fault was on, of every service-step once an hour has been learned."""
    faulty = np.zeros(found.probability.shape, np.bool_)
    for fault in found.faults:
        first = (fault.start_us - found.start_us) // STEP_US
        last = math.ceil((fault.end_us - found.start_us) / STEP_US)
        faulty[found.services.index(fault.service), first:last] = True
    return found.probability[:, LEARNT_S // STEP_S :].ravel(), faulty[:, LEARNT_S // STEP_S :].ravel()


def reliability(runs: Sequence[Run]) -> dict[str, Any]:
    """``reliability`` of the module's docstring."""
    said, true = (np.concatenate(column) for column in zip(*map(pairs, runs), strict=True))
    bins = np.minimum((said * 10).astype(int), 9)
    table = [
        {
            "said": round(float(said[bins == b].mean()), 4),
            "seen": round(float(true[bins == b].mean()), 4),
            "steps": int((bins == b).sum()),
        }
        for b in range(10)
        if (bins == b).any()
    ]
    error = sum(row["steps"] * abs(row["said"] - row["seen"]) for row in table) / len(said)
    return {
        "bins": table,
        "error": round(error, 4),
        "largest_of_a_bin": round(max(abs(r["said"] - r["seen"]) for r in table if r["steps"] >= 100), 4),
        "brier": round(float(((said - true) ** 2).mean()), 5),
        "base_rate": round(float(true.mean()), 4),
    }


def measured(seed: int, faulty_services: int, clean_services: int, days: float) -> dict[str, Any]:
    """Everything of one seed."""
    with_faults = run(faulty(seed, faulty_services), f"seed {seed}, faults")
    without = run(clean(seed, clean_services, days), f"seed {seed}, clean")
    shares, explained = told(with_faults)
    return {
        "told": shares,
        "false": false(without, set()),
        "beside_faults": false(with_faults, explained),
        "reliability": reliability([with_faults, without]),
        "reliability_with_faults": reliability([with_faults]),
        "cpu_s": round(with_faults.cpu_s + without.cpu_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 101])
    parser.add_argument("--faulty", type=int, default=48, help="services with faults")
    parser.add_argument("--clean", type=int, default=84, help="services without")
    parser.add_argument("--days", type=float, default=2.0, help="how long the clean ones are watched")
    given = parser.parse_args()
    print(json.dumps({s: measured(s, given.faulty, given.clean, given.days) for s in given.seeds}, indent=1))


if __name__ == "__main__":
    main()
