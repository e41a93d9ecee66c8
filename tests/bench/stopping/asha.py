"""Tune's ASHA (`ray.tune.schedulers.AsyncHyperBandScheduler`, which stops and never promotes) on recorded curves."""

from collections.abc import Sequence

import numpy as np

from tests.bench.stopping.curves import Curve
from tests.bench.stopping.replay import Replayed

FACTOR = 3
RUNGS = (0.9, 0.3, 0.1)
"""Of the budget, as in `peers/tune_asha.py`, the last first."""


def replay_asha(curves: Sequence[Curve], seats: int) -> Replayed:
    """`seats` trials at once at one pace. A trial that reports at a rung for the first time is stopped there if it is
    below the best 1/`FACTOR` of those that did so before it."""
    waiting, running = list(range(len(curves))), dict[int, int]()
    recorded: dict[float, dict[int, float]] = {rung: {} for rung in RUNGS}
    stopped: dict[int, float] = {}
    while waiting or running:
        while waiting and len(running) < seats:
            running[waiting.pop(0)] = 0
        for number, index in list(running.items()):
            curve, evaluation = curves[number], curves[number].evaluations[index]
            running[number] = index + 1
            rung = next(
                (r for r in RUNGS if evaluation.step >= r * curve.budget_steps and number not in recorded[r]), None
            )
            if index + 1 == len(curve.evaluations):
                del running[number]
            elif rung is not None:
                before = list(recorded[rung].values())
                recorded[rung][number] = evaluation.accuracy
                if before and evaluation.accuracy < np.nanpercentile(before, (1 - 1 / FACTOR) * 100):
                    stopped[number] = evaluation.step
                    del running[number]
    return _measured(curves, stopped)


def _measured(curves: Sequence[Curve], stopped: dict[int, float]) -> Replayed:
    def by_dev(number: int) -> tuple[float, int]:
        return curves[number].dev_accuracy, -number

    best = max(range(len(curves)), key=by_dev)
    winner = max((n for n in range(len(curves)) if n not in stopped), key=by_dev)
    won = curves[winner].accuracy
    return Replayed(
        trained=sum(stopped.get(n, c.budget_steps) for n, c in enumerate(curves)) / sum(c.budget_steps for c in curves),
        finishing=0.0,
        stopped=len(stopped),
        promoted=0,
        winner=winner,
        kept=winner == best,
        regret=max((max(0.0, curves[n].accuracy - won) for n in stopped), default=0.0),
        lost=curves[best].accuracy - won,
    )
