"""Where the edge is, and who asks: the parts of an address, and the token that goes with every request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from smartscale.errors import ConfigError, UserError

TOKEN_VARIABLE: Final = "SMARTSCALE_TOKEN"
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of http(s)://HOST[:PORT][/PREFIX]; ``prefix`` starts with a slash or is empty."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def of(cls, url: str, what: str = "the ingestion service", option: str = "--url") -> Address:
        """Raises ``UserError`` for anything else, naming ``what`` is there and the ``option``. A name or password in it is
        not taken: it would show in the list of processes."""
        if "@" in url:
            raise UserError(
                f"the address holds a name or password: give the token by the variable {TOKEN_VARIABLE} or by "
                f"--token-file, and HOST:PORT alone by {option}"
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UserError(f"address {url!r} is not understood: {error} ({option})") from error
        if parts.scheme not in _PORTS or not parts.hostname:
            raise UserError(f"address {url!r} is not understood: use http://HOST:PORT of {what} ({option})")
        return cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"))

    @property
    def netloc(self) -> str:
        """``HOST:PORT`` as the Host header has it, the port left out if it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Token:
    """A bearer token. It shows itself in nothing but the header."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Raises ``ConfigError``, without the text, if it cannot be a token."""
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ConfigError("the token is empty or holds characters that no token has; copy it again")
        self._text = text

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._text}"}

    def __repr__(self) -> str:
        return "Token(...)"


def read_token(file: Path | None) -> Token | None:
    """The token in ``file``, else that of the variable ``SMARTSCALE_TOKEN``, else none. Never taken from an argument, which
    every user of the machine could read. Raises ``ConfigError``."""
    if file is None:
        text = os.environ.get(TOKEN_VARIABLE, "")
        return Token(text.strip()) if text else None
    try:
        return Token(file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"file {file}: cannot be read as a token: {type(error).__name__} (--token-file)"
        ) from None
