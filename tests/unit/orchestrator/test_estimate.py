"""Demand from first principles."""

from dataclasses import replace

import pytest
import torch

from experiments.models.decoder import Decoder
from experiments.tasks import CharTokenizer
from orchestrator.estimate import PROCESS_BYTES, parameter_count, stage_demand, stage_memory_bytes
from orchestrator.schema import DeviceKind
from orchestrator.schema.training import ModelConfig, StageConfig, stage_config
from orchestrator.sweep import compose_study


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


@pytest.mark.parametrize(
    "override", ["task.max_answer_tokens=32", "model.layers=4", "deepspeed=zero1", "evaluation.batch_size=512"]
)
def test_what_memory_depends_on_changes_the_demand_and_nothing_else_does(override: str) -> None:
    def demanded(*overrides: str) -> int:
        (variant,) = compose_study(["cluster.devices_per_trial=2", *overrides]).variants
        demand = stage_demand(variant.stages[-1], variant.config["cluster"], DeviceKind.CPU)
        expected = stage_memory_bytes(stage_config(variant.stages[-1].config), DeviceKind.CPU, 2)
        assert demand.memory_bytes == expected
        return demand.memory_bytes

    plain = demanded()
    assert demanded(override) != plain
    assert demanded("optimizer.lr=1e-4", "seed=7", "algorithm.max_steps=9") == plain
