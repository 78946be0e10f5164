"""Forecasts and incidents: what ml tells control and people."""

from __future__ import annotations

from typing import Final

import msgspec

RATE: Final = "rate"
"""Series: interactions a second (roll-up of kind ``interaction``)."""
ARRIVALS: Final = "arrivals"
"""Series: arrivals a second, the sum of the metric of that name; demand, where a service reports it."""


class Forecast(msgspec.Struct, frozen=True):
    """Quantiles of one series over a horizon.

    ``values[h][q]`` is the quantile ``levels[q]`` of the value at ``origin_us + (h + 1) * step_s``;
    ``peaks[h][q]`` that of the **maximum over steps 1 to h + 1**. Both in the series' unit (events a second),
    levels ascending, values never crossing, never below 0. ``origin_us`` is the end of the last window known.
    ``coverage`` is the live share of truths inside the 90 % band, ``skill`` 1 − loss / loss of the naive
    forecast; None while there is too little evidence. ``models`` are the mixture's weights now."""

    tenant: str
    service: str
    series: str
    origin_us: int
    step_s: float
    levels: list[float]
    values: list[list[float]]
    peaks: list[list[float]]
    stage: str
    """Rung of the cold-start ladder: naive, trend, daily, weekly."""
    coverage: float | None = None
    skill: float | None = None
    models: dict[str, float] = {}
    anomaly: float = 0.0
    """Probability that the service's latest window is out of the ordinary."""


DEMAND_SURGE: Final = "demand-surge"
FAULT: Final = "fault"
DATA_GAP: Final = "data-gap"
LEVEL_SHIFT: Final = "level-shift"


class Incident(msgspec.Struct, frozen=True):
    """Alerts that belong together. The latest record of an ``id`` is its state; ``end_us`` is None while open.

    ``metric`` was expected in ``[low, high]`` and ``seen``. ``severity`` in (0, 1]. ``class_`` (``class`` on the
    wire) is what control acts on. ``notify`` is False when the alert budget silenced it."""

    id: str
    tenant: str
    service: str
    class_: str = msgspec.field(name="class")
    start_us: int
    end_us: int | None
    updated_us: int
    severity: float
    metric: str
    low: float | None
    high: float | None
    seen: float | None
    text: str
    notify: bool = True


encode = msgspec.json.Encoder().encode
decode_forecast = msgspec.json.Decoder(Forecast).decode
decode_incident = msgspec.json.Decoder(Incident).decode
