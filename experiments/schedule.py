"""The learning rate as a pure function of the step: nothing of it needs to be checkpointed."""

import math
from dataclasses import asdict

from orchestrator.schema.training import Decay, OptimizerConfig, Schedule, decay_steps


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`: a linear warm-up to `lr`, then `schedule`.

    All but constant reach zero on the last step.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule is Schedule.constant:
        return config.lr
    if config.schedule is Schedule.wsd:
        return config.lr * _left_of_peak(config, step, steps)
    after_warmup = max(1, steps - 1 - config.warmup_steps)
    passed = min(1.0, (step - config.warmup_steps) / after_warmup)
    if config.schedule is Schedule.linear:
        return config.lr * (1.0 - passed)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * passed))


def _left_of_peak(config: OptimizerConfig, step: int, steps: int) -> float:
    """f(n, N, N_decay) of arXiv:2405.18392 (its "linear" and "1-sqrt") for step n = `step` + 1 of N = `steps`, and 1
    before the decay: the warmup-stable-decay schedule of arXiv:2404.06395."""
    decaying = decay_steps(asdict(config), steps)
    passed = (step + 1 - (steps - decaying)) / decaying
    if passed <= 0.0:
        return 1.0
    passed = min(1.0, passed)
    return 1.0 - (passed if config.decay is Decay.linear else math.sqrt(passed))
