"""Settings of ml: what is refused, and how the message says to mend it."""

from __future__ import annotations

import pytest

from smartscale.config import load
from smartscale.errors import ConfigError


@pytest.mark.parametrize("step_s", [10, 60, 600])
def test_two_hours_ahead_at_any_step_are_taken(step_s: int) -> None:
    """Steps of 10 s to 10 min."""
    flags = {"windows.tumbling_s": [step_s], "ml.step_s": step_s, "ml.horizon_steps": 7200 // step_s}
    assert load(flags=flags).ml.horizon_steps == 7200 // step_s


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"ml.horizon_steps": 721},
            "721: with steps of 10 s that is 7210 s ahead, and forecasts reach 7200 s; give at most 720",
        ),
        ({"ml.horizon_steps": 0}, "must be at least 1"),
        ({"ml.step_s": 900, "windows.tumbling_s": [900]}, "900: give a tumbling window of at most 600 s"),
        ({"ml.step_s": 30}, "must be one of windows.tumbling_s"),
        ({"ml.history_steps": 20}, r"ml.history_steps \(20\) must be at least ml.horizon_steps \(30\)"),
        ({"ml.snapshot_s": -1}, "must not be negative"),
    ],
)
def test_what_cannot_be_forecast_is_refused(flags: dict[str, object], message: str) -> None:
    """With the setting, its value and what would do."""
    with pytest.raises(ConfigError, match=message):
        load(flags=flags)
