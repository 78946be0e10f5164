"""Forecasts to JSON by a compiled loop: the same bytes as from the record, faster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from smartscale.ml import wire
from smartscale.records import forecasts
from smartscale.records.forecasts import Forecast

ABOUT = Forecast(
    "default", 'a "quoted" service', "rate", 17, 10.0, [0.5, 0.9], [], [], "naive", models={"naive": 1.0}
)
RATES = st.one_of(
    st.sampled_from([0.0, 1e-5, 0.5, 1.0, 10.0, 9.99995, 12345.678, 99999.9999]), st.floats(0, 1e9, width=32)
)


@given(
    arrays.arrays(np.float32, (3, 2), elements=RATES.map(np.float32)),
    arrays.arrays(np.float32, (3, 2), elements=RATES.map(np.float32)),
)
def test_its_bytes_are_those_of_the_record(values: wire.Small, peaks: wire.Small) -> None:
    """Of any rates, told to a ten-thousandth."""
    told = wire.encode(ABOUT, values, peaks)
    record = forecasts.decode_forecast(told)
    assert told == forecasts.encode(record)
    assert record.values == wire.rounded(values)
    assert record.peaks == wire.rounded(peaks)
    np.testing.assert_allclose(record.values, values, rtol=1e-6, atol=5.1e-5)


@pytest.mark.parametrize("rate", [2e11, 1e14, 3e38])
def test_rates_beyond_its_digits_are_told_all_the_same(rate: float) -> None:
    """By the record's own encoder."""
    large = np.full((3, 2), rate, np.float32)
    assert forecasts.decode_forecast(wire.encode(ABOUT, large, large)).values == wire.rounded(large)
