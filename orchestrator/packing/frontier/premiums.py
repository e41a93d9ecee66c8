"""What nodes cost those who have other places to go to, by a linear program that serves all who are expected.

Nodes that are the same when nobody sits there form a *class*. The program asks how much of what is expected the classes
can serve at best, if work could be divided at will, once about as much was asked for as there is. Its duals are the
prices. Where somebody fits on few classes, and there is less of them than is asked for, their devices, cores or host
memory have a price; where one class is as short as the other they have the same, and nobody pays for being on either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import cast

import numpy as np
import numpy.typing as npt

from orchestrator.schema import Demand
from orchestrator.snapshot import Mask, Room, milli_cpus

# Prices are the means of those once so much of all devices was asked for: at less nothing is short, at more all is.
_HORIZONS = 0.95, 1.0, 1.05, 1.1
# So much of the prices counts: they are those of the end, and of work that can be divided.
_WEIGHT = 0.5
# So many answers are kept; beyond that all are forgotten.
_KEPT = 8_000_000
# Where all of a class runs out together, the devices count as what is short.
_SLACK = np.array([[1.0], [1.0001], [1.0001]])

Index = npt.NDArray[np.intp]
Reals = npt.NDArray[np.float64]


class Classes:
    """The classes of a room's nodes. of_node: by row. there [3, classes]: devices, cores and bytes of host memory."""

    def __init__(self, room: Room) -> None:
        self._models = room.models
        self._fitting: dict[Demand, Mask] = {}
        columns = (
            room.model.max(axis=1, initial=-1),
            room.exists.sum(axis=1),
            room.whole_milli_cpus,
            room.whole_host_memory_bytes,
            room.whole_memory_bytes.max(axis=1, initial=0),
        )
        self._has, of_node = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        self.of_node: Index = of_node.ravel()
        _, devices, cpus, memory, _ = self._has.T
        self.there: Reals = np.bincount(self.of_node) * np.stack([devices, cpus / 1000, memory])

    @staticmethod
    def of(room: Room) -> "Classes":
        """Those of the room, worked out once."""
        if "classes" not in room.cache:
            room.cache["classes"] = Classes(room)
        return cast(Classes, room.cache["classes"])

    def fitting(self, demand: Demand) -> Mask:
        """Which classes the demand fits on, bool [classes]; one that may reach over nodes, where one device of it
        does."""
        fits = self._fitting.get(demand)
        if fits is None:
            if len(self._fitting) * len(self._has) > _KEPT:
                self._fitting.clear()
            fits = self._fitting[demand] = self._fits(demand)
        return fits

    def _fits(self, demand: Demand) -> Mask:
        model, devices, cpus, memory, device_memory = self._has.T
        over = demand.devices if demand.devices and demand.max_nodes > 1 else 1
        fits: Mask = (devices > 0) & (devices * over >= demand.devices) & (device_memory >= demand.memory_bytes)
        fits &= (cpus >= milli_cpus(demand.cpus) / over) & (memory >= demand.host_memory_bytes / over)
        if demand.models:
            # Nodes without devices have the last one.
            fits &= np.array([*(name in demand.models for name in self._models), False])[model]
        return fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Premiums:
    """prices [3, classes]: of a device, a core and a byte of host memory, in devices."""

    classes: Classes
    prices: Reals

    @staticmethod
    def of(room: Room, expected: Mapping[Demand, float]) -> "Premiums":
        """For a workload in which each demand comes as often as `expected` says."""
        classes = Classes.of(room)
        several = classes.there.shape[1] > 1
        groups = _grouped(classes, expected) if several else {}
        if not groups:
            return Premiums(classes=classes, prices=np.zeros_like(classes.there))
        fits = np.array([np.frombuffer(group[0], np.bool_) for group in groups])
        asked = np.array([*groups.values()])
        asked *= classes.there[0].sum() / asked[:, 0].sum()
        prices = np.mean([_prices(classes.there, fits, asked * horizon) for horizon in _HORIZONS], axis=0)
        return Premiums(classes=classes, prices=_WEIGHT * prices)

    def __call__(self, demand: Demand) -> Reals:
        """What the demand pays on each class more than where it pays least, in devices: float64 [classes]."""
        fits = self.classes.fitting(demand)
        if not fits.any():
            return np.zeros(len(fits))
        pays = _amounts(demand) @ self.prices
        return np.where(fits, pays - pays[fits].min(), 0.0)


def _amounts(demand: Demand) -> Reals:
    return np.array([demand.devices * demand.share, demand.cpus, demand.host_memory_bytes], np.float64)


def _grouped(classes: Classes, expected: Mapping[Demand, float]) -> dict[tuple[bytes, int, int], Reals]:
    """What is asked for in all by those who fit on the same classes, and want about as many cores and as much host
    memory beside a device; without those who want no device or fit nowhere."""
    groups: dict[tuple[bytes, int, int], Reals] = {}
    for demand, times in expected.items():
        fits, amounts = classes.fitting(demand), _amounts(demand)
        if times > 0 and amounts[0] > 0 and fits.any():
            cores, memory = (round(log2(1 + amount / amounts[0])) for amount in amounts[1:].tolist())
            group = fits.tobytes(), cores, memory
            groups[group] = groups.get(group, 0.0) + times * amounts
    return groups


def _prices(there: Reals, fits: Mask, asked: Reals) -> Reals:
    """The duals of what there is, [3, classes], where groups that fit on these classes, bool [groups, classes], ask
    for so much in all, [groups, 3]; in devices."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    # Each arc is the part of a group that goes to a class. Amounts are parts of what is asked for in all.
    group, of_class = fits.nonzero()
    classes, arcs = there.shape[1], np.arange(len(group))
    total = np.maximum(asked.sum(axis=0), 1e-9)
    amounts = (asked / total)[group].T
    rows = np.concatenate([of_class, classes + of_class, 2 * classes + of_class, 3 * classes + group])
    matrix = coo_array(
        (np.concatenate([*amounts, np.ones(len(arcs))]), (rows, np.tile(arcs, 4))),
        shape=(3 * classes + len(fits), len(arcs)),
    ).tocsr()
    # A class that has more than is asked for in all is short of nothing, however much more that is.
    limits = np.minimum(there / total[:, None], 2.0) * _SLACK
    solved = linprog(
        -amounts[0], A_ub=matrix, b_ub=np.concatenate([limits.ravel(), np.ones(len(fits))]), method="highs-ds"
    )
    duals = -solved.ineqlin.marginals[: 3 * classes].reshape(3, classes)
    return cast(Reals, duals * (total[0] / total)[:, None])
