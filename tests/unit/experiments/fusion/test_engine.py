"""A stack under one DeepSpeed engine, the members' optimizer being the client optimizer."""

import torch

from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.decoders import VOCAB, small_decoder
from tests.unit.experiments.test_engine import _open_core

STEPS = 6


def _train(under_deepspeed):
    """Losses, weights and clipped norms of a stack that loses its second member and gets another; a child runs it."""
    from experiments.engine import DeepSpeedStack
    from experiments.fusion.decoder import StackedDecoder
    from experiments.fusion.engine import StackEngine
    from experiments.fusion.losses import sft_losses
    from experiments.fusion.optimizer import MemberOptimizer
    from experiments.models.shared_prompt import completion_logits
    from orchestrator.schema.training import OptimizerConfig

    _open_core()
    members = [MemberOptimizer(OptimizerConfig(weight_decay=0.1 * n), max_norm=0.3 * n) for n in range(3)]
    stack = StackedDecoder.of([small_decoder(seed) for seed in range(3)])
    engine = (DeepSpeedStack if under_deepspeed else StackEngine)(stack, members)
    generator = torch.Generator().manual_seed(0)
    losses = []

    def train(rates):
        count = len(rates)
        for _ in range(STEPS):
            prompts = torch.randint(3, VOCAB, (4 * count, 5), generator=generator)
            answers = torch.randint(3, VOCAB, (4 * count, 3), generator=generator)
            mask = torch.ones_like(answers, dtype=torch.bool)
            logits = completion_logits(engine, prompts, answers)
            loss = sft_losses(logits, answers, mask, torch.full((count,), 12))
            engine.backward(loss)
            engine.step(rates)
            losses.append(loss.tolist())

    train([1e-3, 2e-3, 3e-3])
    engine.keep([0, 2])
    train([1e-3, 3e-3])
    engine.append(small_decoder(9), members[1])
    train([1e-3, 3e-3, 2e-3])
    counts = [engine.moments(member).steps for member in range(3)]
    return losses, stack.weights.detach().clone(), engine.grad_norms().tolist(), counts


def test_a_stack_trains_under_deepspeed_as_without_it_while_members_come_and_go():
    with_it, without = run_in_child(_train, True), run_in_child(_train, False)
    assert with_it[0] == without[0]
    assert torch.equal(with_it[1], without[1])
    assert with_it[2:] == without[2:]
    assert with_it[3] == [3 * STEPS, 3 * STEPS, STEPS]
