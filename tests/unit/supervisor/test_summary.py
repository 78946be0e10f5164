"""Injected faults against the incidents that were told: matched by service, overlap in time, and class."""

from __future__ import annotations

from smartscale.records.forecasts import Incident
from smartscale.supervisor.summary import Injected, judge

SECOND = 1_000_000
FAULT = Injected("shop", "error_spike", 100 * SECOND, 160 * SECOND)


def incident(class_: str, start_s: int, end_s: int | None, service: str = "shop") -> Incident:
    return Incident(
        f"{class_}{start_s}", "default", service, class_, start_s * SECOND,
        None if end_s is None else end_s * SECOND, 0, 0.9, "error_rate", None, None, None, "text",
    )  # fmt: skip


def found(*incidents: Incident) -> tuple[bool, float | None, list[str]]:
    verdicts, others = judge([FAULT], incidents, 500 * SECOND, 20 * SECOND)
    return verdicts[0].found, verdicts[0].delay_s, others


def test_an_overlapping_incident_of_the_right_class_finds_the_fault() -> None:
    """Fault from 100 s to 160 s, told from 110 s: ten seconds after it began."""
    assert found(incident("fault", 110, 180)) == (True, 10.0, [])


def test_an_open_incident_reaches_until_now() -> None:
    """It overlaps everything since its start."""
    assert found(incident("fault", 90, None)) == (True, 0.0, [])


def test_the_wrong_class_does_not_find_it() -> None:
    """But it belongs to the fault: it is no false incident."""
    assert found(incident("demand-surge", 110, 180)) == (False, None, [])


def test_an_incident_elsewhere_or_at_another_time_is_told_as_another() -> None:
    """Another service; long before; more than the reach after."""
    for other in (
        incident("fault", 110, 180, "cart"),
        incident("fault", 10, 20),
        incident("fault", 181, 190),
    ):
        is_found, delay_s, others = found(other)
        assert (is_found, delay_s) == (False, None)
        assert len(others) == 1
