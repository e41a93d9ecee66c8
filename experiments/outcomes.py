"""What a trained model costs whoever asks it: time to an answer, decoding speed, cache and parameters.

Measured alone, one request after the other, as a user meets the model, and with `evaluation.load` requests at once. A
member of a stack is measured as the model that it is by itself.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from experiments.batches import encode_prompts
from experiments.models.decoder import Decoder
from experiments.models.kv_cache import WithQuantizedCache
from experiments.models.moe import MixtureOfExperts
from experiments.models.multi_token import MultiTokenDecoder
from experiments.models.quantization import QuantizedLinear
from experiments.parts import timed_as
from experiments.rollout import CachedModel, Rollout, generate
from experiments.tasks import Problem, Task
from experiments.tasks.tokenizer import Tokenizer
from orchestrator.schema.decoder_sizes import idle_expert_parameters
from orchestrator.schema.training import EvaluationConfig

M = TypeVar("M", bound=nn.Module)


class _Watched:
    """A model that notes when each of its forward passes begins, and which cache was the last that it made."""

    def __init__(self, model: CachedModel) -> None:
        self._model, self.device = model, model.device
        self.begun_s: list[float] = []
        self.cache: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a pass begins when the one before it is done
        self.begun_s.append(time.perf_counter())
        return self._model(*args, **kwargs)

    def new_cache(self) -> Any:
        self.cache = self._model.new_cache()
        return self.cache


@timed_as("evaluate")
def measured_outcomes(
    model: CachedModel, task: Task, problems: Sequence[Problem], tokenizer: Tokenizer, evaluation: EvaluationConfig
) -> dict[str, float]:
    """The outcomes by their names in MLflow, measured on the first of `problems`.

    time_to_answer_p50_s, time_to_answer_p95_s: from a prompt to the end of its greedy answer, in a batch of one, over
    `timed_answers` prompts. time_to_first_token_s: from the prompt to its first token, mean over them.
    decode_tokens_per_s: tokens behind the first / seconds behind it, over all of them; left out where no answer has
    two. kv_bytes_per_token: what the cache's tensors take / (rows x batch), once the last answer stands.
    weight_bytes, params_total, params_active: see `weight_bytes` and `parameter_counts`. time_to_answer_load_p50_s,
    time_to_answer_load_p95_s: with `load` requests decoded as one batch; left out where that is 0.
    """
    watched, limit = _Watched(model), task.config.max_answer_tokens
    timed = [problem.prompt for problem in problems[: evaluation.timed_answers]]
    _answered(watched, timed[:1], tokenizer, min(limit, 2))  # warms up, the prompt's pass and a token's
    answers_s, first_s, tokens = [], [], 0
    for prompt in timed:
        ends_s, rollout = _answered(watched, [prompt], tokenizer, limit)
        answers_s.append(ends_s[-1])
        first_s.append(ends_s[0])
        tokens += int(rollout.mask.sum()) - 1
    total, active = parameter_counts(model)
    outcomes = {
        **_percentiles("time_to_answer", answers_s),
        "time_to_first_token_s": sum(first_s) / len(first_s),
        "kv_bytes_per_token": watched.cache.bytes / watched.cache.rows,
        "weight_bytes": float(weight_bytes(model)),
        "params_total": float(total),
        "params_active": float(active),
    }
    if tokens:
        outcomes["decode_tokens_per_s"] = tokens / (sum(answers_s) - sum(first_s))
    if evaluation.load:
        at_once = [problem.prompt for problem in problems[: evaluation.load]]
        ends_s, rollout = _answered(watched, at_once, tokenizer, limit)
        lengths = rollout.mask.sum(dim=1).tolist()
        outcomes |= _percentiles("time_to_answer_load", [ends_s[length - 1] for length in lengths])
    return outcomes


def parameter_counts(model: object) -> tuple[int, int]:
    """How many numbers the model has learned in all, and how many of them make the next token of another: without the
    experts that a token is not given to, and the modules for further tokens. Codes count as what they stand for.

    Of a Hugging Face model all are called active, its experts included.
    """
    parts = _parts(model)
    total = _learned_by(parts)
    decoder = next(_modules(parts, Decoder), None)
    if decoder is None:
        return total, total
    further = list(decoder.further) if isinstance(decoder, MultiTokenDecoder) else []
    mixtures = len(decoder.experts) - len(list(_modules(further, MixtureOfExperts)))
    return total, total - mixtures * idle_expert_parameters(decoder.config) - _learned_by(further)


def _learned_by(parts: Sequence[nn.Module]) -> int:
    coded = sum(layer.in_features * layer.out_features for layer in _modules(parts, QuantizedLinear))
    return coded + sum(weight.numel() for part in parts for weight in part.parameters())


def weight_bytes(model: object) -> int:
    """What the tensors of the model take, codes and scales in place of weights that are quantized [bytes]."""
    parts = _parts(model)
    return sum(tensor.nbytes for part in parts for tensor in (*part.parameters(), *part.buffers()))


def _parts(model: object) -> list[nn.Module]:
    """The modules that a model is made of: adapters do not own the base under them."""
    if isinstance(model, WithQuantizedCache):
        model = model.model
    under_adapters = getattr(getattr(model, "base", None), "model", None)
    return [part for part in (model, under_adapters) if isinstance(part, nn.Module)]


def _modules(parts: Sequence[nn.Module], kind: type[M]) -> Iterator[M]:
    return (module for part in parts for module in part.modules() if isinstance(module, kind))


def _answered(
    model: _Watched, prompts: Sequence[str], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[float], Rollout]:
    """How long after the prompts were there each of the tokens stood [s], and the greedy answers. All answers get their
    n-th token at once."""
    began_s = time.perf_counter()
    model.begun_s.clear()
    rollout = generate(model, encode_prompts(prompts, tokenizer, model.device), tokenizer, max_tokens)
    rollout.tokens.cpu()  # waits for the device
    # Each pass but the first begins with the token that the one before it chose.
    return [at - began_s for at in (*model.begun_s[1:], time.perf_counter())], rollout


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """The median and the 95th percentile, between the two nearest values in proportion."""
    median, late = torch.tensor(seconds, dtype=torch.float64).quantile(torch.tensor([0.5, 0.95], dtype=torch.float64))
    return {f"{name}_p50_s": float(median), f"{name}_p95_s": float(late)}
