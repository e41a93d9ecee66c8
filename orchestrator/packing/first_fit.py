"""The first node that fits, and on it the first devices: the least thought that packs at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import anywhere, first_ranked, fitting_columns
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room, Snapshot, Spot


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFit:
    """The node with the smallest id of those that fit, and there the devices with the smallest indexes; so nothing is
    ever tied."""

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        return in_order(snapshot, requests, self._choose)

    def _choose(self, room: Room, demand: Demand) -> Spot | None:
        return first_ranked(room, demand, self, anywhere, _first)


def _first(room: Room, demand: Demand, row: int) -> tuple[int, ...]:
    return tuple(fitting_columns(room, demand, row)[: demand.devices].tolist())
