"""Demand from first principles, and when a study will end."""

from dataclasses import replace

import pytest
import torch

from experiments.models.decoder import Decoder
from experiments.tasks import CharTokenizer
from orchestrator.estimate import PROCESS_BYTES, parameter_count, remaining_s, stage_demand, stage_memory_bytes
from orchestrator.schema import Allocation, DeviceKind, TrialState
from orchestrator.schema.training import ModelConfig, StageConfig, stage_config
from orchestrator.sweep import compose_study
from tests.unit.orchestrator.builders import warm_started


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(),
        ModelConfig(kv_heads=1),
        ModelConfig(d_model=128, layers=3, heads=8, kv_heads=2, d_ff=256, tie_embeddings=False),
    ],
)
def test_the_parameter_count_is_the_models_own(model: ModelConfig) -> None:
    vocabulary = CharTokenizer().vocab_size
    decoder = Decoder(model, vocabulary, torch.Generator().manual_seed(0))
    assert parameter_count(model, vocabulary) == sum(p.numel() for p in decoder.parameters())


def default_stage(*overrides: str) -> StageConfig:
    return stage_config(compose_study(overrides).variants[0].stages[-1].config)


def variable_bytes(stage: StageConfig, world_size: int = 1) -> int:
    return stage_memory_bytes(stage, DeviceKind.CPU, world_size) - PROCESS_BYTES[DeviceKind.CPU]


def test_a_larger_model_asks_for_more() -> None:
    stage = default_stage()
    larger = replace(stage, model=replace(stage.model, d_model=256, d_ff=704))
    assert variable_bytes(larger) > 3 * variable_bytes(stage)


def test_each_zero_stage_takes_a_part_off_a_gangs_processes() -> None:
    stage = default_stage()
    sizes = []
    for zero in (0, 1, 2, 3):
        partitioned = replace(stage.deepspeed.zero_optimization, stage=zero)
        gang = replace(stage, deepspeed=replace(stage.deepspeed, zero_optimization=partitioned))
        sizes.append(variable_bytes(gang, world_size=2))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_a_demand_is_what_the_cluster_config_asks_for() -> None:
    variant = compose_study(["cluster.devices_per_trial=2"]).variants[0]
    demand = stage_demand(variant.stages[0], variant.config["cluster"], DeviceKind.CPU)
    assert (demand.devices, demand.share) == (2, 1.0)


def held(stage_key: str, opened_at: float, closed_at: float | None) -> Allocation:
    return Allocation(
        bundle_id=f"{stage_key}{opened_at}",
        study_id="study-1",
        stage_key=stage_key,
        trial_ids=(),
        device_ids=("node-a/cpu0",),
        share=1.0,
        opened_at=opened_at,
        closed_at=closed_at,
    )


def test_nothing_can_be_said_before_anything_ran() -> None:
    assert remaining_s(warm_started(2), [], now=0.0, devices=2) is None


def test_what_is_left_takes_as_long_a_step_as_what_was_done() -> None:
    # Warm-up of 10 steps in 10 s; then 2 x 30 steps of main at the same rate on 2 devices.
    trials = [replace(trial, stage_index=1) for trial in warm_started(2)]
    assert remaining_s(trials, [held(">warmup", 0.0, 10.0)], now=10.0, devices=2) == pytest.approx(30.0)


def test_a_shared_stage_is_counted_once() -> None:
    trials = list(warm_started(4))
    trials[0] = replace(trials[0], state=TrialState.RUNNING, progress=0.5)
    left = remaining_s(trials, [held(">warmup", 0.0, None)], now=5.0, devices=1)
    assert left == pytest.approx(5.0 + 4 * 30.0)


def test_a_study_that_is_over_has_nothing_left() -> None:
    trials = [replace(t, state=TrialState.COMPLETED, stage_index=2) for t in warm_started(2)]
    assert remaining_s(trials, [held(">warmup", 0.0, 10.0)], now=50.0, devices=1) == 0.0
