"""The OpenAPI document is what the code does, and the file is what the code says."""

from __future__ import annotations

import json
from pathlib import Path

from smartscale.ingest import openapi
from smartscale.ingest.answers import PROBLEMS, TYPE
from smartscale.ingest.formats import FORMATS

DOCS = Path(__file__).parents[3] / "docs"


def test_the_file_is_what_the_code_says() -> None:
    """``python -m smartscale.ingest.openapi > docs/openapi.json`` writes it."""
    assert (DOCS / "openapi.json").read_bytes() == openapi.text()


def test_every_path_and_media_type_is_in_it() -> None:
    paths = json.loads(openapi.text())["paths"]
    for path, types in FORMATS.items():
        assert set(paths[path]["post"]["requestBody"]["content"]) == {each for each in types if each}
    assert {"/healthz", "/readyz", "/metrics", "/openapi.json"} < set(paths)


def test_every_problem_is_explained_to_people() -> None:
    text = (DOCS / "ingest-api.md").read_text()
    for name, kind in PROBLEMS.items():
        assert f"| `{name}` | {kind.status} |" in text
    assert TYPE in text
