"""Supervised fine-tuning on a policy's own right answers: rejection sampling, and distillation.

The policy is the output of the stage before. It answers the RL prompts; the different answers that the verifier accepts
become the examples (arXiv:2308.01825; DeepSeek-R1's third stage, arXiv:2501.12948, section 2.3.3). The policy itself
learns them, or with `fresh` a model with new weights of the stage's own shape, the student of that teacher
(arXiv:2501.12948, section 2.4). The samples lie in the output, for whoever wants to see them.
"""

from dataclasses import replace
from typing import cast

from experiments.channel import Channel
from experiments.curriculum import ProblemOrder
from experiments.samples import verified
from experiments.stages.sampling import Drawn, samples_of_parent
from experiments.stages.session import Session, open_session
from experiments.stages.sft import learn
from experiments.tasks import Problem
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import RejectionSftConfig, stage_config


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Runs or resumes the stage; raises what `open_session` and `examples_of` do."""
    algorithm = cast(RejectionSftConfig, stage_config(assignment.stage.config).algorithm)
    with open_session(learner(assignment, algorithm), channel, algorithm.batch_size) as (session, engine):
        drawn = examples_of(session, assignment.parent_dir)
        outcome = learn(session, engine, ProblemOrder([], drawn.items, session.config.seed))
        return drawn.handed_in(session, outcome)


def learner(assignment: Assignment, algorithm: RejectionSftConfig) -> Assignment:
    """The assignment of whoever learns: one that is `fresh` has no parent, whoever its teacher is."""
    return replace(assignment, parent_dir="") if algorithm.fresh else assignment


def examples_of(session: Session, teacher: str) -> Drawn[Problem]:
    """What the stage learns of the policy at `teacher`, see `samples_of_parent`. Raises ValueError if no answer of that
    is right. Collective."""
    sampling = cast(RejectionSftConfig, session.config.algorithm).sampling
    samples = samples_of_parent(session, teacher, sampling)
    examples = verified(samples, sampling.keep)
    if not examples:
        raise ValueError(
            f"algorithm.sampling: none of {len(samples)} different answers is right; raise per_prompt "
            f"({sampling.per_prompt}), or train the stage before for longer"
        )
    return Drawn(samples, examples, "examples")
