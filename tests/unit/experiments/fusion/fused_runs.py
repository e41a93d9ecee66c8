"""Fused runs, and their oracle: the solo stages themselves, one after another in a child, reporting every step."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.fusion.bundle import Bundle, SoloProgress
from experiments.fusion.values import StepValues
from experiments.models.decoder import Decoder
from experiments.models.multi_token import new_decoder, read_decoder
from experiments.stages import session
from experiments.tasks import load_task
from orchestrator.schema.training import stage_config
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.stage_runs import Result, assignment_of, run_alone, stage_data

CPU = torch.device("cpu")
STEPS = 50

# What differs between fused and solo is the order of some sums: gradients are written out in a stack, and padded to the
# longest of all members and to the most groups that one learns from.
# A series has values of any size: the KL of a policy that has run away is in the thousands.
WEIGHTS = {"atol": 2e-5, "rtol": 1e-4}
SERIES = {"atol": 1e-4, "rtol": 1e-3}

VARIED_SFT = [
    {"lr": 3e-3},
    {"lr": 6e-3, "schedule": "cosine", "warmup_steps": 5, "weight_decay": 0.1, "clip": 0.0},
    {"lr": 1e-3, "schedule": "linear", "beta1": 0.8, "clip": 0.5},
    {"lr": 1e-2, "schedule": "cosine", "beta2": 0.95, "weight_decay": 0.3, "clip": 0.1},
    {"lr": 2e-3, "eps": 1e-4, "clip": 5.0},
    {"lr": 5e-3, "warmup_steps": 20, "clip": 0.3},
    {"lr": 4e-4, "beta1": 0.5, "beta2": 0.9},
    {"lr": 8e-3, "schedule": "linear", "warmup_steps": 10, "weight_decay": 1.0},
]
VARIED_GRPO = [
    {},
    {"temperature": 0.7, "kl_weight": 0.1, "aggregation": "token"},
    {"clip_high": 0.3, "kl_weight": 0.3, "aggregation": "constant"},
    {"temperature": 1.3, "clip_low": 0.1, "advantage_scale": "none", "baseline": "leave_one_out"},
    {"temperature": 0.9, "aggregation": "token", "advantage_scale": "none", "max_sampling_rounds": 3},
    {"clip_low": 0.05, "clip_high": 0.05, "aggregation": "constant", "mask_truncated": True},
    {"kl_weight": 1.0, "importance_level": "sequence", "max_sampling_rounds": 2, "length_penalty": 0.2},
    {"temperature": 0.8, "clip_high": 0.5, "aggregation": "token", "overlong_buffer": 1, "mask_truncated": True},
]
GRPO = {"name": "grpo", "max_steps": STEPS, "prompts_per_step": 4, "group_size": 4, "updates_per_rollout": 2}
SFT = {"name": "sft", "max_steps": STEPS, "batch_size": 8}


def variant(problems: Path, algorithm: dict[str, Any], seed: int, *, clip=1.0, **knobs) -> dict[str, Any]:
    """Data of a stage; knobs of the algorithm and of the optimizer, by name."""
    of_algorithm = {name: value for name, value in knobs.items() if name in _GRPO_KNOBS}
    optimizer = {name: value for name, value in knobs.items() if name not in _GRPO_KNOBS}
    deepspeed = {"gradient_clipping": clip}
    data = stage_data(problems, {**algorithm, **of_algorithm}, seed=seed, deepspeed=deepspeed, **optimizer)
    return {**data, "evaluation": {"every_steps": 25, "timed_answers": 1}}


_GRPO_KNOBS = {
    "temperature",
    "kl_weight",
    "aggregation",
    "clip_low",
    "clip_high",
    "advantage_scale",
    "updates_per_rollout",
    "max_steps",
    "importance_level",
    "baseline",
    "max_sampling_rounds",
    "overlong_buffer",
    "mask_truncated",
    "length_penalty",
}


def variants(problems: Path, algorithm: dict[str, Any], width: int, *, calm: bool = True) -> list[dict[str, Any]]:
    """`width` variants that differ in every number that may differ; calm ones can be compared over fifty steps.

    Adam makes a step of full size out of a gradient that is rounding only, as those of GRPO often are, whose advantages
    add up to nothing; and a ratio that is within rounding of its clip bound is clipped in one of two runs only. So a
    calm run of GRPO has a larger eps, and a third of the rates.
    """
    varied = VARIED_SFT
    if algorithm["name"] == "grpo":
        varied = [{**optimizer, **grpo} for optimizer, grpo in zip(VARIED_SFT, VARIED_GRPO, strict=True)]
        if calm:
            varied = [{**knobs, "lr": knobs["lr"] * 0.3, "eps": 1e-4} for knobs in varied]
    return [variant(problems, algorithm, seed, **varied[seed]) for seed in range(width)]


def write_mixed_problems(folder: Path) -> Path:
    """Sums whose prompts are of three lengths and whose answers are of two."""
    return _write(folder / "mixed.jsonl", [(a, b) for a in range(6, 20) for b in range(3, 13)])


def write_even_problems(folder: Path) -> Path:
    """Sums whose prompts, and whose answers, are of one length: nothing is padded."""
    return _write(folder / "even.jsonl", [(a, b) for a in range(10, 24) for b in range(10)])


def _write(path: Path, pairs: list[tuple[int, int]]) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n" for a, b in pairs))
    return path


def run_solo(folder: Path, datas: list[dict[str, Any]], parent: Path, *, stop_at=-1) -> list[Result]:
    """The stages alone, one after another; folder `solo-N` holds what the N-th left. Run again, they resume."""
    assignments = [assignment_of(folder, d, parent=parent, name=f"solo-{n}") for n, d in enumerate(datas)]
    return run_in_child(run_in_turn, assignments, stop_at)


def run_in_turn(assignments, stop_at):
    session.REPORT_EVERY_STEPS = 1
    return [run_alone(assignment, stop_at) for assignment in assignments]


@dataclass
class FusedRun:
    """What fused members said, step by step, and their weights at their end."""

    series: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    weights: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def take(self, values: dict[str, StepValues]) -> None:
        for name, value in values.items():
            self.series.setdefault(name, []).append(said(value))

    def values(self, member: str, name: str) -> list[float]:
        return [step[name] for step in self.series[member] if name in step]


def said(value: StepValues) -> dict[str, float]:
    """A step's values as a solo stage reports them: updates averaged."""
    out = {**value.step, **value.averages}
    for name in {name for update in value.updates for name in update}:
        numbers = [update[name] for update in value.updates if name in update]
        out[name] = sum(numbers) / len(numbers)
    return out


def bundle_of(
    folder: Path, datas: dict[str, dict[str, Any]], parent: Path | None, items: dict[str, list[Any]] | None = None
) -> Bundle:
    """A bundle of fresh members; `items` are what those learn of that sample it."""
    config = stage_config(next(iter(datas.values())))
    bundle = Bundle(load_task(config.task, folder / "cache"), config, CPU)
    for name, data in datas.items():
        own = None if items is None else items[name]
        bundle.put_in(name, SoloProgress(stage_config(data)), initial(data, parent), items=own)
    return bundle


def initial(data: dict[str, Any], parent: Path | None) -> Decoder:
    """As a solo session begins."""
    if parent is not None:
        return read_decoder(parent).float()
    config = stage_config(data)
    return new_decoder(config.model, 99, session.seeded_generator(config.seed, "weights"))


def advance(bundle: Bundle, run: FusedRun, steps: int) -> None:
    for _ in range(steps):
        values = bundle.step()
        run.take(values)
        for name in bundle.names:
            bundle.member(name).complete_step(values[name].rounds)


def run_fused(folder: Path, datas: list[dict[str, Any]], parent: Path | None) -> FusedRun:
    """All variants as one bundle, for as long as they all last; members are named by their number."""
    named = {str(number): data for number, data in enumerate(datas)}
    bundle, run = bundle_of(folder, named, parent), FusedRun()
    advance(bundle, run, datas[0]["algorithm"]["max_steps"])
    run.weights = {name: bundle.state(name).decoder.state_dict() for name in bundle.names}
    return run


def assert_same_trajectory(run: FusedRun, member: str, solo: Result, weights: dict[str, float] = WEIGHTS) -> None:
    """Every value of every step, and the weights at the end."""
    names = {name for step in run.series[member] for name in step}
    assert {"train/loss", "train/lr", "train/grad_norm"} <= names
    for name in sorted(names):
        mine, theirs = run.values(member, name), solo.series(name)
        torch.testing.assert_close(
            torch.tensor(mine), torch.tensor(theirs), msg=lambda text, name=name: f"{name}: {text}", **SERIES
        )
    for name, weight in run.weights[member].items():
        torch.testing.assert_close(weight, solo.weights[name], **weights)
