"""Each point's scores in files, so that others can score them by their own rules: ``timestamp,score,state``, a file for each
series under the same relative path (Parquet becomes CSV). Timestamps are those of the series as written, scores the shortest
text that reads back as the same number."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from smartscale.errors import UserError
from smartscale.evaluate.anomalies.corpus import Corpus, Labelled
from smartscale.evaluate.anomalies.stream import Scores

HEADER: Final = ("timestamp", "score", "state")


def check(out: Path, corpus: Corpus) -> None:
    """Before the work is done: make the folder. Raises ``UserError`` if that is not possible, or if scores would replace
    series."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--scores {out}: cannot be written: {error}") from error
    for one in corpus.files:
        if (out / place(corpus, one)).resolve() == (corpus.below / one.name).resolve():
            raise UserError(f"--scores {out}: its files would replace the series; give another folder")


def write(out: Path, corpus: Corpus, scores: Sequence[Scores]) -> None:
    """One file for each of the corpus' series. A file appears whole or not at all.

    Where the series lie below ``data``, links beside it lead to the same files by the names that the labels use. Raises
    ``UserError`` if the folder cannot be written."""
    try:
        for one, told in zip(corpus.files, scores, strict=True):
            _put(out / place(corpus, one), _text(one, told))
        if corpus.below != corpus.folder:
            below = corpus.below.relative_to(corpus.folder)
            for group in sorted({Path(one.name).parts[0] for one in corpus.files if "/" in one.name}):
                if not (out / group).exists():
                    (out / group).symlink_to(below / group, target_is_directory=True)
    except OSError as error:
        raise UserError(f"--scores {out}: cannot be written: {error}") from error


def place(corpus: Corpus, one: Labelled) -> Path:
    """Where a series' scores go, relative to the folder of scores."""
    path = corpus.place(one.name)
    return path.with_suffix(".csv") if path.suffix == ".parquet" else path


def _text(one: Labelled, told: Scores) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER)
    rows.writerows(zip(one.texts, told.alert.tolist(), told.state.tolist(), strict=True))
    return text.getvalue().encode()


def _put(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    os.replace(part, path)
