"""The fused stage for members that learn with rounded weights: they end as alone, and go on either way."""

import pytest

from tests.unit.experiments.fusion.fused_runs import SFT, variants, write_even_problems
from tests.unit.experiments.stage_runs import run_stage, stage_data, told
from tests.unit.experiments.test_fused import (
    LEFT_AT,
    assert_same_outcome,
    assert_same_reports,
    compare,
    fuse,
    seats_of,
    solo,
    stop_and_go_on,
)

STEPS = {"int4": 30, "int8": 10}
"""As many as both go before a code that is within rounding of its border is another in one of them (the README has how
often): of 8 bits there are more borders."""
SHAPES = {
    "modules": {"prediction": {"kind": "multi_token", "depth": 1}},
    "mla-moe": {"attention": "mla", "kv_rank": 8, "rope_dim": 4, "ffn": "moe", "experts": 4, "d_expert": 12},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(problems, output of a warm-up that is right now and then)."""
    folder = tmp_path_factory.mktemp("fused-quantization-aware")
    problems = write_even_problems(folder)
    run_stage(folder, stage_data(problems, {**SFT, "max_steps": 150, "batch_size": 16}, lr=1e-2), name="warm-up")
    return problems, folder / "warm-up" / "output"


def aware(problems, weights, width=2, **shape):
    algorithm = {**SFT, "name": "quantization_aware_sft", "max_steps": STEPS[weights]}
    return [
        {
            **data,
            "algorithm": {**data["algorithm"], "weights": weights},
            "model": {**data["model"], **shape},
            "optimizer": {**data["optimizer"], "lr": 1e-3, "eps": 1e-4},
        }
        for data in variants(problems, algorithm, width)
    ]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_two_members_end_as_they_do_alone(study, tmp_path, weights):
    """What is reported, evaluated, measured and written: of rounded weights, but for those that are written."""
    problems, parent = study
    _, run = compare(tmp_path, aware(problems, weights), parent)
    assert run.results["solo-0"].series("train/loss") != run.results["solo-1"].series("train/loss")


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_eight_members_find_what_they_find_alone(study, tmp_path, weights):
    """At full rates and after fifty steps, whatever codes have become of the last bits."""
    problems, parent = study
    algorithm = {**SFT, "name": "quantization_aware_sft", "weights": weights}
    datas = variants(problems, algorithm, 8)
    alone, run = solo(tmp_path, datas, parent), fuse(tmp_path, seats_of(datas, parent))
    differences = []
    for number, expected in enumerate(alone):
        mine, theirs = run.results[f"solo-{number}"].outcome.metrics, expected.outcome.metrics
        assert theirs["accuracy_low"] <= mine["accuracy"] <= theirs["accuracy_high"]
        assert mine["start_accuracy"] == theirs["start_accuracy"]
        differences.append(mine["accuracy"] - theirs["accuracy"])
    assert abs(sum(differences)) / len(differences) <= 0.02


@pytest.mark.parametrize("shape", ["mla-moe", pytest.param("modules", marks=pytest.mark.slow)])
def test_members_of_other_shapes_end_as_they_do_alone(study, tmp_path, shape):
    problems, _ = study
    compare(tmp_path, aware(problems, "int4", **SHAPES[shape]), "")


@pytest.mark.parametrize(("first", "then"), [("solo", "fused"), ("fused", "solo")])
def test_stopped_and_resumed_equals_uninterrupted(study, tmp_path, first, then):
    problems, parent = study
    datas = aware(problems, "int4")
    whole = solo(tmp_path, [datas[1]], parent)[0]
    paused, resumed = stop_and_go_on(tmp_path, datas, parent, first, then)
    assert (paused.outcome.finished, paused.saves[-1]) == (False, LEFT_AT)
    assert_same_reports(told(paused, resumed), whole.reports)
    assert_same_outcome(resumed, whole)
