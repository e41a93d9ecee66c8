"""Adapters come and go, and are checkpointed."""

import copy

import pytest
import torch

from experiments.fusion.bundle import SoloProgress
from experiments.fusion.lora.bundle import LoraMemberEngine
from orchestrator.schema.training import LoraConfig, stage_config
from tests.unit.experiments.fusion.fused_runs import FusedRun, advance, variants
from tests.unit.experiments.fusion.lora.lora_runs import SHAPES, SHORT, lora_bundle, random_adapter, run_solo_sft
from tests.unit.experiments.peft_alone import LoraModel

WEIGHTS = {"atol": 5e-5, "rtol": 1e-3}
BOTH = pytest.mark.parametrize("algorithm", ["sft", "grpo"])


@pytest.fixture
def study(lora_study):
    """(datas by algorithm, function that makes a bundle of some of them, its model and task)"""
    even, _, tasks, model = lora_study

    def datas(algorithm):
        return {str(n): data for n, data in enumerate(variants(even, SHORT[algorithm], 3))}

    def bundle(named, **options):
        return lora_bundle(model, tasks[even], named, [SHAPES[int(name)] for name in named], **options)

    return datas, bundle, model, tasks[even]


def put_in(bundle, name, data, weights=None, moments=None, member=None):
    initial = bundle.fresh_member(LoraConfig(*SHAPES[int(name)]), data["seed"])
    bundle.put_in(name, member or SoloProgress(stage_config(data)), initial, weights, moments)


def assert_equal_adapters(mine, theirs):
    assert (mine.rank, mine.alpha) == (theirs.rank, theirs.alpha)
    for name, weight in theirs.weights.items():
        torch.testing.assert_close(mine.weights[name], weight, **WEIGHTS)


@BOTH
def test_who_stays_does_not_notice_that_another_was_taken_out(study, algorithm):
    datas, bundle_of, *_ = study
    expected, bundle = bundle_of(datas(algorithm)), bundle_of(datas(algorithm))
    advance(expected, FusedRun(), 9)
    advance(bundle, FusedRun(), 4)
    bundle.take_out("1")
    advance(bundle, FusedRun(), 5)
    assert bundle.engine.stack.weights.shape[0] == 2
    for name in ("0", "2"):
        assert_equal_adapters(bundle.adapter(name), expected.adapter(name))


@BOTH
def test_a_member_taken_out_and_put_into_another_stack_over_the_base_goes_on(study, algorithm):
    datas, bundle_of, *_ = study
    named = datas(algorithm)
    expected, bundle = bundle_of(named), bundle_of(named)
    advance(expected, FusedRun(), 9)
    advance(bundle, FusedRun(), 4)
    gone = bundle.take_out("1")
    advance(bundle, FusedRun(), 2)
    put_in(bundle, "1", named["1"], gone.decoder, gone.moments, gone.member)
    advance(bundle, FusedRun(), 5)
    assert bundle.names == ["0", "2", "1"]
    assert_equal_adapters(bundle.adapter("1"), expected.adapter("1"))


@BOTH
def test_a_member_put_in_later_goes_the_way_it_goes_from_the_start(study, algorithm):
    datas, bundle_of, *_ = study
    named = datas(algorithm)
    expected, bundle = bundle_of({"2": named["2"]}), bundle_of({"0": named["0"]})
    advance(expected, FusedRun(), 5)
    advance(bundle, FusedRun(), 3)
    put_in(bundle, "2", named["2"])
    advance(bundle, FusedRun(), 5)
    assert_equal_adapters(bundle.adapter("2"), expected.adapter("2"))


def test_a_stack_may_be_empty_for_a_while(study):
    datas, bundle_of, *_ = study
    named = datas("sft")
    expected, bundle = bundle_of({"1": named["1"]}), bundle_of({"0": named["0"]})
    bundle.take_out("0")
    put_in(bundle, "1", named["1"])
    advance(bundle, FusedRun(), 3)
    advance(expected, FusedRun(), 3)
    assert_equal_adapters(bundle.adapter("1"), expected.adapter("1"))


def test_a_member_over_another_base_is_refused(study):
    datas, bundle_of, *_ = study
    named = datas("sft")
    one, other = bundle_of({"0": named["0"]}), bundle_of({"1": named["1"]})
    with pytest.raises(ValueError, match="adapters of another base"):
        one.put_in("1", SoloProgress(stage_config(named["1"])), other.fresh_member(LoraConfig(), 0))


def test_members_are_evaluated_as_each_alone(study):
    datas, bundle_of, *_ = study
    bundle = bundle_of(datas("sft"))
    advance(bundle, FusedRun(), 5)
    together = bundle.evaluate(bundle.names, "dev", 8)
    assert together == {name: bundle.evaluate([name], "dev", 8)[name] for name in bundle.names}


@BOTH
def test_a_checkpoint_goes_on_in_another_place_of_a_stack_of_another_largest_rank(study, algorithm, tmp_path):
    datas, bundle_of, *_ = study
    named = datas(algorithm)
    expected, bundle = bundle_of(named), bundle_of(named)
    advance(expected, FusedRun(), 9)
    advance(bundle, FusedRun(), 4)
    LoraMemberEngine(bundle, "2", LoraConfig(*SHAPES[2])).save(tmp_path, "engine")
    other = bundle_of({"0": named["0"]}, max_rank=12)
    put_in(other, "2", named["2"], member=bundle.member("2"))
    LoraMemberEngine(other, "2", LoraConfig(*SHAPES[2])).load(tmp_path, "engine")
    advance(other, FusedRun(), 5)
    assert_equal_adapters(other.adapter("2"), expected.adapter("2"))


def test_the_optimizers_state_is_that_of_an_adapter_trained_alone(study):
    datas, bundle_of, model, task = study
    named = datas("sft")
    bundle = bundle_of(named)
    advance(bundle, FusedRun(), SHORT["sft"]["max_steps"])
    solo = run_solo_sft(model, task, named["2"], *SHAPES[2])
    mine, theirs = bundle.loras.optimizer_state(2, 1e-3)["state"][0], solo.adam.state_dict()["state"]
    assert mine["step"] == theirs[0]["step"]
    for name in ("exp_avg", "exp_avg_sq"):
        of_peft = torch.cat([entry[name].flatten() for entry in theirs.values()])
        torch.testing.assert_close(mine[name][0], of_peft, atol=1e-4, rtol=1e-3)


def test_what_a_checkpoint_depends_on_is_the_members_own(study):
    datas, bundle_of, *_ = study
    bundle = bundle_of(datas("sft"))
    layouts = [LoraMemberEngine(bundle, name, LoraConfig(*SHAPES[int(name)])).layout["model"] for name in bundle.names]
    assert [(layout["rank"], layout["alpha"]) for layout in layouts] == SHAPES[:3]


def test_a_member_may_start_from_another_stages_adapter(study):
    _, bundle_of, model, _ = study
    bundle = bundle_of({"0": study[0]("sft")["0"]})
    adapter = random_adapter(bundle.base, 4, 6.0)
    member, alone = bundle.member_of(adapter), LoraModel(copy.deepcopy(model), adapter)
    tokens, positions = torch.randint(3, 99, (2, 6)), torch.arange(6)
    torch.testing.assert_close(member(tokens, positions), alone(tokens, positions), atol=2e-4, rtol=1e-4)
