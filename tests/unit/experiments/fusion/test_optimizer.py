"""Each member's update is that of torch's AdamW and clipping alone, whatever the others do."""

import pytest
import torch

from experiments.fusion.optimizer import MemberOptimizer, Moments, StackedAdamW, moments_of, solo_state
from experiments.fusion.stack import StackLayout
from orchestrator.schema.training import OptimizerConfig
from tests.unit.experiments.decoders import VOCAB, small_decoder

LAYOUT = StackLayout.of(small_decoder().config, VOCAB)
MEMBERS = [
    MemberOptimizer(OptimizerConfig(), max_norm=1.0),
    MemberOptimizer(OptimizerConfig(beta1=0.5, beta2=0.9, weight_decay=0.3), max_norm=0.05),
    MemberOptimizer(OptimizerConfig(eps=1e-3, weight_decay=0.1), max_norm=0.0),
]
LRS = [1e-3, 1e-2, 3e-3]
STEPS = 6
PATHS = pytest.mark.parametrize("row_by_row", [True, False], ids=["rows", "all-at-once"])


def _gradient(step, member):
    scale = 10.0 ** -(member + step % 3)
    return torch.randn(LAYOUT.row_size, generator=torch.Generator().manual_seed(10 * step + member)) * scale


def _stack(row_by_row, members=MEMBERS):
    generator = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(len(MEMBERS), LAYOUT.row_size, generator=generator)[: len(members)])
    return weights, StackedAdamW(weights, members, row_by_row=row_by_row)


def _step(weights, optimizer, step, lrs=LRS, active=None):
    weights.grad = torch.stack([_gradient(step, member) for member in range(len(lrs))])
    optimizer.prepare(lrs, active)
    optimizer.step()


def _alone(member, steps):
    """Torch's own AdamW and clipping over the member's weights as separate tensors: (weights, norms, optimizer)."""
    start = _stack(True)[0].detach()[member]
    parameters = [torch.nn.Parameter(weight.clone()) for weight in LAYOUT.unpack(start).values()]
    config = MEMBERS[member].config
    adam = torch.optim.AdamW(
        parameters, lr=LRS[member], betas=(config.beta1, config.beta2), eps=config.eps,
        weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
    norms = []
    for step in steps:
        for parameter, gradient in zip(parameters, LAYOUT.unpack(_gradient(step, member)).values(), strict=True):
            parameter.grad = gradient.clone()
        limit = MEMBERS[member].max_norm or float("inf")
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)))
        adam.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters]), norms, adam


@PATHS
def test_weights_behind_those_that_are_learned_stay_as_they_are(row_by_row):
    front = LAYOUT.size_before("layers.1.")
    (whole, all_of_it), (weights, optimizer) = _stack(row_by_row), _stack(row_by_row)
    before = weights.detach().clone()
    optimizer.learned = front
    _step(whole, all_of_it, 0)
    _step(weights, optimizer, 0)
    assert 0 < front < LAYOUT.row_size
    assert torch.equal(weights[:, :front], whole[:, :front])
    assert torch.equal(weights[:, front:], before[:, front:])


@PATHS
def test_every_members_update_is_that_of_torch_alone(row_by_row):
    weights, optimizer = _stack(row_by_row)
    norms = []
    for step in range(STEPS):
        _step(weights, optimizer, step)
        norms.append(optimizer.grad_norms.tolist())
    for member in range(len(MEMBERS)):
        expected, expected_norms, _ = _alone(member, range(STEPS))
        torch.testing.assert_close(weights.detach()[member], expected, atol=1e-6, rtol=1e-5)
        assert [row[member] for row in norms] == pytest.approx(expected_norms, rel=1e-5)


@PATHS
def test_clipping_is_each_members_own(row_by_row):
    weights, optimizer = _stack(row_by_row)
    _step(weights, optimizer, step=0)
    after = weights.grad.norm(dim=1)
    assert optimizer.grad_norms[1] > 0.05
    assert after[1] == pytest.approx(0.05, rel=1e-3)
    assert after[2] == pytest.approx(float(optimizer.grad_norms[2]), rel=1e-6)


@PATHS
def test_another_members_rate_changes_no_bit(row_by_row):
    first, second = _stack(row_by_row), _stack(row_by_row)
    for step in range(STEPS):
        _step(*first, step)
        _step(*second, step, lrs=[LRS[0], 5.0, LRS[2]])
    unchanged = [torch.equal(a, b) for a, b in zip(first[0].detach(), second[0].detach(), strict=True)]
    assert unchanged == [True, False, True]


@PATHS
def test_an_inactive_member_keeps_weights_moments_and_count(row_by_row):
    weights, optimizer = _stack(row_by_row)
    _step(weights, optimizer, 0)
    row, moments = weights.detach()[1].clone(), optimizer.moments(1)
    _step(weights, optimizer, 1, active=[True, False, True])
    after = optimizer.moments(1)
    assert torch.equal(weights.detach()[1], row)
    assert torch.equal(after.exp_avg, moments.exp_avg)
    assert torch.equal(after.exp_avg_sq, moments.exp_avg_sq)
    assert [optimizer.moments(member).steps for member in range(3)] == [2, 1, 2]


@PATHS
def test_who_stays_goes_on_as_if_nobody_had_left(row_by_row):
    weights, optimizer = _stack(row_by_row)
    _step(weights, optimizer, 0)
    weights.grad = None
    weights.data = weights.detach()[[0, 2]]
    optimizer.keep([0, 2])
    weights.grad = torch.stack([_gradient(1, 0), _gradient(1, 2)])
    optimizer.prepare([LRS[0], LRS[2]])
    optimizer.step()
    for place, member in enumerate([0, 2]):
        torch.testing.assert_close(weights.detach()[place], _alone(member, range(2))[0], atol=1e-6, rtol=1e-5)


def test_a_solo_optimizer_takes_a_members_state_and_gives_it_back():
    weights, optimizer = _stack(row_by_row=True)
    for step in range(3):
        _step(weights, optimizer, step)
    _, _, adam = _alone(1, range(1))
    adam.load_state_dict(solo_state(optimizer.moments(1), LAYOUT, MEMBERS[1], LRS[1]))
    _, _, expected = _alone(1, range(3))
    state, wanted = adam.state_dict(), expected.state_dict()
    assert state["param_groups"] == wanted["param_groups"]
    for index, entry in wanted["state"].items():
        assert float(state["state"][index]["step"]) == 3.0
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state["state"][index][moment], entry[moment], atol=1e-7, rtol=1e-5)
    back = moments_of(state, LAYOUT, torch.device("cpu"))
    assert torch.equal(back.exp_avg, optimizer.moments(1).exp_avg)
    assert torch.equal(back.exp_avg_sq, optimizer.moments(1).exp_avg_sq)
    assert back.steps == 3


def test_a_member_that_was_never_updated_has_the_empty_state_of_a_new_optimizer():
    _, optimizer = _stack(row_by_row=True)
    state = solo_state(optimizer.moments(0), LAYOUT, MEMBERS[0], LRS[0])
    assert state["state"] == {}
    assert moments_of(state, LAYOUT, torch.device("cpu")).steps == 0


def test_moments_that_were_given_are_used_from_the_next_step_on():
    weights, optimizer = _stack(row_by_row=True, members=MEMBERS[:1])
    _step(weights, optimizer, 0, lrs=LRS[:1])
    row, moments = weights.detach().clone(), optimizer.moments(0)
    _step(weights, optimizer, 1, lrs=LRS[:1])
    again = StackedAdamW(other := torch.nn.Parameter(row), MEMBERS[:1], row_by_row=True)
    again.set_moments(0, Moments(moments.exp_avg, moments.exp_avg_sq, moments.steps))
    _step(other, again, 1, lrs=LRS[:1])
    assert torch.equal(other, weights)


def test_as_many_rates_as_members_are_needed():
    _, optimizer = _stack(row_by_row=True)
    with pytest.raises(ValueError, match="2 learning rates for 3 members"):
        optimizer.prepare([1e-3, 1e-3])
