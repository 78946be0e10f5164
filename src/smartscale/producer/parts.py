"""What the mappings of a scenario file have in common: durations, shares, and no field that is not known."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Label = Annotated[str, Meta(min_length=1, max_length=256)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of a scenario file."""


class Seconds(float):
    """A duration in world time, 0 or more: a number of seconds, or text such as 90s, 20m, 2h, 7d or 1h30m.

    >>> Seconds.read("1h30m"), Seconds.read(2), Seconds.read("250ms")
    (5400.0, 2.0, 0.25)
    """

    @classmethod
    def read(cls, value: object) -> Seconds:
        """Raises ValueError, with the remedy, for what is no duration."""
        seconds = -1.0
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str) and _DURATION.fullmatch(value.strip()):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _TERM.findall(value))
        if not 0 <= seconds <= LONGEST_S:
            raise ValueError(
                f"{value!r} is no duration of at most 30 years; write seconds, or text such as 90s, 20m, 2h, 7d or "
                "1h30m"
            )
        return cls(seconds)


def lasting(seconds: float) -> Seconds:
    """A default of a field of a ``Part``, made anew so that msgspec need not write it into the JSON Schema."""
    default: Seconds = msgspec.field(default_factory=lambda: Seconds(seconds))
    return default


LONGEST_S: Final = 30 * 365.25 * 86_400
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_TERM: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?\s*(ms|s|m|h|d|w)\s*)+")


def decode(kind: type, value: Any) -> Any:
    """msgspec's ``dec_hook`` for scenario files."""
    if kind is Seconds:
        return Seconds.read(value)
    raise NotImplementedError(f"a scenario has no {kind}")


def encode(value: Any) -> Any:
    """msgspec's ``enc_hook`` for scenario files."""
    if isinstance(value, Seconds):
        return float(value)
    raise NotImplementedError(f"a scenario has no {type(value)}")


def schema(kind: type) -> dict[str, Any]:
    """msgspec's ``schema_hook`` for scenario files."""
    if kind is Seconds:
        return {
            "description": "Seconds, or text such as 90s, 20m, 2h, 7d or 1h30m.",
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": f"^{_DURATION.pattern}$"},
            ],
        }
    raise NotImplementedError(f"a scenario has no {kind}")
