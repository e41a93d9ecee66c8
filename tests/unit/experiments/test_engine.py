"""Every engine configuration trains, and those that should agree do."""

import os
import time

import pytest
import torch

from tests.unit.experiments.children import run_gang, run_in_child
from tests.unit.experiments.decoders import VOCAB, small_decoder


def _open_core(**gang):
    from experiments.engine import open_device
    from orchestrator.schema import Assignment, DeviceKind, Stage

    stage = Stage(name="", key="", parent_key="", entrypoint="", config={}, budget_steps=1)
    assignment = Assignment(
        bundle_id="", stage=stage, output_dir="", parent_dir="", checkpoint_dir="", cache_dir="",
        device_kind=DeviceKind.CPU, device_indexes=(0,), share=1.0, threads=1, memory_bytes=2**30, **gang,
    )  # fmt: skip
    return open_device(assignment)


def _train(deepspeed_data, steps=8):
    """Losses of `steps` steps on one batch, last gradient norm, set-up time, weights, what is on; a child runs it."""
    from experiments.engine import Engine
    from experiments.losses import sft_loss
    from experiments.models.shared_prompt import completion_logits
    from orchestrator.schema.training import OptimizerConfig, stage_config

    device = _open_core()
    empty = {name: {} for name in ("optimizer", "model", "task", "evaluation")}
    config = stage_config({"algorithm": {"name": "sft"}, "deepspeed": deepspeed_data, "seed": 0, **empty}).deepspeed
    started = time.perf_counter()
    engine = Engine(small_decoder(), config, OptimizerConfig(), 8, device)
    seconds = time.perf_counter() - started
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, VOCAB, (8, 5), generator=generator)
    answers = torch.randint(3, VOCAB, (8, 3), generator=generator)
    losses = []
    for _ in range(steps):
        loss = 0.0
        for half in torch.arange(8).tensor_split(engine.accumulation):
            logits = completion_logits(engine, prompts[half], answers[half])
            part = sft_loss(logits, answers[half], torch.ones(len(half), 3), token_count=24)
            engine.backward(part)
            engine.step(3e-3)
            loss += part.item()
        losses.append(loss)
    weights = {name: weight.detach().float().clone() for name, weight in engine.decoder().named_parameters()}
    inner = engine._engine
    on = inner.zero_optimization_stage(), inner.bfloat16_enabled(), _offloads(inner.optimizer)
    return losses, float(engine.grad_norm()), seconds, weights, on


def _offloads(optimizer):
    """Whether DeepSpeed's optimizer keeps its states on the host: two classes, two names."""
    return bool(getattr(optimizer, "cpu_offload", False) or getattr(optimizer, "offload_optimizer", False))


def _settings(stage=0, bf16=False, accumulation=1, clipping=1.0, offload="none", **extra):
    return {
        "zero_optimization": {"stage": stage, "offload_optimizer": {"device": offload}},
        "bf16": {"enabled": bf16},
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clipping,
        **extra,
    }


@pytest.fixture(scope="module")
def plain():
    return run_in_child(_train, _settings())


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_and_precision_trains(stage, bf16):
    losses, grad_norm, _, _, on = run_in_child(_train, _settings(stage, bf16))
    assert on == (stage, bf16, False)
    assert losses[-1] < losses[0] - 0.3
    assert grad_norm > 0


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_give_the_weights_of_stage_0(plain, stage):
    weights = run_in_child(_train, _settings(stage))[3]
    for name, expected in plain[3].items():
        torch.testing.assert_close(weights[name], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_optimizer_offload_trains_without_compiling_anything(plain, stage, bf16):
    started = time.perf_counter()
    losses, _, _, _, on = run_in_child(_train, _settings(stage, bf16, offload="cpu"))
    assert on == (stage, bf16, True)
    assert losses == pytest.approx(plain[0], abs=0.1 if bf16 else 1e-3)
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_accumulated_micro_batches_give_the_losses_of_one_batch(plain, stage):
    assert run_in_child(_train, _settings(stage, accumulation=2))[0] == pytest.approx(plain[0], abs=1e-3)


@pytest.mark.parametrize("stage", [0, 1])
def test_the_norm_is_that_before_clipping(plain, stage):
    assert run_in_child(_train, _settings(stage, clipping=1e-3), 1)[1] == pytest.approx(
        run_in_child(_train, _settings(stage, clipping=1e3), 1)[1], rel=1e-3
    )


@pytest.mark.parametrize(("stage", "bf16"), [(0, False), (0, True), (2, False), (3, False)])
def test_without_clipping_the_norm_is_still_reported(stage, bf16):
    unclipped = run_in_child(_train, _settings(stage, bf16, clipping=0.0), 1)
    loose = run_in_child(_train, _settings(stage, bf16, clipping=1e3), 1)
    assert unclipped[1] == pytest.approx(loose[1], rel=1e-3) != 0.0
    assert all(torch.equal(weight, loose[3][name]) for name, weight in unclipped[3].items())


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_clipping_bounds_the_update(stage):
    """AdamW is invariant to the gradient's scale but for eps: a tiny clip with a large eps hardly moves."""
    before = small_decoder()
    after = run_in_child(_train, _settings(stage, clipping=1e-10), 1)[3]
    for name, weight in before.named_parameters():
        assert (after[name] - weight).abs().max() < 1e-4


def test_extra_is_merged_into_deepspeeds_config():
    from experiments.engine import deepspeed_config
    from orchestrator.schema.training import DeepSpeedConfig

    config = DeepSpeedConfig(extra={"zero_optimization": {"reduce_bucket_size": 7}, "prescale_gradients": True})
    merged = deepspeed_config(config, 8, 1)
    assert merged["zero_optimization"] == {"stage": 0, "reduce_bucket_size": 7}
    assert merged["prescale_gradients"] is True


def test_an_engine_starts_within_tenths_of_a_second(plain):
    assert plain[2] < 1.0  # 0.02 s on an idle core


def _addresses_listened_on(world_size, rank, rendezvous):
    _open_core(world_size=world_size, rank=rank, rendezvous=rendezvous)
    torch.distributed.all_reduce(torch.ones(1))
    descriptors = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    mine = {os.readlink(path) for path in descriptors if os.path.islink(path)}
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            rows = [line.split() for line in lines][1:]
        addresses |= {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}
    return addresses


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads Linux's table of sockets")
@pytest.mark.parametrize("world_size", [1, 2], ids=["alone", "gang"])
def test_a_bundle_cannot_be_reached_from_outside(world_size, tmp_path):
    """All of its processes are on one node, whatever the node's name resolves to."""
    loopback = {"0100007F", "00000000000000000000000001000000"}
    calls = [(world_size, rank, str(tmp_path / "rendezvous")) for rank in range(world_size)]
    addresses = set().union(*run_gang(_addresses_listened_on, calls))
    assert addresses
    assert addresses <= loopback
