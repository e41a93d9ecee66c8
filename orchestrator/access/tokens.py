"""Access tokens: made once, shown once, stored as a hash, revoked by name."""

import hashlib
import hmac
import re
import secrets
import time

from orchestrator.config import ConfigError
from orchestrator.ports import Store
from orchestrator.schema import Role, Token

PREFIX = "orc_"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

_TOKEN_BYTES = 32


def new_token(store: Store, name: str, role: Role, tenant: str) -> str:
    """A token for `name`, who acts with `role` for `tenant`. Nobody can show it again.

    Raises ConfigError for a name or a tenant that can't be one, or a name that was given before, revoked or not: a
    name stands beside commands and must go on meaning the same person.
    """
    for field_name, value in (("token.name", name), ("token.tenant", tenant)):
        if not re.fullmatch(NAME_PATTERN, value):
            raise ConfigError(field_name, repr(value), "use up to 64 letters, digits, dots, dashes and underscores")
    token = PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    entry = Token(name=name, digest=_digest(token), role=role, tenant=tenant, created_at=time.time())
    try:
        store.add_token(entry)
    except KeyError as error:
        raise ConfigError("token.name", name, "there was a token of that name already; choose another") from error
    return token


def authenticate(store: Store, token: str) -> Token | None:
    """Whose token it is; None if it is nobody's or was revoked."""
    if not token.startswith(PREFIX):
        return None
    digest = _digest(token)
    found = store.token(digest)
    # The look-up compares digests byte by byte, but nobody can choose a digest; what decides takes constant time.
    if found is None or not hmac.compare_digest(found.digest, digest) or found.revoked_at is not None:
        return None
    return found


def _digest(token: str) -> str:
    # A slow hash protects what people make up. These are 256 random bits: no list of guesses reaches them, at any
    # speed, and a fast hash lets every request be authenticated.
    return hashlib.sha256(token.encode()).hexdigest()
