"""The commands. Each imports its part only when it runs, so that a fault in one part breaks no other command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from smartscale.cli.dead_letters import dead_letters_cli
from smartscale.cli.evaluate import evaluate_cli
from smartscale.cli.history import history_cli
from smartscale.cli.incidents import incidents_cli
from smartscale.cli.ingest_tail import tail as tail_files
from smartscale.cli.options import (
    AcceptLossOption,
    ConfigOption,
    JsonOption,
    LogFormatOption,
    LogOption,
    PortOption,
    SlotOption,
    console,
    opened,
    print_json,
    settings,
)
from smartscale.cli.percentiles import percentiles
from smartscale.cli.precompile import compile_all
from smartscale.cli.produce import produce_cli
from smartscale.cli.scenarios import scenario_cli
from smartscale.cli.tokens import tokens_cli
from smartscale.errors import ConfigError, UserError
from smartscale.stage import Context
from smartscale.telemetry import logs

cli = typer.Typer(
    help="Real-time event analytics and predictive auto-scaling, with decisions that explain themselves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
policy_cli = typer.Typer(help="Scaling policies.", no_args_is_help=True)
cli.add_typer(policy_cli, name="policy")
cli.add_typer(tokens_cli, name="tokens")
cli.command("compile", epilog="Example: smartscale compile")(compile_all)
cli.add_typer(dead_letters_cli, name="dead-letters")
cli.add_typer(incidents_cli, name="incidents")
cli.add_typer(scenario_cli, name="scenario")
cli.add_typer(history_cli, name="history")
cli.add_typer(produce_cli, name="produce")
cli.add_typer(evaluate_cli, name="evaluate")
cli.command(
    "percentiles",
    epilog="Example: smartscale percentiles shop --from 2026-11-25T00:00:00Z --to 2026-11-26T00:00:00Z",
)(percentiles)

ScenarioOption = Annotated[
    Path | None,
    typer.Option("--scenario", metavar="FILE", help="Scenario (YAML, see examples/scenarios)."),
]
PeakOption = Annotated[
    float, typer.Option("--peak", help="Requests a second of the replay's busiest interval.")
]


def _run_stage(
    name: str,
    slot: str,
    port: int | None,
    log: str | None,
    config: Path | None,
    log_format: str,
    flags: dict[str, object] | None = None,
    run: Callable[[Context], None] | None = None,
) -> None:
    from smartscale import app

    if log_format not in logs.FORMATS:
        raise ConfigError(f"--log-format {log_format!r}: use one of {', '.join(logs.FORMATS)}")
    logs.set_up(f"{name}-{slot}", log_format)
    sys.exit(app.run_stage(name, settings(log, config, flags), slot, port, run))


ingest_cli = typer.Typer(
    help="Take events in over HTTP and answer once they are durably in the log.",
    epilog="Example: smartscale ingest --log sqlite:smartscale.db --port 8070",
    invoke_without_command=True,
)
ingest_cli.command("tail", epilog="Example: smartscale ingest tail /var/log/nginx/access.log --service shop")(
    tail_files
)
cli.add_typer(ingest_cli, name="ingest")


@ingest_cli.callback()
def ingest(
    context: typer.Context,
    slot: SlotOption = "0",
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on.")] = None,
    log: LogOption = None,
    config: ConfigOption = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Take events in over HTTP and answer once they are durably in the log."""
    if context.invoked_subcommand is None:
        flags: dict[str, object] = {"ingest.host": host, "ingest.port": port}
        _run_stage("ingest", slot, None, log, config, log_format, flags)


_PLAIN_STAGES = {
    "combine": "Aggregate events into partials, each once. Run as many as the event rate needs, each with its own slot.",
    "window": "Merge partials into windows over event time: rates, error rates, latency percentiles.",
    "ml": "Forecast every service's load with quantiles, and find anomalies.",
}


def _plain_stage(name: str) -> Callable[..., None]:
    def command(
        slot: SlotOption = "0",
        port: PortOption = 0,
        log: LogOption = None,
        config: ConfigOption = None,
        accept_loss: AcceptLossOption = False,
        log_format: LogFormatOption = "text",
    ) -> None:
        flags: dict[str, object] = {"topics.accept_loss": accept_loss or None}
        _run_stage(name, slot, port, log, config, log_format, flags)

    return command


for _name, _help in _PLAIN_STAGES.items():
    _example = f"Example: smartscale {_name} --slot 0 --log kafka://broker:9092"
    cli.command(_name, help=_help, epilog=_example)(_plain_stage(_name))


@cli.command(epilog="Example: smartscale control --policies examples/policies")
def control(
    slot: SlotOption = "0",
    port: PortOption = 0,
    policies: Annotated[
        Path | None, typer.Option("--policies", metavar="PATH", help="A policy file or a folder of them.")
    ] = None,
    log: LogOption = None,
    config: ConfigOption = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Decide how many replicas each service needs, store why, and have it carried out."""
    flags: dict[str, object] = {"control.policies": str(policies) if policies else None}
    _run_stage("control", slot, port, log, config, log_format, flags)


@cli.command(
    epilog="Example: smartscale sample --scenario examples/scenarios/calm.yaml --url http://127.0.0.1:8070"
)
def sample(
    scenario: ScenarioOption = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="CSV of rates: timestamp, requests.")
    ] = None,
    peak: PeakOption = 100.0,
    url: Annotated[
        str, typer.Option("--url", help="Where the ingest stage listens.")
    ] = "http://127.0.0.1:8070",
    slot: SlotOption = "0",
    port: PortOption = 0,
    log: LogOption = None,
    config: ConfigOption = None,
    log_format: LogFormatOption = "text",
) -> None:
    """A service to be scaled: a balancer before real replica processes, under an open-loop load."""
    from smartscale.cli.loads import service_load

    load = service_load(scenario, replay, peak)
    if load is None:
        raise UserError("the sample service needs a load: --scenario FILE or --replay FILE")

    def run(context: Context) -> None:
        from smartscale.sample import service

        service.run(context, load, url)

    _run_stage("sample", slot, port, log, config, log_format, run=run)


@cli.command(epilog="Example: smartscale topics --log kafka://127.0.0.1:9092")
def topics(
    events_partitions: Annotated[
        int | None,
        typer.Option(
            "--events-partitions",
            min=1,
            metavar="N",
            help="Give `events` so many partitions, while everything runs; it keeps them whatever the settings say.",
        ),
    ] = None,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create and verify every topic, and show records and lag. More partitions of `events` let more combines share it."""
    from smartscale.cli.topics import create_and_describe, table

    chosen = settings(log, config, {"topics.events": events_partitions})
    with opened(chosen) as event_log:
        there = event_log.topics().get("events")
        if events_partitions is not None and there is not None and there.partitions > events_partitions:
            raise UserError(f"events has {there.partitions} partitions: more can be added, none taken away")
        states = create_and_describe(event_log, chosen)
    if as_json:
        print_json(states)
    else:
        console.print(table(states))


@cli.command(epilog="Example: smartscale tail decisions --from-beginning --limit 5")
def tail(
    topic: Annotated[str, typer.Argument(help="Name of the topic, such as metrics.")],
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start at the oldest record.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until Ctrl-C.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many records.")] = None,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the records of a topic as readable lines."""
    from smartscale.cli import tail as tailing

    chosen = settings(log, config)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    shown = 0
    with opened(chosen) as event_log:
        try:
            for record in tailing.follow(event_log, topic, chosen, from_beginning, follow):
                if record is None:
                    continue
                if as_json:
                    print_json(tailing.describe(record))
                else:
                    typer.echo(tailing.line(record))
                shown += 1
                if shown == limit:
                    return
        except KeyboardInterrupt:
            return
    if not shown and not from_beginning and not follow:
        typer.echo(f"{topic} has nothing new; --from-beginning shows what it holds, --follow waits", err=True)


@cli.command(epilog="Example: smartscale status --log sqlite:smartscale.db --json")
def status(
    accept_loss: AcceptLossOption = False,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The ledger: where every accepted event is now. Exit code 1 if the books do not balance."""
    from smartscale.ledger.reader import LedgerReader

    chosen = settings(log, config, {"topics.accept_loss": accept_loss or None})
    with opened(chosen) as event_log:
        with closing(LedgerReader(event_log, chosen)) as ledger:
            balance = ledger.update()
    if as_json:
        print_json(balance)
    else:
        typer.echo(
            f"accepted {balance.accepted:,} = windowed {balance.windowed:,} + late {balance.late:,} + dead "
            f"{balance.dead:,} + duplicates {balance.duplicates:,} + lost {balance.lost:,} + in flight "
            f"{balance.in_flight:,}; difference {balance.difference:,}"
        )
        if balance.unbooked:
            typer.echo(
                f"{balance.unbooked:,} records were removed by retention before they were booked: of what they held, "
                "these books know only what the stages said they read",
                err=True,
            )
    sys.exit(0 if balance.difference == 0 else 1)


@policy_cli.command("check", epilog="Example: smartscale policy check examples/policies")
def policy_check(
    path: Annotated[Path, typer.Argument(help="A policy file or a folder of them.")],
    as_json: JsonOption = False,
) -> None:
    """Check scaling policies and tell every mistake with its place and remedy. Exit code 2 if there is one."""
    from smartscale.control import policy

    problems = policy.check(path)
    if as_json:
        print_json(problems)
    else:
        for problem in problems:
            typer.echo(str(problem), err=True)
        if not problems:
            typer.echo(f"{path}: no mistake found")
    sys.exit(2 if problems else 0)


@cli.command(
    epilog="Example: smartscale up --scenario examples/scenarios/calm.yaml --policies examples/policies --speed 10"
)
def up(
    scenario: ScenarioOption = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="FILE", help="CSV of rates (.gz too): timestamp, requests."),
    ] = None,
    peak: PeakOption = 100.0,
    speed: Annotated[
        float | None,
        typer.Option("--speed", help="World time runs this many times as fast (fresh log only)."),
    ] = None,
    policies: Annotated[
        Path | None, typer.Option("--policies", metavar="PATH", help="A policy file or a folder of them.")
    ] = None,
    for_s: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="SECONDS",
            help="Stop this many real seconds after the start (of the load, if any).",
        ),
    ] = None,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Go on when the load has ended.")
    ] = False,
    directory: Annotated[
        Path, typer.Option("--directory", metavar="DIR", help="Log file, lock and summary of this run.")
    ] = Path(".run/main"),
    combines: Annotated[int, typer.Option("--combine", min=1, help="Combine processes.")] = 1,
    windows: Annotated[int, typer.Option("--window", min=1, help="Window processes.")] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 unless all is counted and the loop scaled both ways.")
    ] = False,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole pipeline on this machine until Ctrl-C, or until the load given has ended."""
    from smartscale.cli.loads import service_load
    from smartscale.supervisor.up import Options
    from smartscale.supervisor.up import up as run_up

    if speed is not None and not 0 < speed <= 1000:
        raise UserError(f"--speed {speed:g}: must be above 0 and at most 1000")
    chosen = settings(log, config, {"control.policies": str(policies) if policies else None})
    load = service_load(scenario, replay, peak)
    words = None
    if load is not None:
        words = (
            ["--scenario", str(scenario)] if scenario else ["--replay", str(replay), "--peak", f"{peak:g}"]
        )
    options = Options(
        settings=chosen,
        config=config,
        directory=directory,
        load=words,
        speed=speed,
        for_s=for_s,
        keep_running=keep_running,
        as_json=as_json,
        check=check,
        copies={"combine": combines, "window": windows},
    )
    sys.exit(run_up(options))
