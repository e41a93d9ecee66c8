"""Who decodes when a stage samples: one interface, `RolloutEngine`, and what `rollout.engine` chooses of it."""

import logging
from typing import Protocol, Unpack

from experiments.batches import Prompts
from experiments.models.decoder import Decoder
from experiments.rollout.batch import CachedModel, Rollout, Sampling, generate
from experiments.rollout.continuous import decode
from experiments.rollout.weights import plain_weights
from experiments.tasks.tokenizer import Tokenizer
from orchestrator.schema.training import HfModelConfig, RolloutEngineName, StageConfig

_log = logging.getLogger(__name__)


class RolloutEngine(Protocol):
    """Samples completions from a model as it is now: whoever keeps weights of its own brings them up to date first."""

    def sample(
        self, model: CachedModel, prompts: Prompts, tokenizer: Tokenizer, max_tokens: int, **sampling: Unpack[Sampling]
    ) -> Rollout:
        """Completions of up to `max_tokens` tokens of P prompts, see `Sampling`."""


class Builtin:
    """This project's own decoding: with continuous batching where a model is of the common kind (see
    `experiments.rollout.weights`), else in one batch. A compact decoder is decoded as a stack of them is, in one batch,
    unless `max_rows` bounds it: reinforcement learning carries a difference of rounding on to other samples, and a
    member of a stack is to go the way that it goes alone."""

    def __init__(self, max_rows: int = 0) -> None:
        self.max_rows = max_rows

    def sample(
        self, model: CachedModel, prompts: Prompts, tokenizer: Tokenizer, max_tokens: int, **sampling: Unpack[Sampling]
    ) -> Rollout:
        """See `RolloutEngine.sample`."""
        in_one = isinstance(model, Decoder) and not self.max_rows
        weights = None if in_one else plain_weights(model)
        if weights is None:
            return generate(model, prompts, tokenizer, max_tokens, **sampling)
        return decode(weights, prompts, tokenizer, max_tokens, max_rows=self.max_rows, **sampling)


def open_rollouts(config: StageConfig, max_tokens: int) -> RolloutEngine:
    """The engine that `config.rollout` names, for prompts of `task.max_prompt_tokens` and answers of `max_tokens`; the
    built-in one, with a message, where vLLM is asked for and not installed."""
    rollout, model = config.rollout, config.model
    if rollout.engine is RolloutEngineName.vllm and isinstance(model, HfModelConfig):
        try:
            from experiments.rollout.vllm import VllmRollouts
        except ImportError as error:
            _log.warning(
                "rollout.engine=vllm: vLLM can't be imported (%s), so this project's own engine decodes; "
                "pip install 'orchestrator[vllm]'",
                error,
            )
        else:
            longest = 1 + config.task.max_prompt_tokens + max_tokens  # the limit is on what comes behind a BOS
            return VllmRollouts(model, longest, rollout.memory_fraction)
    return Builtin(rollout.max_rows)
