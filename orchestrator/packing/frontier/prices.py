"""What a place costs beside what it takes of its node: for those who have fewer places, or can have only that model."""

import numpy as np

from orchestrator.packing.frontier.worth import Worth
from orchestrator.schema import Demand
from orchestrator.snapshot import SHARE_UNITS, Counts, Room, share_units

# What a device of a model costs those who may have another one, at most, as a part of it.
_BOUND = 0.2
# The premiums of so many demands are kept; beyond that all are forgotten.
_KEPT = 10_000


class Prices:
    """The prices over one room, by one `Worth`."""

    def __init__(self, room: Room, worth: Worth) -> None:
        self._room = room
        self._model: Counts = np.maximum(room.model.max(axis=1, initial=-1), 0)
        self.learn(worth)

    def learn(self, worth: Worth) -> None:
        """From now on by this worth."""
        self._bound, self._premiums = worth.bound, worth.premiums
        self._of_model = np.zeros(len(self._room.nodes))
        # By demand its premium on each class of nodes [SHARE_UNITS]; None if it is nothing everywhere.
        self._premium_of: dict[Demand, Counts | None] = {}

    def look(self, shares: Counts) -> None:
        """At what devices have left, by node [SHARE_UNITS]. A model is the dearer the more is bound to it for what is
        left of it, so that none runs out before others."""
        if self._bound.any():
            left = np.bincount(self._model, shares, len(self._bound))
            wanted = self._bound * self._room.device_count * SHARE_UNITS
            self._of_model = (_BOUND * np.minimum(1.0, wanted / np.maximum(left, 1.0)))[self._model]

    def of(self, demand: Demand) -> Counts | int:
        """What the demand pays on each node [SHARE_UNITS]; 0 if nothing."""
        units = demand.devices * share_units(demand.share)
        price: Counts | int = 0
        if len(demand.models) != 1 and self._bound.any():
            price = np.rint(self._of_model * units).astype(np.int64)
        if demand not in self._premium_of:
            if len(self._premium_of) > _KEPT:
                self._premium_of.clear()
            self._premium_of[demand] = self._premium(demand) if units else None
        premium = self._premium_of[demand]
        return price if premium is None else price + premium[self._premiums.classes.of_node]

    def _premium(self, demand: Demand) -> Counts | None:
        premium = np.rint(self._premiums(demand) * SHARE_UNITS).astype(np.int64)
        return premium if premium.any() else None
