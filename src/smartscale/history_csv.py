"""Histories of load in CSV files: a column ``timestamp`` and a value an interval. ``.gz`` too.

::

    file ──read──▶ Rows: what is written, line by line ──regular──▶ History: one value a step, NaN where nothing is known

Timestamps are ISO 8601 (one without a zone is taken as UTC) or seconds, milliseconds, microseconds or nanoseconds since
the epoch, and mark the start of an interval. Rows may be unsorted, doubled, missing, or a little off their grid. A gap
is a gap, never a zero: nobody counted, which is not that nobody came.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Final, Literal

import numpy as np
import numpy.typing as npt

from smartscale.clock import MICROS, parse_iso_us
from smartscale.errors import ConfigError
from smartscale.text_file import open_text

Micros = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

Kind = Literal["counts", "rates"]
"""What a value is: so many in the interval (summed where steps are joined), or so many a second (averaged)."""

TIMESTAMP: Final = "timestamp"
USUAL_COLUMN: Final = "requests"
SHORT_S: Final = 5.0
"""Rows closer than this are joined to steps of ``JOINED_S`` unless a step is asked for: scaling acts in tens of seconds."""
JOINED_S: Final = 10.0
_LOOK: Final = 1000
"""Rows that decide which columns are numbers."""
_NICE_S: Final = (
    1,
    2,
    5,
    10,
    15,
    20,
    30,
    60,
    120,
    300,
    600,
    900,
    1200,
    1800,
    3600,
    7200,
    10800,
    14400,
    21600,
    43200,
    86400,
)
_OFF_NICE: Final = 0.05
"""A step this near to a round one is meant to be it: rows polled every 5 s come every 5.1 s."""
_MAX_STEPS: Final = 1_000_000
_MAX_SPARSE: Final = 50
"""More steps than ``_MAX_STEPS``, and so many to a row, are a wrong timestamp rather than a gap."""
_GAP_WORDS: Final = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows in the order of the file: times (us), values (NaN for an empty cell), lines, timestamps as written."""

    path: Path
    column: str
    times_us: Micros
    values: Values
    lines: Micros
    texts: list[str]


@dataclass(frozen=True, slots=True)
class History:
    """One value a step: ``values[i]`` holds from ``first_us + i * step_us`` on, in the file's own unit (a count is that
    of the whole step); NaN is a gap."""

    path: Path
    column: str
    kind: Kind
    first_us: int
    step_us: int
    values: Values
    notes: list[str]
    """What was done to the rows, for people."""
    _texts: dict[int, str]
    """Timestamps as the file writes them, of the steps that have one."""

    @property
    def step_s(self) -> float:
        return self.step_us / MICROS

    @property
    def rates(self) -> Values:
        """Events a second."""
        return self.values / self.unit

    @property
    def unit(self) -> float:
        """What a rate of one event a second is in ``values``."""
        return self.step_s if self.kind == "counts" else 1.0

    def time_us(self, step: int) -> int:
        return self.first_us + step * self.step_us

    def stamp(self, step: int) -> str:
        """The timestamp of a step as the file writes it; where it has none, in the form of the row before."""
        text = self._texts.get(step)
        if text is not None:
            return text
        before = next((at for at in range(step, -1, -1) if at in self._texts), min(self._texts))
        return like(self._texts[before], self.time_us(step))


def read(
    path: Path,
    column: str | None = None,
    step_s: float | None = None,
    kind: Kind = "counts",
) -> History:
    """The file's history at its natural step (rows closer than ``SHORT_S`` are joined to ``JOINED_S``) or at ``step_s``.

    Raises ``ConfigError`` naming file, line and remedy."""
    return regular(read_rows(path, column), step_s, kind)


def read_rows(path: Path, column: str | None = None, signed: bool = False) -> Rows:
    """The rows of ``column``; None is ``requests``, or the only column of numbers.

    Raises ``ConfigError`` naming file, line and remedy: no such column, a cell that is neither a number nor empty, an
    infinite value, a negative one unless ``signed``, a timestamp that is none."""
    texts: list[str] = []
    cells: list[str] = []
    lines: list[int] = []
    with open_text(path) as text:
        column = column or _column(path, text)
        text.seek(0)
        rows = csv.reader(text)
        at, of = _places(path, next(rows, []), column)
        try:
            for row in rows:
                if row:
                    texts.append(row[at].strip())
                    cells.append(row[of])
                    lines.append(rows.line_num)
        except IndexError:
            raise ConfigError(
                f"file {path}, line {rows.line_num}: only {len(row)} cells; mend or remove the line"
            ) from None
        except csv.Error as error:
            raise ConfigError(
                f"file {path}, line {rows.line_num}: {error}; mend or remove the line"
            ) from error

    def each(parse: Callable[[str], float], of: list[str]) -> list[float]:
        done: list[float] = []
        try:
            for one in of:
                done.append(parse(one))  # noqa: PERF401
        except (ValueError, OverflowError) as error:
            raise ConfigError(
                f"file {path}, line {lines[len(done)]}: {error}; mend or remove the line"
            ) from error
        return done

    times = _plain_times(texts)
    if times is None:
        times = np.array(each(_parser(texts[0]) if texts else float, texts), np.int64)
    values = _plain_numbers(cells, signed)
    if values is None:
        values = np.array(each(lambda cell: _number(cell, column, signed), cells), np.float64)
    return Rows(path, column, times, values, np.array(lines, np.int64), texts)


def step_of(times_us: Micros) -> int:
    """The spacing of sorted, distinct times (us): the most frequent distance, if most distances are just that, or all but a
    tenth are whole multiples of it (rows are missing); else the median one, as a round number of seconds near to it.

    >>> step_of(np.array([0, 60, 180, 360]) * 1_000_000), step_of(np.array([0, 5_105, 10_206, 15_300]) * 1000)
    (60000000, 5000000)
    """
    apart = np.diff(times_us)
    distances, counts = np.unique(apart, return_counts=True)
    usual = int(distances[counts.argmax()])
    if 2 * counts.max() >= len(apart) or (apart % usual == 0).mean() >= 0.9:
        return usual
    median = int(np.median(apart))
    nice = min(_NICE_S, key=lambda seconds: abs(math.log(seconds * MICROS / median)))
    if abs(nice * MICROS / median - 1) <= _OFF_NICE:
        return nice * MICROS
    return max(round(median / MICROS), 1) * MICROS if median >= MICROS else median


def regular(rows: Rows, step_s: float | None = None, kind: Kind = "counts") -> History:
    """One value a step. A row goes to the nearest step of the rows' own spacing (or of ``step_s``, if that is near to it);
    rows of one step (doubled, or an hour told twice when summer time ends) are averaged. Then steps are joined to
    ``step_s``: a joined step is known if half of it is, and a sum is scaled up for what is missing. Joined steps begin at
    multiples of ``step_s`` since the epoch.

    Raises ``ConfigError`` with fewer than two distinct times, and for a step that the rows' spacing does not divide."""
    path, notes = rows.path, []
    distinct, where = np.unique(rows.times_us, return_inverse=True)
    if len(distinct) < 2:
        raise ConfigError(
            f"file {path}: all rows have the same timestamp; give the start of each interval"
            if len(rows.texts) > 1
            else f"file {path}: needs at least two rows with a value in column {rows.column!r}"
        )
    if len(distinct) < len(rows.texts):
        notes.append(f"{len(rows.texts) - len(distinct):,} doubled timestamps averaged")
    if (np.diff(rows.times_us) < 0).any():
        notes.append("rows sorted by time")
    own_us = step_of(distinct)
    if step_s is not None and abs(step_s * MICROS / own_us - 1) <= _OFF_NICE:
        own_us = round(step_s * MICROS)
    first_us = _first(distinct, own_us)
    slots = (distinct - first_us + own_us // 2) // own_us
    _check_span(rows, slots)
    if (first_us + slots * own_us != distinct).mean() > 0.01:
        notes.append(f"rows are not on one grid: each taken to the nearest step of {own_us / MICROS:g} s")
    values = _means(slots[where], rows.values, int(slots[-1]) + 1)
    wanted_us = _wanted(rows, own_us, step_s)
    share = wanted_us // own_us
    # Joined steps begin where multiples of the wanted step do, as near as the rows' own grid allows.
    lead = (first_us - first_us % own_us) % wanted_us // own_us
    if share > 1:
        values = _joined(np.concatenate([np.full(lead, np.nan), values]), share, kind)
        told = "summed" if kind == "counts" else "averaged"
        notes.append(f"rows of {own_us / MICROS:g} s {told} to steps of {wanted_us / MICROS:g} s")
    else:
        lead = 0
    first_us -= lead * own_us
    at = (rows.times_us - first_us) // wanted_us
    written = np.flatnonzero(first_us + at * wanted_us == rows.times_us)
    texts = {int(at[row]): rows.texts[row] for row in written[::-1].tolist()}
    if not texts:
        texts = {0: like(rows.texts[0], first_us)}
    gaps = int(np.isnan(values).sum())
    if gaps:
        notes.append(f"{gaps:,} of {len(values):,} steps are gaps")
    return History(path, rows.column, kind, first_us, wanted_us, values, notes, texts)


def like(example: str, us: int) -> str:
    """The instant written as the example is.

    >>> like("2024-03-01 00:00+02:00", 0), like("2024-03-01T00:00:00.000Z", 1_500_000), like("1700000000", 60_000_000)
    ('1970-01-01 02:00+02:00', '1970-01-01T00:00:01.500Z', '60')
    """
    if (unit := _epoch_unit(example)) is not None:
        return str(us // unit) if us % unit == 0 else f"{us / unit:.6f}"
    form = _ISO.fullmatch(example)
    offset = datetime.fromisoformat(example).utcoffset() or timedelta(0)
    moment = datetime.fromtimestamp(us // MICROS, UTC) + offset
    micros = us % MICROS
    if form is None:
        return moment.replace(microsecond=micros, tzinfo=None).isoformat()
    if form["sep"] is None and moment.time() == datetime.min.time() and not micros:
        return f"{moment:%Y-%m-%d}"
    text = f"{moment:%Y-%m-%d}{form['sep'] or 'T'}{moment:%H:%M}"
    if form["seconds"] or moment.second or micros:
        text += f":{moment:%S}"
    digits = len(form["fraction"] or "") - 1
    if digits > 0 or micros:
        text += f".{micros:06d}"[: 1 + max(digits, 6 if micros and digits <= 0 else digits)]
    return text + (form["zone"] or "")


_ISO: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?:(?P<sep>[T ])\d\d:\d\d(?P<seconds>:\d\d)?(?P<fraction>\.\d+)?"
    r"(?P<zone>\s*(?:Z|[+-]\d\d(?::?\d\d)?))?)?"
)
_UNITS: Final = ((1e11, MICROS), (1e14, 1000), (1e17, 1))
"""A number below the first is seconds, then milliseconds, microseconds: each holds for the years 1973 to 5138."""


def _epoch_unit(text: str) -> int | None:
    """Microseconds of one unit of an epoch timestamp; None for any other text."""
    try:
        number = abs(float(text))
    except ValueError:
        return None
    if re.fullmatch(r"\d{8}", text):  # a compact date
        return None
    return next((unit for below, unit in _UNITS if number < below), None)


def _plain_times(texts: list[str]) -> Micros | None:
    """All at once, if every one is plain ISO in UTC or without a zone; None: each must be looked at."""
    form = _ISO.fullmatch(texts[0]) if texts else None
    if form is None or form["zone"] not in ("Z", "", None) or len({len(text) for text in texts}) > 1:
        return None
    zone = form["zone"] or ""
    if not all(text.endswith(zone) for text in texts):
        return None
    try:
        times = np.array([text.removesuffix("Z") for text in texts], "datetime64[us]").astype(np.int64)
    except ValueError:
        return None
    return None if (times == np.iinfo(np.int64).min).any() else times


def _plain_numbers(cells: list[str], signed: bool) -> Values | None:
    """All at once, if every one is a number that can be; None: each must be looked at."""
    try:
        values = np.array(cells, np.str_).astype(np.float64)
    except ValueError:
        return None
    return values if (np.isfinite(values) & (signed | (values >= 0))).all() else None


def _parser(example: str) -> Callable[[str], int]:
    unit = _epoch_unit(example)
    if unit is None:
        return parse_iso_us
    return lambda text: round(float(text) * unit)


def _number(text: str, column: str, signed: bool) -> float:
    if text.strip().lower() in _GAP_WORDS:
        return math.nan
    value = float(text)
    if not (math.isfinite(value) and (signed or value >= 0)):
        raise ValueError(f"{column} is {text}: must be finite{'' if signed else ' and not negative'}")
    return value


def _places(path: Path, header: list[str], column: str) -> tuple[int, int]:
    names = [name.strip() for name in header]
    for name in (TIMESTAMP, column):
        if name not in names:
            raise ConfigError(
                f"file {path}: no column {name!r} in the header ({', '.join(names) or 'the file is empty'}); "
                f"a history is a CSV with a header, a column {TIMESTAMP} and a value"
            )
    return names.index(TIMESTAMP), names.index(column)


def _column(path: Path, text: IO[str]) -> str:
    """``requests``, or the only column of numbers."""
    rows = csv.reader(text)
    names = [name.strip() for name in next(rows, [])]
    if USUAL_COLUMN in names or TIMESTAMP not in names:
        return USUAL_COLUMN
    first = list(islice(rows, _LOOK))
    numbers = [name for at, name in enumerate(names) if name != TIMESTAMP and _all_numbers(first, at)]
    if len(numbers) == 1:
        return numbers[0]
    which = f"numbers in {', '.join(numbers)}" if numbers else "no column of numbers"
    raise ConfigError(
        f"file {path}: no column {USUAL_COLUMN!r}, and {which} of {', '.join(names)}; say which it is with --column"
    )


def _all_numbers(rows: list[list[str]], at: int) -> bool:
    cells = [row[at].strip() for row in rows if len(row) > at]
    told = [cell for cell in cells if cell.lower() not in _GAP_WORDS]
    try:
        return bool([float(cell) for cell in told])
    except ValueError:
        return False


def _first(times_us: Micros, step_us: int) -> int:
    """Where step 0 begins: on the grid that most rows share, or at the first row if there is none."""
    phases, counts = np.unique(times_us % step_us, return_counts=True)
    if 2 * counts.max() < len(times_us):
        return int(times_us[0])
    phase = int(phases[counts.argmax()])
    return int((times_us[0] - phase + step_us // 2) // step_us * step_us + phase)


def _check_span(rows: Rows, slots: Micros) -> None:
    steps = int(slots[-1]) + 1
    if steps <= max(_MAX_STEPS, _MAX_SPARSE * len(slots)):
        return
    order = np.argsort(rows.times_us, kind="stable")
    jump = int(np.diff(rows.times_us[order]).argmax())
    a, b = (int(rows.lines[order[at]]) for at in (jump, jump + 1))
    raise ConfigError(
        f"file {rows.path}: {len(rows.texts):,} rows span {steps:,} steps; the longest gap is between "
        f"{rows.texts[order[jump]]} (line {a}) and {rows.texts[order[jump + 1]]} (line {b}): check these timestamps"
    )


def _wanted(rows: Rows, own_us: int, step_s: float | None) -> int:
    if step_s is None:
        if own_us >= SHORT_S * MICROS:
            return own_us
        return max(round(JOINED_S * MICROS / own_us), 1) * own_us
    wanted_us = round(step_s * MICROS)
    if wanted_us < own_us or wanted_us % own_us:
        raise ConfigError(
            f"file {rows.path}: a step of {step_s:g} s is no multiple of the {own_us / MICROS:g} s between its rows; "
            f"use --step {max(round(wanted_us / own_us), 1) * own_us / MICROS:g}"
        )
    return wanted_us


def _means(slots: Micros, values: Values, count: int) -> Values:
    """Mean of the known values of each slot; NaN where there is none."""
    known = ~np.isnan(values)
    number = np.bincount(slots[known], minlength=count)
    total = np.bincount(slots[known], weights=values[known], minlength=count)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _joined(values: Values, share: int, kind: Kind) -> Values:
    padded = np.concatenate([values, np.full(-len(values) % share, np.nan)]).reshape(-1, share)
    known = ~np.isnan(padded)
    number = known.sum(axis=1)
    mean = np.where(known, padded, 0.0).sum(axis=1) / np.maximum(number, 1)
    whole = share if kind == "counts" else 1
    return np.where(2 * number >= share, mean * whole, np.nan)
