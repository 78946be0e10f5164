"""``smartscale history import``: the past from a file or from Prometheus, so that the first day is not blind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import typer
from rich.progress import Progress

from smartscale import history_csv
from smartscale.cli.options import ConfigOption, JsonOption, LogOption, console, opened, print_json, settings
from smartscale.client.address import Address, Token, read_token
from smartscale.client.prometheus import Labels, range_query
from smartscale.clock import MICROS, iso, parse_iso_us, wall_ms
from smartscale.config import Settings
from smartscale.errors import UserError
from smartscale.log.partitioner import service_key, service_partition
from smartscale.log.port import Log, Message, append_all
from smartscale.records import forecasts, past, schema, topics
from smartscale.records.past import PastPart

Rates = npt.NDArray[np.float64]

history_cli = typer.Typer(
    help="The past of services, from before SmartScale saw them.",
    epilog="Example: smartscale history import requests.csv.gz --service shop",
    no_args_is_help=True,
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """``rates[i]`` events a second over ``[first_us + i * step_us, first_us + (i + 1) * step_us)``, NaN for a gap."""

    service: str
    first_us: int
    step_us: int
    rates: Rates


class Imported(msgspec.Struct, frozen=True):
    """What was brought into the log for one series."""

    tenant: str
    service: str
    series: str
    start: str
    end: str
    step_s: float
    values: int
    gaps: int
    notes: list[str] = []


@history_cli.command(
    "import",
    epilog="Examples: smartscale history import requests.csv.gz --service shop   |   smartscale history import "
    "--prometheus http://127.0.0.1:9090 --query 'sum by (service) (rate(http_requests_total[1m]))' --days 28",
)
def import_history(
    file: Annotated[
        Path | None, typer.Argument(help="CSV (.gz too) with the columns timestamp and a value.")
    ] = None,
    service: Annotated[str | None, typer.Option("--service", help="Whose past it is.")] = None,
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", metavar="URL", help="Ask a Prometheus server instead.")
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", metavar="PROMQL", help="Events a second, such as a rate().")
    ] = None,
    label: Annotated[
        str, typer.Option("--label", help="Which label of the answer is the service, without --service.")
    ] = "service",
    days: Annotated[
        float, typer.Option("--days", min=0.01, help="How far back to ask, before --until.")
    ] = 28.0,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="ISO 8601; the present if not given.")
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", help="The column of the value; requests, if there is one.")
    ] = None,
    rates: Annotated[
        bool,
        typer.Option("--rates", help="The values are events a second, not counts of the interval."),
    ] = False,
    series: Annotated[
        str, typer.Option("--series", help="rate (of requests) or arrivals (demand).")
    ] = forecasts.RATE,
    tenant: Annotated[str, typer.Option("--tenant")] = topics.DEFAULT_TENANT,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Bearer token for Prometheus.")
    ] = None,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the past of a service into the log: its forecasts begin with the seasons that it shows.

    The ml stage takes it up at the next window of that service; what SmartScale has counted itself counts where both are
    known. A second import of a series replaces the first. Missing rows are gaps, not zeros."""
    chosen = settings(log, config)
    if series not in (forecasts.RATE, forecasts.ARRIVALS):
        raise UserError(
            f"--series {series!r}: use {forecasts.RATE} (requests a second) or {forecasts.ARRIVALS} (demand)"
        )
    notes: list[str] = []
    if file is not None and prometheus is None:
        stretches = [_from_file(file, service, column, rates, chosen, notes)]
    elif prometheus is not None and file is None:
        until_us = wall_ms() * 1000 if until is None else _time(until)
        stretches = _from_prometheus(
            prometheus, query, service, label, days, until_us, read_token(token_file), chosen
        )
    else:
        raise UserError("give a FILE, or --prometheus URL with --query, and not both")
    with opened(chosen) as event_log:
        if topics.METRICS not in event_log.topics():
            raise UserError(f"{chosen.log} has no metrics: create its topics with `smartscale topics`")
        done = [_publish(event_log, tenant, series, stretch, chosen, notes) for stretch in stretches]
    for one in done:
        if as_json:
            print_json(one)
            continue
        console.print(
            f"{one.service}: {one.values:,} values of {one.step_s:g} s from {one.start} to {one.end}, {one.gaps:,} gaps",
            highlight=False,
        )
    if not as_json:
        for note in notes:
            console.print(f"  {note}", highlight=False)


def _time(text: str) -> int:
    try:
        return parse_iso_us(text)
    except ValueError:
        raise UserError(f"--until {text!r}: give an ISO 8601 time such as 2026-11-25T15:00:00Z") from None


def _from_file(
    file: Path, service: str | None, column: str | None, rates: bool, chosen: Settings, notes: list[str]
) -> Stretch:
    if not service:
        raise UserError("give --service NAME: whose past the file is")
    kind: history_csv.Kind = "rates" if rates else "counts"
    found = history_csv.read(file, column, kind=kind)
    if found.step_s < chosen.ml.step_s:
        found = history_csv.read(file, column, chosen.ml.step_s, kind)
    notes += found.notes
    return Stretch(service, found.first_us, found.step_us, found.rates)


def _from_prometheus(
    url: str,
    query: str | None,
    service: str | None,
    label: str,
    days: float,
    until_us: int,
    token: Token | None,
    chosen: Settings,
) -> list[Stretch]:
    """A point of a range query looks back: the one at t is the step that ends at t."""
    if not query:
        raise UserError("give --query PROMQL, such as 'sum by (service) (rate(http_requests_total[1m]))'")
    step_us = round(chosen.ml.step_s * MICROS)
    last_us = until_us // step_us * step_us
    steps = min(round(days * 86_400 * MICROS) // step_us, chosen.ml.history_steps)
    first_us = last_us - (steps - 1) * step_us
    at = Address.of(url, "the Prometheus server", "--prometheus")
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("asking Prometheus", total=1.0)
        found = range_query(
            at, query, first_us, last_us, step_us, token, lambda share: progress.update(bar, completed=share)
        )
    if not found:
        raise UserError("Prometheus knows no series for this query in that time (--query, --days, --until)")
    if service:
        if len(found) > 1:
            raise UserError(
                f"the query answers {len(found)} series ({_names(found)}): sum them, or leave --service out and name the "
                "label that tells the services apart by --label"
            )
        return [Stretch(service, first_us - step_us, step_us, rates) for rates in found.values()]
    named = {dict(labels).get(label, ""): rates for labels, rates in found.items()}
    if "" in named or len(named) < len(found):
        raise UserError(
            f"label {label!r} does not tell the {len(found)} series apart ({_names(found)}): "
            f"query with `sum by ({label}) (...)`, choose another --label, or give --service for a single series"
        )
    return [Stretch(name, first_us - step_us, step_us, rates) for name, rates in sorted(named.items())]


def _names(found: dict[Labels, Rates]) -> str:
    shown = ["{" + ", ".join(f"{name}={value}" for name, value in labels) + "}" for labels in list(found)[:3]]
    return ", ".join(shown) + (", ..." if len(found) > 3 else "")


def _publish(
    log: Log, tenant: str, series: str, stretch: Stretch, chosen: Settings, notes: list[str]
) -> Imported:
    fitted = fit(stretch, round(chosen.ml.step_s * MICROS), chosen.ml.history_steps)
    if fitted.step_us < stretch.step_us:
        notes.append(
            f"the events of each {stretch.step_us / MICROS:g} s are spread by chance over steps of {chosen.ml.step_s:g} s"
        )
    partition = service_partition(tenant, stretch.service, log.topics()[topics.METRICS].partitions)
    key = service_key(tenant, stretch.service)
    messages = [
        Message(topics.METRICS, partition, past.encode(part), key, schema.headers(schema.PAST))
        for part in parts(fitted, tenant, series, uuid.uuid4().hex)
    ]
    append_all(log, messages)
    end_us = fitted.first_us + len(fitted.rates) * fitted.step_us
    gaps = int(np.isnan(fitted.rates).sum())
    return Imported(
        tenant, stretch.service, series, iso(fitted.first_us), iso(end_us), chosen.ml.step_s, len(fitted.rates),
        gaps, notes,
    )  # fmt: skip


def fit(stretch: Stretch, step_us: int, most: int) -> Stretch:
    """The last ``most`` values at steps of ``step_us``, beginning at a multiple of it: the events of a longer step are
    spread over the steps in it. Raises ``UserError`` where nothing is known, or steps do not fit."""
    if stretch.step_us % step_us:
        raise UserError(
            f"steps of {stretch.step_us / MICROS:g} s cannot be told in steps of {step_us / MICROS:g} s (ml.step_s): "
            "the one must be a multiple of the other"
        )
    known = np.flatnonzero(~np.isnan(stretch.rates))
    if not len(known):
        raise UserError(f"{stretch.service}: not a single value is known")
    rates = _spread(stretch.rates[: known[-1] + 1], stretch.step_us // step_us, step_us, stretch.first_us)
    first_us = round(stretch.first_us / step_us) * step_us
    dropped = max(len(rates) - most, 0)
    return Stretch(stretch.service, first_us + dropped * step_us, step_us, rates[dropped:])


def _spread(rates: Rates, steps: int, step_us: int, seed: int) -> Rates:
    """Each value as ``steps`` shorter ones. Its events fall on them by chance alone (multinomial, seeded): equal shares
    would look like traffic without noise, and its forecasts would have bands that the first real windows break."""
    if steps == 1:
        return rates
    known = ~np.isnan(rates)
    events = np.round(np.where(known, rates, 0.0) * steps * step_us / MICROS).astype(np.int64)
    shares = np.random.default_rng(abs(seed)).multinomial(events, np.full(steps, 1 / steps))
    return np.where(known[:, None], shares * MICROS / step_us, np.nan).ravel()


def parts(stretch: Stretch, tenant: str, series: str, name: str) -> Iterator[PastPart]:
    """The stretch as records of at most ``past.VALUES`` values."""
    values: Sequence[float | None] = [
        None if np.isnan(rate) else rate for rate in np.round(stretch.rates, 6).tolist()
    ]
    starts = range(0, len(values), past.VALUES)
    for number, start in enumerate(starts):
        yield PastPart(
            id=name,
            tenant=tenant,
            service=stretch.service,
            series=series,
            start_us=stretch.first_us + start * stretch.step_us,
            step_us=stretch.step_us,
            rates=list(values[start : start + past.VALUES]),
            part=number,
            parts=len(starts),
        )
