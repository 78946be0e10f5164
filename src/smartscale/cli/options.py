"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from smartscale import app, config
from smartscale.log.port import Log

LogOption = Annotated[
    str | None,
    typer.Option(
        "--log", metavar="ADDRESS", help="sqlite:PATH or kafka://HOST:PORT (variable SMARTSCALE_LOG)."
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", envvar="SMARTSCALE_CONFIG", help="Settings, a TOML file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
LogFormatOption = Annotated[
    str, typer.Option("--log-format", metavar="text|json", help="How to write log lines.")
]
SlotOption = Annotated[
    str, typer.Option("--slot", help="Stable name of this process among those of its stage.")
]
PortOption = Annotated[
    int, typer.Option("--port", help="Port of /healthz, /readyz and /metrics; 0 takes any free one.")
]

AcceptLossOption = Annotated[
    bool,
    typer.Option(
        "--accept-loss",
        help="Go on behind what retention removed before it was read; the ledger tells it as lost.",
    ),
]

console = Console(soft_wrap=True)


def settings(
    log: str | None, file: Path | None, flags: Mapping[str, object] | None = None
) -> config.Settings:
    """The settings after every layer. Raises ``ConfigError``."""
    return config.load(file, flags={"log": log, **(flags or {})})


@contextmanager
def opened(settings: config.Settings) -> Iterator[Log]:
    """The event log, closed at the end of the block."""
    event_log = app.opened(settings)
    try:
        yield event_log
    finally:
        event_log.close()


def print_json(value: object) -> None:
    """One line of JSON to stdout."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()
