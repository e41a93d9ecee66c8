"""The knobs of packing policies, and between what they are searched."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import optuna

Value = bool | int | float | str
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Between(Generic[N]):
    """A knob between two numbers, both possible. `log`: each order of magnitude is as likely as any other."""

    low: N
    high: N
    log: bool = False


class Real(Between[float]):
    """Any number between the two."""

    __slots__ = ()

    def suggest(self, trial: "optuna.Trial", name: str) -> Value:
        return trial.suggest_float(name, self.low, self.high, log=self.log)


class Whole(Between[int]):
    """Whole numbers only."""

    __slots__ = ()

    def suggest(self, trial: "optuna.Trial", name: str) -> Value:
        return trial.suggest_int(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """A knob with a few values."""

    values: tuple[Value, ...]

    def suggest(self, trial: "optuna.Trial", name: str) -> Value:
        return self.values[trial.suggest_categorical(name, list(range(len(self.values))))]


Range = Real | Whole | OneOf

# The knobs that are searched, by policy. One that is not here stays as its config file has it.
RANGES: Mapping[str, Mapping[str, Range]] = {
    "best_fit": {"cpu_weight": Real(low=0.0, high=1.0)},
    "dot_product": {"largest": OneOf(values=(False, True))},
    "fragmentation": {"popularity": Real(low=0.5, high=1.0)},
    "frontier": {"look_ahead": Whole(low=1, high=512, log=True), "spread": Real(low=0.0, high=0.5)},
}
