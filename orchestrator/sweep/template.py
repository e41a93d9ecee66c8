"""Setting values in a composed config without composing, copying or resolving it again.

What a value changes is known beforehand if every interpolation of the config is one reference and nothing else
(`${optimizer}`, `${a.b.c}`, `${.beside}`): then the leaves that change with a key are the key itself and, again and
again, those that refer to it or to something above it. The new value of each is read off a copy of the composed config
on which Hydra has set the key, so that types, enums and conversions are OmegaConf's own. The rest is shared with the
config of the template, as objects.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.sweep.overrides import parse_overrides

Path = tuple[str, ...]

_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")

# Composing makes a path absolute once the config is resolved.
_REWRITTEN: Path = ("task", "path")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One leaf that the override `text` changes, and its new value."""

    path: Path
    value: Any
    text: str


class Template:
    """A config composed for one choice of groups, in which values can be set over and over."""

    def __init__(self, composed: DictConfig, plain: Mapping[str, Any] | None) -> None:
        """`plain`: the composed config resolved; None if it can't be, for lack of a value."""
        self._composed = composed
        self._plain = plain
        self._raw: Any = OmegaConf.to_container(composed, resolve=False)
        self._references = _references(self._raw)
        self._leaves: dict[str, tuple[_Leaf, ...] | None] = {}
        self._paths: dict[str, tuple[Path, ...]] = {}
        self._scratch: dict[str, DictConfig] = {}
        self._shared: dict[tuple[Path, tuple[str, ...]], Mapping[str, Any]] = {}

    def config(self, overrides: Sequence[str]) -> Mapping[str, Any] | None:
        """The resolved config with `overrides` set; None if only Hydra can tell what they change, or that they are
        wrong. Configs share the parts on which they agree: they are read-only. Raises ConfigError for bad grammar."""
        if self._plain is None or self._references is None:
            return None
        leaves: list[_Leaf] = []
        for text in overrides:
            if text not in self._leaves:
                self._leaves[text] = self._read(text)
            changed = self._leaves[text]
            if changed is None:
                return None
            leaves += changed
        if len({leaf.path for leaf in leaves}) < len(leaves):
            return None  # the order of the overrides decides
        return self._with(self._plain, 0, leaves)

    def _with(self, part: Mapping[str, Any], depth: int, leaves: Sequence[_Leaf]) -> Mapping[str, Any]:
        """A copy of the part, which lies `depth` names deep, along the paths of `leaves`."""
        changed: dict[str, Any] = {}
        below: dict[str, list[_Leaf]] = {}
        for leaf in leaves:
            name = leaf.path[depth]
            if len(leaf.path) == depth + 1:
                changed[name] = leaf.value
            else:
                below.setdefault(name, []).append(leaf)
        for name, inner in below.items():
            place = (inner[0].path[: depth + 1], tuple([leaf.text for leaf in inner]))
            if place not in self._shared:
                self._shared[place] = self._with(part[name], depth + 1, inner)
            changed[name] = self._shared[place]
        return {**part, **changed}

    def _read(self, text: str) -> tuple[_Leaf, ...] | None:
        (override,) = parse_overrides([text])
        key = str(override.key_or_group)
        if not _sets_a_scalar(override):
            return None
        if key not in self._paths:
            self._paths[key] = tuple(self._paths_changed_by(key))
            self._scratch[key] = copy.deepcopy(self._composed)
        scratch = self._scratch[key]
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], scratch)
            leaves = tuple(_Leaf(path, _value_at(scratch, path), text) for path in self._paths[key])
        except (HydraException, OmegaConfBaseException):
            return None
        return leaves or None

    def _paths_changed_by(self, key: str) -> list[Path]:
        """Empty if that can't be told."""
        found = [tuple(key.split("."))]
        if _is_no_leaf(self._raw, found[0]):
            return []
        for changed in found:  # which grows
            if changed == _REWRITTEN or _is_no_leaf(self._plain, changed):
                return []
            for at, target in (self._references or {}).items():
                if target[: len(changed)] == changed and target != changed:
                    return []
                reached = at + changed[len(target) :]
                if changed[: len(target)] == target and reached not in found:
                    found.append(reached)
        return found


def _references(raw: object) -> dict[Path, Path] | None:
    """What each leaf refers to, by path; None if some interpolation is more than one reference."""
    found: dict[Path, Path] = {}
    for path, value in _leaves(raw, ()):
        if isinstance(value, str) and "${" in value:
            match = _REFERENCE.fullmatch(value)
            if match is None or not all(isinstance(name, str) for name in path):
                return None
            above = path[: -len(match[1])] if match[1] else ()  # one dot is the part that the leaf lies in
            found[path] = (*above, *match[2].split("."))
    return found


def _leaves(raw: object, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], object]]:
    if isinstance(raw, dict):
        for name, value in raw.items():
            yield from _leaves(value, (*path, name))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from _leaves(value, (*path, index))
    else:
        yield path, raw


def _is_no_leaf(config: object, path: Path) -> bool:
    """Whether the path leads nowhere, or to a mapping or a list."""
    for name in path:
        if not isinstance(config, Mapping) or name not in config:
            return True
        config = config[name]
    return isinstance(config, Mapping | list)


def _sets_a_scalar(override: Override) -> bool:
    if override.type is not OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
        return False
    value = override.value()
    return not isinstance(value, dict | list) and not (isinstance(value, str) and ("${" in value or value == "???"))


def _value_at(config: DictConfig, path: Path) -> Any:
    """Resolved plain data, as `OmegaConf.to_container` has it."""
    value: Any = config
    for name in path:
        value = value[name]
    return value.name if isinstance(value, Enum) else value
