"""How fast a load is planned: events ready to be sent, and windows without events, on one core.

Run ``python benchmarks/micro/scenarios.py``; prints one JSON object. CPU seconds of this process, the best of three:

- ``planned``: a service of 50,000 requests a second with two routes and 10,000 users, as JSON with ids, a second; for each
  arrival process. ``columns`` leaves the JSON out. The limit beside it encodes the same events with msgspec, structs
  that exist already.
- ``many_services``: the same number of requests from 500 services of 100 a second.
- ``windows``: one week of 10 s windows of 20 services of 20 requests a second with a capacity, in seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import msgspec

from smartscale.producer.chunk import Heads
from smartscale.producer.load import Load
from smartscale.producer.plan import columns_of, planned
from smartscale.producer.scenario import load_of
from smartscale.producer.windows import windows

PROCESSES = ("poisson", "constant", "hawkes", "self_similar")
SECONDS = 10
_ROUTES = "routes: [{name: GET /a, weight: 3}, {name: GET /b, latency: {model: gamma, mean_ms: 80}}]"


def busy(process: str) -> Load:
    return load_of(
        f"{{duration: {SECONDS}s, services: [{{name: s, rate: 50000, users: {{population: 10000}}, {_ROUTES}, "
        f"arrivals: {{process: {process}}}}}]}}"
    )


def ready(load: Load) -> int:
    """Draw every event and write it as JSON; how many."""
    return sum(map(len, planned(load, "run")))


def drawn(load: Load) -> int:
    """Draw every event; how many."""
    return sum(map(len, columns_of(load, Heads())))


def best(run: Callable[[], int], times: int = 3) -> tuple[int, float]:
    """What it returns and its fewest CPU seconds."""
    result, fewest = 0, float("inf")
    for _ in range(times):
        began = time.process_time()
        result = run()
        fewest = min(fewest, time.process_time() - began)
    return result, fewest


def rate(run: Callable[[], int]) -> int:
    """Events a second of CPU, to three digits."""
    events, seconds = best(run)
    return int(float(f"{events / seconds:.3g}"))


def main() -> dict[str, object]:
    ready(load_of("{duration: 1s, services: [{name: s, rate: 10}]}"))
    loads = {process: busy(process) for process in PROCESSES}
    events = [event for chunk in planned(loads["poisson"], "run") for event in chunk.events()][:100_000]
    encode = msgspec.json.Encoder().encode
    many = load_of(f"{{duration: {SECONDS}s, services: [{{name: 's-{{n}}', count: 500, rate: 100}}]}}")
    weeks = "name: 's-{n}', count: 20, rate: 20, capacity: {per_s: 100}, shapes: [{kind: diurnal}]"
    week = load_of(f"{{duration: 1w, services: [{{{weeks}}}]}}")
    return {
        "planned_per_s": {process: rate(partial(ready, load)) for process, load in loads.items()},
        "columns_per_s": {process: rate(partial(drawn, load)) for process, load in loads.items()},
        "limit_msgspec_per_s": rate(lambda: len([encode(event) for event in events])),
        "many_services_per_s": rate(partial(ready, many)),
        "windows_20_service_weeks_s": round(best(lambda: windows(week).count.size, 2)[1], 2),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
