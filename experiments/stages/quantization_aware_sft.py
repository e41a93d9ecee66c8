"""Supervised fine-tuning of a model that computes as it will once it is quantized (arXiv:1712.05877).

Its linear layers round their weights in every forward pass; gradients go straight through to the weights themselves,
which are what is kept. Evaluations are of the model with rounded weights.
"""

from functools import partial
from typing import cast

from experiments.channel import Channel
from experiments.curriculum import problem_order
from experiments.models.quantization import fake_quantize
from experiments.stages.session import open_session
from experiments.stages.sft import learn
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import QuantizationAwareSftConfig, stage_config


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Runs or resumes the stage; raises what `open_session` does."""
    algorithm = cast(QuantizationAwareSftConfig, stage_config(assignment.stage.config).algorithm)
    rounded = partial(fake_quantize, weights=algorithm.weights)
    with open_session(assignment, channel, algorithm.batch_size, rounded) as (session, engine):
        return learn(session, engine, problem_order(session.task, "supervised", session.config.seed))
