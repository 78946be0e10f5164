"""The truth of a load, and the preview of a scenario."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from smartscale.clock import MICROS
from smartscale.producer import faults, labels
from smartscale.producer.labels import truth
from smartscale.producer.preview import preview
from smartscale.producer.scenario import load_of, read
from smartscale.records import forecasts

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLES = DOCS.parent / "examples" / "scenarios"

STORM = load_of(
    "{seed: 9, duration: 95s, services: [{name: a, rate: 40, error_rate: 0}, {name: b, rate: 10}], faults: ["
    "{kind: retry_storm, start: 20s, duration: 20s, size: 0.5, retries: 2, services: [a]}, "
    "{kind: data_gap, start: 50s, duration: 10s}, {kind: level_shift, start: 60s, size: 2, services: [b]}]}"
)


def test_the_truth_has_the_rates_of_each_step_with_and_without_retries() -> None:
    """Half fail and two retries: 1.75 times the demand. A gap hides what happens and changes nothing; the last step is cut
    at the load's end."""
    a, b = truth(STORM).services
    assert a.demand_per_s == [40] * 9 + [20]
    assert a.rate_per_s == [40, 40, 70, 70, 40, 40, 40, 40, 40, 20]
    assert a.error_rate == [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]
    assert b.rate_per_s == [10] * 6 + [20] * 3 + [10]


def test_the_truth_lists_every_fault_of_every_service_with_its_class() -> None:
    """A permanent one ends with the load."""
    told = truth(STORM.starting_at(1000)).faults
    assert [(f.service, f.kind, f.class_, f.size) for f in told] == [
        ("a", "retry_storm", "fault", 0.5),
        ("a", "data_gap", "data-gap", None),
        ("b", "data_gap", "data-gap", None),
        ("b", "level_shift", "level-shift", 2.0),
    ]
    assert [(f.start_us - 1000, f.end_us - 1000) for f in told] == [
        (start * MICROS, end * MICROS) for start, end in ((20, 40), (50, 60), (50, 60), (60, 95))
    ]


def test_a_load_that_is_cut_short_has_no_fault_beyond_its_end() -> None:
    told = truth(replace(STORM, duration_s=55.0))
    assert [(fault.kind, fault.end_us - told.start_us) for fault in told.faults] == [
        ("retry_storm", 40 * MICROS),
        ("data_gap", 55 * MICROS),
        ("data_gap", 55 * MICROS),
    ]


def test_every_kind_of_fault_has_a_class_that_is_known() -> None:
    known = {
        forecasts.DEMAND_SURGE,
        forecasts.FAULT,
        forecasts.DATA_GAP,
        forecasts.LEVEL_SHIFT,
        faults.NOTHING,
    }
    kinds = set(faults.AnyFault.__args__)
    assert set(faults.CLASSES) == kinds
    assert set(faults.CLASSES.values()) == known
    shown = {fault.kind for fault in truth(read(EXAMPLES / "every-fault.yaml"), 60).faults}
    assert shown == {str(kind.__struct_config__.tag) for kind in kinds}


def test_latencies_of_the_truth_are_stretched_by_faults() -> None:
    load = load_of(
        "{duration: 60s, services: [{name: s, rate: 1, latency: {model: lognormal, median_ms: 10, sigma: 1}}], "
        "faults: [{kind: latency_step, start: 30s, size: 3}]}"
    )
    (service,) = truth(load).services
    assert service.latency_p50_ms == pytest.approx([10] * 3 + [30] * 3, rel=1e-3)
    assert service.latency_p99_ms == pytest.approx(
        [10 * np.exp(2.326)] * 3 + [30 * np.exp(2.326)] * 3, rel=1e-2
    )


def test_labels_are_written_and_read_again_and_have_a_published_schema(tmp_path: Path) -> None:
    told = truth(STORM)
    labels.write(tmp_path / "labels.json", told)
    assert labels.read(tmp_path / "labels.json") == told
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]
    published = (DOCS / "labels.schema.json").read_bytes()
    assert published == msgspec.json.format(msgspec.json.encode(labels.schema())) + b"\n"


def test_a_preview_says_what_would_be_sent() -> None:
    """Of the flash crowd: 60/s for 20 minutes and the crowd's surplus; four times that at its peak; ten minutes' metrics."""
    load = read(EXAMPLES / "flash-crowd.yaml")
    found = preview(load)
    (shop,) = found.services
    expected = sum(truth(load).services[0].rate_per_s) * 10
    assert shop.requests == pytest.approx(expected, rel=1e-3)
    assert found.events == pytest.approx(shop.requests + 3 * 120)
    assert shop.peak_per_s == pytest.approx(240, rel=0.01)
    assert (shop.sparkline[0], "█" in shop.sparkline) == ("▃", True)
    assert len(found.faults) == 1
