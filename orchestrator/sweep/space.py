"""What a sampler may draw from: the sweeps of Hydra's grammar as dimensions.

A *point* is one override per dimension, as text (`("algorithm=grpo", "optimizer.lr=0.00123")`); a number is written so
that it reads back as exactly itself. `seed` is no dimension: every point is run with each of the same *seeds*.

| written | drawn |
| --- | --- |
| `interval(a,b)` | a number from a to b, uniformly |
| `int(interval(a,b))` | a whole number from a to b, both included |
| `range(a,b,step)` | one of what Hydra's range lists: b excluded |
| `tag(log, ...)` around an interval, or a range of whole numbers with step 1 | uniformly in its logarithm |
| `x,y,z` and `choice(x,y,z)` | one of these, in no order |

A dimension may be there under some options of a swept group only (`algorithm.clip_high` under `algorithm=grpo`): then
points with another option have none of it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, ValueType

from orchestrator.config import ConfigError
from orchestrator.sweep.overrides import value_of

Point = tuple[str, ...]
Value = float | int | str

SEED = "seed"


@dataclass(frozen=True, slots=True)
class Numbers:
    """From `low` to `high` [in the field's own unit], both included; by `step`, or all between if that is None."""

    key: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Only whole numbers are drawn."""
        return isinstance(self.step, int)

    @property
    def count(self) -> int | None:
        """How many different values there are; None: more than anybody draws."""
        return None if self.step is None else 1 + round((self.high - self.low) / self.step)

    def at(self, index: int) -> str:
        """The value of that number, as text, where they can be counted."""
        if self.step is None:
            raise ValueError(f"{self.key} has no values that could be counted")
        if isinstance(self.low, int) and isinstance(self.step, int):
            return str(self.low + index * self.step)
        return repr(float(Decimal(repr(self.low)) + index * Decimal(repr(self.step))))

    def text(self, value: Value) -> str:
        """The number as an override's value."""
        if self.step is None:
            return repr(float(value))
        return self.at(round((float(value) - self.low) / self.step))

    def value(self, text: str) -> Value:
        """What `text` wrote. Raises ValueError."""
        return int(text) if self.whole else float(text)

    def probes(self) -> tuple[str, ...]:
        """Its ends: what can't run shows there first."""
        return tuple(dict.fromkeys((self.text(self.low), self.text(self.high))))


@dataclass(frozen=True, slots=True)
class Choices:
    """One of `texts`, each the value of an override."""

    key: str
    texts: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.texts)

    def at(self, index: int) -> str:
        """The one of that number."""
        return self.texts[index]

    def text(self, value: Value) -> str:
        """Itself."""
        return str(value)

    def value(self, text: str) -> Value:
        """Itself."""
        return text

    def probes(self) -> tuple[str, ...]:
        """All of them."""
        return self.texts


Dimension = Numbers | Choices


@dataclass(frozen=True, slots=True)
class Condition:
    """The dimension `key` is there only where the dimension `group` is one of `options`."""

    key: str
    group: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """The dimensions of a search, by distinct keys, and the seed overrides that every point is run with. `conditions`:
    at most one a dimension, and none for those that others depend on."""

    dimensions: tuple[Dimension, ...]
    seeds: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()

    @property
    def size(self) -> int | None:
        """How many different points there are; None if some dimension has no end of values."""
        if any(dimension.count is None for dimension in self.dimensions):
            return None
        return sum(self._count(part) for part in self._parts())

    @property
    def drawn(self) -> tuple[Dimension, ...]:
        """The dimensions in the order in which they can be drawn: those that others depend on first."""
        groups = {condition.group for condition in self.conditions}
        return tuple(sorted(self.dimensions, key=lambda dimension: dimension.key not in groups))

    def has(self, key: str, texts: Mapping[str, str]) -> bool:
        """Whether a point has that dimension, by the texts of those that it depends on."""
        return all(texts[c.group] in c.options for c in self.conditions if c.key == key)

    def point(self, texts: Mapping[str, str]) -> Point:
        """One override per dimension that is there, of its value's text by key."""
        return tuple(f"{d.key}={texts[d.key]}" for d in self.dimensions if self.has(d.key, texts))

    def point_of(self, values: Mapping[str, Value]) -> Point:
        """The point of drawn values, by key."""
        return self.point({d.key: d.text(values[d.key]) for d in self.dimensions if d.key in values})

    def at(self, index: int) -> Point:
        """The point of that number, where they can be counted."""
        for part in self._parts():
            if index < (count := self._count(part)):
                break
            index -= count
        texts = dict(part)
        for dimension in reversed(self._free(part)):
            index, here = divmod(index, dimension.count or 1)
            texts[dimension.key] = dimension.at(here)
        return self.point(texts)

    def values(self, point: Point) -> dict[str, Value]:
        """By key. Raises ValueError for a text that isn't the dimension's, or a point of another space."""
        texts = dict(text.split("=", 1) for text in point)
        if point != self.point(texts):
            raise ValueError(f"{' '.join(point)} is no point of this space")
        return {d.key: d.value(texts[d.key]) for d in self.dimensions if d.key in texts}

    def probes(self) -> list[Point]:
        """Points that show whether every end and every choice can run: each once, the others at their first."""
        first = {dimension.key: dimension.probes()[0] for dimension in self.dimensions}
        found = [self.point(first)]
        for dimension in self.dimensions:
            where = first | {c.group: c.options[0] for c in self.conditions if c.key == dimension.key}
            found += [self.point(where | {dimension.key: text}) for text in dimension.probes()]
        return list(dict.fromkeys(found))

    def _parts(self) -> Iterator[Mapping[str, str]]:
        """Every combination of what other dimensions depend on, by key."""
        groups = {condition.group for condition in self.conditions}
        governing = [dimension for dimension in self.dimensions if dimension.key in groups]
        for texts in product(*([d.at(index) for index in range(d.count or 0)] for d in governing)):
            yield dict(zip((d.key for d in governing), texts, strict=True))

    def _free(self, part: Mapping[str, str]) -> list[Dimension]:
        return [d for d in self.dimensions if d.key not in part and self.has(d.key, part)]

    def _count(self, part: Mapping[str, str]) -> int:
        return math.prod(dimension.count or 0 for dimension in self._free(part))


def space_of(sweep: Sequence[Override], seeds: int, first_seed: int, conditions: tuple[Condition, ...] = ()) -> Space:
    """The space of a study's sweep; every point runs with `seeds` seeds from `first_seed` on, or with those that the
    sweep lists under `seed`.

    Raises ConfigError for a sweep that no sampler can draw from.
    """
    dimensions = tuple(_dimension(override) for override in sweep if override.get_key_element() != SEED)
    if not dimensions:
        remedy = "nothing to search; sweep something, for example 'optimizer.lr=tag(log,interval(1e-5,1e-2))'"
        raise ConfigError("search", "no dimension", remedy)
    listed = next((override for override in sweep if override.get_key_element() == SEED), None)
    if listed is None or not listed.is_sweep_override():
        return Space(dimensions, tuple(f"{SEED}={first_seed + n}" for n in range(seeds)), conditions)
    if not listed.is_discrete_sweep():
        remedy = "no seed is better than another: list the seeds that every point is run with, such as range(0,4)"
        raise ConfigError(SEED, value_of(listed), remedy)
    texts = tuple(f"{SEED}={text}" for text in listed.sweep_string_iterator())
    if seeds not in (1, len(texts)):
        raise ConfigError("search.seeds", seeds, f"seed={value_of(listed)} lists {len(texts)}; give one of both")
    return Space(dimensions, texts, conditions)


def _dimension(override: Override) -> Dimension:
    value, key = override.value(), override.get_key_element()
    if not override.is_sweep_override():  # the command line gave one value to what the study sweeps
        return Choices(key, (override.get_value_element_as_str(),))
    unknown = value.tags - {"log"} if isinstance(value, ChoiceSweep | RangeSweep | IntervalSweep) else set()
    if unknown:
        raise ConfigError(key, value_of(override), f"unknown tag {sorted(unknown)[0]}; there is: log")
    if getattr(value, "shuffle", False):
        raise ConfigError(key, value_of(override), "a sampler draws in an order of its own: leave shuffle out")
    match value:
        case IntervalSweep(start=low, end=high) if low is not None and high is not None:
            return _interval(override, low, high, log="log" in value.tags)
        case RangeSweep() if value.start is not None and value.stop is not None:
            return _range(override, value)
        case ChoiceSweep() if override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
            if value.tags:
                raise ConfigError(key, value_of(override), "choices have no order: log is for intervals and ranges")
            return Choices(key, tuple(dict.fromkeys(override.sweep_string_iterator())))
    raise ConfigError(key, value_of(override), "write out what it may be: key=a,b or key=choice(a,b)")


def _interval(override: Override, low: float, high: float, *, log: bool) -> Numbers:
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high or (log and low <= 0):
        bounds = "from a positive number up to a larger one" if log else "from a number up to a larger one"
        raise ConfigError(override.get_key_element(), value_of(override), f"an interval goes {bounds}")
    whole = isinstance(low, int) and isinstance(high, int)
    return Numbers(override.get_key_element(), low, high, step=1 if whole else None, log=log)


def _range(override: Override, sweep: RangeSweep) -> Numbers:
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if start is None or stop is None or not step or not all(map(math.isfinite, (start, stop, step))):
        raise ConfigError(override.get_key_element(), value_of(override), "use a finite range with a step other than 0")
    if not all(isinstance(number, int) for number in (start, stop, step)):
        start, stop, step = float(start), float(stop), float(step)
    count = math.ceil((Decimal(repr(stop)) - Decimal(repr(start))) / Decimal(repr(step)))
    if count < 1:
        raise ConfigError(override.get_key_element(), value_of(override), "an empty range; it ends before its stop")
    numbers = Numbers(override.get_key_element(), start, start, step=step)
    low, high = sorted((start, numbers.value(numbers.at(count - 1))), key=float)
    log = "log" in sweep.tags
    if log and not (step == 1 and isinstance(step, int) and float(low) > 0):
        remedy = "log is for ranges of positive whole numbers with step 1, or for an interval"
        raise ConfigError(override.get_key_element(), value_of(override), remedy)
    return Numbers(override.get_key_element(), low, high, step=abs(step), log=log)  # type: ignore[arg-type]
