"""Completions of prompts: one interface (`RolloutEngine`), a built-in engine and vLLM's; and decoding in one batch."""

from experiments.rollout.batch import Cache, CachedModel, Rollout, generate, sampling_noise

__all__ = ["Cache", "CachedModel", "Rollout", "generate", "sampling_noise"]
