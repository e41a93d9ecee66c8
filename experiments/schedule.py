"""The learning rate as a pure function of the step: nothing of it needs to be checkpointed."""

import math

from orchestrator.schema.training import OptimizerConfig, Schedule


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`: a linear warm-up to `lr`, then `schedule`.

    Linear and cosine reach zero on the last step.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule is Schedule.constant:
        return config.lr
    decay_steps = max(1, steps - 1 - config.warmup_steps)
    passed = min(1.0, (step - config.warmup_steps) / decay_steps)
    if config.schedule is Schedule.linear:
        return config.lr * (1.0 - passed)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * passed))
