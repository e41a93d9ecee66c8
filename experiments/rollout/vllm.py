"""Rollouts by vLLM, in the process that trains and on its device; imports vLLM, which is an optional extra.

Written against the API that vLLM documents (`LLM`, `SamplingParams`, `load_weights` of its models). It has never run:
where this was written there was neither a GPU nor vLLM.

vLLM draws its own random numbers. Each completion's seed is made from its own noise, so that what it is does not depend
on the batch, as far as vLLM's kernels keep to that.
"""

import os
from collections.abc import Sequence
from typing import Any, Unpack

# The engine in this very process: its model takes weights as tensors, without a copy through another one.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
from vllm import LLM, SamplingParams

from experiments.batches import Prompts
from experiments.models.hf import HfModel
from experiments.parts import timed_as
from experiments.rollout.batch import CachedModel, Rollout, Sampling
from experiments.rollout.vllm_tensors import prompt_ids, seeds_of, to_rollout, weights_by_name
from experiments.tasks.tokenizer import Tokenizer
from orchestrator.schema.training import HfModelConfig
from orchestrator.schema.trust import code_is_trusted


class VllmRollouts:
    """One vLLM engine for the model at `config.path`, whose weights are replaced before each rollout."""

    def __init__(self, config: HfModelConfig, max_length: int, memory_fraction: float) -> None:
        self._llm: Any = LLM(
            model=config.path,
            dtype=config.dtype,
            max_model_len=max_length,
            gpu_memory_utilization=memory_fraction,
            # Log-probabilities of the distribution that was sampled from, temperature included.
            logprobs_mode="processed_logprobs",
            trust_remote_code=code_is_trusted(config.path),
            skip_tokenizer_init=True,
            # No sampling parameters and no further end tokens of the model's own: as the built-in engine decodes.
            generation_config="vllm",
        )

    @timed_as("decode")
    def sample(
        self, model: CachedModel, prompts: Prompts, tokenizer: Tokenizer, max_tokens: int, **sampling: Unpack[Sampling]
    ) -> Rollout:
        """See `RolloutEngine.sample`."""
        self._take_weights(model)
        requests = [{"prompt_token_ids": ids} for ids in prompt_ids(prompts) for _ in range(sampling["group_size"])]
        params = [
            SamplingParams(
                temperature=sampling["temperature"],
                max_tokens=max_tokens,
                stop_token_ids=[tokenizer.eos_id],
                seed=seed,
                logprobs=0,
                detokenize=False,
            )
            for seed in seeds_of(sampling["noise"])
        ]
        answers = self._llm.generate(requests, params, use_tqdm=False)
        ids = [list(answer.outputs[0].token_ids) for answer in answers]
        chosen = [_chosen(answer.outputs[0]) for answer in answers]
        return to_rollout(ids, chosen, max_tokens, tokenizer.pad_id, prompts.tokens.device)

    def _take_weights(self, model: CachedModel) -> None:
        assert isinstance(model, HfModel), "validation lets vLLM have whole Hugging Face models only"
        self._llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(weights_by_name(model))
        # What it cached of prompts was computed with the weights before.
        self._llm.reset_prefix_cache()


def _chosen(output: Any) -> list[float]:
    """The log-probability of each token of a completion."""
    by_step: Sequence[Any] = output.logprobs
    return [step[token].logprob for step, token in zip(by_step, output.token_ids, strict=True)]
