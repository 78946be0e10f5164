"""Load profiles and the events planned from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smartscale.clock import MICROS, parse_iso_us
from smartscale.errors import ConfigError
from smartscale.producer.plan import Chunk, planned, times
from smartscale.producer.profiles import Load, parse, read

EXAMPLE = Path(__file__).parents[3] / "examples" / "load.toml"

SIMPLE = """
duration_s = 100
[[services]]
name = "shop"
weight = 3
[[services]]
name = "search"
[[phases]]
kind = "constant"
per_s = 40
"""


def rate(load: Load, service: str, second: float) -> float:
    return float(load.curve(service).rate_at(np.array([round(second * MICROS)]))[0])


def joined(load: Load) -> Chunk:
    chunks = list(planned(load))
    return Chunk(
        np.concatenate([chunk.due_us for chunk in chunks]), [e for chunk in chunks for e in chunk.events]
    )


def test_the_rate_is_shared_among_services_by_weight() -> None:
    load = parse(SIMPLE)
    assert (rate(load, "shop", 50), rate(load, "search", 50)) == (30, 10)
    assert rate(load, "shop", 100) == 0


@pytest.mark.parametrize(
    ("phase", "rates"),
    [
        ('kind = "constant"\nper_s = 8\nstart_s = 10\nduration_s = 10', {5: 0, 15: 8, 25: 0}),
        ('kind = "step"\nper_s = 8\nstart_s = 10', {5: 0, 15: 8, 95: 8}),
        (
            'kind = "ramp"\nfrom_per_s = 10\nto_per_s = 20\nstart_s = 10\nduration_s = 10',
            {5: 0, 15: 15, 25: 0},
        ),
        ('kind = "burst"\npeak_per_s = 8\nstart_s = 10\nduration_s = 10', {5: 0, 15: 8, 25: 0}),
        ('kind = "sine"\namplitude_per_s = 8\nperiod_s = 40', {10: 8, 20: 0, 30: -8}),
    ],
)
def test_phases_add_up(phase: str, rates: dict[int, float]) -> None:
    """Each phase on top of 100 requests a second for one service."""
    text = f'duration_s = 100\nservices = [{{name = "s"}}]\n[[phases]]\nkind = "constant"\nper_s = 100\n[[phases]]\n{phase}'
    load = parse(text)
    for second, extra in rates.items():
        assert rate(load, "s", second) == pytest.approx(100 + extra, abs=0.1)


def test_the_rate_is_never_negative() -> None:
    text = SIMPLE + '[[phases]]\nkind = "step"\nper_s = -90\nstart_s = 50\n'
    assert rate(parse(text), "shop", 60) == 0


def test_surges_and_drops_change_one_service_only() -> None:
    text = (
        SIMPLE
        + '[[faults]]\nservice = "shop"\nkind = "surge"\nstart_s = 10\nduration_s = 10\nsize = 3\n'
        + '[[faults]]\nservice = "shop"\nkind = "drop_to_zero"\nstart_s = 30\nduration_s = 10\n'
    )
    load = parse(text)
    assert [rate(load, "shop", s) for s in (5, 15, 25, 35, 45)] == [30, 90, 30, 0, 30]
    assert [rate(load, "search", s) for s in (15, 35)] == [10, 10]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("duration_s = ", "not valid TOML"),
        ("", "duration_s"),
        (SIMPLE.replace("per_s = 40", "per_s = -1"), r"phases\[0\].per_s"),
        (SIMPLE.replace("per_s = 40", "rate = 1"), "rate"),
        (SIMPLE.replace('"constant"', '"wobble"'), "wobble"),
        (SIMPLE.replace('"search"', '"shop"'), "there twice"),
        (SIMPLE + "start_s = 100", r"phases\[0\].start_s.*not before the end"),
        (
            SIMPLE + '[[faults]]\nservice = "x"\nkind = "surge"\nstart_s = 1\nduration_s = 1',
            "known: shop, search",
        ),
        (
            SIMPLE + '[[faults]]\nservice = "shop"\nkind = "flood"\nstart_s = 1\nduration_s = 1',
            r"faults\[0\].kind",
        ),
        (
            SIMPLE
            + '[[faults]]\nservice = "shop"\nkind = "error_spike"\nstart_s = 1\nduration_s = 1\nsize = 2',
            "no probability",
        ),
    ],
)
def test_a_wrong_profile_is_told_with_its_key(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse(text, "file load.toml")
    assert str(caught.value).startswith("file load.toml: ")


def test_a_missing_profile_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--profile"):
        read(tmp_path / "none.toml")


def test_the_example_is_a_load_with_every_kind_of_phase_and_its_faults() -> None:
    load = read(EXAMPLE)
    assert load.end_us == 120 * MICROS
    assert [fault.kind for fault in load.faults] == ["error_spike", "latency_step"]
    assert load.base.peak_per_s > 100


def test_planned_events_are_in_the_order_of_their_end_and_the_same_for_the_same_seed() -> None:
    load = read(EXAMPLE).starting_at(parse_iso_us("2026-06-01T00:00:00Z"))
    chunk = joined(load)
    assert (np.diff(chunk.due_us) >= 0).all()
    assert chunk.events == joined(load).events
    assert [event.time for event in chunk.events] == times(chunk.due_us)
    assert abs(len(chunk.events) - load.base.expected) < 5 * load.base.expected**0.5


def test_planned_events_show_latencies_errors_and_faults() -> None:
    """Medians and error shares are those of the profile, inside and outside of the faults."""
    chunk = joined(read(EXAMPLE))
    seconds = chunk.due_us / MICROS

    def chosen(service: str, start: float, end: float, name: str = "") -> list[int]:
        return [
            i
            for i, event in enumerate(chunk.events)
            if event.service == service and start <= seconds[i] < end and event.name.startswith(name)
        ]

    def median_ms(places: list[int]) -> float:
        return float(np.median([chunk.events[i].latency_ms or 0 for i in places]))

    def errors(places: list[int]) -> float:
        return float(np.mean([chunk.events[i].status == 500 for i in places]))

    assert median_ms(chosen("checkout", 0, 90, "GET /cart")) == pytest.approx(40, rel=0.1)
    assert median_ms(chosen("checkout", 0, 90, "POST /order")) == pytest.approx(120, rel=0.15)
    assert median_ms(chosen("search", 0, 59)) == pytest.approx(20, rel=0.1)
    assert median_ms(chosen("search", 62, 75)) == pytest.approx(100, rel=0.15)
    assert errors(chosen("checkout", 0, 90)) < 0.01
    assert errors(chosen("checkout", 96, 107)) == pytest.approx(0.4, abs=0.08)


def test_a_request_that_ends_after_the_load_is_still_part_of_it() -> None:
    """Latency of a minute in a load of a second: all events come after its end."""
    text = (
        'duration_s = 1\n[[phases]]\nkind = "constant"\nper_s = 50\n'
        '[[services]]\nname = "slow"\nlatency = { median_ms = 60000, sigma = 0 }\n'
    )
    chunk = joined(parse(text))
    assert len(chunk.events) > 20
    assert (chunk.due_us >= 60 * MICROS).all()
