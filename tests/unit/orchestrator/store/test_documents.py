"""Variants as documents and back."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schema import Stage, Variant
from orchestrator.store.documents import DocumentReader, DocumentWriter
from tests.unit.orchestrator.builders import stage, variant

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
data = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
# A config may hold whatever an outline would write in place of a group.
configs = st.dictionaries(st.text() | st.just("document"), data | st.just({"document": "0" * 40}), max_size=4)
stages = st.builds(
    Stage,
    name=st.text(),
    key=st.text(),
    parent_key=st.text(),
    entrypoint=st.just("a:b"),
    config=configs,
    budget_steps=st.integers(1, 9),
    warm_from=st.text(),
    warm_step=st.integers(0, 9),
)
variants = st.builds(
    Variant,
    key=st.text(),
    algorithm=st.text(),
    seed=st.integers(),
    overrides=st.lists(st.text()).map(tuple),
    config=configs,
    stages=st.lists(stages, max_size=3).map(tuple),
)


@given(st.lists(variants, max_size=4))
def test_any_variants_read_back_as_they_were_written(written: list[Variant]) -> None:
    writer = DocumentWriter()
    digests = [writer.add(one) for one in written]
    read = DocumentReader().variants(digests, lambda asked: {digest: writer.bodies[digest] for digest in asked})
    assert [read[digest] for digest in digests] == written


def test_nothing_is_fetched_twice() -> None:
    writer = DocumentWriter()
    warm = stage("warm")
    digests = [writer.add(variant(warm, stage(f"main@{n}", warm))) for n in range(3)]
    fetched: list[str] = []

    def fetch(asked: Iterable[str]) -> dict[str, str]:
        some = list(asked)
        fetched.extend(some)
        return {digest: writer.bodies[digest] for digest in some}

    reader = DocumentReader()
    first: Any = reader.variants(digests[:2], fetch)
    again: Any = reader.variants(digests, fetch)
    assert sorted(fetched) == sorted(set(fetched))
    assert again[digests[0]] is first[digests[0]]


def test_a_document_that_is_missing_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        DocumentReader().variants(["nope"], lambda asked: {})
