"""Stages of a Hugging Face model: adapters and all of it, alone and fused, cut and whole, and what they leave."""

import warnings
from pathlib import Path

import pytest
import torch

from experiments.building import initial_model, load_model, save_model
from experiments.models.adapter import load_adapter
from orchestrator.schema.training import stage_config
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.fusion.fused_runs import GRPO, SFT, run_solo, variants
from tests.unit.experiments.stack_runs import Seat, run_stack
from tests.unit.experiments.stage_runs import ALGORITHMS, run_stage, stage_data, told
from tests.unit.experiments.test_fused import assert_same

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("algorithm", ["sft", pytest.param("grpo", marks=pytest.mark.slow)])
TARGETS = ["q_proj", "v_proj", "down_proj"]


def hf_data(hf_model, algorithm, *, rank=4, alpha=8.0, model=None, **options):
    path, problems = hf_model
    lora = {"rank": rank, "alpha": alpha, "max_rank": 8, "target_modules": TARGETS}
    data = stage_data(problems, algorithm, **options)
    return {**data, "model": {"name": "hf", "path": str(path), "lora": lora, **(model or {})}}


def hf_variants(hf_model, algorithm, width):
    """Variants that differ in every number that may differ, rank and alpha included."""
    datas = variants(hf_model[1], algorithm, width)
    shapes = [(4, 8.0), (2, 4.0), (8, 8.0), (1, 2.0)]
    sized = zip(datas, (shapes[n % 4] for n in range(width)), strict=True)
    return [
        {**hf_data(hf_model, {}, rank=rank, alpha=alpha), **{name: part for name, part in d.items() if name != "model"}}
        for d, (rank, alpha) in sized
    ]


@BOTH
def test_a_stage_that_was_cut_goes_on_as_if_it_had_not_been(hf_model, tmp_path, algorithm):
    data = hf_data(hf_model, ALGORITHMS[algorithm], lr=1e-2)
    whole = run_stage(tmp_path, data, name="whole")[0]
    first = run_stage(tmp_path, data, name="cut", stop_at=8)[0]
    assert not first.outcome.finished
    second = run_stage(tmp_path, data, name="cut")[0]
    assert told(first, second) == whole.reports
    assert all(torch.equal(second.weights[name], weight) for name, weight in whole.weights.items())
    assert max(weight.abs().max() for name, weight in whole.weights.items() if "lora_B" in name) > 0.0


def loaded_by_peft(base: Path, output: Path) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), output).eval()
    return model(input_ids=torch.arange(1, 9)[None]).logits.detach()


def test_an_adapters_output_is_what_peft_loads_and_the_next_stage_goes_on_from(hf_model, tmp_path):
    data = hf_data(hf_model, ALGORITHMS["sft"], lr=1e-2)
    run_stage(tmp_path, data, name="first")
    output = tmp_path / "first" / "output"
    assert {file.name for file in output.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    with torch.no_grad():
        mine = load_model(stage_config(data).model, output, CPU)(torch.arange(1, 9)[None], torch.arange(8))
    torch.testing.assert_close(run_in_child(loaded_by_peft, hf_model[0], output), mine, atol=1e-4, rtol=1e-4)
    short = {**data, "algorithm": {**data["algorithm"], "max_steps": 1}, "optimizer": {"lr": 1e-9}}
    after = run_stage(tmp_path, short, name="second", parent=output)[0]
    before = load_adapter(output)
    for name, weight in load_adapter(tmp_path / "second" / "output").weights.items():
        torch.testing.assert_close(weight, before.weights[name], atol=1e-6, rtol=0)
    assert after.outcome.finished


def test_a_parents_adapter_of_another_rank_is_refused(hf_model, tmp_path):
    config, other = (stage_config(hf_data(hf_model, ALGORITHMS["sft"], rank=rank)) for rank in (4, 2))
    save_model(initial_model(config, "", CPU), config.model, tmp_path)
    with pytest.raises(ValueError, match=r"model.lora.rank=2: the adapter to go on from has 4"):
        initial_model(other, str(tmp_path), CPU)


@pytest.mark.slow
def test_a_whole_model_trains_and_its_output_is_a_model_to_start_from(hf_model, tmp_path):
    data = hf_data(hf_model, ALGORITHMS["sft"], lr=1e-3, model={"training": "full"})
    whole = run_stage(tmp_path, data, name="whole")[0]
    first = run_stage(tmp_path, data, name="cut", stop_at=8)[0]
    second = run_stage(tmp_path, data, name="cut")[0]
    assert told(first, second) == whole.reports
    output = tmp_path / "whole" / "output"
    again = hf_data((output, hf_model[1]), {**ALGORITHMS["sft"], "max_steps": 1}, model={"training": "full"})
    next_one = run_stage(tmp_path, again, name="again")[0]
    assert next_one.outcome.metrics["start_accuracy"] == whole.outcome.metrics["accuracy"]


DEEPSPEED = {
    "zero1": {"zero_optimization": {"stage": 1}},
    "zero2": {"zero_optimization": {"stage": 2}},
    "zero3": {"zero_optimization": {"stage": 3}},
    "bf16": {"bf16": {"enabled": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("training", ["lora", "full"])
def test_zero_stages_train_what_no_zero_trains(hf_model, tmp_path, name, training):
    model = {"training": training}
    plain = hf_data(hf_model, ALGORITHMS["sft"], lr=1e-3, model=model)
    zero = hf_data(hf_model, ALGORITHMS["sft"], lr=1e-3, model=model, deepspeed=DEEPSPEED[name])
    alone, partitioned = (run_stage(tmp_path, d, name=n)[0] for d, n in ((plain, "plain"), (zero, name)))
    for weight, value in alone.weights.items():
        torch.testing.assert_close(partitioned.weights[weight], value, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [{}, DEEPSPEED["bf16"]], ids=["fp32 adapters", "bf16 adapters"])
def test_adapters_train_over_a_base_in_half_precision(hf_model, tmp_path, deepspeed):
    data = hf_data(hf_model, ALGORITHMS["grpo"], lr=1e-2, model={"dtype": "bfloat16"}, deepspeed=deepspeed)
    run = run_stage(tmp_path, data)[0]
    assert run.outcome.finished
    assert all(torch.isfinite(weight).all() for weight in run.weights.values())
    assert max(weight.abs().max() for name, weight in run.weights.items() if "lora_B" in name) > 0.0


def compare(tmp_path, datas):
    (tmp_path / "alone").mkdir()
    (tmp_path / "fused").mkdir()
    alone = run_solo(tmp_path / "alone", datas, "")
    run = run_stack(tmp_path / "fused", [Seat(data, f"solo-{n}") for n, data in enumerate(datas)])
    assert run.errors == {}
    for number, expected in enumerate(alone):
        assert_same(run.results[f"solo-{number}"], expected)
    return run


@BOTH
def test_fused_adapters_end_as_they_do_alone(hf_model, tmp_path, algorithm):
    run = compare(tmp_path, hf_variants(hf_model, {"sft": SFT, "grpo": GRPO}[algorithm], 2))
    assert run.results["solo-0"].series("train/loss") != run.results["solo-1"].series("train/loss")


SAMPLING = {"prompts": 40, "per_prompt": 8, "keep": 2, "batch_size": 16}
SAMPLED = {
    "rejection_sft": {"name": "rejection_sft", "max_steps": 20, "batch_size": 8, "sampling": SAMPLING},
    "dpo": {"name": "dpo", "max_steps": 20, "batch_size": 4, "sampling": SAMPLING},
}


@pytest.mark.parametrize("algorithm", ["rejection_sft", pytest.param("dpo", marks=pytest.mark.slow)])
def test_adapters_that_learn_of_their_own_samples_end_as_they_do_alone(hf_model, tmp_path, algorithm):
    datas = hf_variants(hf_model, SAMPLED[algorithm], 2)
    compare(tmp_path, [{**d, "optimizer": {**d["optimizer"], "lr": 1e-3, "eps": 1e-4}} for d in datas])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_eight_fused_adapters_end_as_they_do_alone(hf_model, tmp_path, algorithm):
    compare(tmp_path, hf_variants(hf_model, {"sft": SFT, "grpo": GRPO}[algorithm], 8))


@pytest.mark.slow
@BOTH
def test_a_member_that_was_stopped_goes_on_alone_and_the_other_way_round(hf_model, tmp_path, algorithm):
    data = hf_data(hf_model, ALGORITHMS[algorithm], lr=1e-2)
    whole = run_stage(tmp_path, data, name="whole")[0]
    run_stack(tmp_path, [Seat(data, "left", stop_at=8)])
    alone = run_stage(tmp_path, data, name="left")[0]
    run_stage(tmp_path, data, name="joined", stop_at=8)
    fused = run_stack(tmp_path, [Seat(data, "joined")])
    assert fused.errors == {}
    for result in (alone, fused.results["joined"]):
        assert result.outcome.finished
        for name, weight in whole.weights.items():
            torch.testing.assert_close(result.weights[name], weight, atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize("training", ["lora", "full"])
def test_layers_that_are_computed_again_get_the_same_gradients(hf_model, training):
    gradients = []
    for checkpointing in (False, True):
        model = {"training": training, "gradient_checkpointing": checkpointing}
        config = stage_config(hf_data(hf_model, ALGORITHMS["sft"], model=model))
        made = initial_model(config, "", CPU)
        if training == "lora":
            with torch.no_grad():
                made.weights.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
        made(torch.arange(1, 9)[None], torch.arange(8)).square().mean().backward()
        gradients.append([weight.grad for weight in made.parameters()])
        assert layers_computed(made) == (2 if checkpointing else 0)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def layers_computed(made):
    """How many layers say that they are computed again."""
    model = made.base.model if hasattr(made, "base") else made
    return len(model._recomputed)


def test_a_kl_reference_shares_the_base(hf_model):
    config = stage_config(hf_data(hf_model, ALGORITHMS["grpo"]))
    policy, reference = initial_model(config, "", CPU), initial_model(config, "", CPU)
    assert policy.base is reference.base
    assert policy.weights is not reference.weights
