"""A stage that writes as the version before did (``partials/1``, ``metric/1``, ``live-key/1``), for tests of upgrades.

It is today's stage over a log that takes from its records what version 1 did not have, so it computes what version 1 did. It
reads what today's stage reads; version 1 itself read version 1 only, which is why readers are upgraded before writers.

``python -m smartscale.testing.old_stages combine --slot 0 --port 0 --config FILE`` runs one as a process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import msgspec

from smartscale import config
from smartscale.log.port import Log, Message, Position, TopicPartition, Transaction, Worker
from smartscale.records import partials, schema
from smartscale.stage import Context
from smartscale.telemetry import logs

_NEW_COLUMNS: Final = (
    "group", "pane_us", "value_last_us", "value_last", "value_slots", "value_slot_counts", "users",
)  # fmt: skip
_NEW_FIELDS: Final = (
    "group", "value_last", "value_p50", "value_p90", "value_p95", "value_p99", "value_p999", "value_histogram", "users",
    "users_sketch", "extra", "lost", "lost_us",
)  # fmt: skip
_NEW_METADATA: Final = ("growth", "grown_ms", "moved_to")
"""Of a position of combine."""


def as_version_1(message: Message) -> Message:
    """The record as version 1 wrote it."""
    kind = message.headers.get(schema.SCHEMA, b"").decode()
    if kind == schema.PARTIALS:
        envelope, batch = partials.decode(message.value)
        value = partials.encode(
            batch.drop_columns([c for c in _NEW_COLUMNS if c in batch.schema.names]), envelope
        )
    elif kind in (schema.METRIC, schema.LIVE_KEY, schema.PROGRESS) and message.value:
        value = _without(message.value, _NEW_FIELDS)
    else:
        return message
    version = {now: before for before, now in schema.BEFORE.items()}.get(kind, kind)
    headers = {**message.headers, schema.SCHEMA: version.encode()}
    return Message(message.topic, message.partition, value, message.key, headers)


def _without(value: bytes, fields: Iterable[str]) -> bytes:
    found: dict[str, Any] = msgspec.json.decode(value)
    return msgspec.json.encode({name: one for name, one in found.items() if name not in fields})


class _Wrapper:
    """Everything of the real object but what a subclass defines."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Transaction(_Wrapper):
    def publish(self, messages: Iterable[Message]) -> None:
        self._real.publish([as_version_1(message) for message in messages])

    def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> None:
        self._real.commit_positions({at: _position(position) for at, position in positions.items()})

    def __enter__(self) -> Self:
        self._real.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._real.__exit__(kind, error, trace)


def _position(position: Position) -> Position:
    if not position.metadata.startswith("{"):  # window's, which is the same
        return position
    return Position(position.offset, _without(position.metadata.encode(), _NEW_METADATA).decode())


class _Worker(_Wrapper):
    def transaction(self) -> Transaction:
        return cast(Transaction, _Transaction(self._real.transaction()))


class _Log(_Wrapper):
    def worker(self, group: str, topics: Sequence[str], slot: str) -> Worker:
        return cast(Worker, _Worker(self._real.worker(group, topics, slot)))


def old(log: Log) -> Log:
    """The log, written to as version 1 did."""
    return cast(Log, _Log(log))


def main() -> int:
    """Run one stage until SIGTERM."""
    from smartscale import app

    parser = argparse.ArgumentParser(prog="smartscale.testing.old_stages", description=main.__doc__)
    parser.add_argument("stage", choices=["combine", "window"])
    parser.add_argument("--slot", default="0")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    logs.set_up(f"{options.stage}-{options.slot}", "text")

    def run(context: Context) -> None:
        app.stage(options.stage)(replace(context, log=old(context.log)))

    return app.run_stage(options.stage, config.load(options.config), options.slot, options.port, run)


if __name__ == "__main__":
    sys.exit(main())
