"""What a process tells about itself: alive, ready and its Prometheus metrics."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry


class Health:
    """Shared between a stage (which sets it) and the HTTP server that answers ``/healthz`` and ``/readyz``.

    A stage is ready once it does its work (for a group member: it has joined); not ready again while the world
    is in the way, with the reason. It is unhealthy once it cannot recover by itself."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._ready = False
        self._reason = "starting"
        self._failure: str | None = None

    def ready(self) -> None:
        with self._lock:
            self._ready, self._reason = True, "ready"

    def not_ready(self, reason: str) -> None:
        with self._lock:
            self._ready, self._reason = False, reason

    def failed(self, reason: str) -> None:
        with self._lock:
            self._failure = reason

    @property
    def is_ready(self) -> tuple[bool, str]:
        with self._lock:
            return self._ready and self._failure is None, self._failure or self._reason

    @property
    def is_healthy(self) -> tuple[bool, str]:
        with self._lock:
            return self._failure is None, self._failure or "ok"
