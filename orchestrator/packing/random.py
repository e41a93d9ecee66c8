"""Anywhere: what the other policies must be better than."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random as Generator

from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import NOWHERE, Ranking, anywhere, fitting_columns, kept
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room, Snapshot, Spot


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Any node that fits, all as likely, and there any devices that fit.

    Nothing is tied: what is drawn follows from `seed` and from the stage that is first in line, so the same question
    gets the same answer. RandomFit of Weng et al. (USENIX ATC'23, section 6.1).
    """

    seed: int = 0

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        first = next(iter(requests), None)
        generator = Generator(f"{self.seed} {first.stage_key if first else ''}")
        return in_order(snapshot, requests, partial(_anywhere, generator))


def _anywhere(generator: Generator, room: Room, demand: Demand) -> Spot | None:
    rows = (kept(room, "anywhere", demand, lambda: Ranking(room, demand, anywhere)).now() < NOWHERE).nonzero()[0]
    if not rows.size:
        return None
    row = int(rows[generator.randrange(rows.size)])
    if not demand.devices:
        return ((row, ()),)
    columns = fitting_columns(room, demand, row).tolist()
    return ((row, tuple(sorted(generator.sample(columns, demand.devices)))),)
