"""Studies with results, built from the real dataclasses."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.schema import Allocation, Study, Trial, TrialState
from tests.unit.orchestrator.builders import stage, study, trials, variant

WARMUP = stage("warmup")


def a_study() -> Study:
    return replace(study(at=100.0), name="rl_vs_sft", sweep=("algorithm=sft,grpo", "seed=0,1,2"), ended_at=160.0)


def a_trial(number: int, algorithm: str, seed: int, accuracy: float, *, lr: float = 1e-3, **changes: object) -> Trial:
    """A completed trial; `dev` (default: its test accuracy) and `start` (0.25) may be given."""
    dev, start = changes.pop("dev", accuracy), changes.pop("start", 0.25)
    overrides = (f"algorithm={algorithm}", f"optimizer.lr={lr:g}", f"seed={seed}")
    last = stage(f"{algorithm}@{number}", WARMUP, steps=30)
    made = trials([variant(WARMUP, last, algorithm=algorithm, overrides=overrides, seed=seed)])[0]
    metrics = {
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.05,
        "accuracy_high": accuracy + 0.05,
        "dev_accuracy": dev,
        "start_accuracy": start,
        "tokens_per_answer": 3.5,
        "time_to_answer_p50_s": 0.004,
    }
    values = {
        "trial_id": f"study-1-{number:04d}",
        "number": number,
        "state": TrialState.COMPLETED,
        "stage_index": 2,
        "metrics": metrics,
        "gpu_seconds": 10.0,
        "started_at": 101.0,
        "ended_at": 120.0,
        "submitted_at": 100.0,
    }
    return replace(made, **{**values, **changes})


def seeds(algorithm: str, accuracies: Sequence[float], first: int = 0, **changes: object) -> list[Trial]:
    return [a_trial(first + n, algorithm, n, accuracy, **changes) for n, accuracy in enumerate(accuracies)]


def ledger(hold_s: float = 60.0) -> list[Allocation]:
    return [
        Allocation(
            bundle_id="b",
            study_id="study-1",
            stage_key="k",
            trial_ids=("t",),
            device_ids=("d0",),
            share=1.0,
            opened_at=100.0,
            closed_at=100.0 + hold_s,
            busy_s=hold_s / 2,
        )
    ]


A_PAIR = {
    "kinds": ["grpo", "sft"],
    "shares": [0.5, 0.25],
    "slowdowns": [
        {"mean": 1.4, "low": 1.3, "high": 1.5, "intervals": 12},
        {"mean": 1.43, "low": 1.38, "high": 1.48, "intervals": 30},
    ],
    "throughput": 1.41,
    "throughput_low": 1.35,
    "throughput_high": 1.47,
}
"""What was measured of two kinds of work on one device, as `service.sharing_file.pair_document` says it."""
