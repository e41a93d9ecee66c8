"""How alike two stages are: the same one, of the same shape, or at some distance.

A stage's *shape* is its config but for what costs nothing: the optimizer's numbers, the seed and the length. Stages of
one shape do the same work per step.
"""

import json
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.schema import Stage

OTHER_ALGORITHM = 10.0
"""How far apart stages of two algorithms are at the least: farther than any that differ in a few numbers."""

_KEPT = 100_000


@dataclass(frozen=True)
class Likeness:
    """What a stage is compared by: `key` and `shape` are equal for the same one and for stages of one shape, run among
    as many. `width`: how many train as one program, itself included."""

    key: Hashable
    shape: Hashable
    stage: Stage
    width: int = 1

    @cached_property
    def features(self) -> Mapping[str, float | str]:
        """The shape's numbers, as their logarithms, and words, by the path of their field."""
        return dict(_features("", _shape_of(self.stage)))

    def distance(self, other: "Likeness") -> float:
        """Sum over fields: of a number how often it doubles from one to the other, of a word or a field that one of
        them lacks 1; `OTHER_ALGORITHM` if they run another one. The width is a number. 0 for stages of one shape."""
        total = 0.0 if _algorithm(self.stage) == _algorithm(other.stage) else OTHER_ALGORITHM
        total += abs(math.log2(self.width / other.width))
        mine, theirs = self.features, other.features
        for name in mine.keys() | theirs.keys():
            a, b = mine.get(name), theirs.get(name)
            if isinstance(a, float) and isinstance(b, float):
                total += abs(a - b)
            elif a != b:
                total += 1.0
        return total


class Likenesses:
    """Those of stages, worked out once each; the thousands of stages of a sweep share a few shapes."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, Hashable, int], Likeness] = {}
        # By the config object, which is kept so that its id stays its own.
        self._shapes: dict[tuple[int, str, str], tuple[Mapping[str, Any], int]] = {}

    def of(self, stage: Stage, context: Hashable = None, width: int = 1) -> Likeness:
        """`context` is whatever else must be equal for a stage, or a shape, to count as the same, beside the width."""
        made = self._made.get((stage.key, context, width))
        if made is None:
            if len(self._made) >= _KEPT:  # they are cheap to make again, and a million trials would fill the memory
                self._made.clear()
                self._shapes.clear()
            key, shape = (stage.key, context, width), (self._shape(stage), context, width)
            made = self._made[key] = Likeness(key=key, shape=shape, stage=stage, width=width)
        return made

    def _shape(self, stage: Stage) -> int:
        """Stages that share a config object, as those of one kind in a trace do, share the work."""
        name = id(stage.config), stage.entrypoint, stage.name
        known = self._shapes.get(name)
        if known is None:
            text = json.dumps([stage.entrypoint, stage.name, _shape_of(stage)], sort_keys=True, default=str)
            known = self._shapes[name] = stage.config, hash(text)
        return known[1]


def _shape_of(stage: Stage) -> dict[str, Any]:
    shape = {name: value for name, value in stage.config.items() if name not in ("optimizer", "seed")}
    if "algorithm" in shape:
        shape["algorithm"] = {name: v for name, v in shape["algorithm"].items() if name != "max_steps"}
    return shape


def _algorithm(stage: Stage) -> tuple[str, str]:
    return stage.entrypoint, stage.config.get("algorithm", {}).get("name", stage.name)


def _features(path: str, node: Any) -> Iterator[tuple[str, float | str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _features(f"{path}.{name}", value)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path, math.copysign(math.log2(1.0 + abs(node)), node)
    else:
        yield path, str(node)
