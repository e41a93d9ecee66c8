"""Two real RL stages take turns on one core of this machine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.schema import Stage
from tests.integration.live_loop import LiveLoop, stage_of
from tests.unit.experiments.stage_runs import coin_flips, run_stage, stage_data

CLUSTER = {"devices_per_trial": 1, "share_per_trial": 0.5, "memory_per_trial_gib": 0.5}
ALGORITHM = {"name": "grpo", "max_steps": 60, "prompts_per_step": 8, "group_size": 8, "phases": ["rollout", "learn"]}


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveLoop]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    made = LiveLoop(tmp_path / "home", antiphase=True, preload=["experiments.preload"])
    yield made
    made.close()


@pytest.mark.slow
def test_two_rl_stages_in_antiphase_learn_what_each_learns_alone(live: LiveLoop, tmp_path: Path) -> None:
    problems = coin_flips(tmp_path)
    configs = {f"seed-{seed}": stage_data(problems, ALGORITHM, seed=seed) for seed in range(2)}
    stages: list[Stage] = [
        replace(stage_of("experiments.stages.grpo:run", key, 60), config=config) for key, config in configs.items()
    ]
    live.submit("study", stages, CLUSTER)
    live.until(lambda: live.loop.finished("study"))

    one, other = live.store.allocations("study")
    assert one.device_ids == other.device_ids
    assert one.closed_at is not None
    assert other.closed_at is not None
    assert max(one.opened_at, other.opened_at) < min(one.closed_at, other.closed_at)
    assert (one.share, other.share) == (0.5, 0.5)
    waits = {t.variant.stages[0].key: t.metrics["phase_wait_s"] for t in live.store.trials("study")}
    assert min(waits.values()) > 0.0
    for line in (one, other):
        assert line.closed_at is not None
        assert line.busy_s + waits[line.stage_key] <= line.closed_at - line.opened_at

    for key, config in configs.items():
        together = load_file(tmp_path / "home" / "artifacts" / "stages" / key / "model.safetensors")
        (alone,) = run_stage(tmp_path, config, name=key)
        assert alone.series("train/loss")  # it had something to learn from
        assert all(torch.equal(together[name], weights) for name, weights in alone.weights.items())
