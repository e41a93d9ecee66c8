import pytest

from experiments.schedule import learning_rate
from orchestrator.schema.training import OptimizerConfig, Schedule


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
