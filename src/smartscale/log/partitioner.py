"""Which partition a key belongs to. One formula for both adapters, so that data can move between them."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

SEPARATOR = "\x1f"
"""Joins the parts of a key: the ASCII unit separator, which the edge refuses inside names."""


def service_partition(tenant: str, service: str, partitions: int) -> int:
    """Partition of ``partials``, ``metrics`` and everything keyed by a service.

    >>> service_partition("default", "checkout", 4) == service_partition("default", "checkout", 4)
    True
    """
    return xxhash.xxh3_64_intdigest(f"{tenant}{SEPARATOR}{service}".encode()) % partitions


def service_key(tenant: str, service: str) -> bytes:
    """Record key of everything keyed by a service."""
    return f"{tenant}{SEPARATOR}{service}".encode()


def event_hash(tenant: str, service: str, event_id: str) -> bytes:
    """The 128-bit identity of an event that has an id: 16 bytes, the first eight of which choose its partition."""
    return xxhash.xxh3_128_digest(f"{tenant}{SEPARATOR}{service}{SEPARATOR}{event_id}".encode())


def event_hashes(tenant: str, services: Sequence[str], event_ids: Sequence[str | None]) -> list[bytes | None]:
    """``event_hash`` of many events at once; None where there is no id."""
    start = {service: f"{tenant}{SEPARATOR}{service}{SEPARATOR}".encode() for service in set(services)}
    digest = xxhash.xxh3_128_digest
    return [
        None if event_id is None else digest(start[service] + event_id.encode())
        for service, event_id in zip(services, event_ids, strict=True)
    ]


def event_partition(identity: bytes, partitions: int) -> int:
    """Partition of ``events`` for an event with an id, so that its repeats meet their original."""
    return int.from_bytes(identity[:8], "little") % partitions
