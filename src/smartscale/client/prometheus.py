"""Series from a Prometheus server's HTTP API, by range query.

https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries: a range holds at most 11,000 points a series,
so a longer one is asked for in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale.client.address import Address, Token
from smartscale.client.asking import ask
from smartscale.clock import MICROS
from smartscale.errors import UserError

POINTS: Final = 10_000
"""Points asked for at once."""
Labels = tuple[tuple[str, str], ...]
"""A series' labels, sorted by name."""


class _Series(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Data(msgspec.Struct, frozen=True, rename="camel"):
    result_type: str = ""
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    status: str
    data: _Data = _Data()
    error_type: str = ""
    error: str = ""


def range_query(
    at: Address,
    query: str,
    start_us: int,
    end_us: int,
    step_us: int,
    token: Token | None = None,
    told: Callable[[float], None] = lambda _share: None,
) -> dict[Labels, npt.NDArray[np.float64]]:
    """``query`` evaluated at ``start_us``, ``start_us + step_us``, … up to ``end_us`` inclusive, per series; NaN where it
    has no finite value. ``told`` hears the share that is done.

    Raises ``UserError`` with the server's own words if it refuses or cannot be reached."""
    count = (end_us - start_us) // step_us + 1
    if count < 1:
        raise UserError("the range of the query is empty: give a --from before --to")
    found: dict[Labels, npt.NDArray[np.float64]] = {}
    for first in range(0, count, POINTS):
        last = min(first + POINTS, count) - 1
        for series in _piece(
            at, query, start_us + first * step_us, start_us + last * step_us, step_us, token
        ):
            values = found.setdefault(_labels(series.metric), np.full(count, np.nan))
            for second, text in series.values:
                index = round((second * MICROS - start_us) / step_us)
                value = float(text)
                if 0 <= index < count and np.isfinite(value):
                    values[index] = value
        told((last + 1) / count)
    return found


def _piece(
    at: Address, query: str, start_us: int, end_us: int, step_us: int, token: Token | None
) -> list[_Series]:
    form = {
        "query": query,
        "start": f"{start_us / MICROS:.3f}",
        "end": f"{end_us / MICROS:.3f}",
        "step": f"{step_us / MICROS:g}",
    }
    body = "&".join(f"{name}={quote(value, safe='')}" for name, value in form.items()).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", **(token.headers() if token else {})}
    reply = ask(at, "POST", "/api/v1/query_range", body, headers)
    if reply.status == 0:
        raise UserError(f"no answer from Prometheus at {at.netloc}: {reply.body.decode()} (--prometheus)")
    try:
        answer = msgspec.json.decode(reply.body, type=_Answer)
    except msgspec.MsgspecError:
        said = reply.body[:200].decode(errors="replace")
        raise UserError(
            f"{at.netloc} answered {reply.status}, not as Prometheus does: {said!r}; check the address (--prometheus)"
        ) from None
    if answer.status != "success":
        raise UserError(f"Prometheus refuses the query: {answer.error_type}: {answer.error} (--query)")
    if answer.data.result_type != "matrix":
        raise UserError(
            f"Prometheus answered a {answer.data.result_type or 'nothing'}, not a range of values (--query)"
        )
    return msgspec.json.decode(answer.data.result, type=list[_Series])


def _labels(metric: Mapping[str, str]) -> Labels:
    return tuple(sorted(metric.items()))
