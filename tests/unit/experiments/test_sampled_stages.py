"""Stages that learn from what the stage before samples: rejection sampling, distillation, preferences."""

import pytest
from safetensors.torch import load_file

from experiments.samples import preference_pairs, read_samples, verified
from tests.unit.experiments.stage_runs import (
    SAMPLING,
    assert_close_weights,
    assert_same_weights,
    run_stage,
    sampled_algorithms,
    stage_data,
    told,
    warmed_up,
    whole_runs,
)

ALGORITHMS = sampled_algorithms(max_steps=12, beta=0.5)
EACH = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    return warmed_up(tmp_path_factory.mktemp("sampled"))


@pytest.fixture(scope="module")
def whole(warm):
    """Each stage, run to its end."""
    return whole_runs(warm, ALGORITHMS)


def _samples(warm, algorithm):
    return read_samples(warm[0] / f"whole-{algorithm}" / "output")


@EACH
def test_a_resumed_stage_is_the_uninterrupted_one_and_does_not_sample_again(warm, whole, algorithm):
    folder, problems, parent = warm
    data = stage_data(problems, ALGORITHMS[algorithm])
    (cut,) = run_stage(folder, data, parent=parent, name=f"cut-{algorithm}", stop_at=6)
    assert not cut.outcome.finished
    (resumed,) = run_stage(folder, data, parent=parent, name=f"cut-{algorithm}")
    assert "rollout" in cut.phases
    assert "rollout" not in resumed.phases
    assert told(cut, resumed) == whole[algorithm].reports
    assert_same_weights(whole[algorithm], resumed)


@pytest.mark.slow
@EACH
def test_a_gang_of_two_learns_what_one_process_does(warm, whole, algorithm):
    folder, problems, parent = warm
    data = stage_data(problems, ALGORITHMS[algorithm])
    first, _ = run_stage(folder, data, parent=parent, name=f"gang-{algorithm}", world_size=2)
    assert read_samples(folder / f"gang-{algorithm}" / "output") == _samples(warm, algorithm)
    assert_close_weights(whole[algorithm], first, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["rejection_sft", "distill"])
def test_examples_are_the_right_ones_of_the_samples_in_the_output(warm, whole, algorithm):
    examples = verified(_samples(warm, algorithm), SAMPLING["keep"])
    assert whole[algorithm].outcome.metrics["examples"] == len(examples) > 0
    assert all(eval(example.prompt.removesuffix("=")) == int(example.answer) for example in examples)


def test_the_policy_goes_on_from_its_weights_and_a_student_does_not(warm, whole):
    before = load_file(warm[2] / "model.safetensors")
    moved = {
        name: sum(float((whole[name].weights[key] - weight).abs().sum()) for key, weight in before.items())
        for name in ("rejection_sft", "distill")
    }
    assert 0 < moved["rejection_sft"] < moved["distill"] / 2


def test_a_student_may_be_smaller_than_its_teacher(warm):
    folder, problems, parent = warm
    data = stage_data(problems, ALGORITHMS["distill"])
    data["model"] = {**data["model"], "d_model": 8}
    (result,) = run_stage(folder, data, parent=parent, name="smaller")
    assert result.weights["embedding.weight"].shape[1] == 8
    assert result.outcome.finished


def test_preferences_grow_on_the_pairs_they_are_learned_from(warm, whole):
    result = whole["dpo"]
    assert result.outcome.metrics["pairs"] == len(preference_pairs(_samples(warm, "dpo"), SAMPLING["keep"])) > 0
    losses, margins = result.series("train/loss"), result.series("train/margin")
    assert losses[-1] < losses[0]
    assert margins[-1] > margins[0]


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [("rejection_sft", "none of .* answers is right"), ("dpo", "has both a right and a wrong")],
)
def test_a_policy_that_is_never_right_is_refused(tmp_path, warm, algorithm, message):
    _, problems, _ = warm
    data = stage_data(problems, {**ALGORITHMS[algorithm], "sampling": {"prompts": 2, "per_prompt": 2}})
    with pytest.raises(Exception, match=message):
        run_stage(tmp_path, data)
