"""Stages of a model that predicts further tokens: it learns them, is drafted for by them, and carries them along."""

import pytest
import torch

from orchestrator.schema.fusion_key import require_one_key
from orchestrator.schema.training import PredictionKind, stage_config
from tests.unit.experiments.stage_runs import ALGORITHMS, run_stage, stage_data, write_problems


def with_modules(problems, algorithm, **prediction):
    data = stage_data(problems, ALGORITHMS[algorithm], lr=1e-2)
    return {**data, "model": {**data["model"], "prediction": {"kind": "multi_token", "depth": 2, **prediction}}}


def module_weights(result):
    return {name: weight for name, weight in result.weights.items() if name.startswith("further.")}


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi-token")
    problems = write_problems(folder)
    (result,) = run_stage(folder, with_modules(problems, "sft"))
    return folder, problems, result


def test_the_config_reaches_the_stage(supervised):
    _, problems, _ = supervised
    prediction = stage_config(with_modules(problems, "sft")).model.prediction
    assert prediction.kind is PredictionKind.multi_token
    assert prediction.depth == 2


def test_an_output_has_the_modules_and_its_outcome_how_well_they_draft(supervised):
    _, _, result = supervised
    assert {name.split(".")[1] for name in module_weights(result)} == {"0", "1"}
    assert 0.0 <= result.outcome.metrics["acceptance_rate"] <= 1.0
    assert result.outcome.metrics["speculative_speedup"] > 0.0


def test_the_modules_learn(supervised):
    _, _, result = supervised
    assert all(loss > 0 for loss in result.series("train/further_loss"))
    written = [w for n, w in module_weights(result).items() if n.endswith("feed_forward.down.weight")]
    assert all(weight.abs().sum() > 0 for weight in written)  # zero at first


def test_a_resumed_stage_is_the_uninterrupted_one(supervised):
    folder, problems, whole = supervised
    data = with_modules(problems, "sft")
    (paused,) = run_stage(folder, data, name="cut", stop_at=5)
    assert not paused.outcome.finished
    (resumed,) = run_stage(folder, data, name="cut")
    assert all(torch.equal(weight, whole.weights[name]) for name, weight in resumed.weights.items())


def test_micro_batches_learn_what_the_batch_does(supervised):
    folder, problems, whole = supervised
    data = {**with_modules(problems, "sft"), "deepspeed": {"gradient_accumulation_steps": 2}}
    (parts,) = run_stage(folder, data, name="parts")
    for name, weight in parts.weights.items():
        torch.testing.assert_close(weight, whole.weights[name], atol=1e-4, rtol=1e-3)
    assert parts.series("train/further_loss") == pytest.approx(whole.series("train/further_loss"), rel=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_reinforcement_learning_teaches_the_modules_where_it_is_told_to(supervised, weight):
    folder, problems, warm = supervised
    data = with_modules(problems, "grpo", rl_weight=weight)
    (result,) = run_stage(folder, data, parent=folder / "run" / "output", name=f"grpo-{weight}")
    before, after = module_weights(warm), module_weights(result)
    same = all(torch.equal(after[name], before[name]) for name in before)
    assert same is (weight == 0.0)
    assert bool(result.series("train/further_loss")) is (weight > 0.0)


def test_members_of_a_stack_have_the_same_modules_and_learn_them_alike(supervised):
    _, problems, _ = supervised
    config = stage_config(with_modules(problems, "sft"))
    require_one_key([config, stage_config(with_modules(problems, "sft"))])
    for name, value in {"kind": "next_token", "depth": 1, "weight": 0.1}.items():
        other = stage_config(with_modules(problems, "sft", **{name: value}))
        with pytest.raises(ValueError, match=rf"model\.prediction\.{name}=.*: the stack's members have"):
            require_one_key([config, other])
