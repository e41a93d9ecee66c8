"""How many times longer than alone a step takes beside others, learned from slices.

    slowdown(A | others) = 1 + sum over others of c(A | kind of the other) x (share of the other / share of A)

`c` is 0 if the other is not felt at all, 1 if the device is divided in proportion to the shares, more if they are in
each other's way. What nobody has seen is expected to be 1: then sharing neither gains nor loses.

*Alone* is alone on the device, whatever the share: nothing here holds a bundle's computing to its share (on the host a
process that is alone on its core has all of it, on a GPU kernels of one process have all of the device), so that a
share says who fits beside it and not how fast it goes. Halves of a core that is divided fairly therefore have slowdown
2, and together get through as much as one after the other.

The `c` of one kind are fitted by least squares over all that it was seen beside, weighted by how much slices varied,
against the prior N(1, PRIOR_SPREAD^2): Bayesian linear regression with known noise (Bishop, "Pattern Recognition
and Machine Learning", section 3.3). Paces are compared within a unit only: stages of one shape on one device model.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.interference.company import Neighbours, Slice

PRIOR_SPREAD = 0.5
# What is measured at two times differs by this part however many slices there are: clocks, caches and whoever else uses
# the machine drift.
DRIFT = 0.04
# So many times the standard deviation to each side are 95 %.
SIGMAS = 1.96

Row = tuple[Hashable, str, float, Neighbours]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """How many times longer a step takes than alone: the mean, its standard deviation, and how many slices speak for
    it. Nothing is faster beside others."""

    mean: float
    deviation: float
    slices: int

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return max(1.0, self.mean - SIGMAS * self.deviation)

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + SIGMAS * self.deviation


@dataclass(slots=True)
class _Pace:
    """Slices of one kind of circumstances: how many, their steps and seconds, and the logarithms of their paces."""

    slices: int = 0
    steps: float = 0.0
    seconds: float = 0.0
    logs: float = 0.0
    squares: float = 0.0
    at: float = 0.0

    def add(self, slice_: Slice) -> None:
        log = math.log(slice_.steps / slice_.seconds)
        self.slices += 1
        self.steps += slice_.steps
        self.seconds += slice_.seconds
        self.logs += log
        self.squares += log * log
        self.at = slice_.at

    @property
    def step_s(self) -> float:
        return self.seconds / self.steps

    @property
    def variance(self) -> float:
        """Of `step_s`, as a part of it, squared. A single slice tells nothing of how they vary."""
        if self.slices < 2:
            return 1.0
        spread = (self.squares - self.logs * self.logs / self.slices) / (self.slices - 1)
        return max(0.0, spread) / self.slices + DRIFT**2


@dataclass(frozen=True, slots=True)
class _Fit:
    """The coefficients of one kind, in the order of `kinds`, their covariance, and slices beside each of them."""

    kinds: Mapping[str, int]
    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    slices: Mapping[str, int]


class SlowdownModel:
    """Learns from slices. `forget_s`: what was seen so long ago counts no more."""

    def __init__(self, forget_s: float = 86_400.0) -> None:
        self._forget_s = forget_s
        self._paces: dict[Row, _Pace] = {}
        self._fits: dict[str, _Fit] = {}
        self._now = 0.0
        self.revision = 0

    def observe(self, slice_: Slice) -> None:
        """One more slice. One of a kind, or beside a kind, that has no name teaches nothing."""
        if not slice_.kind or any(not kind for kind, _ in slice_.neighbours):
            return
        row = slice_.unit, slice_.kind, slice_.share, slice_.neighbours
        self._paces.setdefault(row, _Pace()).add(slice_)
        self._now = max(self._now, slice_.at)
        self._fits.clear()
        self.revision += 1

    def forget(self, one: str, other: str) -> None:
        """What was seen of these two kinds together counts no more."""
        for unit, kind, share, neighbours in list(self._paces):
            beside = {name for name, _ in neighbours}
            if (kind == one and other in beside) or (kind == other and one in beside):
                del self._paces[unit, kind, share, neighbours]
        self._fits.clear()
        self.revision += 1

    def alone_slices(self, unit: Hashable) -> int:
        """How many slices the unit was seen alone for."""
        alone = self._alone().get(unit)
        return alone.slices if alone else 0

    def slowdown(self, kind: str, share: float, neighbours: Iterable[tuple[str, float]]) -> Slowdown:
        """What a bundle of `kind` with `share` can expect beside `neighbours`."""
        fit = self._fit(kind)
        known = np.zeros(len(fit.kinds))
        mean, variance, counts = 1.0, 0.0, []
        for other, other_share in neighbours:
            felt = other_share / share
            counts.append(fit.slices.get(other, 0))
            if other in fit.kinds:
                known[fit.kinds[other]] += felt
            else:
                mean, variance = mean + felt, variance + (felt * PRIOR_SPREAD) ** 2
        mean += float(known @ fit.mean)
        deviation = math.sqrt(variance + float(known @ fit.covariance @ known))
        return Slowdown(mean=max(1.0, mean), deviation=deviation, slices=min(counts, default=0))

    def seen_together(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Pairs of kinds (sorted) that were seen on one device, with the shares that they were seen with most."""
        counts: dict[tuple[str, str], dict[tuple[float, float], int]] = {}
        for (_, kind, share, neighbours), pace in self._paces.items():
            for other, other_share in set(neighbours):
                pair = (kind, other) if kind <= other else (other, kind)
                shares = (share, other_share) if kind <= other else (other_share, share)
                of_pair = counts.setdefault(pair, {})
                of_pair[shares] = of_pair.get(shares, 0) + pace.slices
        return {pair: max(sorted(of_pair), key=lambda s: of_pair[s]) for pair, of_pair in sorted(counts.items())}

    def _alone(self) -> dict[Hashable, _Pace]:
        """By unit, over all shares."""
        found: dict[Hashable, _Pace] = {}
        for (unit, _, _, neighbours), pace in self._paces.items():
            if not neighbours:
                of_unit = found.setdefault(unit, _Pace())
                for name in ("slices", "steps", "seconds", "logs", "squares"):
                    setattr(of_unit, name, getattr(of_unit, name) + getattr(pace, name))
        return found

    def _fit(self, kind: str) -> _Fit:
        if kind not in self._fits:
            self._paces = {row: pace for row, pace in self._paces.items() if self._now - pace.at <= self._forget_s}
            self._fits[kind] = self._regression(kind)
        return self._fits[kind]

    def _regression(self, kind: str) -> _Fit:
        alone = self._alone()
        rows = [
            (share, neighbours, pace, alone[unit])
            for (unit, of_kind, share, neighbours), pace in self._paces.items()
            if of_kind == kind and neighbours and unit in alone
        ]
        names = sorted({name for _, neighbours, _, _ in rows for name, _ in neighbours})
        kinds = {name: position for position, name in enumerate(names)}
        precision = np.eye(len(names)) / PRIOR_SPREAD**2
        pull = np.ones(len(names)) / PRIOR_SPREAD**2
        slices = dict.fromkeys(names, 0)
        for share, neighbours, pace, of_unit in rows:
            felt = np.zeros(len(names))
            for name, other_share in neighbours:
                felt[kinds[name]] += other_share / share
            for name in {name for name, _ in neighbours}:
                slices[name] += pace.slices
            ratio = pace.step_s / of_unit.step_s
            weight = 1.0 / (ratio * ratio * (pace.variance + of_unit.variance))
            precision += weight * np.outer(felt, felt)
            pull += weight * felt * (ratio - 1.0)
        covariance = np.asarray(np.linalg.inv(precision), np.float64)
        return _Fit(kinds, covariance @ pull, covariance, slices)
