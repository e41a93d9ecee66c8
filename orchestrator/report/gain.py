"""What a trial gained: its test accuracy above that of its *base*. Pure.

The base is what all trials of a seed begin with, which is nobody's merit: the stages that their recipes share before
the last one of each. A trial alone with its seed has nobody to share with, and its base is the first stage of its
recipe. Where nothing is shared, the base of each is the weights that its own recipe begins with.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from statistics import fmean
from types import MappingProxyType
from typing import Any, Final

from orchestrator.schema import Outcome, Stage, Trial, TrialState

NO_OUTCOMES: Final[Mapping[str, Outcome]] = MappingProxyType({})


def shared_stages(trials: Sequence[Trial]) -> tuple[Stage, ...]:
    """The stages that all trials (one or more) begin with, none of which is a recipe's last one."""
    beside = zip(*(trial.variant.before_last for trial in trials), strict=False)
    equal = takewhile(lambda stages: len({stage.key for stage in stages}) == 1, beside)
    return tuple(stages[0] for stages in equal)


def bases_of(trials: Sequence[Trial]) -> dict[str, tuple[Stage, ...]]:
    """The stages of each trial's base by trial id; none where it is the weights that the recipe begins with."""
    by_seed: dict[int, list[Trial]] = {}
    for trial in trials:
        by_seed.setdefault(trial.variant.seed, []).append(trial)
    bases: dict[str, tuple[Stage, ...]] = {}
    for of_seed in by_seed.values():
        base = shared_stages(of_seed) if len(of_seed) > 1 else of_seed[0].variant.before_last[:1]
        bases |= dict.fromkeys((trial.trial_id for trial in of_seed), base)
    return bases


def telling_stages(trials: Sequence[Trial]) -> list[str]:
    """Keys of the stages whose outcomes tell the accuracy of the trials' bases."""
    bases = bases_of(trials)
    return list(dict.fromkeys(_telling_stage(trial, bases[trial.trial_id]).key for trial in trials))


def base_accuracies(trials: Sequence[Trial], outcomes: Mapping[str, Outcome] = NO_OUTCOMES) -> dict[str, float]:
    """The test accuracy of each trial's base by trial id; those that nobody measured are left out.

    `outcomes`: those of `telling_stages`, by key. Without them it is known where some trial's last stage began there.
    """
    found: dict[str, float] = {}
    bases = bases_of(trials)
    starts = measured_starts(trials)
    for trial in trials:
        base = bases[trial.trial_id]
        key = base[-1].key if base else ""
        outcome = outcomes.get(_telling_stage(trial, base).key, Outcome())
        told = outcome.metrics.get("accuracy" if base else "start_accuracy")
        # New weights are another model's in another trial.
        known = (measured_starts([trial]).get(key), starts.get(key) if base else None, told)
        accuracy = next((value for value in known if value is not None), None)
        if accuracy is not None:
            found[trial.trial_id] = accuracy
    return found


def measured_starts(trials: Sequence[Trial]) -> dict[str, float]:
    """Test accuracy by the key of the stage that somebody's last stage began with ("": new weights), as the first such
    trial measured it."""
    found: dict[str, float] = {}
    for trial in trials:
        last, start = trial.variant.stages[-1], trial.metrics.get("start_accuracy")
        new_weights = last.parent_key and last.config.get("algorithm", {}).get("fresh", False)
        if start is not None and not new_weights and trial.state is TrialState.COMPLETED:
            found.setdefault(last.parent_key, start)
    return found


def gain_of(trial: Trial, base_accuracy: Mapping[str, float]) -> float | None:
    """Accuracy above the base's (a fraction); None for a trial that has no result, or whose base nobody measured."""
    accuracy, base = trial.metrics.get("accuracy"), base_accuracy.get(trial.trial_id)
    if accuracy is None or base is None or trial.state is not TrialState.COMPLETED:
        return None
    return accuracy - base


def base_entry(trials: Sequence[Trial], base_accuracy: Mapping[str, float]) -> dict[str, Any]:
    """The `base` of a report; its fields are described in the README beside this file."""
    names = {tuple(stage.name for stage in base) for base in bases_of(trials).values()}
    known = [base_accuracy[trial.trial_id] for trial in trials if gain_of(trial, base_accuracy) is not None]
    return {
        "stages": list(names.pop()) if len(names) == 1 else None,
        "accuracy_mean": fmean(known) if known else None,
    }


def base_notes(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What gains are above, and its accuracy, in words; nothing where no gain is known."""
    if entry["accuracy_mean"] is None:
        return ()
    stages = entry["stages"]
    if stages:
        what = f"{' and '.join(stages)}, with which all trials of a seed begin"
    else:
        what = "the weights that each recipe begins with" if stages == [] else "what all trials of a seed begin with"
    return (f"gain: points above {what} ({100 * entry['accuracy_mean']:.1f} % on average).",)


def _telling_stage(trial: Trial, base: Sequence[Stage]) -> Stage:
    """Whose outcome tells the accuracy of `base`: its last stage, or the one that began with the recipe's weights."""
    return base[-1] if base else trial.variant.stages[0]
