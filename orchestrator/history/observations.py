"""What runs took per unit of work, by likeness, with an interval for the next one. Pure.

An observation is an amount over some work: seconds over steps, bytes over one run. What is expected of a stage goes by
the runs of that very stage, else by those of its shape, else by the nearest shapes; the interval holds nine in ten
runs, if runs scatter log-normally about what is typical of them.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from orchestrator.history.likeness import OTHER_ALGORITHM, Likeness

PRIOR_SPREAD, _PRIOR_RUNS = 0.25, 2
"""How far runs are thought to scatter (standard deviation of the logarithm) before their own spread is known, and how
many runs that opinion weighs as much as."""

SPREAD_OF_DISTANCE = 0.35
"""How much farther off (standard deviation of the logarithm) what is expected may be at a distance of 1 to those it
goes by: a number that doubles changes an amount by 1.4, give or take. The effects of several such steps are
independent, so the deviation grows as the root of the distance."""

_LEAST = 1e-9
NEIGHBOURS = 3
_KEYS_KEPT, _SHAPES_KEPT = 10_000, 128

SAME_STAGE, SAME_SHAPE, NEAREST = "the same stage", "stages of the same shape", "the nearest configs"


@dataclass(slots=True)
class Runs:
    """Sums over the runs of one stage, or of one shape."""

    count: int = 0
    work: float = 0.0
    amount: float = 0.0
    logs: float = 0.0
    squares: float = 0.0

    def add(self, work: float, amount: float, sign: int = 1) -> None:
        """Count a run, or with `sign` -1 count it no more."""
        log = math.log(amount / work)
        self.count += sign
        self.work += sign * work
        self.amount += sign * amount
        self.logs += sign * log
        self.squares += sign * log * log

    @property
    def rate(self) -> float:
        """Amount per unit of work, of all runs together."""
        return self.amount / self.work

    def spread(self) -> float:
        """Standard deviation of the logarithm of a run's rate, with what is thought of runs in general mixed in."""
        own = max(0.0, self.squares - self.logs * self.logs / self.count)
        degrees = self.count - 1 + _PRIOR_RUNS
        return math.sqrt((own + _PRIOR_RUNS * PRIOR_SPREAD**2) / degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """An amount, and between what nine in ten runs will lie. `runs` of `basis` it goes by, over `work` in all, at
    `distance` (0 for the same stage and the same shape); `rate` is the amount per unit of work."""

    value: float
    low: float
    high: float
    runs: int
    work: float
    rate: float
    basis: str
    distance: float = 0.0


@dataclass(slots=True)
class _Shape:
    likeness: Likeness
    runs: Runs = field(default_factory=Runs)


@dataclass(slots=True)
class _Observation:
    work: float
    amount: float
    groups: tuple[Runs, ...]


_Near = tuple[float, Runs]


class Observations:
    """One per bundle: a later one of the same bundle replaces it, until the bundle is `settled`.

    Bounded: of stages and of shapes the latest are kept. `revision` counts the observations.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, Runs] = OrderedDict()
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()
        self._current: dict[str, _Observation] = {}
        self._nearest: dict[Hashable, list[_Near]] = {}
        self.revision = 0

    def observe(self, bundle_id: str, likeness: Likeness, work: float, amount: float) -> None:
        """`bundle_id` took `amount` for `work`; nothing is learned from none of either, or from next to none."""
        if work < _LEAST or amount < _LEAST:
            return
        earlier = self._current.get(bundle_id)
        groups = (self._of_key(likeness), self._of_shape(likeness)) if earlier is None else earlier.groups
        for group in groups:
            if earlier is not None:
                group.add(earlier.work, earlier.amount, sign=-1)
            group.add(work, amount)
        self._current[bundle_id] = _Observation(work, amount, groups)
        self.revision += 1

    def settle(self, bundle_id: str) -> None:
        """The bundle is over: what was observed of it stays."""
        self._current.pop(bundle_id, None)

    def expected(self, likeness: Likeness, work: float) -> Expected | None:
        """What `work` of a stage will take; None while nothing has been observed."""
        near, basis = self._going_by(likeness, work)
        return _expected(near, work, basis) if near else None

    def value(self, likeness: Likeness, work: float) -> float | None:
        """What is expected without the interval, which thousands of requests are asked for at a time."""
        near, _ = self._going_by(likeness, work)
        return work * _rate(near) if near else None

    def _going_by(self, likeness: Likeness, work: float) -> "tuple[list[_Near], str]":
        runs = self._keys.get(likeness.key)
        # The first steps of a run pay for its start: of the stage itself only what was seen whole counts.
        if runs is not None and runs.work >= work:
            return [(0.0, runs)], SAME_STAGE
        shape = self._shapes.get(likeness.shape)
        if shape is not None:
            return [(0.0, shape.runs)], SAME_SHAPE
        return self._neighbours(likeness), NEAREST

    def _neighbours(self, likeness: Likeness) -> "list[_Near]":
        """The nearest shapes; those of other algorithms only if there is none of the same."""
        near = self._nearest.get(likeness.shape)
        if near is None:
            found = [(shape.likeness.distance(likeness), shape.runs) for shape in self._shapes.values()]
            near = sorted(found, key=lambda one: one[0])[:NEIGHBOURS]
            if near and near[0][0] < OTHER_ALGORITHM:
                near = [one for one in near if one[0] < OTHER_ALGORITHM]
            if len(self._nearest) >= _KEYS_KEPT:
                self._nearest.clear()
            self._nearest[likeness.shape] = near
        return near

    def _of_key(self, likeness: Likeness) -> Runs:
        runs = self._keys.setdefault(likeness.key, Runs())
        self._keys.move_to_end(likeness.key)
        if len(self._keys) > _KEYS_KEPT:
            self._keys.popitem(last=False)
        return runs

    def _of_shape(self, likeness: Likeness) -> Runs:
        shape = self._shapes.get(likeness.shape)
        if shape is None:
            shape = self._shapes[likeness.shape] = _Shape(likeness)
            self._nearest.clear()
        self._shapes.move_to_end(likeness.shape)
        if len(self._shapes) > _SHAPES_KEPT:
            self._shapes.popitem(last=False)
        return shape.runs


def _rate(near: list[_Near]) -> float:
    """Of runs with their distances, each weighing less the farther off it is."""
    weights = [1.0 / (1.0 + distance) for distance, _ in near]
    return sum(weight * runs.rate for weight, (_, runs) in zip(weights, near, strict=True)) / sum(weights)


def _expected(near: list[_Near], work: float, basis: str) -> Expected:
    rate = _rate(near)
    distance, runs = near[0]
    # A new run scatters about a mean that is known from so many runs only.
    own = runs.spread() * math.sqrt(1.0 + 1.0 / runs.count) * _t_90(runs.count - 1 + _PRIOR_RUNS)
    half = math.hypot(own, SPREAD_OF_DISTANCE * math.sqrt(distance) * _t_90(10**6))
    value = rate * work
    return Expected(
        value=value,
        low=value * math.exp(-half),
        high=value * math.exp(half),
        runs=sum(runs.count for _, runs in near),
        work=sum(runs.work for _, runs in near),
        rate=rate,
        basis=basis,
        distance=distance,
    )


# Two-sided 90 % quantiles of Student's t for 2 to 5 degrees of freedom.
_T_90 = {2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015}


def _t_90(degrees: int) -> float:
    """Beyond the table by Cornish and Fisher's expansion, to 1e-3."""
    z = 1.6448536269514722
    return _T_90.get(degrees) or z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
