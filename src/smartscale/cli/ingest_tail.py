"""``smartscale ingest tail``: access logs, followed and sent."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from smartscale.cli.options import JsonOption, console, print_json
from smartscale.telemetry import logs

if TYPE_CHECKING:
    from smartscale.ingest.tail.service import Counts


def tail(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Access logs to follow.")],
    service: Annotated[
        str | None, typer.Option("--service", help="Whose requests these are (default: the file's name).")
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start a file not seen before at its beginning.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more until Ctrl-C.")] = True,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="WHAT=NAME",
            help="Name of a JSON line's field, such as time=when or latency_us=took; may be given again.",
        ),
    ] = None,
    url: Annotated[
        str, typer.Option("--url", help="Where the ingest stage listens.")
    ] = "http://127.0.0.1:8070",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="Bearer token (else the variable SMARTSCALE_TOKEN)."
        ),
    ] = None,
    state: Annotated[
        Path, typer.Option("--state", metavar="FILE", help="Remembers how far each file has been sent.")
    ] = Path(".run/tail.json"),
    as_json: JsonOption = False,
) -> None:
    """Follow access logs through rotation, and send each line once as a request of a service.

    Reads the common and combined formats of Apache and nginx, Envoy's, and JSON lines. Started again, it goes on where it
    stopped. Lines that cannot be read are counted and shown."""
    from smartscale import app
    from smartscale.client.access_log import checked_fields
    from smartscale.client.address import Address, read_token
    from smartscale.client.poster import Poster
    from smartscale.ingest.tail.service import Options, run
    from smartscale.ingest.tail.state import State

    logs.set_up("tail")
    options = Options(service, checked_fields(field or []), from_beginning, follow)
    poster = Poster(Address.of(url), read_token(token_file))
    stop = threading.Event()
    app.stop_on_signals(stop)
    told = ""

    def tell(counts: Counts) -> None:
        nonlocal told
        line = _line(counts)
        if line != told:
            told = line
            typer.echo(line, err=True)

    with State(state) as positions:
        done = run([file.absolute() for file in files], positions, poster, options, stop, tell)
    poster.close()
    if as_json:
        print_json(done)
    else:
        console.print(_table(done))


def _line(counts: Counts) -> str:
    """How far it is, for people."""
    trouble = f"; waiting: {counts.trouble}" if counts.trouble else ""
    latest = f" (latest: {counts.examples[-1]})" if counts.examples else ""
    return (
        f"{counts.lines:,} lines: accepted {counts.accepted:,}, duplicate {counts.duplicate:,}, refused "
        f"{counts.refused:,}, bad {counts.bad:,}{latest}{trouble}"
    )


def _table(done: Counts) -> Table:
    shown = Table(show_header=False)
    for name in ("lines", "accepted", "duplicate", "refused", "bad"):
        shown.add_row(name, f"{getattr(done, name):,}")
    for example in done.examples:
        shown.add_row("", example)
    return shown
