"""Estimates against the peaks of real stages, in processes forked from a preloaded server."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.estimate import stage_footprint
from orchestrator.schema import DeviceKind
from orchestrator.schema.training import stage_config
from tests.unit.experiments.stage_runs import run_stage

pytestmark = pytest.mark.slow

# An estimate is never below the peak. Of a process of which the model is a small part it is at most this many times the
# peak, since what a process has to itself differs by half between servers; of others at most that many times.
SMALL_BYTES, SMALL, LARGE = 100_000_000, 2.6, 1.6

PROMPT, ANSWER = 40, 5
TINY = {"d_model": 16, "layers": 1, "heads": 2, "kv_heads": 1, "d_ff": 32}
DEFAULT = {"d_model": 64, "layers": 2, "heads": 4, "kv_heads": 4, "d_ff": 176}
MIDDLE = {"d_model": 128, "layers": 3, "heads": 4, "kv_heads": 2, "d_ff": 352}
WIDE = {"d_model": 256, "layers": 4, "heads": 8, "kv_heads": 4, "d_ff": 704}
SFT = {"name": "sft", "max_steps": 5, "batch_size": 64}
GRPO = {"name": "grpo", "max_steps": 8, "prompts_per_step": 12, "group_size": 6, "temperature": 1.5}


def stage_data(folder: Path, algorithm: dict[str, Any], model: dict[str, int], deepspeed: object = None) -> dict:
    """Prompts and answers as long as the task allows. The last character of an answer can't be known, so that groups
    of a policy that knows the others differ."""
    generator = random.Random(0)
    path = folder / "problems.jsonl"
    prompts = [f"{n}=".rjust(PROMPT - n % 2, ".") for n in range(400)]
    problems = [{"prompt": prompt, "answer": "111" + generator.choice("01")} for prompt in prompts]
    path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    split = {"supervised": 200, "dev": 40, "test": 40}
    lengths = {"max_prompt_tokens": PROMPT, "max_answer_tokens": ANSWER}
    return {
        "algorithm": algorithm,
        "optimizer": {"lr": 3e-3},
        "model": model,
        "task": {"name": "bits", "source": "jsonl", "path": str(path), "split": split, **lengths},
        "deepspeed": deepspeed or {},
        "evaluation": {"every_steps": 10, "timed_answers": 2},
        "seed": 0,
    }


def check(data: dict, peak_bytes: int, world_size: int = 1, before: dict | None = None) -> None:
    policy = None if before is None else stage_config(before)
    footprint = stage_footprint(stage_config(data), DeviceKind.CPU, world_size, policy=policy)
    ratio = footprint.device_bytes / peak_bytes
    most = SMALL if peak_bytes < SMALL_BYTES else LARGE
    assert 1.0 <= ratio <= most, f"{footprint.device_bytes / 1e6:.0f} MB estimated, {peak_bytes / 1e6:.0f} MB taken"


@pytest.mark.parametrize("model", [TINY, DEFAULT, WIDE], ids=["tiny", "default", "wide"])
def test_the_peak_of_supervised_fine_tuning(tmp_path: Path, model: dict[str, int]) -> None:
    data = stage_data(tmp_path, SFT, model)
    (result,) = run_stage(tmp_path, data)
    check(data, result.outcome.peak_memory_bytes)


@pytest.mark.parametrize(
    "deepspeed",
    [
        {"zero_optimization": {"stage": 2}},
        {"zero_optimization": {"stage": 3}},
        {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}},
    ],
    ids=["zero2", "zero3", "bf16"],
)
def test_the_peak_under_zero(tmp_path: Path, deepspeed: dict) -> None:
    data = stage_data(tmp_path, {**SFT, "batch_size": 16}, {**WIDE, "d_model": 512, "d_ff": 1024}, deepspeed)
    (result,) = run_stage(tmp_path, data)
    check(data, result.outcome.peak_memory_bytes)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_peak_of_a_gangs_processes(tmp_path: Path, stage: int) -> None:
    data = stage_data(tmp_path, {**SFT, "batch_size": 16}, WIDE, {"zero_optimization": {"stage": stage}})
    results = run_stage(tmp_path, data, world_size=2)
    check(data, max(result.outcome.peak_memory_bytes for result in results), world_size=2)


@pytest.mark.parametrize("model", [DEFAULT, WIDE], ids=["default", "wide"])
def test_the_peak_of_learning_further_tokens(tmp_path: Path, model: dict[str, int]) -> None:
    data = stage_data(tmp_path, SFT, {**model, "prediction": {"kind": "multi_token", "depth": 2}})
    (result,) = run_stage(tmp_path, data)
    check(data, result.outcome.peak_memory_bytes)


def test_the_peak_of_a_student_of_a_larger_teacher(tmp_path: Path) -> None:
    teacher = stage_data(tmp_path, {"name": "sft", "max_steps": 40, "batch_size": 32}, WIDE)
    run_stage(tmp_path, teacher, name="teacher")
    sampling = {"prompts": 100, "per_prompt": 8, "batch_size": 64}
    data = stage_data(tmp_path, {**SFT, "name": "distill", "fresh": True, "sampling": sampling}, DEFAULT)
    (result,) = run_stage(tmp_path, data, parent=tmp_path / "teacher" / "output")
    check(data, result.outcome.peak_memory_bytes, before=teacher)


@pytest.mark.parametrize("model", [DEFAULT, MIDDLE], ids=["default", "middle"])
def test_the_peak_of_reinforcement_learning(tmp_path: Path, model: dict[str, int]) -> None:
    warmup = stage_data(tmp_path, {"name": "sft", "max_steps": 40, "batch_size": 32}, model)
    run_stage(tmp_path, warmup, name="warm-up")
    data = {**stage_data(tmp_path, GRPO, model), "optimizer": {"lr": 1e-5}}
    (result,) = run_stage(tmp_path, data, parent=tmp_path / "warm-up" / "output")
    skipped = result.series("train/groups_skipped")[-1]
    assert skipped < 0.9 * GRPO["prompts_per_step"]  # there was something to learn from
    check(data, result.outcome.peak_memory_bytes)
