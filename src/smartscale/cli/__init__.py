"""The command line: ``smartscale --help`` lists the commands.

Exit codes: 0 done, 1 the check that was asked for does not hold, 2 the input is wrong (the message says how to
mend it), 3 something outside is in the way, or it is a bug (then with a traceback).
"""

from __future__ import annotations

import sys

import typer

from smartscale.errors import SmartScaleError, UserError


def main() -> None:
    """Run the command line and exit."""
    from smartscale.cli.commands import cli

    try:
        cli()
    except UserError as error:
        typer.echo(f"smartscale: {error}", err=True)
        sys.exit(2)
    except SmartScaleError as error:
        typer.echo(f"smartscale: {error}", err=True)
        sys.exit(3)
