"""Who may send, and as which tenant: bearer tokens, kept as hashes in a file that people edit.

::

    [[tokens]]
    tenant = "shop"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    name = "ci"                         # optional: what people call it
    expires = 2027-01-31T00:00:00Z      # optional
    disabled = false                    # optional

    [tenants.shop]                      # optional: quotas other than the default ones
    events_per_s = 20_000
    bytes_per_s = 10_000_000

One round of SHA-256 is enough here, unlike for passwords: a token holds 256 random bits, so whoever reads the file cannot
try them all, however fast one try is (NIST SP 800-63B, section 5.1.2.2, asks for salt and stretching below 112 bits). A
token is looked up by its hash, and the hashes are compared in constant time: what a stranger could learn from the time an
answer takes is about the hash of what they sent, which does not lead them to another token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec

from smartscale.errors import ConfigError
from smartscale.records import topics

PREFIX: Final = "sst_"
"""Tokens begin so, that scanners for leaked secrets can find them."""
MAX_TENANT: Final = 64
"""Characters in a tenant's name."""
UNAUTHENTICATED: Final = topics.DEFAULT_TENANT


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tenant may send on average; 0 means no bound."""

    events_per_s: float = 0.0
    bytes_per_s: float = 0.0


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant: str
    sha256: str
    name: str = ""
    expires: datetime | None = None
    disabled: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: list[_Entry] = []
    tenants: dict[str, Quota] = {}


@dataclass(frozen=True, slots=True)
class Grant:
    """What one token allows. ``name`` is for people and never the token."""

    tenant: str
    digest: bytes = field(repr=False)
    name: str = ""
    expires_us: int | None = None
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is not let in: ``status`` 401 (who is it?) or 403 (known, but not any more)."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """The grants in force, by the hash of their token, and the tenants' own quotas."""

    grants: Mapping[bytes, Grant]
    quotas: Mapping[str, Quota]

    @property
    def tenants(self) -> frozenset[str]:
        return frozenset(grant.tenant for grant in self.grants.values())

    def tenant(self, authorization: str | None, wall_us: int) -> str | Denied:
        """The tenant that the header ``Authorization`` stands for at this wall-clock time.

        >>> tokens = parse(entry("shop", "sst_secret"), "tokens.toml")
        >>> tokens.tenant("Bearer sst_secret", 0)
        'shop'
        >>> tokens.tenant("Bearer sst_other", 0).status
        401
        """
        if authorization is None:
            return Denied(401, "this service asks who you are: send the header Authorization: Bearer TOKEN")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return Denied(401, "only the scheme Bearer is known: send the header Authorization: Bearer TOKEN")
        digest = digest_of(token.strip())
        grant = self.grants.get(digest)
        if grant is None or not hmac.compare_digest(grant.digest, digest):
            return Denied(
                401, "this token is not known; ask the operator for one (`smartscale tokens create`)"
            )
        if grant.disabled:
            return Denied(403, "this token has been disabled; ask the operator for another")
        if grant.expires_us is not None and wall_us >= grant.expires_us:
            return Denied(403, "this token has expired; ask the operator for another")
        return grant.tenant


def digest_of(token: str) -> bytes:
    """The SHA-256 of a token: 32 bytes."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def new_token() -> str:
    """A token of 256 random bits, to be shown once and never stored."""
    return PREFIX + secrets.token_urlsafe(32)


def entry(tenant: str, token: str, name: str = "", expires: datetime | None = None) -> str:
    """The lines that let ``token`` in, to be appended to the file. Raises ``ConfigError`` for a tenant that cannot be."""
    check_tenant(tenant, "tenant")
    lines = ["[[tokens]]", f"tenant = {_quoted(tenant)}", f'sha256 = "{digest_of(token).hex()}"']
    if name:
        lines.append(f"name = {_quoted(name)}")
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(UTC).isoformat().replace('+00:00', 'Z')}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A basic string of TOML: its escapes are those of JSON for what is printable here."""
    return msgspec.json.encode(text).decode()


def parse(text: str, where: str) -> Tokens:
    """The tokens in a file's text. Raises ``ConfigError`` that names ``where``, the place and the remedy, and no secret."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"file {where}: {error}; see docs/operations.md for its form") from None
    grants: dict[bytes, Grant] = {}
    for place, one in enumerate(file.tokens, 1):
        at = f"file {where}, token {place}"
        check_tenant(one.tenant, at)
        digest = _digest(one.sha256, at)
        if digest in grants:
            raise ConfigError(f"{at}: the same token is listed twice; remove one of them")
        grants[digest] = Grant(one.tenant, digest, one.name, _us(one.expires, at), one.disabled)
    for tenant, quota in file.tenants.items():
        check_tenant(tenant, f"file {where}, tenants.{tenant[:MAX_TENANT]}")
        if min(quota.events_per_s, quota.bytes_per_s) < 0:
            raise ConfigError(f"file {where}, tenants.{tenant}: a quota must not be negative; 0 means none")
    return Tokens(grants, file.tenants)


def check_tenant(name: str, where: str) -> None:
    """Raises ``ConfigError`` unless the name can be part of a key: printable, not empty, not too long."""
    if not 0 < len(name) <= MAX_TENANT or not name.isprintable():
        raise ConfigError(f"{where}: a tenant's name must have 1 to {MAX_TENANT} printable characters")


def _digest(text: str, at: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ConfigError(
            f"{at}: sha256 must be 64 hexadecimal digits, the hash of the token and not the token; "
            "`smartscale tokens create TENANT` writes such lines"
        )
    return digest


def _us(moment: datetime | None, at: str) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ConfigError(f"{at}: expires needs a zone: 2027-01-31T00:00:00Z")
    return round(moment.timestamp() * 1_000_000)
