"""Points are Optuna's own: the same samplers, told the same values, ask for the same points."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from orchestrator.search.asking import Asking, budget
from orchestrator.search.points import Known, PointState
from orchestrator.search.samplers import SAMPLERS, point_seed
from orchestrator.sweep import Choices, Condition, Numbers, Point, Space

SPACE = Space(
    (
        Numbers("lr", 1e-5, 1e-1, log=True),
        Numbers("beta", 0.5, 0.99),
        Numbers("layers", 1, 8, step=1),
        Choices("algorithm", ("sft", "grpo")),
    ),
    ("seed=0",),
)
DISTRIBUTIONS = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "beta": FloatDistribution(0.5, 0.99),
    "layers": IntDistribution(1, 8),
    "algorithm": CategoricalDistribution(("sft", "grpo")),
}
ORACLES: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=5),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=5),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
COUNTS = {"random": 20, "tpe": 20, "gp": 8, "cmaes": 30}


def value(params: dict[str, Any]) -> float:
    return -abs(math.log10(params["lr"]) + 3) - params["beta"] + 0.1 * params["layers"]


def config(name: str, direction: str = "maximize") -> dict[str, Any]:
    return {"name": name, "trials": 100, "metric": "m", "direction": direction, "seed": 7, "startup": 5}


def over(number: int, point: Point, told: float | None, state: PointState = PointState.COMPLETED) -> Known:
    return Known(point=point, state=state, value=told, asked_at=2.0 * number, ended_at=2.0 * number + 1.0)


def asked_by_optuna(name: str, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(direction="maximize")
    found = []
    for number in range(count):
        study.sampler = ORACLES[name](point_seed(7, number))
        trial = study.ask(DISTRIBUTIONS)
        if number == 3:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif number == 4:
            trial.report(-5.0, 3)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, value(trial.params))
        found.append(dict(trial.params))
    return found


def known_after(params: list[dict[str, Any]]) -> list[Known]:
    known = []
    for number, one in enumerate(params):
        point = SPACE.point_of(one)
        if number == 3:
            known.append(over(number, point, None, PointState.FAILED))
        elif number == 4:
            known.append(replace(over(number, point, -5.0, PointState.PRUNED), seen=((3, -5.0),)))
        else:
            known.append(over(number, point, value(one)))
    return known


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_one_at_a_time_the_points_are_those_of_optuna(name: str) -> None:
    expected = asked_by_optuna(name, COUNTS[name])
    asking = Asking(SPACE, config(name))
    known = known_after(expected)
    for number, params in enumerate(expected):
        point = asking.ask(known[:number])
        assert SPACE.values(point) == params
        assert point == known[number].point


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_whoever_is_given_what_is_known_asks_for_the_same_next_point(name: str) -> None:
    known = known_after(asked_by_optuna(name, COUNTS[name]))
    before = Asking(SPACE, config(name))
    for number in range(COUNTS[name]):
        before.ask(known[:number])
    assert Asking(SPACE, config(name)).ask(known) == before.ask(known)


def test_points_that_still_run_are_told_as_running() -> None:
    """TPE's constant liar: another point follows than would if nothing ran."""
    known = known_after(asked_by_optuna("tpe", 12))
    running = [replace(point, state=PointState.RUNNING, value=None, ended_at=math.inf) for point in known[8:]]
    asking = Asking(SPACE, config("tpe"))
    asking.ask([*known[:8], *running])
    assert asking._optuna is not None
    states = [trial.state for trial in asking._optuna.trials]
    assert states.count(optuna.trial.TrialState.RUNNING) == 5  # the one that was just asked is among them


def test_a_result_that_changes_afterwards_is_told_anew() -> None:
    known = known_after(asked_by_optuna("tpe", 10))
    asking = Asking(SPACE, config("tpe"))
    asking.ask(known)
    retried = [*known[:3], over(3, known[3].point, 0.5), *known[4:]]
    assert asking.ask(retried) == Asking(SPACE, config("tpe")).ask(retried)


def test_the_smaller_the_better_where_the_direction_says_so() -> None:
    asking = Asking(SPACE, config("tpe", "minimize"))
    known: list[Known] = []
    for number in range(40):
        point = asking.ask(known)
        known.append(over(number, point, -value(SPACE.values(point))))
    first = sum(known[n].value or 0.0 for n in range(10)) / 10
    last = sum(known[n].value or 0.0 for n in range(30, 40)) / 10
    assert last < first


def test_no_point_is_asked_twice_until_none_is_left() -> None:
    small = Space((Choices("a", ("1", "2", "3")), Numbers("b", 0, 4, step=2)), ("seed=0",))
    asking = Asking(small, config("tpe"))
    known: list[Known] = []
    for number in range(9):
        known.append(over(number, asking.ask(known), 1.0))
    assert len({point.point for point in known}) == 9
    with pytest.raises(LookupError):
        asking.ask(known)


def test_a_sampler_that_insists_on_a_point_is_helped_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Space((Numbers("a", 0.0, 1.0),), ("seed=0",))
    fixed = dict(SAMPLERS) | {"tpe": lambda _seed, _config: RandomSampler(seed=1)}
    monkeypatch.setattr("orchestrator.search.asking.SAMPLERS", fixed)
    asking = Asking(numbers, config("tpe"))
    first = over(0, asking.ask([]), 1.0)
    assert asking.ask([first]) != first.point


def test_a_refused_point_is_not_asked_again() -> None:
    small = Space((Choices("a", ("1", "2")),), ("seed=0",))
    asking = Asking(small, config("random"))
    first = asking.ask([])
    assert asking.ask([], [first]) != first


def test_the_budget_counts_trials_and_ends_with_the_space() -> None:
    seeds = replace(SPACE, seeds=("seed=0", "seed=1"))
    assert budget(seeds, {"trials": 10}) == 5
    assert budget(Space((Choices("a", ("1", "2")),), ("seed=0",)), {"trials": 10}) == 2


# --- dimensions that not every point has -----------------------------------------------------------------------------


CONDITIONAL = Space(
    (
        Numbers("algorithm.clip_high", 0.1, 0.4),
        Choices("algorithm", ("sft", "grpo")),
        Numbers("lr", 1e-5, 1e-1, log=True),
    ),
    ("seed=0",),
    (Condition("algorithm.clip_high", "algorithm", ("grpo",)),),
)


def told_by(space: Space, name: str, count: int) -> list[Known]:
    """The best ones are those of grpo with a clip of 0.3."""
    asking, known = Asking(space, config(name)), []
    for number in range(count):
        point = asking.ask(known)
        values = space.values(point)
        clip = float(values.get("algorithm.clip_high", 0.1))
        known.append(over(number, point, -10 * abs(clip - 0.3)))
    return known


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "cmaes"])
def test_a_conditional_dimension_is_drawn_where_it_is_there_and_nowhere_else(name: str) -> None:
    for known in told_by(CONDITIONAL, name, COUNTS[name]):
        assert any(text.startswith("algorithm.clip_high=") for text in known.point) == ("algorithm=grpo" in known.point)


def test_tpe_learns_a_conditional_dimension() -> None:
    known = told_by(CONDITIONAL, "tpe", 60)
    values = [float(CONDITIONAL.values(point.point).get("algorithm.clip_high", 0.1)) for point in known[-20:]]
    assert sum(abs(clip - 0.3) < 0.05 for clip in values) >= 10


@pytest.mark.parametrize("name", ["random", "tpe", "cmaes"])
def test_whoever_leads_next_asks_for_the_same_conditional_points(name: str) -> None:
    known = told_by(CONDITIONAL, name, 15)
    assert Asking(CONDITIONAL, config(name)).ask(known[:14]) == known[14].point


def test_every_point_of_a_small_conditional_space_is_asked_once() -> None:
    small = Space(
        (Choices("algorithm", ("sft", "grpo")), Choices("algorithm.group_size", ("4", "8")), Choices("b", ("1", "2"))),
        ("seed=0",),
        (Condition("algorithm.group_size", "algorithm", ("grpo",)),),
    )
    assert small.size == 6
    points = [known.point for known in told_by(small, "random", 6)]
    assert sorted(points) == sorted(small.at(index) for index in range(6))
    assert len(set(points)) == 6
