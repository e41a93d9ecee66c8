"""Access tokens."""

import hashlib

import pytest

from orchestrator.access.tokens import authenticate, new_token
from orchestrator.config import ConfigError
from orchestrator.schema import Role
from orchestrator.store.memory import MemoryStore


def test_a_token_is_its_owners() -> None:
    store = MemoryStore()
    tokens = {name: new_token(store, name, Role.LEAD, "reasoning") for name in ("ada", "emmy")}
    for name, token in tokens.items():
        found = authenticate(store, token)
        assert found is not None
        assert (found.name, found.role, found.tenant) == (name, Role.LEAD, "reasoning")


def test_a_token_holds_256_random_bits() -> None:
    store = MemoryStore()
    made = {new_token(store, f"user-{n}", Role.ADMIN, "default") for n in range(50)}
    assert len(made) == 50
    # 32 bytes in base 64, without padding.
    assert all(token.startswith("orc_") and len(token) == len("orc_") + 43 for token in made)


def test_the_store_keeps_the_hash_only() -> None:
    store = MemoryStore()
    token = new_token(store, "ada", Role.ADMIN, "default")
    assert token not in repr(store.tokens())
    assert store.tokens()[0].digest == hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.parametrize("token", ["", "orc_", "orc_x", "Bearer", "\x00", "orc_\N{SNOWMAN}"])
def test_what_nobody_was_given_is_nobodys(token: str) -> None:
    store = MemoryStore()
    new_token(store, "ada", Role.ADMIN, "default")
    assert authenticate(store, token) is None


def test_the_stored_hash_is_no_token() -> None:
    store = MemoryStore()
    new_token(store, "ada", Role.ADMIN, "default")
    digest = store.tokens()[0].digest
    assert authenticate(store, digest) is None
    assert authenticate(store, f"orc_{digest}") is None


def test_a_revoked_token_is_nobodys() -> None:
    store = MemoryStore()
    token = new_token(store, "ada", Role.ADMIN, "default")
    store.revoke_token("ada", at=1.0)
    assert authenticate(store, token) is None


def test_a_name_is_given_once() -> None:
    store = MemoryStore()
    new_token(store, "ada", Role.ADMIN, "default")
    store.revoke_token("ada", at=1.0)
    with pytest.raises(ConfigError, match=r"^token.name=ada: there was a token of that name"):
        new_token(store, "ada", Role.RESEARCHER, "default")


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "a\n", "\x00", "x" * 65, "\ud800"])
def test_a_name_that_cant_be_one_is_refused(name: str) -> None:
    store = MemoryStore()
    with pytest.raises(ConfigError, match=r"^token.name="):
        new_token(store, name, Role.ADMIN, "default")
    with pytest.raises(ConfigError, match=r"^token.tenant="):
        new_token(store, "ada", Role.ADMIN, name)
    assert store.tokens() == []
