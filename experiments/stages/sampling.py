"""What a stage samples from the policy before it, once: drawn by the whole gang, and kept for whoever resumes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from experiments.building import config_of_teacher, initial_model
from experiments.gang import sum_over_processes
from experiments.rollout.engine import open_rollouts
from experiments.samples import FILE, Sample, draw_samples, read_samples, write_samples
from experiments.stages.session import Session
from experiments.tasks import tokenizer_of
from orchestrator.schema import Outcome
from orchestrator.schema.training import SamplingConfig

Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True, slots=True)
class Drawn(Generic[Item]):
    """samples: all that were drawn. items: what the stage learns of them, called `kind` in its outcome."""

    samples: list[Sample]
    items: Sequence[Item]
    kind: str

    def handed_in(self, session: Session, outcome: Outcome) -> Outcome:
        """The `outcome` of the stage that learned them, with their number; a finished stage's output has the samples,
        for whoever wants to see them."""
        if outcome.finished and session.rank == 0:
            write_samples(self.samples, Path(session.assignment.output_dir))
        return replace(outcome, metrics={**outcome.metrics, self.kind: float(len(self.items))})


def samples_of_parent(session: Session, parent: str, sampling: SamplingConfig) -> list[Sample]:
    """Samples of the model at `parent` (a stage's output; "": what a first stage starts from) on the RL prompts.

    Each process draws for its part of the prompts. They lie beside the checkpoints, so a resumed stage reads them.
    Collective.
    """
    folder = Path(session.assignment.checkpoint_dir)
    there = torch.tensor(int((folder / FILE).exists()), device=session.device)
    if int(sum_over_processes(there)) < session.world_size:
        problems = dict(enumerate(session.task.rl[: sampling.prompts or None]))
        mine = {number: problems[number] for number in list(problems)[session.rank :: session.world_size]}
        with session.phase("rollout"):
            config, task = session.config, session.task
            if getattr(config.algorithm, "fresh", False):
                config = config_of_teacher(config, parent)
            policy = initial_model(config, parent, session.device)
            rollouts = open_rollouts(config, task.config.max_answer_tokens)
            tokenizer = tokenizer_of(config.model, config.task)
            drawn = draw_samples(rollouts, policy, task, mine, tokenizer, session.device, sampling, config.seed)
        everybody: list[Any] = [drawn]
        if session.world_size > 1:
            everybody = [None] * session.world_size
            dist.all_gather_object(everybody, drawn)
        if session.rank == 0:
            place = {problem.prompt: number for number, problem in problems.items()}
            write_samples(sorted(chain(*everybody), key=lambda sample: place[sample.prompt]), folder)
        dist.barrier()
    return read_samples(folder)
