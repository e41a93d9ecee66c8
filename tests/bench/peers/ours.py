"""This project, by what `orchestrator run` itself calls, in a home of its own. The numbers are those of its store."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.peers.accounting import Experiment, Hold, holds_of_ledger
from tests.bench.peers.study import STUDY, chosen, numbers, unshared

PACKING = ("fusion=off", "stopping=never", "study.reuse_stages=false")
EVERYTHING = (
    "fusion=auto",
    "stopping=successive_halving",
    # From where Tune's ASHA judges first, whatever the algorithm: 10 % of the variant's own stage. By default ours lets
    # RL be until 30 %.
    "stopping.resource=steps",
    "stopping.min_resource=40",
    "stopping.grace.grpo=0.1",
    "study.reuse_stages=true",
)


def run(folder: Path, overrides: Sequence[str], *, share_stages: bool) -> tuple[list[Experiment], list[Hold]]:
    """The study with further overrides. Raises RuntimeError if a trial fails.

    Without `share_stages` every variant trains its own warm-up: their keys are made different.
    """
    from orchestrator.execution import run_study
    from orchestrator.home import Home
    from orchestrator.schema import Trial, TrialState
    from orchestrator.store.opening import find_study, open_store
    from orchestrator.submission import prepare

    def experiment(trial: Trial) -> Experiment:
        latest = trial.latest.get("eval/accuracy", (0.0, -1.0))
        return Experiment(
            number=trial.number,
            decided=trial.state.decided,
            completed=trial.state is TrialState.COMPLETED,
            fraction=trial.budget_fraction,
            reused=trial.reused_fraction,
            dev_accuracy=trial.metrics.get("dev_accuracy", latest[1]),
        )

    home = Home(folder / "work" / "home")
    home.prepare()
    shutil.copytree(folder / "cache", home.cache, dirs_exist_ok=True)
    submission = prepare([STUDY, *overrides], home)
    variants = chosen(submission.variants, len(numbers(folder)))
    submission = replace(submission, variants=variants if share_stages else unshared(variants))
    if code := run_study(submission, home, author="bench"):
        raise RuntimeError(f"the study ended with {code}")
    store = open_store(home)
    study_id = find_study(store, None).study_id
    trials, lines = store.trials(study_id), store.allocations(study_id)
    store.close()
    return [experiment(trial) for trial in trials], holds_of_ledger(lines)
