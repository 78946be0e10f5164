"""``smartscale scenario``: looking at a scenario, its truth and its windows without sending anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich import box
from rich.table import Table

from smartscale.cli.options import JsonOption, console, print_json
from smartscale.clock import iso
from smartscale.errors import UserError
from smartscale.producer.preview import Preview

scenario_cli = typer.Typer(
    help="Scenarios: what a load would be, its truth and its windows.",
    epilog="Example: smartscale scenario check examples/scenarios/flash-crowd.yaml",
    no_args_is_help=True,
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A scenario (YAML).")]
StepOption = Annotated[float, typer.Option("--step", min=0.1, help="Seconds of world time a step.")]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Draw from this seed instead of the file's.")]


@scenario_cli.command(epilog="Example: smartscale scenario check examples/scenarios/flash-crowd.yaml")
def check(file: FileArgument, as_json: JsonOption = False) -> None:
    """Check a scenario, and say what it would send: rates, errors, latencies, faults."""
    from smartscale.producer import scenario
    from smartscale.producer.preview import preview

    found = preview(scenario.read(file))
    if as_json:
        print_json(found)
        return
    hours = found.duration_s / 3600
    length = f"{hours:,.1f} hours" if hours >= 2 else f"{found.duration_s:,.0f} s"
    console.print(f"{found.about or file.name}: {length} from {iso(found.start_us)[:16]}Z, seed {found.seed}")
    console.print(
        f"about {found.events:,.0f} events, at most {found.peak_per_s:,.0f} requests a second at a time\n"
    )
    console.print(_services(found))
    if found.faults:
        console.print()
        console.print(_faults(found))


_SHOWN: Final = 20
"""Services that are listed; a person reads no more."""


def _services(found: Preview) -> Table:
    """Fits into 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    shown.add_column("service", max_width=16, no_wrap=True)
    for name in ("mean/s", "peak/s", "errors", "p50 ms", "p99 ms"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("rate, from 0 to peak", no_wrap=True)
    for each in found.services[:_SHOWN]:
        shown.add_row(
            each.service, f"{each.mean_per_s:,.1f}", f"{each.peak_per_s:,.1f}", f"{each.error_rate:.2%}",
            f"{each.latency_p50_ms:,.0f}", f"{each.latency_p99_ms:,.0f}", each.sparkline,
        )  # fmt: skip
    if len(found.services) > _SHOWN:
        shown.add_row(f"and {len(found.services) - _SHOWN} more")
    return shown


def _faults(found: Preview) -> Table:
    shown = Table(
        "fault", "service", "from", "to", "size", "to be told as", box=box.SIMPLE_HEAD, show_edge=False
    )
    for fault in found.faults:
        shown.add_row(
            fault.kind, fault.service, _since(fault.start_us - found.start_us), _since(fault.end_us - found.start_us),
            "" if fault.size is None else f"{fault.size:g}", fault.class_,
        )  # fmt: skip
    return shown


def _since(us: int) -> str:
    minutes, seconds = divmod(us // 1_000_000, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


@scenario_cli.command(epilog="Example: smartscale scenario schema > scenario.schema.json")
def schema(
    labels: Annotated[bool, typer.Option("--labels", help="The schema of labels files instead.")] = False,
) -> None:
    """Print the JSON Schema of scenario files, for editors that check while you type."""
    from smartscale.producer import labels as truths
    from smartscale.producer import scenario

    told = truths.schema() if labels else scenario.schema()
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(told)).decode() + "\n")


@scenario_cli.command(
    epilog="Example: smartscale scenario labels examples/scenarios/every-fault.yaml --out labels.json"
)
def labels(file: FileArgument, out: OutOption, step: StepOption = 10.0, seed: SeedOption = None) -> None:
    """Write the truth of a scenario at its own dates: true rates and every fault, to score detectors with.

    `smartscale produce --labels` writes it at the dates of the run."""
    from smartscale.producer import labels as truths
    from smartscale.producer import scenario

    load = scenario.read(file, seed)
    _written(out, lambda: truths.write(out, truths.truth(load, step)))


@scenario_cli.command(
    epilog="Example: smartscale scenario windows examples/scenarios/weekly.yaml --out weeks.csv"
)
def windows(
    file: FileArgument,
    out: OutOption,
    step: StepOption = 10.0,
    seed: SeedOption = None,
    service: Annotated[
        str | None, typer.Option("--service", help="Only this one, without a column for it.")
    ] = None,
) -> None:
    """Write the metrics that a scenario would have, window by window, without sending it: weeks in seconds.

    A CSV with the start of each window, requests, errors and latencies, drawn as aggregating single events would give
    them; a history for forecasts, backtests and detectors."""
    from smartscale.producer import scenario
    from smartscale.producer.windows import windows as drawn

    load = scenario.read(file, seed)
    names = [source.name for source in load.sources]
    if service is not None and service not in names:
        raise UserError(f"--service {service}: not in {file}; there are: {', '.join(names[:10])}")
    found = drawn(load, step)
    _written(out, lambda: found.write_csv(out, service))


def _written(out: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error}") from error
