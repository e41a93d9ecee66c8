"""Demand from first principles."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.models.decoder import Decoder
from experiments.models.multi_token import MultiTokenDecoder
from experiments.tasks import CharTokenizer
from orchestrator.config import ConfigError
from orchestrator.estimate import (
    ALONE_BYTES,
    PROCESS_BYTES,
    footprint_of,
    stage_demand,
    stage_demands,
    stage_footprint,
    stage_memory_bytes,
    zero_plan,
)
from orchestrator.schema import Demand, DeviceKind
from orchestrator.schema.decoder_sizes import active_parameter_count, parameter_count
from orchestrator.schema.training import (
    AttentionKind,
    FeedForwardKind,
    ModelConfig,
    PredictionConfig,
    PredictionKind,
    StageConfig,
    stage_config,
)
from orchestrator.sweep import compose_study
from tests.hf_models import QWEN_2_5_0_5B, write_published


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(),
        ModelConfig(kv_heads=1),
        ModelConfig(d_model=128, layers=3, heads=8, kv_heads=2, d_ff=256, tie_embeddings=False),
        ModelConfig(attention=AttentionKind.mla),
        ModelConfig(attention=AttentionKind.mla, query_rank=24, kv_rank=20, rope_dim=4, heads=2),
        ModelConfig(ffn=FeedForwardKind.moe),
        ModelConfig(ffn=FeedForwardKind.moe, shared_experts=0, experts=5, d_expert=12),
        ModelConfig(prediction=PredictionConfig(kind=PredictionKind.multi_token, depth=2)),
    ],
)
def test_the_parameter_count_is_the_models_own(model: ModelConfig) -> None:
    vocabulary = CharTokenizer().vocab_size
    several = model.prediction.kind == PredictionKind.multi_token
    decoder = (MultiTokenDecoder if several else Decoder)(model, vocabulary, torch.Generator().manual_seed(0))
    assert parameter_count(model, vocabulary) == sum(p.numel() for p in decoder.parameters())


def test_of_routed_experts_the_selected_ones_are_active() -> None:
    """As many as a decoder has that is made of them alone, but for the router that knows all."""
    sparse = ModelConfig(ffn=FeedForwardKind.moe, experts=8, experts_per_token=2)
    narrow = replace(sparse, experts=2)
    routers = sparse.layers * sparse.d_model * (sparse.experts - narrow.experts)
    assert active_parameter_count(sparse, 98) == parameter_count(narrow, 98) + routers
    assert active_parameter_count(ModelConfig(), 98) == parameter_count(ModelConfig(), 98)


def default_stage(*overrides: str) -> StageConfig:
    return stage_config(compose_study(overrides).variants[0].stages[-1].config)


def variable_bytes(stage: StageConfig, world_size: int = 1) -> int:
    return stage_memory_bytes(stage, DeviceKind.CPU, world_size) - PROCESS_BYTES[DeviceKind.CPU]


def test_a_larger_model_asks_for_more() -> None:
    stage = default_stage()
    larger = replace(stage, model=replace(stage.model, d_model=256, d_ff=704))
    assert variable_bytes(larger) > 3 * variable_bytes(stage)


def test_a_process_that_imports_all_itself_asks_for_that_too() -> None:
    stage = default_stage()
    alone, forked = (stage_memory_bytes(stage, DeviceKind.CPU, preloaded=preloaded) for preloaded in (False, True))
    assert alone - forked == ALONE_BYTES - PROCESS_BYTES[DeviceKind.CPU]
    demands = {
        name: stage_demand(variant.stages[-1], variant.config["cluster"], DeviceKind.CPU).memory_bytes
        for name in ("local", "node")
        for variant in compose_study([f"cluster={name}"]).variants
    }
    assert demands == {"local": alone, "node": forked}


def test_a_reference_for_the_kl_penalty_is_a_copy_of_the_weights() -> None:
    without, with_reference = (
        stage_footprint(default_stage("algorithm=grpo", f"algorithm.kl_weight={weight}"), DeviceKind.CPU)
        for weight in (0.0, 0.1)
    )
    assert with_reference.copies - without.copies == 4 * parameter_count(default_stage().model, 128)


@pytest.mark.parametrize("algorithm", ["dpo", "rejection_sft", "distill"])
def test_a_policy_that_is_sampled_from_is_a_copy_of_the_weights_and_decodes(algorithm: str) -> None:
    plain, sampling = (
        stage_footprint(default_stage(f"algorithm={name}"), DeviceKind.CPU) for name in ("sft", algorithm)
    )
    assert sampling.copies - plain.copies == 4 * parameter_count(default_stage().model, 128)
    more = default_stage(f"algorithm={algorithm}", "algorithm.sampling.per_prompt=64")
    assert plain.rollout == 0 < sampling.rollout < stage_footprint(more, DeviceKind.CPU).rollout


def test_a_teacher_counts_as_large_as_the_model_of_the_stage_before() -> None:
    (variant,) = compose_study(["recipe=distill", "model.d_model=128", "model.d_ff=352"]).variants
    *_, teacher, student = variant.stages
    cluster, kind = variant.config["cluster"], DeviceKind.CPU
    told, untold = footprint_of(student, cluster, kind, teacher), footprint_of(student, cluster, kind)
    sizes = [parameter_count(stage_config(stage.config).model, 128) for stage in (teacher, student)]
    assert sizes[0] > sizes[1]
    assert [footprint.copies for footprint in (told, untold)] == [4 * size for size in sizes]
    assert told.rollout > untold.rollout
    assert told.learning == untold.learning
    demands = stage_demands(variant.stages, cluster, kind)
    assert demands[student.key].memory_bytes == told.device_bytes
    assert demands[teacher.key] == stage_demand(teacher, cluster, kind)


def test_a_teachers_base_counts_where_its_student_is_over_another(tmp_path: Path) -> None:
    teachers, students = (write_published(tmp_path / name, QWEN_2_5_0_5B) for name in ("teacher", "student"))
    hf = ["recipe=distill_hf", "model=hf", f"model.path={teachers}", "model.dtype=bfloat16"]
    copies = []
    for path in (students, teachers):
        (variant,) = compose_study([*hf, f"recipe.stages.student.model.path={path}"]).variants
        *_, teacher, student = variant.stages
        copies.append(footprint_of(student, variant.config["cluster"], DeviceKind.CPU, teacher).copies)
    assert copies[0] - copies[1] == 2 * 494_032_768


def test_further_tokens_cost_memory_where_they_are_learned() -> None:
    multi = "heads=multi_token"
    for algorithm, learned in (("sft", "model.prediction.weight"), ("grpo", "model.prediction.rl_weight")):
        some, none, plain = (
            stage_footprint(default_stage(f"algorithm={algorithm}", *more), DeviceKind.CPU).learning
            for more in ((multi, f"{learned}=0.3"), (multi, f"{learned}=0"), ())
        )
        assert none == plain < some


def test_each_further_sampling_round_is_held_until_it_is_learned_from() -> None:
    one, two, three = (
        stage_footprint(default_stage("algorithm=grpo", f"algorithm.max_sampling_rounds={n}"), DeviceKind.CPU)
        for n in (1, 2, 3)
    )
    stage = default_stage("algorithm=grpo")
    tokens = stage.algorithm.prompts_per_step * stage.algorithm.group_size * stage.task.max_answer_tokens
    assert two.rollout - one.rollout == two.learning - one.learning == three.learning - two.learning == 32 * tokens


def test_preferences_are_learned_from_two_answers_a_pair() -> None:
    pairs = default_stage("algorithm=dpo", "algorithm.batch_size=32")
    single = default_stage("algorithm=sft", "algorithm.batch_size=32")
    learning = [stage_footprint(stage, DeviceKind.CPU).learning for stage in (pairs, single)]
    assert 1.3 * learning[1] < learning[0] < 2 * learning[1]


def test_what_is_offloaded_lies_on_the_host_of_a_gpu_and_stays_where_it_is_on_a_core() -> None:
    plain, offloaded = default_stage("deepspeed=zero2"), default_stage("deepspeed=zero2_offload")
    on_gpu = stage_footprint(offloaded, DeviceKind.CUDA)
    assert on_gpu.optimizer == 0.0
    assert on_gpu.host_bytes > stage_footprint(plain, DeviceKind.CUDA).host_bytes
    on_core = [stage_footprint(stage, DeviceKind.CPU) for stage in (plain, offloaded)]
    assert on_core[0].device_bytes == pytest.approx(on_core[1].device_bytes, rel=0.01)


def test_deepspeeds_own_words_count() -> None:
    plan = zero_plan(
        default_stage("deepspeed=zero1", "+deepspeed.extra.zero_optimization={stage:3,reduce_bucket_size:1000}"), 2
    )
    assert (plan.stage, plan.bucket, plan.world_size) == (3, 1000, 2)


def test_micro_batches_make_learning_smaller() -> None:
    whole, parts = (
        stage_footprint(default_stage(f"deepspeed.gradient_accumulation_steps={n}"), DeviceKind.CPU).learning
        for n in (1, 4)
    )
    assert parts == whole / 4


def test_a_rollout_is_decoded_by_grpo_only() -> None:
    assert stage_footprint(default_stage("algorithm=grpo"), DeviceKind.CPU).rollout > 0.0
    assert stage_footprint(default_stage("algorithm=sft"), DeviceKind.CPU).rollout == 0.0


def test_a_demand_is_what_the_cluster_config_asks_for() -> None:
    variant = compose_study(["cluster.devices_per_trial=2"]).variants[0]
    demand = stage_demand(variant.stages[0], variant.config["cluster"], DeviceKind.CPU)
    assert (demand.devices, demand.share) == (2, 1.0)


def demanded(kind: DeviceKind, *overrides: str) -> Demand:
    (variant,) = compose_study(["cluster.memory_per_trial_gib=2", *overrides]).variants
    return stage_demand(variant.stages[-1], variant.config["cluster"], kind)


def test_a_part_of_an_oversubscribed_device_counts_as_less_and_takes_as_much_memory() -> None:
    plain = demanded(DeviceKind.CUDA, "cluster.share_per_trial=0.5")
    promised = demanded(DeviceKind.CUDA, "cluster.share_per_trial=0.5", "cluster.oversubscription=1.25")
    assert promised == replace(plain, share=0.4)


def test_a_whole_device_is_promised_once_only() -> None:
    plain, promised = (demanded(DeviceKind.CUDA, *more) for more in ((), ("cluster.oversubscription=2",)))
    assert promised == plain


def test_an_oversubscribed_core_is_less_of_a_core_for_each() -> None:
    demand = demanded(DeviceKind.CPU, "cluster.share_per_trial=0.5", "cluster.oversubscription=2")
    assert (demand.share, demand.cpus) == (0.25, 0.25)


@pytest.mark.parametrize("factor", ["0.9", "1000", "nan"])
def test_an_oversubscription_that_promises_too_little_or_too_much_is_refused(factor: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"cluster\.oversubscription={factor}.*: use 1 \(a device is promised once\)"
    ):
        compose_study([f"cluster.oversubscription={factor}"])


@pytest.mark.parametrize(
    "override", ["task.max_answer_tokens=32", "model.layers=4", "deepspeed=zero1", "evaluation.batch_size=64"]
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
