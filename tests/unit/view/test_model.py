"""What a person sees, made from records alone."""

from __future__ import annotations

import io
from collections import Counter

import msgspec
from rich.console import Console

from smartscale.log.port import Record
from smartscale.records import decisions, forecasts, metrics, schema
from smartscale.records.decisions import Decision
from smartscale.records.forecasts import Forecast, Incident
from smartscale.view.model import KEPT, Latencies, Model
from smartscale.view.terminal import Shown, StageLine, screen, summary_line

SECOND = 1_000_000


class Books(msgspec.Struct):
    accepted: int = 100
    windowed: int = 90
    late: int = 1
    dead: int = 2
    duplicates: int = 3
    lost: int = 0
    unread: int = 1
    between: int = 1
    in_flight: int = 4
    difference: int = 0


def record(value: bytes, name: str) -> Record:
    return Record("any", 0, 0, value, None, schema.headers(name), 0)


def row(end_s: int = 10, rate: float = 5.0, window: str = "10s", name: str = "*") -> Record:
    made = metrics.MetricRow(
        "default", "shop", "interaction", name, window, (end_s - 10) * SECOND, end_s * SECOND, 50, 5, rate, 0.1,
        0, False, True, end_s * SECOND, latency_p99_ms=120.0,
    )  # fmt: skip
    return record(metrics.encode(made), schema.METRIC)


def forecast(series: str = "rate", high: float = 9.0) -> Record:
    levels = [0.05, 0.5, 0.95]
    values = [[1.0, 2.0, high], [2.0, 3.0, high + 1]]
    made = Forecast(
        "default", "shop", series, 10 * SECOND, 10.0, levels, values, values, "trend", anomaly=0.25
    )
    return record(forecasts.encode(made), schema.FORECAST)


def incident(number: int = 1, end_us: int | None = None) -> Record:
    made = Incident(
        f"i{number}",
        "default",
        "shop",
        "fault",
        number,
        end_us,
        0,
        0.9,
        "error_rate",
        0.0,
        0.01,
        0.3,
        "30 % fail",
    )
    return record(forecasts.encode(made), schema.INCIDENT)


def decision(current: int, desired: int) -> Record:
    made = Decision(
        "d", "p", "default", "shop", 0, 0, 1, "Auto", current, desired, desired, current != desired,
        [], [], [], "load rises", 50.0, inputs=msgspec.Raw(b'{"ready":2,"current":3}'),
    )  # fmt: skip
    return record(decisions.encode(made), schema.DECISION)


def text(model: Model, width: int = 140) -> str:
    shown = Shown(
        "smartscale up",
        20 * SECOND,
        model,
        [StageLine("combine-0", "ready", "ready", 1, 3)],
        Books(),
        lead_s=10.0,
    )
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(screen(shown))
    return console.export_text() + summary_line(shown)


def test_the_screen_tells_rate_errors_p99_replicas_band_incident_decision_stage_and_ledger() -> None:
    """Everything at once, from one record of each kind."""
    model = Model("10s")
    model.apply([row(), forecast(), incident(), decision(2, 3)])
    seen = text(model)
    for part in (
        "5.0", "10.0%", "120", "2/3", "1.0 … 2.0 … 9.0", "0.25", "fault of shop", "30 % fail", "2 → 3",
        "load rises", "combine-0", "difference 0",
    ):  # fmt: skip
        assert part in seen


def test_the_screen_tells_what_a_forecast_rests_on_and_whether_it_counts_in_full() -> None:
    """The rung of the cold-start ladder; and the influence, once skill is lost."""
    model = Model("10s")
    told = forecast()
    doubted = msgspec.structs.replace(forecasts.decode_forecast(told.value), influence=0.4, stage="daily")
    model.apply([row(), told])
    assert "counts" not in text(model, width=250)
    model.apply([record(forecasts.encode(doubted), schema.FORECAST)])
    assert "9.0 daily, counts 0.4" in text(model, width=250)


def test_an_empty_log_shows_that_nothing_is_there_yet() -> None:
    """No window, no incident, no decision."""
    seen = text(Model("10s"))
    assert "no window yet" in seen
    assert "none yet" in seen


def test_only_roll_ups_of_the_shown_window_make_the_table() -> None:
    """Rows of single routes and of other windows are for other readers."""
    model = Model("10s")
    model.apply([row(rate=1.0, name="GET /"), row(rate=2.0, window="60s")])
    assert model.services == {}


def test_an_older_window_does_not_replace_a_newer_one() -> None:
    """A final row of the past arrives after the first row of now."""
    model = Model("10s")
    model.apply([row(end_s=40, rate=7.0), row(end_s=10, rate=3.0)])
    shown = model.services["default", "shop"].row
    assert shown is not None
    assert shown.rate_per_s == 7.0
    assert model.services["default", "shop"].recent == [7.0]


def test_arrivals_are_preferred_to_the_rate_as_the_forecast_shown() -> None:
    """Demand is arrivals where a service reports them, whichever comes last."""
    model = Model("10s")
    model.apply([forecast("arrivals", high=50.0), forecast("rate", high=9.0)])
    shown = model.services["default", "shop"].forecast
    assert shown is not None
    assert shown.series == "arrivals"


def test_a_closed_incident_is_not_open_any_more() -> None:
    """The last record of an id is its state."""
    model = Model("10s")
    model.apply([incident(), incident(end_us=50)])
    assert model.open_incidents == []


def test_memory_is_bounded_by_letting_the_oldest_closed_incidents_go() -> None:
    """An open one is kept."""
    model = Model("10s")
    model.apply([incident(0), *[incident(n, end_us=n) for n in range(1, KEPT + 50)]])
    assert len(model.incidents) == KEPT
    assert "i0" in model.incidents


def test_a_record_that_cannot_be_read_stops_nothing() -> None:
    """It is counted."""
    model = Model("10s")
    model.apply([record(b"{", schema.METRIC), record(b"{}", "metric/99"), row()])
    assert model.unreadable == 2
    assert len(model.services) == 1


def test_a_latency_quantile_is_a_value_that_was_seen() -> None:
    """The inverse distribution function: p99 of 100 values is the 99th."""
    latencies = Latencies(Counter(range(1, 101)))
    assert (latencies.quantile(0.5), latencies.quantile(0.99)) == (50, 99)
    assert Latencies().quantile(0.5) is None
