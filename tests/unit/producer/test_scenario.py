"""Scenario files: what they mean, and how a mistake in one is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from smartscale.errors import ConfigError
from smartscale.producer import arrivals, faults, scenario, shapes
from smartscale.producer.load import Load
from smartscale.producer.parts import Seconds
from smartscale.producer.scenario import load_of, parse, read

EXAMPLES = Path(__file__).parents[3] / "examples" / "scenarios"

SIMPLE = """
duration: 100s
services:
  - name: shop
    rate: 30
  - name: search
    rate: 10
"""


def rate(load: Load, service: str, second: float) -> float:
    return float(load.source(service).course(np.array([float(second)])).rate[0])


def shaped(shape: str, start: str = "2026-01-05T00:00:00Z", duration: str = "8w") -> Load:
    """One service of 100 requests a second under a shape, from a Monday on unless another start is given."""
    return load_of(
        f"{{duration: {duration}, start: {start}, services: [{{name: s, rate: 100, shapes: [{shape}]}}]}}"
    )


@pytest.mark.parametrize(
    ("shape", "rates"),
    [
        ("{kind: constant, factor: 0.5}", {5: 50}),
        ("{kind: step, factor: 3, start: 10s, end: 20s}", {5: 100, 15: 300, 25: 100}),
        ("{kind: step, factor: 3, start: 10s}", {5: 100, 15: 300, 1e6: 300}),
        ("{kind: ramp, to: 3, start: 10s, duration: 10s}", {5: 100, 15: 200, 25: 300}),
        ("{kind: ramp, to: 0, start: 10s, duration: 10s}", {5: 100, 15: 50, 25: 0}),
        ("{kind: sine, amplitude: 0.4, period: 40s}", {10: 140, 20: 100, 30: 60}),
        ("{kind: flash_crowd, peak: 3, start: 10s, rise: 10s, decay: 100s}", {5: 100, 15: 200, 20: 300}),
        ("{kind: flash_crowd, peak: 3, start: 10s, rise: 0s, decay: 10s}", {10: 300, 20: 100 + 200 / np.e}),
        ("{kind: diurnal, peak: '06:00', amplitude: 0.5}", {6 * 3600: 150, 18 * 3600: 50, 30 * 3600: 150}),
    ],
)
def test_a_shape_is_a_factor_on_the_rate(shape: str, rates: dict[float, float]) -> None:
    load = shaped(shape)
    for second, expected in rates.items():
        assert rate(load, "s", second) == pytest.approx(expected)


def test_a_diurnal_shape_follows_the_start_of_the_scenario() -> None:
    """Started at 05:00, the peak of 06:00 is an hour away."""
    load = shaped("{kind: diurnal, peak: '06:00', amplitude: 0.5}", "2026-01-07T05:00:00Z")
    assert rate(load, "s", 3600) == pytest.approx(150)


def test_a_weekly_shape_has_the_factor_of_each_day_at_its_noon() -> None:
    """Monday to Sunday; Sunday's midnight lies between Sunday and Monday; a start on Wednesday shifts it."""
    shape = "{kind: weekly, days: [1, 2, 3, 4, 5, 6, 7]}"
    load, day = shaped(shape), 86_400
    assert [rate(load, "s", (n + 0.5) * day) for n in range(14)] == pytest.approx(
        [100, 200, 300, 400, 500, 600, 700] * 2
    )
    assert rate(load, "s", 7 * day) == pytest.approx(400)
    assert rate(shaped(shape, "2026-01-07T00:00:00Z"), "s", day / 2) == pytest.approx(300)


def test_shapes_multiply_those_of_the_scenario_too() -> None:
    load = load_of(
        SIMPLE.replace(
            "rate: 30", "rate: 30\n    shapes: [{kind: constant, factor: 2}, {kind: constant, factor: 3}]"
        )
        + "shapes: [{kind: constant, factor: 0.5}]"
    )
    assert [rate(load, name, 1) for name in ("shop", "search")] == [90, 5]


def test_a_curve_is_read_beside_the_scenario_scaled_to_one_and_repeated(tmp_path: Path) -> None:
    """Three minutes of 3, 6 and 0 at twice the speed: the rate is that of the busiest minute."""
    (tmp_path / "c.csv").write_text(
        "timestamp,requests\n2024-01-01T00:00:00Z,3\n2024-01-01T00:01:00Z,6\n2024-01-01T00:02:00Z,0\n"
    )
    file = tmp_path / "s.yaml"
    file.write_text(
        "{duration: 1h, services: [{name: s, rate: 100, shapes: [{kind: curve, file: c.csv, speed: 2}]}]}"
    )
    load = read(file)
    assert [rate(load, "s", second) for second in (15, 45, 75, 105)] == [50, 100, 0, 50]


def test_a_count_stands_for_alike_services_with_rates_of_their_own() -> None:
    """Numbered from 1; without a spread all have the rate; with one their logarithms deviate by it."""
    text = (
        '{duration: 1m, services: [{name: "w-{n}", count: 400, rate: 5, spread: SPREAD}, {name: x, rate: 1}]}'
    )
    same = load_of(text.replace("SPREAD", "0"))
    assert [source.name for source in same.sources][:2] == ["w-1", "w-2"]
    assert same.sources[400].name == "x"
    assert {source.spec.rate for source in same.sources[:400]} == {5.0}
    logs = np.log([source.spec.rate / 5 for source in load_of(text.replace("SPREAD", "0.7")).sources[:400]])
    assert abs(logs.mean()) < 0.15
    assert logs.std() == pytest.approx(0.7, rel=0.15)


def test_the_scenario_is_named_by_its_meaning() -> None:
    """Comments, order and spelling of durations do not change the digest; a seed does."""
    digest = load_of("{seed: 1, duration: 60s, services: [{name: s, rate: 1}]}").digest
    assert load_of("# hello\n{services: [{rate: 1.0, name: s}], duration: 1m}").digest == digest
    assert load_of("{seed: 2, duration: 60s, services: [{name: s, rate: 1}]}").digest != digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("duration: [", "line 1: not valid YAML"),
        ("", "line 1, top level: .*duration"),
        (
            SIMPLE.replace("100s", "soon"),
            "line 2, duration: 'soon' is no duration of at most 30 years; write seconds, or text such as",
        ),
        (SIMPLE.replace("100s", "0"), "line 2, duration: .*longer than 0 s"),
        (SIMPLE.replace("rate: 30", "rate: -1"), r"line 5, services\[0\].rate: .*>= 0"),
        (
            SIMPLE.replace("rate: 30", "rate: 30\n    shape: []"),
            r"line 6, services\[0\].shape: .*did you mean shapes",
        ),
        (SIMPLE.replace("rate: 30", "rate: 30\n    rate: 31"), "line 6: not valid YAML: rate is given twice"),
        (SIMPLE.replace("rate: 10", "rate: ten"), r"line 7, services\[1\].rate: expected `float`"),
        (SIMPLE.replace("search", "shop"), r"line 6, services\[1\].name: 'shop' is there twice"),
        (SIMPLE.replace("rate: 10", "rate: 10\n    count: 3"), r"services\[1\].name: write {n}"),
        (
            SIMPLE.replace("rate: 10", "rate: 10\n    metrics: {}"),
            r"line 8, services\[1\].metrics: .*capacity",
        ),
        (SIMPLE.replace("rate: 10", "rate: 10\n    overload: {}"), r"services\[1\].overload: .*capacity"),
        (SIMPLE + "shapes: [{kind: wobble}]", r"line 8, shapes\[0\].kind: invalid value 'wobble'"),
        (SIMPLE + "shapes: [{kind: sine, amplitude: 1, period: 0}]", r"shapes\[0\].period: must be longer"),
        (SIMPLE + "shapes:\n- {kind: curve, file: ''}", r"line 9, shapes\[0\].file"),
        (SIMPLE + "faults: [{kind: surge, start: 100s}]", r"faults\[0\].start: is not before the end"),
        (SIMPLE + "faults: [{kind: surge, start: 1s, services: [x]}]", "no service 'x'; known: search, shop"),
        (SIMPLE + "faults: [{kind: error_spike, start: 1s, size: 2}]", r"faults\[0\].size: .*<= 1"),
        (SIMPLE + "faults: [{kind: surge, start: 1s, duration: 0}]", r"faults\[0\].duration: must be longer"),
        (
            SIMPLE + "faults: [{kind: flash_crowd, start: 1s, duration: 9s}]",
            r"faults\[0\].rise: must be shorter",
        ),
        (SIMPLE + "faults: [{kind: flash_crowd, start: 1s}]", r"faults\[0\].duration: is missing"),
        (
            SIMPLE + "  - {name: 'shop-{n}', rate: 1, count: 3}\n  - {name: shop-2, rate: 1}",
            r"services\[3\].name: 'shop-2' is there twice",
        ),
        (SIMPLE.replace("rate: 10", "rate: 1e9"), r"services\[1\].rate: .*<= 1000000"),
        (SIMPLE.replace("100s", "99999999w"), "line 2, duration: .*no duration of at most 30 years"),
        (SIMPLE + "start: 2026-01-01", "line 8, start: expected `datetime`"),
    ],
)
def test_a_mistake_is_told_with_line_field_and_remedy(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse(text, "file load.yaml")
    assert str(caught.value).startswith("file load.yaml")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: not found.*--scenario"):
        read(tmp_path / "none.yaml")
    file = tmp_path / "s.yaml"
    file.write_text("{duration: 1h, services: [{name: s, rate: 1, shapes: [{kind: curve, file: c.csv}]}]}")
    with pytest.raises(ConfigError, match=r"c.csv: not found"):
        read(file)


@pytest.mark.parametrize("text", ["1.5", "90s", "1m30s", "1h 2m", "250ms", "7d", "2w"])
def test_durations_are_read_in_every_unit(text: str) -> None:
    value = yaml.safe_load(text)
    expected = {
        "1.5": 1.5,
        "90s": 90,
        "1m30s": 90,
        "1h 2m": 3720,
        "250ms": 0.25,
        "7d": 604_800,
        "2w": 1_209_600,
    }
    assert Seconds.read(value) == expected[text]


@pytest.mark.parametrize("value", ["", "s", "-1s", "1x", -1, True, None, float("inf"), "1s tomorrow"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"is no duration .*; write"):
        Seconds.read(value)


def test_the_published_schema_is_that_of_the_code() -> None:
    """docs/scenario.schema.json is what ``smartscale scenario schema`` prints."""
    published = Path(__file__).parents[3] / "docs" / "scenario.schema.json"
    assert published.read_bytes() == msgspec.json.format(msgspec.json.encode(scenario.schema())) + b"\n"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_is_a_scenario(file: Path) -> None:
    load = read(file)
    assert load.about
    assert load.duration_s > 0


def test_the_scenario_in_the_documentation_is_one() -> None:
    """Every field of it is read; its kinds of process, shape and fault tables are complete."""
    page = (EXAMPLES.parents[1] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    load = load_of(page.split("```yaml\n")[1].split("```")[0])
    assert len(load.sources) == 51
    for union in (faults.AnyFault, shapes.Shape, arrivals.Process):
        for kind in union.__args__:
            assert f"| `{kind.__struct_config__.tag}`" in page
