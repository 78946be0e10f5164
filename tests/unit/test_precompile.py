"""What is compiled ahead is what the stages need."""

from __future__ import annotations

import importlib
import pkgutil

from numba.core.dispatcher import Dispatcher

import smartscale
from smartscale import precompile

AHEAD = (
    "smartscale.ingest",
    "smartscale.log",
    "smartscale.ml.forecast",
    "smartscale.ml.series",
    "smartscale.producer",
    "smartscale.records",
    "smartscale.stream",
)


def test_every_compiled_loop_of_the_stages_is_among_them() -> None:
    """A loop that nobody thought of would keep the first process on a machine waiting."""
    for _, compiled in precompile.steps():
        compiled()
    loops = {
        loop
        for _, name, _ in pkgutil.walk_packages(smartscale.__path__, "smartscale.")
        if name.startswith(AHEAD)
        for loop in vars(importlib.import_module(name)).values()
        if isinstance(loop, Dispatcher)
    }
    inner = {name for loop in loops for name in loop.py_func.__code__.co_names}
    missing = [
        f"{loop.py_func.__module__}.{loop.py_func.__name__}"
        for loop in loops
        if loop.py_func.__name__ not in inner and not loop.signatures
    ]
    assert missing == []
