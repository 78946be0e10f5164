"""The pages on extending and testing do what they say: their code runs as it is printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartscale.errors import ConfigError
from smartscale.ml.forecast import pool
from smartscale.records import events
from smartscale.stream.aggregates import checks, protocol
from smartscale.testing.pipeline import START_US, Sent, events_value

DOCS = Path(__file__).parents[3] / "docs"


def code(page: str) -> list[str]:
    """The Python on a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what was imported from it is forgotten again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(protocol, "_REGISTER", dict(protocol._REGISTER))
    yield tmp_path
    sys.modules.pop("shop_aggregates", None)


def test_the_page_on_extending_adds_an_aggregation_in_thirty_lines(on_path: Path) -> None:
    """Its class goes through the stream processor to metric rows, and holds the contract."""
    module, driven, *_ = code("extending.md")
    (on_path / "shop_aggregates.py").write_text(module)
    exec(compile(driven, "extending.md", "exec"), {})
    lines = [line for line in module.splitlines() if line.strip()]
    assert len(lines) - len(["import numpy", "from smartscale", "register"]) <= 30
    sent = [Sent("a", START_US + i, latency_us=i * 10_000, attributes={"bytes": i}) for i in range(60)]
    apdex = sys.modules["shop_aggregates"].Apdex()
    checks.check(apdex, events.decode(events_value(sent)))


def test_the_page_on_extending_adds_a_forecasting_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class keeps the promises of the built-in ones and joins the mixture."""
    *_, module, driven = code("extending.md")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pool, "_ENROLLED", {})
    monkeypatch.delitem(sys.modules, "shop_forecasts", raising=False)
    (tmp_path / "shop_forecasts.py").write_text(module)
    exec(compile(driven, "extending.md", "exec"), {})
    assert [m.name for m in pool.pool(60.0, 10, 100)].count("half-way") == 1


@pytest.mark.parametrize("name", ["nowhere:Thing", "math:nothing", "math:pi", "builtins:range", "json"])
def test_a_method_that_is_none_is_refused_by_its_name(name: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigError, match=f"ml.methods: '{name}'"):
        pool.enrol([name])


def test_the_page_on_testing_runs() -> None:
    """A crash, repeats and the oracle."""
    (driven,) = code("testing.md")
    exec(compile(driven, "testing.md", "exec"), {})
