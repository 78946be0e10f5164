"""How much each tenant may send: two token buckets a tenant, one for events and one for bytes.

The buckets are paid *afterwards*: a request is let in while its tenant has no debt, and is charged what it turned out to
hold, which is known only once its body has been read and decoded. So a request is never too large to be let in at all, the
rate over time is exactly the quota, and a tenant that has overdrawn is told the exact time until the debt is paid. Before
the first charge a tenant has ``burst_s`` seconds of its quota to spend, so that short peaks pass.

Fairness: the debt of one tenant is nothing to the others, and no tenant may hold more than ``share`` of the edge's memory
while other tenants are known. Times are real seconds, given by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from smartscale.ingest.tokens import Quota

BURST_S: Final = 2.0
"""Chosen as twice the second in which most senders gather their events."""
_NONE: Final = Quota()


@dataclass(slots=True)
class _Bucket:
    """``level`` units were there at ``at_s``; below 0 it is a debt."""

    level: float
    at_s: float

    def fill(self, rate: float, now_s: float) -> None:
        self.level = min(rate * BURST_S, self.level + rate * max(0.0, now_s - self.at_s))
        self.at_s = now_s


class Quotas:
    """The tenants' buckets. Not thread-safe. Its memory is bounded by the tenants, whom only the operator can add.

    >>> quotas = Quotas(Quota(events_per_s=100))
    >>> quotas.wait_s("shop", 0.0)
    0.0
    >>> quotas.charge("shop", events=250, size=0, now_s=0.0)
    >>> quotas.wait_s("shop", 0.0)
    0.5
    >>> quotas.wait_s("shop", 0.5)
    0.0
    """

    def __init__(self, default: Quota, own: Mapping[str, Quota] | None = None) -> None:
        """``default`` holds for tenants that are not in ``own``."""
        self._default, self._own = _NONE if default == _NONE else default, own or {}
        self._events: dict[str, _Bucket] = {}
        self._bytes: dict[str, _Bucket] = {}

    def renew(self, own: Mapping[str, Quota], tenants: frozenset[str]) -> None:
        """Other quotas from now on; debts stay. Forgets tenants that are gone."""
        self._own = own
        for buckets in (self._events, self._bytes):
            for tenant in buckets.keys() - tenants:
                del buckets[tenant]

    def wait_s(self, tenant: str, now_s: float) -> float:
        """Seconds until this tenant may send again; 0.0 now."""
        quota = self._own.get(tenant, self._default)
        if quota is _NONE:
            return 0.0
        return max(
            _wait_s(self._events, tenant, quota.events_per_s, now_s),
            _wait_s(self._bytes, tenant, quota.bytes_per_s, now_s),
        )

    def charge(self, tenant: str, events: int, size: int, now_s: float) -> None:
        """What a request that was let in held."""
        quota = self._own.get(tenant, self._default)
        if quota is _NONE:
            return
        if quota.events_per_s:
            _filled(self._events, tenant, quota.events_per_s, now_s).level -= events
        if quota.bytes_per_s:
            _filled(self._bytes, tenant, quota.bytes_per_s, now_s).level -= size


def _filled(buckets: dict[str, _Bucket], tenant: str, rate: float, now_s: float) -> _Bucket:
    bucket = buckets.get(tenant)
    if bucket is None:
        bucket = buckets[tenant] = _Bucket(rate * BURST_S, now_s)
    bucket.fill(rate, now_s)
    return bucket


def _wait_s(buckets: dict[str, _Bucket], tenant: str, rate: float, now_s: float) -> float:
    return max(0.0, -_filled(buckets, tenant, rate, now_s).level / rate) if rate else 0.0
