"""Supervised fine-tuning on a policy's own right answers: rejection sampling, and distillation.

The policy is the output of the stage before. It answers the RL prompts; the different answers that the verifier accepts
become the examples (arXiv:2308.01825; DeepSeek-R1's third stage, arXiv:2501.12948, section 2.3.3). The policy itself
learns them, or with `fresh` a model with new weights of the stage's own shape, the student of that teacher
(arXiv:2501.12948, section 2.4). The samples lie in the output, for whoever wants to see them.
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

from experiments.channel import Channel
from experiments.curriculum import ProblemOrder
from experiments.samples import verified, write_samples
from experiments.stages.sampling import samples_of_parent
from experiments.stages.session import open_session
from experiments.stages.sft import learn
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import RejectionSftConfig, stage_config


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Runs or resumes the stage; raises what `open_session` does, and ValueError if no answer is right."""
    algorithm = cast(RejectionSftConfig, stage_config(assignment.stage.config).algorithm)
    learner = replace(assignment, parent_dir="") if algorithm.fresh else assignment
    with open_session(learner, channel, algorithm.batch_size) as (session, engine):
        samples = samples_of_parent(session, assignment.parent_dir, algorithm.sampling)
        examples = verified(samples, algorithm.sampling.keep)
        if not examples:
            raise ValueError(
                f"algorithm.sampling: none of {len(samples)} different answers is right; raise per_prompt "
                f"({algorithm.sampling.per_prompt}), or train the stage before for longer"
            )
        outcome = learn(session, engine, ProblemOrder([], examples, session.config.seed))
        if outcome.finished and session.rank == 0:
            write_samples(samples, Path(assignment.output_dir))
        return replace(outcome, metrics={**outcome.metrics, "examples": float(len(examples))})
