"""Trials arrive when they did, and their stages last as long as they did."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby

from orchestrator.schema import Stage
from orchestrator.simulation.protocols.protocol import Arrival, Scene
from orchestrator.simulation.submissions import duration_of


class Replay:
    """The trace as it is; the seed changes nothing. Trials of one study that arrive together are one submission."""

    timed = True
    knows_demands = False

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def arrivals(self) -> Iterator[Arrival]:
        together = groupby(self._scene.trace.trials, key=lambda t: (t.submitted_at, t.study_id, t.tenant, t.priority))
        for (at, *_), group in together:
            yield at, partial(self._scene.submissions.arrive, tuple(group), at)

    def duration_s(self, stage: Stage) -> float:
        return duration_of(stage)

    def results(self) -> Mapping[str, float]:
        return {}
