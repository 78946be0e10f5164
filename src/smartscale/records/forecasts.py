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
    forecast; None while there is too little evidence. ``influence`` in [0, 1] is what the forecast should count for
    in view of both: less than 1 when it covers or foretells too little. ``exceeded`` and ``exceeded_peaks`` are the live
    shares of values, and of maxima, above the quantiles of the tail, by level ("0.99" to "0.9995"); a level is missing
    while fewer than ten above were to be expected. ``models`` are the mixture's weights now."""

    tenant: str
    service: str
    series: str
    origin_us: int
    step_s: float
    levels: list[float]
    values: list[list[float]]
    peaks: list[list[float]]
    stage: str
    """Rung of the cold-start ladder that at least half of the forecast rests on: naive, trend, period (found in the
    data), daily, weekly."""
    coverage: float | None = None
    skill: float | None = None
    influence: float = 1.0
    models: dict[str, float] = {}
    exceeded: dict[str, float] = {}
    exceeded_peaks: dict[str, float] = {}
    anomaly: float = 0.0
    """Probability that the service's latest window is out of the ordinary."""


DEMAND_SURGE: Final = "demand-surge"
FAULT: Final = "fault"
DATA_GAP: Final = "data-gap"
LEVEL_SHIFT: Final = "level-shift"
CLASSES: Final = (DEMAND_SURGE, FAULT, DATA_GAP, LEVEL_SHIFT)
KINDS: Final = ("surge", "drop", "zero", "errors", "latency", "median", "creep", "gauge", "combined")
"""Kinds of evidence, as ``ml.anomaly.evidence`` tells them."""


class Incident(msgspec.Struct, frozen=True):
    """Alerts that belong together. The latest record of an ``id`` is its state; ``end_us`` is None while open.

    ``metric`` was ``expected`` in ``[low, high]`` and ``seen``: demand a second, a rate of errors from 0 to 1, or
    milliseconds. ``class_`` (``class`` on the wire) is what control acts on.

    ``severity`` from 0.05 to 1 is the share of the service that is concerned at worst: of a surge the part of demand that
    nobody expected (×3: 0.67), of a drop the part that is gone, of a gap 1, of slow answers the part of the time that is new
    (×3: 0.67), of a gauge the part that is new, of errors twice the added error rate (half of the answers: 1). The
    greatest of its kinds; it never falls.

    ``kinds`` are the kinds of evidence behind it, each with its effect at worst: how many times the expected value, of
    errors the points above. ``probability`` that something is out of the ordinary, None where it was not computed.

    ``notify`` is False where people were not to be told; ``silenced`` says why. Control acts on such an incident as on
    any other.

    Fields after ``notify`` came later and have defaults, so records without them are read, and older readers pass over
    them."""

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
    expected: float | None = None
    kinds: dict[str, float] = {}
    probability: float | None = None
    silenced: str = ""


encode = msgspec.json.Encoder().encode
decode_forecast = msgspec.json.Decoder(Forecast).decode
decode_incident = msgspec.json.Decoder(Incident).decode


def headline(incident: Incident) -> str:
    """An incident in one line, the same wherever it is shown: what it is, how bad, and what was seen."""
    quiet = "" if incident.notify else f" [not told: {incident.silenced or 'the alert budget was spent'}]"
    return (
        f"{incident.class_} of {incident.service}, severity {incident.severity:.2f}: {incident.text}{quiet}"
    )
