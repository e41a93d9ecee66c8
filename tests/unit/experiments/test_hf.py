"""A Hugging Face model, called as a decoder is, against transformers itself."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from experiments.batches import encode_prompts
from experiments.building import load_model
from experiments.fusion.lora.base import FrozenBase
from experiments.models.adapter import Site, draw_adapter, load_adapter, save_adapter
from experiments.models.hf import HfModel, find_sites, load_base
from experiments.models.shared_prompt import completion_logits
from experiments.rollout import generate
from experiments.tasks import CharTokenizer
from orchestrator.schema.training import HfModelConfig, Training
from tests.unit.experiments.fusion.lora.lora_runs import SIZE, TARGETS, tiny_model
from tests.unit.experiments.peft_alone import LoraModel

CPU = torch.device("cpu")
CLOSE = {"atol": 2e-4, "rtol": 1e-4}
FAMILIES = pytest.mark.parametrize("family", ["llama", "qwen2"])


def trained_adapter(model, rank=3, alpha=4.5):
    generator = torch.Generator().manual_seed(1)
    adapter = draw_adapter(find_sites(model, TARGETS), TARGETS, rank, alpha, generator)
    for name, weight in adapter.weights.items():
        if "lora_B" in name:
            weight.normal_(0.0, 0.3, generator=generator)
    return adapter


@FAMILIES
def test_completions_that_share_a_padded_prompt_get_the_logits_that_transformers_gives_each_alone(family):
    model = tiny_model(family)
    prompts, completions = torch.randint(3, 99, (2, 5)), torch.randint(3, 99, (6, 4))
    padding = torch.tensor([0, 2])
    logits = completion_logits(HfModel(model), prompts, completions, padding)
    for row, completion in enumerate(completions):
        prompt = prompts[row // 3][padding[row // 3] :]
        alone = model(input_ids=torch.cat((prompt, completion))[None]).logits[0, -5:-1]
        torch.testing.assert_close(logits[row], alone, **CLOSE)


@FAMILIES
def test_greedy_decoding_with_the_cache_writes_what_transformers_writes(family):
    model, tokenizer = tiny_model(family), CharTokenizer()
    prompts = encode_prompts(["12+3=", "7+15=", "1+1="], tokenizer, CPU)
    mine = generate(HfModel(model), prompts, tokenizer, 8)
    attention = torch.arange(prompts.tokens.shape[1]) >= prompts.padding[:, None]
    theirs = model.generate(
        prompts.tokens,
        attention_mask=attention.long(),
        do_sample=False,
        max_new_tokens=8,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.eos_id,
    )[:, prompts.tokens.shape[1] :]
    assert mine.tokens[:, : theirs.shape[1]].tolist() == theirs.tolist()


def test_sampled_log_probabilities_are_those_of_a_forward_pass_over_the_whole():
    model, tokenizer = HfModel(tiny_model()), CharTokenizer()
    prompts = encode_prompts(["12+3=", "1+1="], tokenizer, CPU)
    rollout = generate(model, prompts, tokenizer, 6, group_size=4, noise=torch.rand(8, 6))
    logits = completion_logits(model, prompts.tokens, rollout.tokens, prompts.padding)
    expected = logits.log_softmax(dim=-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(rollout.log_probs[rollout.mask], expected[rollout.mask], **CLOSE)


def test_a_loaded_model_is_the_saved_one_frozen(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = load_base(tmp_path)
    assert all(not weight.requires_grad for weight in loaded.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_pickled_weights_are_not_read(tmp_path):
    model = tiny_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        load_base(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"model.path={tmp_path}"):
        load_base(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "of_its_own", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Lm"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match=r"trust_remote_code|custom code"):
        load_base(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def of_its_own(tmp_path):
    """The folder of a model whose class lies beside its weights: a Llama that doubles its logits."""
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "doubled",
        "architectures": ["Doubled"],
        "auto_map": {"AutoConfig": "modeling_doubled.Config", "AutoModelForCausalLM": "modeling_doubled.Doubled"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_doubled.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class Config(LlamaConfig):\n    model_type = 'doubled'\n\n\n"
        "class Doubled(LlamaForCausalLM):\n    config_class = Config\n\n"
        "    def forward(self, *args, **kwargs):\n        output = super().forward(*args, **kwargs)\n"
        "        output.logits = 2 * output.logits\n        return output\n"
    )
    return tmp_path


def test_code_that_comes_with_a_model_is_run_where_its_folder_is_trusted(of_its_own, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_TRUSTED_MODELS", str(of_its_own))
    base = FrozenBase.load(HfModelConfig(path=str(of_its_own)), CPU)
    tokens = torch.randint(3, 99, (1, 5))
    torch.testing.assert_close(base.model.model(tokens).logits, 2 * tiny_model()(tokens).logits, **CLOSE)


def test_an_output_of_a_trusted_model_takes_its_code_along(of_its_own, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ORCHESTRATOR_TRUSTED_MODELS", str(of_its_own))
    config = HfModelConfig(path=str(of_its_own), training=Training.full)
    output = tmp_path_factory.mktemp("output")
    load_model(config, of_its_own, CPU).save(output)
    tokens = torch.randint(3, 99, (1, 5))
    torch.testing.assert_close(
        load_model(config, output, CPU).model(tokens).logits, 2 * tiny_model()(tokens).logits, **CLOSE
    )


def test_layers_are_found_by_the_end_of_their_name():
    sites = find_sites(tiny_model(), ["q_proj", "model.layers.1.mlp.down_proj"])
    assert sites == (
        Site("model.layers.0.self_attn.q_proj", 16, 16),
        Site("model.layers.1.self_attn.q_proj", 16, 16),
        Site("model.layers.1.mlp.down_proj", 32, 16),
    )


@pytest.mark.parametrize(("target", "told"), [("qkv", "no such layers"), ("norm", "not a linear layer")])
def test_a_target_that_cannot_be_adapted_is_refused(target, told):
    with pytest.raises(ValueError, match=f"model.lora.target_modules.*{told}"):
        find_sites(tiny_model(), ["q_proj", target])


def test_a_sequence_longer_than_the_attention_window_is_refused():
    model = HfModel(MistralForCausalLM(MistralConfig(**{**SIZE, "sliding_window": 6})))
    model(torch.randint(3, 99, (1, 6)), torch.arange(6))
    with pytest.raises(ValueError, match="window of 6"):
        model(torch.randint(3, 99, (1, 7)), torch.arange(7))


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains():
    model = tiny_model()
    adapter = draw_adapter(find_sites(model, TARGETS), TARGETS, 3, 6.0, torch.Generator().manual_seed(0))
    lora = LoraModel(copy.deepcopy(model), adapter)
    tokens, positions = torch.randint(3, 99, (2, 6)), torch.arange(6)
    torch.testing.assert_close(lora(tokens, positions), HfModel(model)(tokens, positions))
    assert lora.trained().keys() == adapter.weights.keys()
    for name, weight in lora.adapter().weights.items():
        assert torch.equal(weight, adapter.weights[name])


def test_training_leaves_the_model_in_evaluation_mode():
    lora = LoraModel(tiny_model(attention_dropout=0.5), trained_adapter(tiny_model()))
    lora.train()
    tokens, positions = torch.randint(3, 99, (2, 6)), torch.arange(6)
    assert torch.equal(lora(tokens, positions), lora(tokens, positions))


def test_peft_loads_a_saved_adapter(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    adapter = trained_adapter(model)
    save_adapter(adapter, str(tmp_path / "base"), tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokens = torch.randint(3, 99, (2, 6))
    mine = LoraModel(copy.deepcopy(model), adapter)(tokens, torch.arange(6))
    torch.testing.assert_close(theirs.eval()(input_ids=tokens).logits, mine)
    back = load_adapter(tmp_path / "adapter")
    assert (back.rank, back.alpha, set(back.target_modules)) == (3, 4.5, set(TARGETS))
    assert all(torch.equal(back.weights[name], weight) for name, weight in adapter.weights.items())


@pytest.mark.parametrize(("setting", "value"), [("use_dora", True), ("use_rslora", True), ("bias", "all")])
def test_another_kind_of_adapter_is_refused(tmp_path, setting, value):
    save_adapter(trained_adapter(tiny_model()), "base", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(ValueError, match=f"{setting} is {value!r}"):
        load_adapter(tmp_path)


def test_who_trains_a_decoder_does_not_import_transformers_or_peft():
    code = (
        "import sys, experiments.models.hf, experiments.building, experiments.tasks;"
        "print(sorted({'transformers', 'peft', 'safetensors'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert run.stdout.strip() == "[]"
