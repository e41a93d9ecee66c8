"""An Optuna study over what stands on one rung, for Optuna's pruners to decide by. Optuna is imported on first use."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from orchestrator.stopping.evidence import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A setting as a pruner sees it. values: what it reported, by step. reached: the mark that it left on a rung, under
    the pruner's own name for that. final: its value, if the pruner shall take it for one that has completed."""

    number: int
    values: Mapping[int, float] = field(default_factory=dict)
    reached: Mapping[str, float] = field(default_factory=dict)
    final: float | None = None


class Crowd:
    """What stands on a rung as Optuna's trials, made once for all that are held against it."""

    def __init__(self) -> None:
        self._made_of: object = None
        self._level = -1
        self._trials: list[FrozenTrial] = []

    def of(self, ranking: Sequence["Standing"], level: int, see: Callable[["Standing"], Seen]) -> "list[FrozenTrial]":
        """`see` may depend on the level, and on nothing else."""
        if self._made_of is not ranking or self._level != level:
            self._made_of, self._level = ranking, level
            self._trials = [frozen(see(standing)) for standing in ranking]
        return self._trials


def would_prune(
    pruner: "optuna.pruners.BasePruner", name: str, candidate: Seen, crowd: "Sequence[FrozenTrial]"
) -> bool:
    """Whether the pruner stops `candidate`, which reports now, among the others in the crowd of the study `name`. More
    is better."""
    from optuna.samplers import RandomSampler
    from optuna.study import Study

    trials = [trial for trial in crowd if trial.number != candidate.number]
    study = Study(study_name=name, storage=_storage_type()(trials), sampler=RandomSampler(), pruner=pruner)
    return bool(pruner.prune(study, frozen(candidate)))


def frozen(seen: Seen) -> "FrozenTrial":
    """As Optuna has it."""
    from optuna.trial import FrozenTrial, TrialState

    return FrozenTrial(
        number=seen.number,
        trial_id=seen.number,
        state=TrialState.RUNNING if seen.final is None else TrialState.COMPLETE,
        value=seen.final,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs=dict(seen.reached),
        intermediate_values=dict(seen.values),
    )


@cache
def _storage_type() -> Any:
    """A storage that holds the trials that it was given, and nothing else: pruners read it."""
    from optuna.storages import InMemoryStorage
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    class RungStorage(InMemoryStorage):
        def __init__(self, trials: Sequence["FrozenTrial"]) -> None:
            super().__init__()
            self._of_rung = list(trials)

        def get_study_id_from_name(self, study_name: str) -> int:
            return 0

        def get_study_directions(self, study_id: int) -> list[StudyDirection]:
            return [StudyDirection.MAXIMIZE]

        def get_all_trials(
            self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
        ) -> list["FrozenTrial"]:
            return [trial for trial in self._of_rung if states is None or trial.state in states]

        def get_best_trial(self, study_id: int) -> "FrozenTrial":
            completed = [trial for trial in self._of_rung if trial.state is TrialState.COMPLETE]
            return max(completed, key=lambda trial: trial.value or 0.0)

        def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
            """What a pruner wants to remember of a rung is in the marks already."""

    return RungStorage
