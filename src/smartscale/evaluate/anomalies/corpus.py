"""Folders of labelled series.

Two layouts, told by what is there:

- the Numenta Anomaly Benchmark's: ``data/**/*.csv`` (or the CSVs without the ``data``) and ``labels/combined_windows.json``,
  which maps each file's path below ``data`` to its labelled windows, pairs of first and last timestamp::

      {"realTraffic/speed.csv": [["2015-09-11 16:44:00", "2015-09-11 21:34:00"]]}

- any tree of CSV or Parquet files with a column ``label`` (1 marks a strange point) beside the values. In Parquet each other
  column of numbers is one metric of the same thing; rows with ``part`` = ``train`` are only learned; without a column
  ``timestamp`` rows are a minute apart.

Series without labels are judged too, but not scored.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from smartscale.clock import MICROS, iso, parse_iso_us
from smartscale.errors import ConfigError, UserError
from smartscale.evaluate.anomalies.nab import span
from smartscale.evaluate.anomalies.vus import runs
from smartscale.history_csv import TIMESTAMP, Rows, read_rows, step_of
from smartscale.text_file import open_text

Layout = Literal["windows", "labels"]

VALUE: Final = "value"
LABEL: Final = "label"
PART: Final = "part"
WINDOWS: Final = "combined_windows.json"
EXPECTED: Final = (
    f"expected data/**/*.csv with labels/{WINDOWS} (the Numenta benchmark's layout), "
    f"or CSV or Parquet files with a column {LABEL}"
)
_CSV: Final = (".csv", ".csv.gz")
_PARQUET: Final = (".parquet",)
_UNDATED_US: Final = 60 * MICROS
_LOOK: Final = 100
"""Distinct times that tell a series' spacing: its first ones, as a stream would."""
_SET_BACK: Final = 0.001
"""Share of rows whose time may fall: a clock that was set back, as when summer time ends, stands still until it is past
where it was. More of them, and the file is not sorted."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One series with what people said of it.

    ``values`` has shape (n_points, n_metrics), NaN for a gap; ``times_us`` (n_points,) never falls; ``texts`` are the
    times as written. ``labels`` (n_points,) marks strange points, ``windows`` are its stretches as first and last time;
    both are None where nobody labelled the file. What comes before ``scored_from`` is only learned."""

    name: str
    times_us: npt.NDArray[np.int64]
    texts: list[str]
    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.bool_] | None
    windows: tuple[tuple[int, int], ...] | None
    scored_from: int = 0

    @property
    def step_s(self) -> float | None:
        """Spacing of the first values; None if there is none."""
        distinct = np.unique(self.times_us[: 2 * _LOOK])[:_LOOK]
        return step_of(distinct) / MICROS if len(distinct) > 1 else None

    @property
    def gaps(self) -> int:
        return int(np.isnan(self.values).sum())


@dataclass(slots=True)
class Corpus:
    """The files of a folder, in the order of their paths; and what was wrong with it, each naming file and remedy."""

    folder: Path
    layout: Layout
    below: Path
    """Folder that the windows' keys are relative to."""
    files: list[Labelled] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Files that are left out."""
    notes: list[str] = field(default_factory=list)

    def place(self, name: str) -> Path:
        """Where a file is, relative to the folder."""
        return (self.below / name).relative_to(self.folder)


def read(folder: Path, windows: Path | None = None, column: str = VALUE) -> Corpus:
    """The folder's series. A file that cannot be read becomes a problem; the others are read.

    ``windows`` is the labels' file where it is not in the folder. Raises ``UserError`` if there is no folder, no file,
    or the labels' file cannot be read."""
    if not folder.is_dir():
        raise UserError(f"folder {folder}: not found; give a folder of labelled series")
    windows = windows or next(
        (path for path in (folder / "labels" / WINDOWS, folder / WINDOWS) if path.is_file()), None
    )
    below = folder / "data" if (folder / "data").is_dir() else folder
    corpus = Corpus(folder, "labels" if windows is None else "windows", below)
    kinds = _CSV if windows is not None else _CSV + _PARQUET
    paths = sorted(
        (path for path in below.rglob("*") if path.is_file() and path.name.endswith(kinds)),
        key=lambda path: path.relative_to(below).as_posix(),
    )
    if not paths:
        raise UserError(f"folder {folder}: no series in it; {EXPECTED}")
    table = {} if windows is None else _table(windows)
    for path in paths:
        name = path.relative_to(below).as_posix()
        try:
            if windows is None:
                corpus.files.append(_with_column(path, name, column))
            else:
                corpus.files.append(_with_windows(path, name, column, windows, table.pop(name, None)))
        except UserError as error:
            corpus.problems.append(str(error))
    unnamed = [one.name for one in corpus.files if one.windows is None]
    if unnamed:
        why = (
            f"expected a column {LABEL}, or labels/{WINDOWS}"
            if windows is None
            else f"{windows} does not name them"
        )
        corpus.notes.append(f"judged but not scored, for want of labels: {', '.join(unnamed)} ({why})")
    if table:
        missing = ", ".join(sorted(table))
        corpus.notes.append(
            f"file {windows}: labels for files that are not below {below}: {missing}; add them or remove their labels"
        )
    return corpus


def _with_windows(path: Path, name: str, column: str, of: Path, windows: object | None) -> Labelled:
    rows = _rows(path, column)
    spans = None if windows is None else tuple(_windows(of, name, windows))
    labels = None
    if spans is not None:
        labels = np.zeros(len(rows.texts), bool)
        for first_us, last_us in spans:
            first, last = span(rows.times_us, first_us, last_us)
            if last < first:
                raise ConfigError(
                    f"file {of}, {name}: no point of the file is in the window {iso(first_us)} to {iso(last_us)}; "
                    "mend the window or remove it"
                )
            labels[first : last + 1] = True
    return Labelled(name, rows.times_us, rows.texts, rows.values[:, None], labels, spans)


def _with_column(path: Path, name: str, column: str) -> Labelled:
    if name.endswith(_PARQUET):
        return _parquet(path, name)
    rows = _rows(path, column)
    if LABEL not in _header(path):
        return Labelled(name, rows.times_us, rows.texts, rows.values[:, None], None, None)
    marks = read_rows(path, LABEL)
    odd = np.flatnonzero(~np.isin(marks.values, (0, 1)))
    if len(odd):
        raise ConfigError(
            f"file {path}, line {marks.lines[odd[0]]}: label is {marks.values[odd[0]]:g}: use 0 or 1 "
            "(1 marks a strange point)"
        )
    labels = marks.values == 1
    return Labelled(
        name, rows.times_us, rows.texts, rows.values[:, None], labels, _spans(rows.times_us, labels)
    )


def _spans(times_us: npt.NDArray[np.int64], labels: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    return tuple((int(times_us[first]), int(times_us[last])) for first, last in runs(labels))


def _rows(path: Path, column: str) -> Rows:
    """The file's rows, with times that never fall. Raises ``ConfigError`` if it has none, or is not sorted."""
    rows = read_rows(path, column, signed=True)
    if not rows.texts:
        raise ConfigError(f"file {path}: no rows below the header")
    fallen = np.flatnonzero(np.diff(rows.times_us) < 0) + 1
    if len(fallen) > max(len(rows.texts) * _SET_BACK, 1):
        at = int(fallen[0])
        raise ConfigError(
            f"file {path}, line {rows.lines[at]}: {rows.texts[at]} comes after {rows.texts[at - 1]}, and so do "
            f"{len(fallen) - 1} more: a stream is judged in the order of the file; sort its lines by {TIMESTAMP}"
        )
    return replace(rows, times_us=np.maximum.accumulate(rows.times_us))


def _header(path: Path) -> list[str]:
    with open_text(path) as text:
        return [cell.strip() for cell in next(csv.reader(text), [])]


def _table(path: Path) -> dict[str, object]:
    try:
        table = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"file {path}: cannot be read: {error}") from error
    except ValueError as error:
        raise UserError(f"file {path}: is no JSON: {error}; mend it") from error
    if not isinstance(table, dict):
        raise UserError(
            f'file {path}: must be an object such as {{"group/file.csv": [["first time", "last time"]]}}'
        )
    return table


def _windows(path: Path, name: str, windows: object) -> Iterator[tuple[int, int]]:
    """A file's windows in order. Raises ``ConfigError``: no pairs, not times, reversed, or overlapping."""
    where = f"file {path}, {name}"
    found = []
    if not isinstance(windows, list):
        raise ConfigError(f"{where}: must be a list of windows, each [first time, last time]")
    for number, window in enumerate(windows, 1):
        match window:
            case [str(first), str(last)]:
                try:
                    pair = parse_iso_us(first), parse_iso_us(last)
                except ValueError:
                    raise ConfigError(
                        f"{where}, window {number}: {first!r} to {last!r} are no ISO 8601 times such as 2015-09-11 16:44:00"
                    ) from None
            case _:
                raise ConfigError(f"{where}, window {number}: must be a pair of times, [first, last]")
        if pair[1] < pair[0]:
            raise ConfigError(
                f"{where}, window {number}: ends ({last}) before it begins ({first}); swap the two"
            )
        found.append(pair)
    found.sort()
    for (_, before), (after, _) in pairwise(found):
        if after <= before:
            raise ConfigError(f"{where}: two windows overlap at {iso(after)}; join them to one")
    yield from found


def _parquet(path: Path, name: str) -> Labelled:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"file {path}: cannot be read as Parquet: {error}") from error
    if LABEL not in table.column_names:
        raise ConfigError(
            f"file {path}: no column {LABEL!r} ({', '.join(table.column_names)}); 1 marks a strange point"
        )
    metrics = [
        field.name
        for field in table.schema
        if field.name not in (LABEL, PART, TIMESTAMP)
        and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
    ]
    if not metrics or not table.num_rows:
        raise ConfigError(
            f"file {path}: no column of numbers beside {LABEL!r} ({', '.join(table.column_names)}), or no rows"
        )
    values = np.stack([table[metric].to_numpy().astype(np.float64) for metric in metrics], axis=1)
    values[~np.isfinite(values)] = np.nan
    labels = table[LABEL].to_numpy() == 1 if LABEL in table.column_names else None
    times_us = (
        table[TIMESTAMP].cast(pa.timestamp("us")).to_numpy().astype(np.int64)
        if TIMESTAMP in table.column_names
        else np.arange(table.num_rows, dtype=np.int64) * _UNDATED_US
    )
    if (np.diff(times_us) < 0).any():
        raise ConfigError(
            f"file {path}: timestamps fall; a stream is judged in the order of the file: sort its rows"
        )
    learned = 0
    if PART in table.column_names:
        train = np.array(table[PART].to_pylist()) == "train"
        learned = int(np.flatnonzero(~train)[0]) if (~train).any() else len(train)
    texts = [iso(int(time_us)) for time_us in times_us]
    spans = None if labels is None else _spans(times_us, labels)
    return Labelled(name, times_us, texts, values, labels, spans, learned)
