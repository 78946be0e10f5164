"""Groups by attributes, with their bound; windows by pattern of services."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from smartscale import config
from smartscale.clock import MICROS
from smartscale.config import Settings, Time, Topics, WindowRule, Windows
from smartscale.errors import ConfigError
from smartscale.ledger.reader import LedgerReader
from smartscale.stream import attributes
from smartscale.stream.windows import Families
from smartscale.testing import START_US, Pipeline, Sent

ONE = Topics(events=1, partials=1)


def sent(service: str, second: int, **attributes_: object) -> Sent:
    return Sent(service, START_US + second * MICROS, attributes=attributes_ or None)


def driven(windows: Windows, *batches: list[Sent]) -> Pipeline:
    run = Pipeline(Settings(topics=ONE, windows=windows, time=Time(allowed_lateness_s=5)))
    for batch in batches:
        run.send(*batch)
        run.settle()
    run.run_to_end()
    return run


def counts(run: Pipeline, window: str = "60s") -> dict[tuple[str, str], int]:
    """Events by (name, group) over all windows of this kind."""
    found: dict[tuple[str, str], int] = {}
    for row in run.finals(window=window):
        if row.count:
            found[row.name, row.group] = found.get((row.name, row.group), 0) + row.count
    return found


def test_rows_are_by_group_and_the_rollup_is_over_all_of_them() -> None:
    """Attributes not grouped by do not matter; a missing one is empty."""
    run = driven(
        Windows(group_by=["region"]),
        [sent("shop", 1, region="eu", x=1), sent("shop", 2, region="eu", x=2), sent("shop", 3)],
    )
    assert counts(run) == {("/", "region=eu"): 2, ("/", "region="): 1, ("*", ""): 3}


def test_the_metric_of_demand_has_no_groups() -> None:
    """Forecasts and scaling read one series of it a service."""
    demand = [
        Sent("shop", START_US, "arrivals", value=5.0, attributes={"region": region})
        for region in ("eu", "us")
    ]
    other = [Sent("shop", START_US, "depth", value=5.0, attributes={"region": "eu"})]
    run = driven(Windows(group_by=["region"]), demand + other)
    assert counts(run) == {("arrivals", ""): 2, ("depth", "region=eu"): 1, ("*", ""): 3}


def test_groups_beyond_the_bound_are_counted_as_other() -> None:
    """First come, first served; nothing is lost, and how many events that were is counted."""
    run = driven(
        Windows(group_by=["region"], max_groups=2),
        [sent("shop", i, region=f"r{i}") for i in range(5)],
        [sent("shop", 6, region="r0"), sent("other", 6, region="r9")],
    )
    shop = {key: n for key, n in counts(run).items() if key != ("/", "region=r9")}
    assert shop == {("/", "region=r0"): 2, ("/", "region=r1"): 1, ("/", "__other__"): 3, ("*", ""): 7}


def test_a_restart_lets_in_the_groups_that_were_in_before() -> None:
    """Panes read again go to the same groups, whoever comes first this time; the books balance."""
    run = Pipeline(Settings(topics=ONE, windows=Windows(group_by=["region"], max_groups=2)))
    run.send(*[sent("shop", i, region=f"r{i}") for i in range(4)])
    run.settle()
    run.crash_window()
    run.send(sent("shop", 5, region="r3"), sent("shop", 5, region="r1"))
    run.settle()
    run.run_to_end()
    assert counts(run) == {
        ("/", "region=r0"): 1, ("/", "region=r1"): 2, ("/", "__other__"): 3, ("*", ""): 6,
    }  # fmt: skip
    balance = LedgerReader(run.log, run.settings).update()
    assert (balance.windowed, balance.in_flight, balance.difference) == (6, 0, 0)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ('{"region": "eu"}', "region=eu"),
        ('{"region": "a,b=c%"}', "region=a%2Cb%3Dc%25"),
        ('{"region": 7}', "region=7"),
        ('{"region": true}', "region=true"),
        ('{"region": null}', "region="),
        ('{"region": {"x": 1}}', "__other__"),
        ('{"region": "' + "x" * 101 + '"}', "__other__"),
        ("not JSON", "region="),
        (None, "region="),
    ],
)
def test_what_an_attribute_makes_of_the_group(text: str | None, group: str) -> None:
    """Anything may be in there; a group is one label."""
    codes, groups = attributes.groups(pa.array([text], pa.string()), ["region"])
    assert groups[codes[0]] == group


RULES = Windows(
    tumbling_s=[10.0, 60.0],
    rules=[
        WindowRule(services="batch-*", tumbling_s=[300.0], sliding_s=[], forecast=False),
        WindowRule(services="*", group_by=["region"]),
    ],
)


def test_the_first_rule_that_fits_a_service_counts() -> None:
    """What it does not say is as in the general settings."""
    families = Families(RULES)
    batch, shop = families[families.of("batch-mail")], families[families.of("shop")]
    assert [window.label for window in batch.windows] == ["300s"]
    assert (batch.pane_us, batch.group_by) == (300 * MICROS, ())
    assert [window.label for window in shop.windows] == ["10s", "60s", "60s/5s"]
    assert (shop.pane_us, shop.group_by) == (5 * MICROS, ("region",))


def test_services_with_windows_of_their_own_have_no_others_and_the_books_balance() -> None:
    """A long window of some delays nobody else's, and the ledger counts each service in its own base window."""
    run = driven(
        RULES,
        [
            *(sent("batch-mail", i) for i in range(0, 120, 7)),
            *(sent("shop", i, region="eu") for i in range(0, 120, 5)),
        ],
    )
    labels = {
        service: {row.window for row in run.rows() if row.service == service}
        for service in ("batch-mail", "shop")
    }
    assert labels == {"batch-mail": {"300s"}, "shop": {"10s", "60s", "60s/5s"}}
    balance = LedgerReader(run.log, run.settings).update()
    assert (balance.windowed, balance.late, balance.in_flight, balance.difference) == (42, 0, 0, 0)


def settings_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "smartscale.toml"
    file.write_text(text)
    return file


def test_rules_are_read_from_a_file(tmp_path: Path) -> None:
    """As the page on operations shows them."""
    file = settings_file(
        tmp_path,
        '[[windows.for]]\nservices = "batch-*"\ntumbling_s = [300]\nsliding_s = []\nforecast = false\n',
    )
    (rule,) = config.load(file, environment={}).windows.rules
    assert (rule.services, rule.tumbling_s, rule.sliding_s) == ("batch-*", [300.0], [])


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("tumbling_s = [300]", r"lacks ml.step_s \(10\).*forecast = false"),
        ("tumbling_s = []\nforecast = false", "must name at least one window"),
        ("sliding_s = [[5, 10]]", "size >= slide"),
        ("tumblings = [10]", "tumblings"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_the_remedy(tmp_path: Path, rule: str, told: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=told):
        config.load(
            settings_file(tmp_path, f'[[windows.for]]\nservices = "batch-*"\n{rule}\n'), environment={}
        )
