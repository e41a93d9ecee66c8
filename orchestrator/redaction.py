"""What must not be shown is taken out: values under keys that name a secret, and passwords inside addresses. Pure.

A key names a secret by one of its words: `tracking.password`, `api_key`, `hfToken`. What a tokenizer calls a token
(`eos_token`) and what is counted (`max_answer_tokens`, `token_budget: 512`) is none.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

MASK: Final = "***"
"""Stands where a secret stood."""

_SECRET_WORDS: Final = frozenset(
    {"password", "passwords", "passwd", "secret", "secrets", "apikey", "credential", "credentials"}
)
_SECRET_PAIRS: Final = frozenset(
    {("api", "key"), ("private", "key"), *((kind, "tokens") for kind in ("access", "api", "auth", "bearer"))}
)
_SPECIAL_TOKENS: Final = frozenset({"eos", "bos", "pad", "unk", "sep", "cls", "mask", "end", "start", "stop"})

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER: Final = re.compile(r"[-+]?[\d._]+(e[-+]?\d+)?|true|false|null|none", re.IGNORECASE)
# Each starts at something rare, or a long text would cost the square of its length.
_ADDRESS_PASSWORD: Final = re.compile(r"(://[^\s/@:]*:)[^\s/]+(?=@)")
_QUERY_VALUE: Final = re.compile(r"(?<=[?&])([\w.\-]+)=([^&#\s'\"]+)")
_MAPPING_VALUE: Final = re.compile(r"(?<![\w.\-])([\w.\-]+)(\s*:\s*)([^,{}\[\]\s]+)")


def names_secret(key: str, value: Any) -> bool:
    """Whether `value` under `key` is a secret. `key` may be dotted: a secret's parts are secrets too."""
    return any(_part_names_secret(part, value) for part in key.split("."))


def redacted(config: Any) -> Any:
    """Plain data as it is, with `MASK` for secrets at any depth. Nothing in `config` is changed."""
    if isinstance(config, Mapping):
        return {key: MASK if names_secret(str(key), value) else redacted(value) for key, value in config.items()}
    if isinstance(config, str):
        # An enum of strings stays what it is.
        return redacted_text(config) if type(config) is str else config
    if isinstance(config, Sequence):
        return [redacted(item) for item in config]
    return config


def redacted_text(text: str) -> str:
    """Without the passwords of the addresses in it, `scheme://user:password@host` or `...?password=...`."""
    without = _ADDRESS_PASSWORD.sub(rf"\1{MASK}", text)
    return _QUERY_VALUE.sub(lambda found: _masked(found[1], "=", found[2]), without)


def redacted_override(override: str) -> str:
    """A Hydra override without its secrets: `tracking.uri=http://u:***@h`, `+task.api_key=***`."""
    name, equals, value = override.partition("=")
    if equals and names_secret(name, value):
        return f"{name}={MASK}"
    if "{" in value:
        value = _MAPPING_VALUE.sub(lambda found: _masked(found[1], found[2], found[3]), value)
    return f"{name}{equals}{redacted_text(value)}"


def _masked(key: str, between: str, value: str) -> str:
    return f"{key}{between}{MASK if names_secret(key, value) else value}"


def _part_names_secret(part: str, value: Any) -> bool:
    words = [word.lower() for word in _WORD.findall(part)]
    pairs = set(pairwise(words))
    if value is None or value == "":
        return False
    if not _SECRET_WORDS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(pairs):
        return True
    return "token" in words and not _SPECIAL_TOKENS & set(words) and not _is_count(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value) is not None)
