"""``smartscale produce``: sending a load, and telling what was measured."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smartscale.cli.options import ConfigOption, JsonOption, console, opened, print_json, settings
from smartscale.clock import Clock, WallClock, iso
from smartscale.errors import UserError

if TYPE_CHECKING:
    from smartscale.producer.player import Progress
    from smartscale.producer.rate_search import Trial

produce_cli = typer.Typer(
    help="Send a load to the ingest stage, open loop, and measure how it is answered.",
    epilog="Example: smartscale produce --scenario examples/scenarios/calm.yaml --report load.html",
)

UrlOption = Annotated[str, typer.Option("--url", help="Where the ingest stage listens.")]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the bearer token (default: variable SMARTSCALE_TOKEN).",
    ),
]
ClockOption = Annotated[
    str | None,
    typer.Option("--log", metavar="ADDRESS", help="Follow this log's clock (default: wall clock)."),
]
URL = "http://127.0.0.1:8070"


@produce_cli.callback(invoke_without_command=True)
def produce(
    context: typer.Context,
    scenario: Annotated[
        Path | None,
        typer.Option("--scenario", metavar="FILE", help="Scenario (YAML, see examples/scenarios)."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="FILE", help="CSV of rates, CSV of requests, or an access log; .gz too."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            metavar="NUMBER|max",
            help="Constant requests a second, of --scenario's mix if it is given; max: find the highest.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="LEVEL=TIME", help="For --rate max: what must hold, such as p99.9=0.2s."
        ),
    ] = "p99=50ms",
    trial_s: Annotated[
        float, typer.Option("--trial", min=0.5, metavar="SECONDS", help="For --rate max: length of a trial.")
    ] = 5.0,
    for_s: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="End the load after so much world time.")
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option(
            "--peak", help="Requests a second of a replayed curve's busiest interval (default: 100)."
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="So many requests for each of the replay, instead of --peak."),
    ] = None,
    speed: Annotated[
        float, typer.Option("--speed", help="The replay's time passes so many times as fast.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same events.")] = None,
    service: Annotated[
        str, typer.Option("--service", help="Name for events of a file without one.")
    ] = "replay",
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Keep the recording's times instead of moving them to now.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Events of a request, at most.")] = 500,
    connections: Annotated[
        int, typer.Option("--connections", min=1, help="Connections, over all workers.")
    ] = 64,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes that share the load.")
    ] = 1,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Also write a page with plots (HTML).")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Write the scenario's truth, to score detectors with."),
    ] = None,
    url: UrlOption = URL,
    token_file: TokenOption = None,
    log: ClockOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a load to the ingest stage, open loop, and measure how it is answered.

    Latency counts from when a request was planned to be sent, so a slow server cannot hide (docs/load.md explains
    every figure). Exit code 1 if events were refused or not answered."""
    if context.invoked_subcommand is not None:
        return
    from smartscale import app
    from smartscale.client.address import read_token
    from smartscale.producer import labels as truths
    from smartscale.producer import report as reports
    from smartscale.producer import service as sending
    from smartscale.producer.job import Job, LoadSpec
    from smartscale.producer.page import page
    from smartscale.producer.player import Options
    from smartscale.producer.rate_search import Target, found_table

    anchor = None
    if log is not None:
        with opened(settings(log, config)) as event_log:
            anchor = app.read_anchor(event_log)
    job = Job(
        spec=LoadSpec(
            scenario=str(scenario) if scenario else None,
            replay=str(replay) if replay else None,
            rate_per_s=None if rate == "max" else _rate(rate),
            for_s=for_s,
            peak_per_s=100.0 if replay and peak is None and scale is None else peak,
            scale=scale,
            speed=speed,
            seed=seed,
            service=service,
        ),
        options=Options(url=url, batch=batch, connections=connections),
        workers=workers,
        anchor=anchor,
        keep_times=keep_times,
    )
    for path in (report, labels):
        _writable(path)
    if labels and (scenario is None or (rate is not None and for_s is None)):
        raise UserError(
            "--labels is the truth of a --scenario that ends: give one, with --for if there is a --rate"
        )

    token = read_token(token_file)
    stop = threading.Event()
    if rate == "max":
        goal = Target.read(target)
        app.stop_on_signals(stop)
        found = sending.highest_rate(job, goal, trial_s, stop, _tell_trial, token)
        if report is not None and found.report is not None:
            report.write_text(page(found.report, found), encoding="utf-8")
        if as_json:
            print_json(found)
        else:
            console.print(found_table(found))
        sys.exit(0 if found.confirmed else 1)
    app.stop_on_signals(stop)
    write = (lambda truth: truths.write(labels, truth)) if labels else None
    done = sending.run(job, stop, _tell, token, write)
    if report is not None:
        report.write_text(page(done), encoding="utf-8")
    if as_json:
        print_json(done)
    else:
        console.print(reports.table(done))
    sys.exit(0 if done.counts.unanswered == 0 and done.counts.refused == 0 else 1)


def _tell(progress: Progress) -> None:
    counts = progress.counts
    behind = f", {progress.behind_s:.1f} s behind" if progress.behind_s > 1 else ""
    typer.echo(
        f"{iso(progress.at_us)[:19]}  sent {counts.sent:,}, accepted {counts.accepted:,}, refused "
        f"{counts.refused:,}, unanswered {counts.unanswered:,}{behind}",
        err=True,
    )


def _tell_trial(trial: Trial) -> None:
    from smartscale.producer.report import figure

    said = "sustained" if trial.sustained else f"not sustained: {trial.why}"
    limited = " (the generator was in the way)" if trial.limited else ""
    long = ", long" if trial.long else ""
    typer.echo(
        f"{trial.rate_per_s:>12,.0f}/s{long}  {figure(trial.reached_ms)} ms, {said}{limited}", err=True
    )


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--rate {text}: use a number of requests a second, or max") from None


def _writable(path: Path | None) -> None:
    """Raises ``UserError`` now rather than after the run."""
    if path is not None and not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent} to write it to")


@produce_cli.command(epilog="Example: smartscale produce host --service db-1 --interval 5")
def host(
    service: Annotated[
        str | None, typer.Option("--service", help="Name of this host (default: its host name).")
    ] = None,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, metavar="SECONDS", help="Time between two readings.")
    ] = 5.0,
    for_s: Annotated[
        float | None, typer.Option("--for", min=0.1, metavar="SECONDS", help="End after so long.")
    ] = None,
    url: UrlOption = URL,
    token_file: TokenOption = None,
    log: ClockOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send this host's system metrics as events, until Ctrl-C: processor, memory, disks, network, load."""
    import socket

    from smartscale import app
    from smartscale.client.address import read_token
    from smartscale.client.sender import Sender
    from smartscale.producer import host as system

    clock: Clock = WallClock()
    if log is not None:
        with opened(settings(log, config)) as event_log:
            clock = app.open_clock(event_log)
    stop = threading.Event()
    app.stop_on_signals(stop)
    sender = Sender(url, clock, token=read_token(token_file))
    done = system.run(sender, clock, service or socket.gethostname(), interval_s, for_s, stop)
    if as_json:
        print_json(done)
    else:
        totals = done.totals
        lost = f", {done.dropped:,} dropped while the edge was away" if done.dropped else ""
        trouble = f" ({totals.last_trouble})" if totals.unanswered else ""
        typer.echo(
            f"sent {totals.sent:,}, accepted {totals.accepted:,}, refused {totals.refused:,}, unanswered "
            f"{totals.unanswered:,}{trouble}{lost}"
        )
    sys.exit(1 if done.totals.refused or done.totals.unanswered or done.dropped else 0)
