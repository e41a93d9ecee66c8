"""What answers cost, on models of which it is known."""

import time

import pytest
import torch

from experiments.models.hf import FullModel, load_base
from experiments.outcomes import measured_outcomes, parameter_counts
from experiments.tasks import CharTokenizer, Problem, Task
from experiments.tasks.tokenizer import hf_tokenizer_of
from orchestrator.schema.training import EvaluationConfig, HfModelConfig, TaskConfig
from tests.hf_models import write_model, write_tokenizer
from tests.unit.experiments.decoders import small_decoder

TOKENIZER = CharTokenizer()
LIMIT = 6
PROBLEMS = [Problem(f"{number}+{number}=", str(2 * number)) for number in (1, 22, 333, 44, 5, 66)]
PASS_S = 0.01


class Slow:
    """A decoder of which each forward pass takes `PASS_S` longer."""

    def __init__(self, decoder):
        self.decoder, self.device = decoder, decoder.device

    def __call__(self, *args, **kwargs):
        time.sleep(PASS_S)
        return self.decoder(*args, **kwargs)

    def new_cache(self):
        return self.decoder.new_cache()


def _never_ends(**shape):
    decoder = small_decoder(**shape)
    with torch.no_grad():
        decoder.embedding.weight[TOKENIZER.eos_id] = 0.0
    return decoder


def _outcomes(model, *, tokenizer=TOKENIZER, timed=3, load=0):
    task = Task(TaskConfig(max_answer_tokens=LIMIT), [], [], [], PROBLEMS, lambda answer, problem: 0.0)
    return measured_outcomes(model, task, PROBLEMS, tokenizer, EvaluationConfig(timed_answers=timed, load=load))


def test_a_first_token_takes_one_pass_and_an_answer_one_for_each_token():
    outcomes = _outcomes(Slow(_never_ends()))
    assert outcomes["time_to_first_token_s"] >= PASS_S
    assert outcomes["time_to_answer_p50_s"] >= outcomes["time_to_first_token_s"] + (LIMIT - 1) * PASS_S
    assert outcomes["time_to_answer_p95_s"] >= outcomes["time_to_answer_p50_s"]
    assert outcomes["decode_tokens_per_s"] <= 1 / PASS_S


def test_answers_of_one_token_have_no_decoding_speed():
    decoder = small_decoder()
    task = Task(TaskConfig(max_answer_tokens=1), [], [], [], PROBLEMS, lambda answer, problem: 0.0)
    assert "decode_tokens_per_s" not in measured_outcomes(decoder, task, PROBLEMS, TOKENIZER, EvaluationConfig())


def test_requests_at_once_share_each_pass_and_each_ends_with_its_own_answer():
    outcomes = _outcomes(Slow(_never_ends()), load=4)
    assert outcomes["time_to_answer_load_p50_s"] >= LIMIT * PASS_S
    assert outcomes["time_to_answer_load_p50_s"] == outcomes["time_to_answer_load_p95_s"]


def test_without_a_load_nothing_is_said_of_one():
    assert not [name for name in _outcomes(small_decoder()) if "load" in name]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_cache_bytes_a_token_are_those_of_its_keys_and_values(kv_heads):
    decoder = small_decoder(kv_heads=kv_heads)
    head_dim = decoder.config.d_model // decoder.config.heads
    assert _outcomes(decoder)["kv_bytes_per_token"] == decoder.config.layers * 2 * kv_heads * head_dim * 4


def test_the_parameters_of_a_decoder_are_all_active():
    decoder = small_decoder()
    total = sum(weight.numel() for weight in decoder.parameters())
    assert parameter_counts(decoder) == (total, total)


def test_experts_that_a_token_is_not_given_to_are_not_active():
    shape = {"d_expert": 12, "experts": 6, "experts_per_token": 2, "shared_experts": 1}
    total, active = parameter_counts(small_decoder(ffn="moe", **shape))
    fewer, all_of_them = parameter_counts(small_decoder(ffn="moe", **{**shape, "experts": 2}))
    routers = 2 * 32 * (6 - 2)  # layers x d_model x experts more
    assert (active, total - active) == (all_of_them + routers, total - fewer - routers)


def test_a_cache_of_latents_is_smaller_by_as_much_as_its_rows_are_narrower():
    latent = small_decoder(attention="mla", kv_rank=12, rope_dim=4)
    assert _outcomes(latent)["kv_bytes_per_token"] == 2 * (12 + 4) * 4


def test_a_hugging_face_model_is_measured_as_a_decoder_is(tmp_path):
    write_model(tmp_path)
    write_tokenizer(tmp_path)
    model = FullModel(load_base(tmp_path))
    config = model.model.config
    head_dim = config.hidden_size // config.num_attention_heads
    outcomes = _outcomes(model, tokenizer=hf_tokenizer_of(HfModelConfig(path=str(tmp_path))))
    assert outcomes["kv_bytes_per_token"] == config.num_hidden_layers * 2 * config.num_key_value_heads * head_dim * 4
    assert outcomes["params_total"] == sum(weight.numel() for weight in model.parameters())
