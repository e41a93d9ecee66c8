"""Runs real stages on a tiny task in children, and says what came of them."""

import json
import random
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from experiments.stages import dpo, grpo, quantization_aware_sft, quantize, rejection_sft, sft
from orchestrator.schema import Assignment, DeviceKind, Outcome, Stage
from tests.unit.experiments.children import run_gang

RUNS = {
    "sft": sft.run,
    **dict.fromkeys(("grpo", "dapo"), grpo.run),
    **dict.fromkeys(("rejection_sft", "distill"), rejection_sft.run),
    "dpo": dpo.run,
    "quantize": quantize.run,
    "quantization_aware_sft": quantization_aware_sft.run,
}
ALGORITHMS = {
    "sft": {"name": "sft", "max_steps": 12, "batch_size": 8},
    "grpo": {"name": "grpo", "max_steps": 12, "prompts_per_step": 4, "group_size": 4},
}
MEASURED = frozenset(
    {
        "time_to_answer_p50_s",
        "time_to_answer_p95_s",
        "time_to_first_token_s",
        "decode_tokens_per_s",
        "speculative_speedup",
        "peak_memory_bytes",
    }
)
"""Outcomes that the clock and the machine say: no two runs have the same."""


@dataclass
class RecordingChannel:
    """Remembers reports; asks to stop at its `stop_at`-th question."""

    stop_at: int = -1
    reports: list[tuple[int, dict[str, float], float]] = field(default_factory=list)
    questions: int = 0
    saves: list[int] = field(default_factory=list)
    measurements: list[tuple[int, int, float | None]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def report(self, step, metrics, progress):
        self.reports.append((step, dict(metrics), progress))

    def saved(self, step):
        self.saves.append(step)

    def measured(self, memory_bytes, host_memory_bytes, utilisation):
        self.measurements.append((memory_bytes, host_memory_bytes, utilisation))

    def phase(self, name):
        self.phases.append(name)
        return nullcontext()

    def stop_requested(self):
        self.questions += 1
        return self.questions == self.stop_at


@dataclass(frozen=True)
class Result:
    outcome: Outcome
    reports: list[tuple[int, dict[str, float], float]]
    weights: dict[str, torch.Tensor]
    saves: list[int]
    measurements: list[tuple[int, int, float | None]]
    phases: list[str]

    def series(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics, _ in self.reports if name in metrics]


SAMPLING = {"prompts": 40, "per_prompt": 8, "keep": 2, "batch_size": 16}


def sampled_algorithms(max_steps: int, beta: float) -> dict[str, dict[str, Any]]:
    """Those that learn of what the stage before samples, by name."""
    of_examples = {"max_steps": max_steps, "batch_size": 8, "sampling": SAMPLING}
    return {
        "rejection_sft": {"name": "rejection_sft", **of_examples},
        "distill": {"name": "distill", **of_examples, "fresh": True},
        "dpo": {"name": "dpo", "max_steps": max_steps, "batch_size": 4, "beta": beta, "sampling": SAMPLING},
    }


def write_problems(folder: Path) -> Path:
    """Sums of one-digit and two-digit numbers: prompts of different lengths."""
    pairs = [(a, b) for a in range(14) for b in range(10)]
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n" for a, b in pairs))
    return path


def coin_flips(folder: Path) -> Path:
    """Problems whose answers nobody can know: every step has groups to learn from, and stays as long as the others."""
    generator = random.Random(0)
    path = folder / "problems.jsonl"
    problems = [{"prompt": f"{a}+{b}=", "answer": generator.choice("12")} for a in range(14) for b in range(10)]
    path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return path


def stage_data(
    problems: Path, algorithm: dict[str, Any], *, lr=3e-3, seed=0, deepspeed=None, **optimizer
) -> dict[str, Any]:
    return {
        "algorithm": algorithm,
        "optimizer": {"lr": lr, **optimizer},
        "model": {"d_model": 16, "layers": 1, "heads": 2, "kv_heads": 1, "d_ff": 32},
        "task": {
            "name": "sums",
            "source": "jsonl",
            "path": str(problems),
            "max_answer_tokens": 3,
            "split": {"supervised": 60, "dev": 16, "test": 16},
        },
        "deepspeed": deepspeed or {},
        "evaluation": {"every_steps": 6, "timed_answers": 2},
        "seed": seed,
    }


def run_alone(assignment: Assignment, stop_at: int) -> Result:
    return run_on(assignment, RecordingChannel(stop_at))


def run_on(assignment: Assignment, channel: RecordingChannel) -> Result:
    outcome = RUNS[assignment.stage.name](assignment, channel)
    weights = weights_in(Path(assignment.output_dir))
    return Result(outcome, channel.reports, weights, channel.saves, channel.measurements, channel.phases)


def weights_in(output: Path) -> dict[str, torch.Tensor]:
    """All weights of a stage's output; none where there is none yet."""
    return {name: weight for file in output.glob("*.safetensors") for name, weight in load_file(file).items()}


def run_stage(
    folder: Path,
    data: dict[str, Any],
    *,
    parent="",
    world_size=1,
    stop_at=-1,
    name="run",
    warm=None,
    device_kind=DeviceKind.CPU,
    function=run_alone,
) -> list[Result]:
    """One result per process. `folder / name` gets output and checkpoints; run again, it resumes.

    `warm` is the checkpoint (`step-N`) of another run that a warm stage starts from.
    """
    options = {"parent": parent, "name": name, "warm": warm, "device_kind": device_kind}
    gang = [assignment_of(folder, data, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    return run_gang(function, [(assignment, stop_at) for assignment in gang])


def assignment_of(
    folder: Path,
    data: dict[str, Any],
    *,
    parent="",
    name="run",
    warm=None,
    device_kind=DeviceKind.CPU,
    rank=0,
    world_size=1,
) -> Assignment:
    """The assignment of one process of a stage; makes `folder / name`."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    stage = Stage(
        name=data["algorithm"]["name"],
        key="key",
        parent_key="",
        entrypoint="",
        config=data,
        budget_steps=12,
        warm_from="" if warm is None else "kept",
        warm_step=0 if warm is None else int(warm.name.removeprefix("step-")),
    )
    return Assignment(
        bundle_id=name,
        stage=stage,
        output_dir=str(folder / name / "output"),
        parent_dir=str(parent),
        checkpoint_dir=str(folder / name / "checkpoints"),
        cache_dir=str(folder / "cache"),
        device_kind=device_kind,
        device_indexes=tuple(range(world_size)),
        share=1.0,
        threads=1,
        memory_bytes=2**33 if device_kind is DeviceKind.CUDA else 2**30,
        rank=rank,
        world_size=world_size,
        rendezvous=str(folder / f"{name}-rendezvous") if world_size > 1 else "",
        warm_dir="" if warm is None else str(warm),
    )


def warmed_up(folder: Path) -> tuple[Path, Path, Path]:
    """(folder, problems, folder of a warm-up's output): GRPO needs a policy that is right now and then."""
    problems = write_problems(folder)
    data = stage_data(problems, {"name": "sft", "max_steps": 60, "batch_size": 16}, lr=1e-2)
    run_stage(folder, data, name="warm-up")
    return folder, problems, folder / "warm-up" / "output"


def whole_runs(warm: tuple[Path, Path, Path], algorithms: Mapping[str, dict[str, Any]]) -> dict[str, Result]:
    """The uninterrupted run of each algorithm behind a warm-up (see `warmed_up`), in `whole-ALGORITHM`."""
    folder, problems, parent = warm
    return {
        name: run_stage(folder, stage_data(problems, algorithm), parent=parent, name=f"whole-{name}")[0]
        for name, algorithm in algorithms.items()
    }


def assert_same_weights(first: Result, second: Result) -> None:
    """Bit for bit."""
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def assert_close_weights(first: Result, second: Result, *, atol: float, rtol: float) -> None:
    """To rounding."""
    assert first.weights.keys() == second.weights.keys()
    for name, weight in first.weights.items():
        torch.testing.assert_close(second.weights[name], weight, atol=atol, rtol=rtol)


def told(*results: Result) -> list[tuple[int, dict[str, float], float]]:
    """The reports of consecutive runs of one stage as whoever listens counts them: what is said again counts once."""
    reports = [report for result in results for report in result.reports]
    return [report for n, report in enumerate(reports) if report not in reports[:n]]
