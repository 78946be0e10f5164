"""``smartscale evaluate``: how good forecasts and alerts are, on your own histories."""

from __future__ import annotations

import typer

from smartscale.cli.evaluate_anomalies import anomalies
from smartscale.cli.evaluate_forecasts import forecasts

evaluate_cli = typer.Typer(
    help="How good forecasts and alerts are, on your own histories.",
    epilog="Example: smartscale evaluate forecasts history.csv.gz",
    no_args_is_help=True,
)
evaluate_cli.command(
    "forecasts",
    epilog="Example: smartscale evaluate forecasts history.csv.gz --report report.html",
)(forecasts)
evaluate_cli.command(
    "anomalies",
    epilog="Example: smartscale evaluate anomalies NAB --scores scores",
)(anomalies)
