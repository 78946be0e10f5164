"""The edge's side of TLS, from settings."""

from __future__ import annotations

import ssl
from pathlib import Path

from smartscale.config import Ingest
from smartscale.errors import ConfigError

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(ingest: Ingest) -> ssl.SSLContext | None:
    """How to speak TLS; None where the settings name no certificate. Raises ``ConfigError`` that names the file."""
    if not ingest.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[ingest.tls_min_version]
    for key in ("tls_certificate", "tls_key", "tls_client_ca"):
        _check(key, getattr(ingest, key))
    try:
        context.load_cert_chain(ingest.tls_certificate, ingest.tls_key, _no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"settings ingest.tls_certificate and ingest.tls_key: {ingest.tls_certificate} and {ingest.tls_key} are no "
            f"certificate in PEM with its own key, without a password: {error}"
        ) from None
    if ingest.tls_client_ca:
        try:
            context.load_verify_locations(ingest.tls_client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"setting ingest.tls_client_ca: {ingest.tls_client_ca}: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check(key: str, file: str) -> None:
    if file and not Path(file).is_file():
        raise ConfigError(f"setting ingest.{key}: no file {file}")


def _no_password() -> str:
    """Asked for where a key is encrypted; without it OpenSSL would ask the terminal."""
    raise ValueError("the key is encrypted")
