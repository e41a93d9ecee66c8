"""A trace's trials on a cluster that promises more than it has, see `estimate.oversubscribed`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

from orchestrator.estimate import oversubscribed
from orchestrator.schema import Demand, TraceStage, TraceTrial


class Oversubscribed(Sequence[TraceTrial]):
    """The same trials, whose shares below 1 count as `factor` times less. Made as they are read."""

    def __init__(self, trials: Sequence[TraceTrial], factor: float) -> None:
        self._trials = trials
        self._factor = factor
        # Many trials ask for few different things.
        self._demands: dict[Demand, Demand] = {}

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[TraceTrial]:
        return map(self._trial, self._trials)

    @overload
    def __getitem__(self, index: int) -> TraceTrial: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TraceTrial]: ...
    def __getitem__(self, index: int | slice) -> TraceTrial | Sequence[TraceTrial]:
        if isinstance(index, slice):
            return Oversubscribed(self._trials[index], self._factor)
        return self._trial(self._trials[index])

    def _trial(self, trial: TraceTrial) -> TraceTrial:
        return replace(trial, stages=tuple(map(self._stage, trial.stages)))

    def _stage(self, stage: TraceStage) -> TraceStage:
        asked = stage.demand
        if asked not in self._demands:
            self._demands[asked] = replace(asked, share=oversubscribed(asked.share, self._factor))
        return replace(stage, demand=self._demands[asked])
