"""Optuna's ask and tell over a space, from what is known of the points that were asked before."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.search.points import Known, PointState
from orchestrator.search.samplers import REMEMBERS, SAMPLERS, point_seed
from orchestrator.sweep.space import Dimension, Numbers, Point, Space, Value

if TYPE_CHECKING:
    import optuna

DRAWS = 16
"""How often a sampler may draw a point that was asked before, until another one is taken instead."""


@dataclass(slots=True)
class _Entry:
    """A point as Optuna has it; `told` is None while it knows no more than that the point runs."""

    point: Point
    trial: "optuna.Trial"
    told: tuple[PointState, float | None] | None = None


class Asking:
    """Draws points that were not asked before.

    A point follows from the search's config, the space and what is known: whoever is given the same draws the same.
    What Optuna keeps of it is made anew whenever it doesn't fit what is known any more (another leader, a retry).
    """

    def __init__(self, space: Space, config: Mapping[str, Any]) -> None:
        self._space = space
        self._config = config
        self._optuna: optuna.Study | None = None
        self._entries: list[_Entry] = []

    def ask(self, known: Sequence[Known], refused: Sequence[Point] = ()) -> Point:
        """The next point after `known`, which are all that were asked, in order, and after those that were `refused`
        since: they were drawn and are no config that can run. Raises LookupError if no point is left."""
        study = self._told(known)
        asked = {*(point.point for point in known), *refused}
        for draw in range(len(refused), len(refused) + DRAWS):
            # The maximum of a model may lie where a point was asked: then chance decides.
            study.sampler = self._sampler(len(known), draw, "random" if draw > len(refused) + DRAWS // 2 else "")
            trial = study.ask()
            point = self._drawn(trial)
            if point not in asked:
                self._entries.append(_Entry(point, trial))
                return point
            self._abandon(study, trial)
        return self._left_over(study, asked, len(known))

    def _left_over(self, study: "optuna.Study", asked: Collection[Point], number: int) -> Point:
        """The next of all points that was not asked, from a place on that the seed says."""
        size = self._space.size
        if size is None or size <= len(asked):
            raise LookupError("every point of the space was asked")
        first = point_seed(self._config["seed"], number, DRAWS)
        point = next(p for p in (self._space.at((first + n) % size) for n in range(size)) if p not in asked)
        self._entries.append(_Entry(point, self._ask_for(study, point)))
        return point

    def _told(self, known: Sequence[Known]) -> "optuna.Study":
        """Optuna's study with all that is known told."""
        if self._optuna is None or not self._fits(known):
            self._optuna = self._replayed(known)
        self._tell(self._optuna, known)
        return self._optuna

    def _fits(self, known: Sequence[Known]) -> bool:
        return len(self._entries) == len(known) and all(
            entry.point == point.point and entry.told in (None, _result(point))
            for entry, point in zip(self._entries, known, strict=True)
        )

    def _replayed(self, known: Sequence[Known]) -> "optuna.Study":
        """Asks for the same points again, each when what was over by then has been told."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(direction=self._config["direction"])
        self._entries = []
        for number, point in enumerate(known):
            if self._config["name"] in REMEMBERS:
                self._tell(study, [_as_it_was(earlier, point.asked_at) for earlier in known[:number]])
                study.sampler = self._sampler(number)
            self._entries.append(_Entry(point.point, self._ask_for(study, point.point)))
        return study

    def _ask_for(self, study: "optuna.Study", point: Point) -> "optuna.Trial":
        study.enqueue_trial(self._space.values(point))
        trial = study.ask()
        if self._config["name"] in REMEMBERS:
            _ = trial.relative_params  # drawing leaves the notes
        self._drawn(trial)
        return trial

    def _drawn(self, trial: "optuna.Trial") -> Point:
        """The trial's value of each dimension that is there, by those that were drawn before."""
        texts: dict[str, str] = {}
        for dimension in self._space.drawn:
            if self._space.has(dimension.key, texts):
                texts[dimension.key] = dimension.text(_suggested(trial, dimension))
        return self._space.point(texts)

    def _tell(self, study: "optuna.Study", known: Sequence[Known]) -> None:
        for entry, point in zip(self._entries, known, strict=False):
            if entry.told is None and point.state is not PointState.RUNNING:
                self._finish(study, entry.trial, point)
                entry.told = _result(point)

    def _finish(self, study: "optuna.Study", trial: "optuna.Trial", point: Known) -> None:
        from optuna.trial import TrialState

        match point.state:
            case PointState.COMPLETED:
                study.tell(trial, point.value)
            case PointState.PRUNED:
                for step, value in point.seen:
                    trial.report(value, step)
                study.tell(trial, state=TrialState.PRUNED)
            case _:
                study.tell(trial, state=TrialState.FAIL)

    def _abandon(self, study: "optuna.Study", trial: "optuna.Trial") -> None:
        from optuna.trial import TrialState

        study.tell(trial, state=TrialState.FAIL)

    def _sampler(self, number: int, draw: int = 0, name: str = "") -> "optuna.samplers.BaseSampler":
        return SAMPLERS[name or self._config["name"]](point_seed(self._config["seed"], number, draw), self._config)


def budget(space: Space, config: Mapping[str, Any]) -> int:
    """How many points the search may ask: `search.trials` counts trials, and no point is asked twice."""
    points = int(config["trials"]) // len(space.seeds)
    return points if space.size is None else min(points, space.size)


def _result(point: Known) -> tuple[PointState, float | None] | None:
    return None if point.state is PointState.RUNNING else (point.state, point.value)


def _as_it_was(point: Known, at: float) -> Known:
    return point if point.ended_at <= at else replace(point, state=PointState.RUNNING)


def _suggested(trial: "optuna.Trial", dimension: Dimension) -> Value:
    """What the trial has of the dimension: what was enqueued, or what its sampler draws."""
    match dimension:
        case Numbers(low=low, high=high, step=int() as step, log=log):
            return trial.suggest_int(dimension.key, int(low), int(high), step=step, log=log)
        case Numbers(low=low, high=high, step=step, log=log):
            return trial.suggest_float(dimension.key, float(low), float(high), step=step, log=log)
        case _:
            return trial.suggest_categorical(dimension.key, dimension.texts)
