"""What people say travels in ``metrics``: whoever else reads that topic passes over it."""

from __future__ import annotations

import pytest

from smartscale.cli import tail
from smartscale.config import Windows
from smartscale.ledger.books import Books, bases_of
from smartscale.log.port import Record
from smartscale.records import people, schema, topics
from smartscale.stream.windows import Families
from smartscale.view.model import Model

SAID = [
    (
        schema.FEEDBACK,
        people.Feedback(
            id="1", said=people.ACK, incident="inc-1", tenant="default", service="web", class_="fault",
            kinds={"errors": 0.2}, severity=0.4, end_us=None, time_us=0, who="ann", comment="a deployment",
        ),
        "ann has seen inc-1 of web (fault): a deployment",
    ),
    (schema.MUTE, people.Mute(name="backup", at="02:00-04:00", services="db-*", who="ann"), "muted by ann"),
    (schema.UNMUTE, people.Unmute(name="backup"), "'backup' is lifted by somebody"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "said", "text"), SAID)
def test_every_reader_of_metrics_passes_over_what_people_say(
    name: str, said: people.Feedback | people.Mute | people.Unmute, text: str
) -> None:
    """The books do not change, the view shows nothing of it, and tail tells it in words."""
    record = Record(topics.METRICS, 0, 7, people.encode(said), None, schema.headers(name), 0)
    books = Books(1, bases_of(Families(Windows())))
    before = books.balance()
    books.take_metric(record)
    assert books.balance() == before
    model = Model("10s")
    model.apply([record])
    assert not model.services
    assert not model.incidents
    assert text in tail.line(record)
    assert people.DECODERS[name](record.value) == said
