"""The published contract of the topics is the one the code keeps."""

from __future__ import annotations

from pathlib import Path

import msgspec

from smartscale.config import Settings
from smartscale.log.topics import specs
from smartscale.records import asyncapi, schema, topics

FILE = Path(__file__).parents[3] / "docs" / "asyncapi.yaml"


def test_the_file_in_docs_is_what_the_records_say() -> None:
    """A change of a record without its contract fails here."""
    assert FILE.read_text() == asyncapi.text(), (
        "run: python -m smartscale.records.asyncapi > docs/asyncapi.yaml"
    )


def test_every_topic_but_the_private_ones_is_described() -> None:
    """A new topic needs a line in the contract."""
    described = set(asyncapi.document()["channels"])
    assert described == {spec.name for spec in specs(Settings())} - {topics.ML_STATE, topics.LEDGER}


def test_every_schema_but_the_private_one_is_described() -> None:
    """A new kind of record needs one too."""
    told = {message["name"] for message in asyncapi.document()["components"]["messages"].values()}
    assert told == schema.READABLE - {schema.SNAPSHOT, *schema.BEFORE}


def test_every_reference_leads_somewhere() -> None:
    """What ``$ref`` names exists in the document."""
    document = asyncapi.document()

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    found = references(msgspec.to_builtins(document))
    assert found
    for reference in found:
        at = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
