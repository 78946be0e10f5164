"""``smartscale tokens``: make bearer tokens for tenants, and list those that are there."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from smartscale.cli.options import ConfigOption, JsonOption, console, print_json, settings
from smartscale.clock import iso, wall_ms
from smartscale.errors import ConfigError, UserError
from smartscale.ingest import tokens

tokens_cli = typer.Typer(
    help="Bearer tokens of the tenants that may send events.",
    epilog="Example: smartscale tokens create shop --file tokens.toml",
    no_args_is_help=True,
)

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", help="The file of tokens (default: the setting ingest.tokens_file)."
    ),
]


@tokens_cli.command(
    "create", epilog="Example: smartscale tokens create shop --expires 90d --file tokens.toml"
)
def create(
    tenant: Annotated[str, typer.Argument(help="Name of the tenant.")],
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="WHEN", help="A span (90d, 12h) or a day (2027-01-31).")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What people call it; shown by `tokens list`.")] = "",
    file: FileOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a token, add its hash to the file, and print the token: once, it is stored nowhere.

    A running edge takes it within a second."""
    path = _path(file, config)
    token = tokens.new_token()
    lines = tokens.entry(tenant, token, name, None if expires is None else until(expires, _now()))
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    tokens.parse(f"{there}\n{lines}", str(path))
    _replace(path, f"{there.rstrip()}\n\n{lines}".lstrip())
    typer.echo(f"added to {path}; the token is shown only now:", err=True)
    typer.echo(token)


@tokens_cli.command("list", epilog="Example: smartscale tokens list --file tokens.toml")
def listed(file: FileOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tenants and their tokens: what each is called and until when it holds. Tokens themselves are stored nowhere."""
    path = _path(file, config)
    if not path.exists():
        raise UserError(f"file {path}: not found; `smartscale tokens create TENANT` makes it")
    found = tokens.parse(path.read_text(encoding="utf-8"), str(path))
    rows = [
        {
            "tenant": grant.tenant,
            "name": grant.name,
            "sha256": grant.digest.hex()[:12],
            "expires": None if grant.expires_us is None else iso(grant.expires_us),
            "state": _state(grant),
        }
        for grant in found.grants.values()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("tenant", "name", "hash begins", "expires", "state")
    for row in rows:
        table.add_row(*(str(value or "") for value in row.values()))
    console.print(table)


def _state(grant: tokens.Grant) -> str:
    if grant.disabled:
        return "disabled"
    expired = grant.expires_us is not None and grant.expires_us <= wall_ms() * 1000
    return "expired" if expired else "good"


def _now() -> datetime:
    return datetime.fromtimestamp(wall_ms() / 1000, UTC)


_SPAN = re.compile(r"(\d+)([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def until(text: str, now: datetime) -> datetime:
    """The instant that ``--expires`` means. Raises ``UserError``.

    >>> until("2d", datetime(2026, 1, 1, tzinfo=UTC)).isoformat()
    '2026-01-03T00:00:00+00:00'
    """
    span = _SPAN.fullmatch(text)
    try:
        if span:
            return (now + timedelta(**{_UNITS[span[2]]: int(span[1])})).replace(microsecond=0)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise UserError(
            f"--expires {text!r}: give a span such as 90d or 12h, or a day such as 2027-01-31"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise UserError(f"--expires {text!r} has passed already")
    return moment


def _path(file: Path | None, config: Path | None) -> Path:
    named = str(file) if file else settings(None, config).ingest.tokens_file
    if not named:
        raise ConfigError(
            "no file of tokens: give --file FILE, or set ingest.tokens_file in the settings (the edge reads it there)"
        )
    return Path(named)


def _replace(path: Path, text: str) -> None:
    """Put the text there in one step, readable by its owner alone: a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(
            os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"file {path} cannot be written: {error.strerror}") from error
