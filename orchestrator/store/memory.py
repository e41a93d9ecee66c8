"""A `ports.Store` that forgets when the process ends: for tests and simulations."""

from collections.abc import Sequence

from orchestrator.events import Record, RecordAllocation, RecordStage, RecordStudy, RecordTrial
from orchestrator.schema import Allocation, Outcome, StageState, Study, Trial


class MemoryStore:
    """Keeps the records as they are; `apply` can't fail half-way."""

    def __init__(self) -> None:
        self._studies: dict[str, Study] = {}
        self._trials: dict[str, Trial] = {}
        self._stages: dict[str, tuple[StageState, Outcome]] = {}
        self._allocations: dict[str, Allocation] = {}

    def apply(self, records: Sequence[Record]) -> None:
        for record in records:
            match record:
                case RecordStudy():
                    self._studies[record.study.study_id] = record.study
                case RecordTrial():
                    self._trials[record.trial.trial_id] = record.trial
                case RecordStage():
                    self._stages[record.stage.key] = (record.state, record.outcome)
                case RecordAllocation():
                    self._allocations[record.allocation.bundle_id] = record.allocation

    def study(self, study_id: str) -> Study:
        return self._studies[study_id]

    def studies(self) -> list[Study]:
        return sorted(self._studies.values(), key=lambda study: study.submitted_at)

    def trials(self, study_id: str) -> list[Trial]:
        return sorted((t for t in self._trials.values() if t.study_id == study_id), key=lambda t: t.number)

    def allocations(self, study_id: str) -> list[Allocation]:
        lines = (a for a in self._allocations.values() if a.study_id == study_id)
        return sorted(lines, key=lambda a: (a.opened_at, a.bundle_id))

    def completed_stages(self, keys: Sequence[str]) -> dict[str, Outcome]:
        found = {key: self._stages[key] for key in keys if key in self._stages}
        return {key: outcome for key, (state, outcome) in found.items() if state is StageState.COMPLETED}

    def close(self) -> None:
        pass
