"""The trial that every system under test runs: set up DeepSpeed, take one optimizer step, say when it happened.

It is a stage like any other: the real decoder, the real engine, one real step on random tokens.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from experiments.channel import Channel
from experiments.engine import Engine, open_device
from experiments.losses import sft_loss
from experiments.models.decoder import Decoder
from experiments.tasks import CharTokenizer
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import stage_config

BATCH, LENGTH = 32, 12


def first_step(assignment: Assignment, channel: Channel) -> Outcome:
    """Metrics `step_began_at`, `step_ended_at` and `ended_at` [s since the epoch]."""
    config = stage_config(assignment.stage.config)
    device = open_device(assignment)
    vocabulary = CharTokenizer().vocab_size
    generator = torch.Generator().manual_seed(config.seed)
    decoder = Decoder(config.model, vocabulary, generator)
    engine = Engine(decoder, config.deepspeed, config.optimizer, BATCH, device)
    tokens = torch.randint(3, vocabulary, (BATCH, LENGTH), generator=generator).to(device)
    began_at = time.time()
    logits = engine(tokens[:, :-1], torch.arange(LENGTH - 1, device=device))
    engine.backward(sft_loss(logits, tokens[:, 1:], torch.ones_like(tokens[:, 1:], dtype=torch.bool)))
    engine.step(config.optimizer.lr)
    ended_at = time.time()
    channel.report(1, {"train/loss": 0.0}, 1.0)
    folder = Path(assignment.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "done").write_text("1")
    return Outcome(
        metrics={"step_began_at": began_at, "step_ended_at": ended_at, "ended_at": time.time()},
        busy_s=ended_at - began_at,
    )


class SilentChannel:
    """A channel to nobody, for systems that have their own."""

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        pass

    def saved(self, step: int) -> None:
        pass

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        pass

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def stop_requested(self) -> bool:
        return False
