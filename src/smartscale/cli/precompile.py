"""``smartscale compile``: what would otherwise be compiled at the first start."""

from __future__ import annotations

import typer

from smartscale.clock import monotonic_s


def compile_all() -> None:
    """Compile every inner loop ahead of the first start, for images and installations; half a minute, once."""
    from smartscale import precompile

    for name, compiled in precompile.steps():
        began_s = monotonic_s()
        compiled()
        typer.echo(f"{name}: {monotonic_s() - began_s:.1f} s")
