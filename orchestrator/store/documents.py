"""Variants as documents: JSON texts stored once each, under their digest.

A variant's document names those of its stages, and each config in it those of its groups (`optimizer`, `task`, ...),
so what the variants of a study have in common is written, and decoded, once: twenty thousand of them differ in a few
short texts. In the *outline* of a config every group is replaced by `{"document": digest}`; no other mapping is left
in it, so nothing else can be taken for one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import Any

from orchestrator.schema import Stage, Variant
from orchestrator.store.tables import decode_json, encode_json

Fetch = Callable[[Iterable[str]], Mapping[str, str]]
"""Digests -> the texts under them."""

# A poll of the largest study that is planned for must fit; beyond, what is known is forgotten, not the oldest of it.
_CACHED_VARIANTS = 100_000

_STAGE_FIELDS = tuple(field.name for field in fields(Stage) if field.name != "config")
_VARIANT_FIELDS = tuple(field.name for field in fields(Variant) if field.name not in ("config", "stages"))


class DocumentWriter:
    """Collects the documents of variants: `bodies` maps digest to text."""

    def __init__(self) -> None:
        self.bodies: dict[str, str] = {}
        # By identity: variants that share a stage or a group often share the object. It is kept alive here, so that its
        # number stays its own.
        self._known: dict[int, tuple[object, str]] = {}

    def add(self, variant: Variant) -> str:
        """The variant's digest."""
        body = {name: getattr(variant, name) for name in _VARIANT_FIELDS}
        body["config"] = self._outline(variant.config)
        body["stages"] = [self._stage(stage) for stage in variant.stages]
        return self._put(body)

    def _stage(self, stage: Stage) -> str:
        if id(stage) not in self._known:
            body = {name: getattr(stage, name) for name in _STAGE_FIELDS}
            body["config"] = self._outline(stage.config)
            self._known[id(stage)] = (stage, self._put(body))
        return self._known[id(stage)][1]

    def _outline(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {"document": self._group(value)} if isinstance(value, Mapping) else value
            for name, value in config.items()
        }

    def _group(self, group: Mapping[str, Any]) -> str:
        if id(group) not in self._known:
            self._known[id(group)] = (group, self._put(group))
        return self._known[id(group)][1]

    def _put(self, value: Mapping[str, Any]) -> str:
        body = encode_json(value)
        digest = blake2b(body.encode(), digest_size=20).hexdigest()
        self.bodies[digest] = body
        return digest


class DocumentReader:
    """Decodes variants, each document once; equal stages and groups are one object. Not thread-safe."""

    def __init__(self) -> None:
        self._groups: dict[str, Any] = {}
        self._stages: dict[str, Stage] = {}
        self._variants: dict[str, Variant] = {}

    def _forget(self) -> None:
        for known in (self._groups, self._stages, self._variants):
            known.clear()

    def variants(self, digests: Collection[str], fetch: Fetch) -> dict[str, Variant]:
        """The variants under `digests`. Raises KeyError for one that `fetch` does not find."""
        if len(self._variants) > _CACHED_VARIANTS:
            self._forget()
        bodies = self._missing(digests, self._variants, fetch)
        self._read_stages((digest for body in bodies.values() for digest in body["stages"]), fetch)
        self._read_groups((body["config"] for body in bodies.values()), fetch)
        for digest, body in bodies.items():
            body["config"] = self._whole(body["config"])
            body["overrides"] = tuple(body["overrides"])
            body["stages"] = tuple(self._stages[stage] for stage in body["stages"])
            self._variants[digest] = Variant(**body)
        return {digest: self._variants[digest] for digest in digests}

    def _read_stages(self, digests: Iterable[str], fetch: Fetch) -> None:
        bodies = self._missing(digests, self._stages, fetch)
        self._read_groups((body["config"] for body in bodies.values()), fetch)
        for digest, body in bodies.items():
            body["config"] = self._whole(body["config"])
            self._stages[digest] = Stage(**body)

    def _read_groups(self, outlines: Iterable[Mapping[str, Any]], fetch: Fetch) -> None:
        named = (value["document"] for outline in outlines for value in outline.values() if isinstance(value, dict))
        self._groups.update(self._missing(named, self._groups, fetch))

    def _missing(self, digests: Iterable[str], known: Mapping[str, object], fetch: Fetch) -> dict[str, Any]:
        missing = set(digests) - known.keys()
        return {digest: decode_json(body) for digest, body in fetch(missing).items()} if missing else {}

    def _whole(self, outline: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._groups[value["document"]] if isinstance(value, dict) else value
            for name, value in outline.items()
        }
