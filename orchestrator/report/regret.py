"""What early stopping cost: how often, and by how much, a stopped trial would have beaten the winner.

A share of the stopped trials is drawn and trained to its end all the same; each had the same chance to be, so that they
stand for all that were stopped. They are held against the *winner*: of the trials that were never stopped, and
completed, the best by dev accuracy. Both are compared by accuracy on held-out problems, which chose neither.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from orchestrator.report.intervals import Z_95, Interval
from orchestrator.schema import Fate, Trial, TrialState

_STOPPED = (Fate.HELD, Fate.FINISHING)


def pruning_regret(trials: Sequence[Trial]) -> dict[str, Any] | None:
    """The `pruning_regret` of a report; its fields are described in the README beside this file. None for a study in
    which nothing was stopped."""
    stopped = [trial for trial in trials if was_stopped(trial)]
    if not stopped:
        return None
    drawn = [trial for trial in stopped if trial.stopped is not None and trial.stopped.drawn]
    finished = [trial for trial in drawn if trial.state is TrialState.COMPLETED and "accuracy" in trial.metrics]
    winner = _winner(trials)
    leads = [] if winner is None else [t.metrics["accuracy"] - winner.metrics["accuracy"] for t in finished]
    beaten = sum(lead > 0.0 for lead in leads)
    chance = wilson(beaten, len(leads)) if leads else None
    return {
        "stopped": len(stopped),
        "drawn": len(drawn),
        "finished": len(leads),
        "winner": None if winner is None else winner.number,
        "beaten": beaten,
        "chance": None if chance is None else chance.value,
        "chance_low": None if chance is None else chance.low,
        "chance_high": None if chance is None else chance.high,
        "size": fmean(max(0.0, lead) for lead in leads) if leads else None,
        "size_high": None if chance is None or winner is None else _largest_mean(chance, winner),
        "largest": max(0.0, *leads) if leads else None,
        "finishing_gpu_seconds": sum(_spent_since(trial) for trial in drawn),
        "verdicts": [_entry(trial) for trial in sorted(stopped, key=lambda trial: trial.number)],
    }


def was_stopped(trial: Trial) -> bool:
    """Whether a policy's verdict on the trial stands, or it was finished in spite of it, by draw. One that completed
    before it could leave was not stopped."""
    stop = trial.stopped
    if stop is None or (trial.state is TrialState.COMPLETED and not stop.drawn):
        return False
    return stop.fate in _STOPPED or (stop.fate is Fate.OVERRULED and stop.drawn)


def regret_metrics(regret: Mapping[str, Any] | None) -> dict[str, float]:
    """What a tracker gets of it: the numbers that are known."""
    if regret is None:
        return {}
    named = {
        "experiments_stopped": regret["stopped"],
        "pruning_regret_finished": regret["finished"],
        "pruning_regret_chance": regret["chance"],
        "pruning_regret_chance_low": regret["chance_low"],
        "pruning_regret_chance_high": regret["chance_high"],
        "pruning_regret_size": regret["size"],
        "pruning_regret_size_high": regret["size_high"],
        "pruning_regret_gpu_seconds": regret["finishing_gpu_seconds"],
    }
    return {name: float(value) for name, value in named.items() if value is not None}


def regret_lines(regret: Mapping[str, Any] | None) -> list[str]:
    """The same in words, a line each; none where nothing was stopped."""
    if regret is None:
        return []
    lines = [
        f"{regret['stopped']} trials were stopped early, {regret['drawn']} of them drawn to be finished all the same."
    ]
    if regret["chance"] is not None:
        lines.append(
            f"Pruning regret: {regret['beaten']} of {regret['finished']} finished ones beat the winner "
            f"(#{regret['winner']}), {100 * regret['chance']:.0f} % (95 % interval {100 * regret['chance_low']:.0f} to "
            f"{100 * regret['chance_high']:.0f}), by {100 * regret['size']:.1f} points on average "
            f"(by that interval no more than {100 * regret['size_high']:.1f}), {100 * regret['largest']:.1f} at most. "
            f"Finishing them took {regret['finishing_gpu_seconds']:.1f} "
            "GPU-seconds, which are among those held."
        )
    else:
        lines.append("Pruning regret: unknown, since none of those that were stopped has been finished.")
    return lines + [f"#{verdict['number']} {verdict['why']}{_fate(verdict)}." for verdict in regret["verdicts"]]


def wilson(successes: int, count: int) -> Interval:
    """A proportion of `count` >= 1 with Wilson's 95 % limits (Wilson 1927, JASA 22:209-212)."""
    z2, p = Z_95**2, successes / count
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def _largest_mean(chance: Interval, winner: Trial) -> float:
    """No larger a mean lead goes with the interval of the chance: who beats the winner does so by what it lacks of all
    problems at most. Few finished trials say little of how the leads are spread, so no other limit would hold."""
    return chance.high * (1.0 - winner.metrics["accuracy"])


def _winner(trials: Sequence[Trial]) -> Trial | None:
    completed = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETED and "accuracy" in trial.metrics and not was_stopped(trial)
    ]
    return max(completed, key=lambda trial: (trial.metrics.get("dev_accuracy", -1.0), -trial.number), default=None)


def _spent_since(trial: Trial) -> float:
    return 0.0 if trial.stopped is None else max(0.0, trial.gpu_seconds - trial.stopped.gpu_seconds)


def _entry(trial: Trial) -> dict[str, Any]:
    assert trial.stopped is not None
    return {
        "number": trial.number,
        "policy": trial.stopped.policy,
        "rung": trial.stopped.rung,
        "confidence": trial.stopped.confidence,
        "drawn": trial.stopped.drawn,
        "state": str(trial.state),
        "why": trial.stopped.why,
    }


def _fate(verdict: Mapping[str, Any]) -> str:
    if verdict["drawn"]:
        return "; finished all the same" if verdict["state"] == "completed" else "; drawn to be finished"
    return "; held, it may be promoted" if verdict["state"] == "paused" else ""
