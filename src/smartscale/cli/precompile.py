"""``smartscale compile``: what would otherwise be compiled at the first start."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import typer

from smartscale.clock import monotonic_s


def compile_all() -> None:
    """Compile every inner loop ahead of the first start, for images and installations; half a minute, once."""
    from smartscale import precompile

    # A process a core: compiling holds the interpreter. Fresh ones, since a fork would copy this one's threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_seconds, compiled): name for name, compiled in precompile.steps()}
        for done in as_completed(running):
            typer.echo(f"{running[done]}: {done.result():.1f} s")


def _seconds(compiled: Callable[[], None]) -> float:
    began_s = monotonic_s()
    compiled()
    return monotonic_s() - began_s
