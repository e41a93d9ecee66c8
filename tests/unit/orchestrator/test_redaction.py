import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.redaction import MASK, names_secret, redacted, redacted_override, redacted_text


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "tracking.password",
        "db_passwd",
        "DB_PASSWORD",
        "token",
        "hf_token",
        "hfToken",
        "HF_TOKEN",
        "access-token",
        "access_tokens",
        "client_secret",
        "secrets",
        "api_key",
        "apiKey",
        "openai_apikey",
        "credential",
        "credentials.user",
        "ssh_private_key",
    ],
)
def test_a_key_that_names_a_secret(key: str) -> None:
    assert names_secret(key, "hunter2")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens_per_answer", 3.5),
        ("max_prompt_tokens", 6),
        ("max_answer_tokens", "4"),
        ("token_budget", 512),
        ("per_token", True),
        ("aggregation", "token"),
        ("eos_token", "</s>"),
        ("pad_token_id", 0),
        ("tokenizer", "bpe"),
        ("secretary", "x"),
        ("monkey", "x"),
        ("key", "abc"),
        ("variant_key", "abc"),
        ("password", None),
        ("token", ""),
    ],
)
def test_a_key_that_only_looks_like_it(key: str, value: object) -> None:
    assert not names_secret(key, value)


def test_secrets_are_masked_at_any_depth_and_the_config_stays_as_it_was() -> None:
    config = {
        "task": {"sources": [{"api_key": "k", "path": "/data"}], "max_prompt_tokens": 6},
        "tracking": {"uri": "http://u:p@h:5000/x"},
        "credentials": {"user": "a", "pin": 1},
    }
    assert redacted(config) == {
        "task": {"sources": [{"api_key": MASK, "path": "/data"}], "max_prompt_tokens": 6},
        "tracking": {"uri": "http://u:***@h:5000/x"},
        "credentials": MASK,
    }
    assert config["credentials"] == {"user": "a", "pin": 1}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:p%40ss@host/db", "postgresql+psycopg://me:***@host/db"),
        ("redis://:pw@host", "redis://:***@host"),
        ("http://u:p@ss@host/x", "http://u:***@host/x"),
        ("http://a:b@c,http://d:e@f", "http://a:***@c,http://d:***@f"),
        ("postgresql://h/db?user=me&password=pw&port=1", "postgresql://h/db?user=me&password=***&port=1"),
        ("http://host:5000/path", "http://host:5000/path"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("mail a@b.c, ratio 1:2", "mail a@b.c, ratio 1:2"),
    ],
)
def test_a_password_inside_an_address(text: str, shown: str) -> None:
    assert redacted_text(text) == shown


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("tracking.uri=http://u:p@h", "tracking.uri=http://u:***@h"),
        ("+task.api_key=abc", "+task.api_key=***"),
        ("++a.token=x,y", "++a.token=***"),
        ("task={path:/data,password:pw}", "task={path:/data,password:***}"),
        ("credentials.user=me", "credentials.user=***"),
        ("task.max_answer_tokens=4", "task.max_answer_tokens=4"),
        ("algorithm.aggregation=token", "algorithm.aggregation=token"),
        ("~task.token", "~task.token"),
        ("optimizer.lr=1e-3,2e-3", "optimizer.lr=1e-3,2e-3"),
    ],
)
def test_an_override(override: str, shown: str) -> None:
    assert redacted_override(override) == shown


@pytest.mark.parametrize("text", ["x" * 500_000, "a:" * 250_000, "://" * 150_000, "?" * 500_000, "?a=" * 150_000])
def test_a_long_text_costs_no_more_than_its_length(text: str) -> None:
    began = time.perf_counter()
    redacted_text(text)
    redacted_override(f"a={{{text}}}")
    assert time.perf_counter() - began < 2.0


PASSWORDS = st.text("abcXYZ019!$%+@:", min_size=3).map(lambda text: f"qq{text}qq")
CONFIGS = st.recursive(
    st.integers() | st.sampled_from(["plain", "sgd"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(CONFIGS, PASSWORDS)
def test_a_config_without_secrets_is_kept_and_one_beside_it_never_shows(config: object, password: str) -> None:
    assert redacted(config) == config
    shown = redacted({"kept": config, "deep": [{"password": password}], "uri": f"db://me:{password}@host/name"})
    assert shown["kept"] == config
    assert password not in str(shown)
