"""The event log: one port (``port``), an embedded adapter (``sqlite``) and a distributed one (``kafka``)."""

from __future__ import annotations

from collections.abc import Mapping

from smartscale.errors import ConfigError
from smartscale.log.port import Log


def open_log(url: str, kafka: Mapping[str, str] | None = None) -> Log:
    """The log at ``sqlite:PATH`` or ``kafka://HOST:PORT[,HOST:PORT…]``. Raises ``ConfigError`` for other addresses.

    Opening creates the SQLite file if it is missing; it does not create topics. ``kafka`` is passed to the Kafka
    client as it is (the setting ``kafka``).
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        from smartscale.log.sqlite import SqliteLog

        return SqliteLog(rest.removeprefix("//"))
    if scheme == "kafka" and rest.startswith("//") and len(rest) > 2:
        from smartscale.log.kafka import KafkaLog

        return KafkaLog(rest.removeprefix("//"), kafka)
    raise ConfigError(
        f"log address {url!r} is not understood: use sqlite:PATH for the embedded log "
        "or kafka://HOST:PORT for Apache Kafka (--log, or the variable SMARTSCALE_LOG)"
    )
