"""Every compiled loop, compiled now: a first start then keeps nobody waiting, and an image can be read-only.

What is compiled depends on the types that a loop is called with; so the real stages are run on a handful of events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from smartscale.clock import MICROS
from smartscale.config import Dedup, Settings, Windows


def steps() -> Iterator[tuple[str, Callable[[], None]]]:
    """What there is to compile, the longest first: each part's name, and what compiles it."""
    yield "the forecasts", _forecasts
    yield "the edge", _edge
    yield "OTLP spans", _spans
    yield "the stream processor", _stream
    yield "the load generator", _load
    yield "the anomaly detector", _detector


def _edge() -> None:
    from smartscale.ingest.decode import warm_up
    from smartscale.ingest.service import rules

    warm_up(rules(Settings()))


def _spans() -> None:
    from smartscale.ingest.otlp import spans

    spans.prepare()


def _stream() -> None:
    from smartscale.testing import Pipeline, Sent

    windows = Windows(aggregates=["requests", "latency", "values", "users"])
    run = Pipeline(Settings(windows=windows, dedup=Dedup(window_s=20)))
    for second in range(60):
        at = run.start_us + second * MICROS
        run.send(Sent("a", at, id=str(second // 2), latency_us=second, user="u", value=float(second % 2)))
        run.combine()
    run.run_to_end()


def _load() -> None:
    from smartscale.producer import job, scenario

    job.warm_up(scenario.load_of(_SCENARIO))


def _detector() -> None:
    import numpy as np

    from smartscale.ml.anomaly.detector import Detector
    from smartscale.ml.anomaly.together import Together

    detector = Detector()
    detector.step(detector.fresh(1), np.zeros(1, np.int64), np.ones(1))
    together = Together()
    together.step(together.fresh(1), np.ones(1))


def _forecasts() -> None:
    import numpy as np

    from smartscale.ml import wire
    from smartscale.ml.forecast.boosting import Boosting, Trees
    from smartscale.ml.forecast.ensemble import Forecaster
    from smartscale.ml.series.history import Past
    from smartscale.records.forecasts import Forecast

    plan = Forecaster(3600.0, 3, history_steps=168)
    state = plan.fresh(2)
    for step in range(3):
        plan.learn(state, step, np.ones(2))
    memory = plan.view(state, state.memory, 3, np.ones(2))
    plan.forecast(state, memory, 3)
    plan.surprise(state, memory, 3, np.ones(2))
    Past(state.past, 3).between(0, 3)
    quantiles = np.ones((3, 2), np.float32)
    wire.encode(Forecast("a", "b", "rate", 0, 1.0, [], [], [], "naive"), quantiles, quantiles)
    booster = Boosting(3600.0, 3, 168, 24, 168, 0)
    booster.trees = Trees.stump(0.0)
    booster.forecast(np.empty((2, 0)), Past(state.past, 3), 3)
    booster.sample(Past(state.past, 3), np.full(2, 168))


_SCENARIO: Final = """
duration: 1s
services:
  - {name: a, rate: 100}
"""
