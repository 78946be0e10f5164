"""Reports: one file, nothing fetched, no text of a file becomes markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.errors import UserError
from smartscale.evaluate import page

EVIL = '</script><b>file & "co"</b>'


def test_texts_and_data_are_escaped(tmp_path: Path) -> None:
    figure = page.Figure(EVIL, [{"type": "scatter", "name": EVIL, "y": [1, None]}], {})
    text = page.page(EVIL, [page.paragraph(EVIL), page.heading(EVIL), page.table([EVIL], [[EVIL]]), figure])
    assert "<b>" not in text
    data = re.search(r'<script type="application/json">(.*?)</script>', text)
    assert data is not None
    assert json.loads(data[1])["data"][0] == {"type": "scatter", "name": EVIL, "y": [1, None]}


def test_the_page_fetches_nothing() -> None:
    text = page.page("title", [page.Figure("one", [], {})])
    assert not re.search(r'(?:src|href)="[^"#]', text.split("<script>")[0])
    assert text.count("Plotly.newPlot") >= 1


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        page.write(tmp_path / "none" / "page.html", "title", [])


@given(st.lists(st.floats(-9, 9) | st.just(float("nan")), min_size=1, max_size=300), st.integers(30, 60))
def test_a_thinned_line_keeps_its_extremes_its_start_and_its_gaps(values: list[float], most: int) -> None:
    line = np.array(values)
    kept = page.thinned(line, most)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= 2 * most
    if not np.isnan(line).all():
        assert np.nanmax(line[kept]) == np.nanmax(line)
        assert np.nanmin(line[kept]) == np.nanmin(line)
    assert np.isnan(line[kept]).any() == np.isnan(line).any()


def test_numbers_are_drawable() -> None:
    assert page.drawable([1.23456789, float("nan"), 2]) == [1.23457, None, 2]
