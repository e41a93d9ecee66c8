import math

import pytest

from experiments.schedule import learning_rate
from orchestrator.schema.training import Decay, OptimizerConfig, Schedule


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (Schedule.constant, [0.5, 1.0, 1.0, 1.0, 1.0]),
        (Schedule.linear, [0.5, 1.0, 1.0, 0.5, 0.0]),
        (Schedule.cosine, [0.5, 1.0, 1.0, 0.5, 0.0]),
    ],
)
def test_warm_up_then_schedule(schedule, rates):
    config = OptimizerConfig(lr=1.0, warmup_steps=2, schedule=schedule)
    assert [learning_rate(config, step, 5) for step in range(5)] == pytest.approx(rates)


def test_one_step_without_warm_up_has_the_full_rate():
    assert learning_rate(OptimizerConfig(lr=1.0, schedule=Schedule.cosine), 0, 1) == 1.0


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        (Decay.linear, [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        (Decay.sqrt, [0.5, 1.0, 1.0, 1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0.0]),
    ],
)
def test_wsd_warms_up_stays_and_decays_over_its_last_steps(decay, rates):
    """Written down from arXiv:2405.18392, 1 - x and 1 - sqrt(x) for x = (n - (N - N_decay)) / N_decay, N = 8, 4."""
    config = OptimizerConfig(lr=1.0, warmup_steps=2, schedule=Schedule.wsd, decay=decay, decay_steps=4)
    assert [learning_rate(config, step, 8) for step in range(8)] == pytest.approx(rates)


def test_the_decay_of_wsd_is_a_fraction_of_all_steps_unless_its_steps_are_given():
    by_fraction = OptimizerConfig(schedule=Schedule.wsd, decay_fraction=0.25)
    by_steps = OptimizerConfig(schedule=Schedule.wsd, decay_fraction=0.9, decay_steps=5)
    rates = [[learning_rate(config, step, 20) for step in range(20)] for config in (by_fraction, by_steps)]
    assert rates[0] == rates[1]


def test_before_its_decay_wsd_is_the_constant_schedule_to_the_bit():
    wsd = OptimizerConfig(lr=3e-4, warmup_steps=7, schedule=Schedule.wsd, decay_steps=10)
    constant = OptimizerConfig(lr=3e-4, warmup_steps=7)
    stable = [learning_rate(wsd, step, 40) for step in range(30)]
    assert stable == [learning_rate(constant, step, 1000) for step in range(30)]
