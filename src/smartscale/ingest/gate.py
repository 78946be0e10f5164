"""Who may send, how much, and when those who may not now should come again: asked before a body is read.

A tenant may hold ``share`` of the memory for waiting bodies where the tokens know more than one tenant: a flood of one fills
its own share, and leaves the rest to the others. Not thread-safe: it belongs to the event loop. Times are real seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from smartscale.ingest.admission import Admission, Drain
from smartscale.ingest.backpressure import retry_after_s
from smartscale.ingest.quotas import Quotas
from smartscale.ingest.tokens import UNAUTHENTICATED, Denied, Quota, Tokens


class Gate:
    """``drain`` is to be told what becomes durable; ``chance`` spreads the waits."""

    def __init__(
        self,
        admission: Admission,
        quota: Quota,
        share: float,
        tokens: Tokens | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.drain = Drain()
        self._admission, self._quota, self._share, self._chance = admission, quota, share, chance
        self._tokens = tokens
        self._quotas = Quotas(quota, tokens.quotas if tokens else None)
        self._held: dict[str, int] = {}
        self._waiting_since_s: float | None = None

    def renew(self, tokens: Tokens) -> None:
        """Other tokens and quotas from now on. What tenants owe and hold stays."""
        self._tokens = tokens
        self._quotas.renew(tokens.quotas, tokens.tenants)

    def tenant(self, authorization: str | None, wall_us: int) -> str | Denied:
        """Whose events a request brings; without tokens everyone is the same tenant."""
        return UNAUTHENTICATED if self._tokens is None else self._tokens.tenant(authorization, wall_us)

    def quota_wait_s(self, tenant: str, now_s: float) -> float:
        """Seconds until this tenant has a quota again; 0.0 now."""
        return self._quotas.wait_s(tenant, now_s)

    def charge(self, tenant: str, events: int, size: int, now_s: float) -> None:
        """What a request turned out to hold."""
        self._quotas.charge(tenant, events, size, now_s)

    def reserve(self, tenant: str, size: int) -> bool:
        """Make room for ``size`` bytes of this tenant; False if there is none, for all or for it."""
        held = self._held.get(tenant, 0) + size
        if self._tokens is not None and len(self._tokens.tenants) > 1:
            most = self._share * self._admission.max_bytes
            if held > most and held > size:  # one body alone always fits, if there is room at all
                return False
        if not self._admission.reserve(size):
            return False
        self._held[tenant] = held
        return True

    def free(self, tenant: str, size: int) -> None:
        self._admission.free(size)
        left = self._held[tenant] - size
        if left:
            self._held[tenant] = left
        else:
            del self._held[tenant]

    def waits(self, now_s: float) -> None:
        """Something waits to become durable."""
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s

    def drained(self, size: int, events: int, now_s: float) -> None:
        """So much has become durable."""
        self.drain.add(now_s, size, events)
        self._waiting_since_s = now_s if self._admission.requests else None

    def retry_after_s(self, now_s: float) -> int:
        """When to try again, by what waits, how fast it drains, and for how long nothing has."""
        stalled_s = 0.0 if self._waiting_since_s is None else now_s - self._waiting_since_s
        admission = self._admission
        rate_per_s = self.drain.bytes_per_s(now_s)
        return retry_after_s(admission.bytes, admission.max_bytes, rate_per_s, stalled_s, self._chance())
