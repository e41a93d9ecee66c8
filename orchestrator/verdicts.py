"""Which trials have run long enough: asks each study's own stopping policy, and says it to the event machine."""

from collections.abc import Iterable

from orchestrator.events import Event, HaltRequested, QueueRequested
from orchestrator.schema import Study, TrialState
from orchestrator.state import SchedulerState
from orchestrator.stopping import STOPPINGS, GoOn, Hold, StoppingPolicy, Verdict, never


class Verdicts:
    """The policies of the studies that are in mind: each remembers what it has read of its trials."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state
        self._policies: dict[str, StoppingPolicy] = {}

    def of(self, study_ids: Iterable[str], at: float) -> list[Event]:
        """Of studies in which something has changed: a stopping policy looks at nothing but their trials."""
        events: list[Event] = []
        for study_id in dict.fromkeys(study_ids):
            study = self._state.studies.get(study_id)
            policy = never if study is None else self._policy(study)
            if policy is not never:
                events += [_said(verdict, at) for verdict in policy(self._state.study_trials(study_id))]
        return events

    def forget(self, study_id: str) -> None:
        """The study is in mind no longer."""
        self._policies.pop(study_id, None)

    def _policy(self, study: Study) -> StoppingPolicy:
        if study.study_id not in self._policies:
            config = study.config.get("stopping", {"name": "never"})
            self._policies[study.study_id] = STOPPINGS[config["name"]](config)
        return self._policies[study.study_id]


def _said(verdict: Verdict, at: float) -> Event:
    match verdict:
        case Hold(trial_id, stop):
            return HaltRequested(at=at, trial_ids=(trial_id,), into=TrialState.PAUSED, reason=stop.why, stop=stop)
        case GoOn(trial_id, fate):
            return QueueRequested(at=at, trial_ids=(trial_id,), fate=fate)
    return HaltRequested(at=at, trial_ids=(verdict.trial_id,), into=TrialState.PRUNED, reason=verdict.why)
