"""python -m tests.bench.stopping.cost [--rule wilcoxon] [--settings 200] [--seeds 4]: CPU time of verdicts.

All trials reach a rung with drawn answers; the policy is asked until it has nothing more to say, and then once for each
of twenty further evaluations.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import median

from orchestrator.schema import Evaluation, Trial
from orchestrator.stopping import STOPPINGS, StoppingPolicy
from tests.bench.stopping.__main__ import RULES, config_of
from tests.bench.stopping.curves import Curve
from tests.bench.stopping.replay import after, trial_of

FOLDS, PER_FOLD = 16, 8


def reached(settings: int, seeds: int, random: Random) -> list[Trial]:
    """Trials on their first rung, of settings that get between 30 and 90 % right."""
    trials = []
    for setting in range(settings):
        accuracy = 0.3 + 0.6 * random.random()
        for seed in range(seeds):
            curve = Curve(
                algorithm="sft",
                seed=seed,
                overrides=(f"optimizer.lr={setting}", f"seed={seed}"),
                budget_steps=400,
                problems=FOLDS * PER_FOLD,
                evaluations=(_evaluation(40.0, accuracy, random),),
                accuracy=accuracy,
                dev_accuracy=accuracy,
            )
            trials.append(replace(trial_of(len(trials), curve), evaluations=curve.evaluations))
    return trials


def _evaluation(step: float, accuracy: float, random: Random) -> Evaluation:
    folds = tuple(sum(random.random() < accuracy for _ in range(PER_FOLD)) / PER_FOLD for _ in range(FOLDS))
    return Evaluation(step, 0.0, step, sum(folds) / FOLDS, folds)


def timed(policy: StoppingPolicy, trials: Sequence[Trial]) -> tuple[float, Sequence[object]]:
    """CPU time of one answer [s], and what it was."""
    began = time.process_time()
    verdicts = policy(trials)
    return time.process_time() - began, verdicts


def main(given: Sequence[str] | None = None) -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="wilcoxon", choices=RULES)
    parser.add_argument("--settings", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args(given)
    random = Random(0)
    trials = reached(arguments.settings, arguments.seeds, random)
    config = config_of(
        arguments.rule, ["stopping.resource=steps", "stopping.min_resource=40", "stopping.finish_share=0"]
    )
    STOPPINGS[arguments.rule](config)(trials)  # imports
    policy = STOPPINGS[arguments.rule](config)
    answers, verdicts = [], 0
    while True:
        took_s, said = timed(policy, trials)
        answers.append(took_s)
        if not said:
            break
        verdicts += len(said)
        for verdict in said:
            number = int(verdict.trial_id.rpartition("-")[2])  # type: ignore[attr-defined]
            trials[number] = after(trials[number], verdict)  # type: ignore[arg-type]
    more = []
    for _ in range(20):
        trial = random.choice(trials)
        further = (*trial.evaluations, _evaluation(trial.evaluations[-1].step + 1, 0.5, random))
        trials[trial.number] = replace(trial, evaluations=further)
        more.append(timed(policy, trials)[0])
    print(
        f"{arguments.rule}, {len(trials)} trials: {verdicts} verdicts, "
        f"{1e3 * sum(answers) / max(1, verdicts):.2f} ms each, the longest answer {1e3 * max(answers):.0f} ms; "
        f"one more evaluation {1e3 * median(more):.1f} ms"
    )


if __name__ == "__main__":
    main()
