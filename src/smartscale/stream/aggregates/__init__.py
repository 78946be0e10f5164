"""What the windows compute: one small class an aggregation, registered by name.

An aggregation keeps **state**: named columns with one entry a key (``smartscale.stream.columns``). Combine makes it from
events (``zero``, ``add``), sends it in records of ``partials``, window merges it over panes, names and processes
(``zero``, ``merge``), and ``result`` turns it into fields of metric rows. ``docs/extending.md`` adds one.

What every aggregation must hold, so that results depend on no order and no split:

- ``merge`` is commutative and associative, and ``zero`` changes nothing;
- ``add`` of some events and then others is ``merge`` of both added alone.

``checks.check`` tests a class for both.
"""

from __future__ import annotations

from smartscale.stream.aggregates.latency import Latency
from smartscale.stream.aggregates.protocol import Aggregation, Events, named, register
from smartscale.stream.aggregates.requests import Requests
from smartscale.stream.aggregates.users import Users
from smartscale.stream.aggregates.values import Values

for _one in (Requests(), Latency(), Values(), Users()):
    register(_one)

__all__ = ["Aggregation", "Events", "Latency", "Requests", "Users", "Values", "named", "register"]
