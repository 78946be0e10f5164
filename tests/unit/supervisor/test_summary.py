"""Injected faults against the incidents that were told: matched by service, overlap in time, and class."""

from __future__ import annotations

from smartscale.records.forecasts import Incident
from smartscale.supervisor.summary import Injected, judge

SECOND = 1_000_000
FAULT = Injected("shop", "error_spike", 100 * SECOND, 160 * SECOND, "fault")


def state(class_: str, told_s: int, service: str = "shop", name: str = "i1") -> Incident:
    return Incident(
        name,
        "default",
        service,
        class_,
        0,
        None,
        told_s * SECOND,
        0.9,
        "error_rate",
        None,
        None,
        None,
        "text",
    )


def found(*told: Incident) -> tuple[bool, float | None, list[str]]:
    verdicts, others = judge([FAULT], told, reach_us=20 * SECOND)
    return verdicts[0].found, verdicts[0].delay_s, others


def test_an_incident_told_with_the_right_class_during_the_fault_finds_it() -> None:
    """Fault from 100 s to 160 s, told at 110 s: ten seconds after it began."""
    assert found(state("fault", 110), state("fault", 150)) == (True, 10.0, [])


def test_an_incident_may_become_of_the_right_class() -> None:
    """It began as something else and is closed as something else; during the fault it was told as one."""
    assert found(state("level-shift", 90), state("fault", 120), state("level-shift", 400)) == (True, 20.0, [])


def test_a_window_that_ends_after_the_fault_may_still_tell_it() -> None:
    """Within the reach, and not beyond it."""
    assert found(state("fault", 179))[0]
    assert not found(state("fault", 181))[0]


def test_the_wrong_class_does_not_find_it() -> None:
    """But it belongs to the fault: it is no false incident."""
    assert found(state("demand-surge", 110)) == (False, None, [])


def test_an_incident_elsewhere_or_at_another_time_is_told_as_another() -> None:
    """Another service; long before; long after. An incident is told once, however many states it had."""
    for others in (
        [state("fault", 110, "cart")],
        [state("fault", 10), state("fault", 20)],
        [state("fault", 300)],
    ):
        assert found(*others) == (False, None, [f"fault of {others[0].service}, severity 0.90: text"])
