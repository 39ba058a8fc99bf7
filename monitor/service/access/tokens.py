"""Tokens: made here, shown once, and known from then on by their SHA-256 alone.

SHA-256 is enough for what holds 256 random bits: nobody guesses those, however fast they can be tried. The slow hashes
for passwords would only make each call slow.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from monitor.service.access.scopes import Scope
from monitor.service.errors import AccessSettingsError

# Programs that look for secrets in code and logs know tokens by such beginnings.
_PREFIX = "smt_"
# Of a token that somebody made otherwise; `openssl rand -hex 16` has as many.
_FEWEST_CHARACTERS = 32


@dataclass(frozen=True)
class Token:
    """What is known of a token.

    Attributes:
        name: what people call it.
        digest: SHA-256 of the token.
        created_at, expires_at, revoked_at: in seconds since 1970-01-01 UTC; None: never.
    """

    name: str
    scopes: frozenset[Scope]
    digest: bytes
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_good(self, now: float) -> bool:
        """Return whether it lets anybody in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def new_secret() -> str:
    """Return a token that nobody has."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(secret.encode()).digest()


def tokens_in(directory: Path) -> list[Token]:
    """Return the tokens of a directory, such as a secret that is mounted: one in each file named as a scope is.

    Raises:
        AccessSettingsError: there are none, or one of them can be guessed.
    """
    found = []
    for scope in Scope:
        path = directory / scope
        try:
            secret = path.read_text("utf-8").strip()
            created_at = path.stat().st_mtime
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise AccessSettingsError(
                f"the token in {path} cannot be read: {error}. Expected a file that this user can read, with one line"
            ) from error
        if len(secret) < _FEWEST_CHARACTERS:
            raise AccessSettingsError(
                f"the token in {path} has {len(secret)} characters, which somebody may guess; expected at least "
                f"{_FEWEST_CHARACTERS} random ones, as `openssl rand -hex 32` gives"
            )
        found.append(Token(f"{scope} of {directory}", frozenset({scope}), digest_of(secret), created_at))
    if not found:
        raise AccessSettingsError(
            f"there is no token in --tokens-directory {directory}: expected files named {', '.join(Scope)}, one or more"
        )
    return found
