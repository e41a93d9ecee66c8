"""Members come, go, and don't influence each other."""

import pytest
import torch

from experiments.fusion.bundle import Bundle, SoloProgress
from experiments.fusion.grpo import Draw, GrpoTurn, grpo_step
from experiments.judging import Judge
from experiments.rollout import sampling_noise
from experiments.tasks import CharTokenizer, load_task
from orchestrator.schema.training import stage_config
from tests.unit.experiments.fusion.fused_runs import (
    CPU,
    GRPO,
    SFT,
    WEIGHTS,
    FusedRun,
    advance,
    bundle_of,
    initial,
    run_fused,
    variant,
    variants,
    write_even_problems,
)

MODEL = {"d_model": 16, "layers": 1, "heads": 2, "kv_heads": 1, "d_ff": 32}
BOTH = pytest.mark.parametrize("algorithm", [SFT, GRPO], ids=["sft", "grpo"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    write_even_problems(folder)
    return folder


def _datas(folder, algorithm=SFT, width=3):
    named = enumerate(variants(folder / "even.jsonl", algorithm, width))
    return {str(number): data for number, data in named}


def _weights(bundle, name):
    return bundle.engine.stack.weights.detach()[bundle.place(name)].clone()


def _trained(folder, datas, steps):
    bundle = bundle_of(folder, datas, None)
    advance(bundle, FusedRun(), steps)
    return bundle


@pytest.mark.parametrize("knobs", [{"lr": 0.3}, {"clip": 1e-3}, {"beta1": 0.1}, {"schedule": "cosine"}], ids=str)
def test_what_one_member_is_told_changes_no_bit_of_another(folder, knobs):
    datas = _datas(folder)
    before = _trained(folder, datas, 10)
    after = _trained(folder, {**datas, "1": variant(folder / "even.jsonl", SFT, 1, **knobs)}, 10)
    unchanged = [torch.equal(_weights(before, name), _weights(after, name)) for name in datas]
    assert unchanged == [True, False, True]


def test_another_seed_of_one_member_changes_no_bit_of_another(folder):
    datas = _datas(folder)
    before = _trained(folder, datas, 10)
    after = _trained(folder, {**datas, "1": {**datas["1"], "seed": 77}}, 10)
    unchanged = [torch.equal(_weights(before, name), _weights(after, name)) for name in datas]
    assert unchanged == [True, False, True]


def test_another_rate_of_a_grpo_member_changes_others_by_rounding_at_most(study, tmp_path):
    """It learns from other groups then, and all are padded to the most that a member has."""
    _, even, _, parent = study
    datas = variants(even, {**GRPO, "max_steps": 15}, 3)
    before = run_fused(tmp_path, datas, parent)
    after = run_fused(tmp_path, [datas[0], {**datas[1], "optimizer": {"lr": 3e-2}}, datas[2]], parent)
    assert after.values("1", "train/reward") != before.values("1", "train/reward")
    for member in ("0", "2"):
        assert after.values(member, "train/reward") == before.values(member, "train/reward")
        for name, weight in before.weights[member].items():
            torch.testing.assert_close(after.weights[member][name], weight, **WEIGHTS)


@BOTH
def test_who_stays_does_not_notice_that_another_was_taken_out(folder, algorithm):
    datas = _datas(folder, algorithm)
    expected, bundle = _trained(folder, datas, 12), _trained(folder, datas, 5)
    bundle.take_out("1")
    advance(bundle, FusedRun(), 7)
    assert bundle.names == ["0", "2"]
    for name in bundle.names:
        torch.testing.assert_close(_weights(bundle, name), _weights(expected, name), **WEIGHTS)


@BOTH
def test_a_member_taken_out_and_put_into_another_stack_goes_on(folder, algorithm):
    datas = _datas(folder, algorithm)
    expected, first = _trained(folder, datas, 12), _trained(folder, datas, 5)
    second = _trained(folder, {"other": datas["0"]}, 2)
    gone = first.take_out("1")
    second.put_in("1", gone.member, initial(datas["1"], None), gone.decoder, gone.moments)
    advance(second, FusedRun(), 7)
    torch.testing.assert_close(_weights(second, "1"), _weights(expected, "1"), **WEIGHTS)


@BOTH
def test_a_fresh_member_put_in_later_goes_the_way_it_goes_from_the_start(folder, algorithm):
    datas = _datas(folder, algorithm)
    expected = _trained(folder, {"2": datas["2"]}, 6)
    bundle = _trained(folder, {"0": datas["0"], "1": datas["1"]}, 4)
    bundle.put_in("2", SoloProgress(stage_config(datas["2"])), initial(datas["2"], None))
    advance(bundle, FusedRun(), 6)
    assert bundle.member("0").step == 10
    torch.testing.assert_close(_weights(bundle, "2"), _weights(expected, "2"), **WEIGHTS)


def test_the_reference_stays_with_its_member_when_another_leaves(study, tmp_path):
    """Only members with a KL weight have one; places move up."""
    _, even, _, parent = study
    datas = {str(n): d for n, d in enumerate(variants(even, GRPO, 3))}
    expected, bundle = (bundle_of(tmp_path, datas, parent) for _ in range(2))
    whole, cut = FusedRun(), FusedRun()
    advance(expected, whole, 12)
    advance(bundle, cut, 6)
    bundle.take_out("0")
    advance(bundle, cut, 6)
    kl = whole.values("2", "train/kl")
    assert max(kl[6:]) > 0.0
    assert cut.values("2", "train/kl") == pytest.approx(kl, abs=1e-4)


def test_members_at_different_steps_have_rates_of_their_own(folder):
    cosine = variant(folder / "even.jsonl", SFT, 0, schedule="cosine")
    bundle = _trained(folder, {"early": cosine}, 30)
    bundle.put_in("late", SoloProgress(stage_config(cosine)), initial(cosine, None))
    values = bundle.step()
    assert values["late"].updates[0]["train/lr"] == pytest.approx(3e-3)
    assert values["early"].updates[0]["train/lr"] < 2e-3


def test_a_member_none_of_whose_groups_differ_is_not_updated(folder):
    """The others are; and its weight decay, moments and count wait with it."""
    datas = _datas(folder, {**GRPO, "updates_per_rollout": 1}, width=2)
    bundle = bundle_of(folder, datas, None)
    task, tokenizer = load_task(stage_config(datas["0"]).task, folder / "cache"), CharTokenizer()

    class Told:
        """Judges the first member's prompts all right, and the second's by the answer's first character."""

        config, rl = task.config, task.rl

        def reward(self, problem, text):
            return 1.0 if problem in task.rl[:4] else float(text[:1] < "5")

    turns = [
        GrpoTurn(
            stage_config(datas[name]).algorithm,
            iter([Draw(task.rl[4 * index : 4 * index + 4], sampling_noise(16, 3, torch.Generator().manual_seed(1)))]),
            lr=1e-2,
        )
        for index, name in enumerate(datas)
    ]
    before = bundle.engine.stack.weights.detach().clone()
    first, second = grpo_step(bundle.engine, turns, Judge(Told(), tokenizer), bundle._references)
    after = bundle.engine.stack.weights.detach()
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False]
    assert [bundle.engine.moments(member).steps for member in range(2)] == [0, 1]
    assert (first.updates, first.step["train/groups_skipped"]) == ([], 4.0)
    assert len(second.updates) == 1


def test_evaluation_is_of_the_members_asked_for(folder):
    bundle = _trained(folder, _datas(folder), 3)
    results = bundle.evaluate(["2", "0"], "dev", batch_size=5)
    alone = [bundle.evaluate([name], "dev", batch_size=64)[name] for name in ("2", "0")]
    assert list(results) == ["2", "0"]
    assert list(results.values()) == alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {**MODEL, "layers": 2}}, r"model\.layers=2: the stack's members have 1"),
        ({"algorithm": {**SFT, "batch_size": 4}}, r"algorithm\.batch_size=4: the stack's members have 8"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 1}}},
            r"deepspeed\.zero_optimization\.stage=1: only stages with",
        ),
    ],
    ids=["model", "batch", "zero"],
)
def test_what_is_of_another_shape_is_refused_by_name(folder, change, message):
    datas = _datas(folder)
    odd = {**datas["1"], **change}
    with pytest.raises(ValueError, match=message):
        bundle_of(folder, {"0": datas["0"], "1": odd}, None)
    bundle = bundle_of(folder, {"0": datas["0"]}, None)
    with pytest.raises(ValueError, match=message):
        bundle.put_in("1", SoloProgress(stage_config(odd)), initial(odd, None))


def test_a_name_is_taken_once(folder):
    datas = _datas(folder)
    bundle = bundle_of(folder, {"0": datas["0"]}, None)
    with pytest.raises(ValueError, match="'0' is in the bundle already"):
        bundle.put_in("0", SoloProgress(stage_config(datas["1"])), initial(datas["1"], None))


@BOTH
def test_a_stack_that_everybody_left_takes_new_members(folder, algorithm):
    datas = _datas(folder, algorithm)
    expected, bundle = _trained(folder, {"2": datas["2"]}, 6), _trained(folder, datas, 2)
    bundle.drop(["0", "1", "2"])
    assert (bundle.names, bundle.engine.members) == ([], 0)
    bundle.put_in("2", SoloProgress(stage_config(datas["2"])), initial(datas["2"], None))
    advance(bundle, FusedRun(), 6)
    torch.testing.assert_close(_weights(bundle, "2"), _weights(expected, "2"), **WEIGHTS)


def test_a_kl_weight_needs_references(folder):
    (data,) = (variant(folder / "even.jsonl", GRPO, 0, kl_weight=0.1),)
    task = load_task(stage_config(data).task, folder / "cache")
    bundle = Bundle(task, stage_config(data), CPU)
    bundle.put_in("0", SoloProgress(stage_config(data)), initial(data, None))
    turn = GrpoTurn(stage_config(data).algorithm, iter([Draw(task.rl[:4], torch.rand(16, 3))]), 1e-3)
    with pytest.raises(ValueError, match="kl_weight needs its initial policy"):
        grpo_step(bundle.engine, [turn], Judge(task, CharTokenizer()))
