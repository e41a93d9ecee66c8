"""What a stage trains on by its place in the data, and that no level trains on what is measured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.batches import DataOrder
from experiments.curriculum import ProblemOrder, problem_order
from experiments.tasks import Problem, TaskError, load_task
from orchestrator.schema.training import SplitConfig, TaskConfig

EASY, HARD = ([Problem(f"{kind}{number}", "") for number in range(count)] for kind, count in (("e", 5), ("h", 7)))
CONFIG = TaskConfig(
    dataset="gcd",
    options={"max_value": 40},
    size=500,
    prompt="{metadata[numbers][0]},{metadata[numbers][1]}=",
    commutative=True,
    split=SplitConfig(50, 30, 40),
    curriculum=[{"until": 24, "options": {"max_value": 9}}, {"until": 40, "options": {"max_value": 20}}],
)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return load_task(CONFIG, tmp_path_factory.mktemp("curriculum"))


def test_without_a_curriculum_it_is_the_order_of_the_data():
    expected = [HARD[index] for index in DataOrder(7, 3)[slice(0, 30)]]
    assert ProblemOrder([], HARD, 3)[slice(0, 30)] == expected


@given(seed=st.integers(0, 99), end=st.integers(1, 20), cut=st.integers(0, 40))
def test_a_level_lasts_until_its_end_wherever_one_goes_on(seed, end, cut):
    problems = ProblemOrder([(end, EASY)], HARD, seed)[slice(0, 40)]
    assert [problem.prompt[0] for problem in problems] == ["e"] * end + ["h"] * (40 - end)
    resumed = ProblemOrder([(end, EASY)], HARD, seed)
    assert resumed[slice(cut, 40)] == problems[cut:]


def test_levels_have_their_own_options_and_hold_nothing_that_is_measured_on(task):
    largest = [max(int(n) for p in level.rl for n in p.prompt[:-1].split(",")) for level in task.levels]
    assert largest[0] <= 9 < largest[1] <= 20
    held_out = {tuple(sorted(p.prompt[:-1].split(","))) for p in task.dev + task.test}
    for level in task.levels:
        trained = {tuple(sorted(p.prompt[:-1].split(","))) for p in level.rl + level.supervised}
        assert not trained & held_out


def test_what_is_measured_on_does_not_depend_on_the_curriculum(task, tmp_path):
    without = load_task(replace(CONFIG, curriculum=[]), tmp_path)
    assert (without.dev, without.test, without.supervised) == (task.dev, task.test, task.supervised)


def test_each_split_climbs_its_own_levels(task):
    for split in ("supervised", "rl"):
        problems = problem_order(task, split, seed=0)[slice(0, 60)]
        assert set(problems[:24]) <= set(getattr(task.levels[0], split))
        assert set(problems[24:40]) <= set(getattr(task.levels[1], split))
        assert set(problems[40:]) <= set(getattr(task, split))


def test_an_option_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(TaskError, match="max_valu"):
        load_task(replace(CONFIG, curriculum=[{"until": 9, "options": {"max_valu": 3}}]), tmp_path)
