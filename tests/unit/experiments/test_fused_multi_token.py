"""The fused stage for models that predict further tokens, with experts too: they end as alone, and go on either way."""

import pytest

from tests.unit.experiments.fusion.fused_runs import GRPO, SFT, run_solo, variants, write_even_problems
from tests.unit.experiments.stage_runs import told
from tests.unit.experiments.test_fused import (
    LEFT_AT,
    assert_same_outcome,
    assert_same_reports,
    compare,
    solo,
    stop_and_go_on,
)
from tests.unit.experiments.test_fused_sampled import ALGORITHMS as SAMPLED

MODULES = {"kind": "multi_token", "depth": 2, "weight": 0.3, "rl_weight": 0.3}
ALGORITHMS = {"sft": SFT, "grpo": GRPO, "rejection_sft": SAMPLED["rejection_sft"], "dpo": SAMPLED["dpo"]}
EACH = pytest.mark.parametrize("algorithm", ALGORITHMS)


def with_modules(datas, **prediction):
    return [{**data, "model": {**data["model"], "prediction": {**MODULES, **prediction}}} for data in datas]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(problems, output of a warm-up that is right now and then)."""
    folder = tmp_path_factory.mktemp("fused-multi-token")
    problems = write_even_problems(folder)
    warm_up = variants(problems, {**SFT, "batch_size": 16, "max_steps": 150}, 1)
    run_solo(folder, with_modules([{**warm_up[0], "optimizer": {"lr": 1e-2}}]), "")
    return problems, folder / "solo-0" / "output"


def calm(datas):
    return [{**d, "optimizer": {**d["optimizer"], "lr": 1e-3, "eps": 1e-4}} for d in datas]


@EACH
def test_two_members_end_as_they_do_alone(study, tmp_path, algorithm):
    problems, parent = study
    _, run = compare(tmp_path, with_modules(calm(variants(problems, ALGORITHMS[algorithm], 2))), parent)
    metrics = run.results["solo-0"].outcome.metrics
    assert {"acceptance_rate", "speculative_speedup"} <= metrics.keys()
    assert any(name.startswith("further.") for name in run.results["solo-0"].weights)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize(("first", "then"), [("solo", "fused"), ("fused", "solo")])
def test_stopped_and_resumed_equals_uninterrupted(study, tmp_path, first, then, weight):
    """Modules that are not learned have no optimizer state of their own alone."""
    problems, _ = study
    datas = with_modules(calm(variants(problems, SFT, 2)), weight=weight)
    whole = solo(tmp_path, [datas[1]], "")[0]
    paused, resumed = stop_and_go_on(tmp_path, datas, "", first, then)
    assert (paused.outcome.finished, paused.saves[-1]) == (False, LEFT_AT)
    assert_same_reports(told(paused, resumed), whole.reports)
    assert_same_outcome(resumed, whole)


@pytest.mark.parametrize(("first", "then"), [("solo", "fused"), ("fused", "solo")])
def test_experts_are_stopped_and_resumed_with_their_biases(study, tmp_path, first, then):
    problems, _ = study
    datas = calm(variants(problems, {**SFT, "max_steps": 22}, 2))
    datas = [{**d, "model": {**d["model"], "ffn": "moe", "experts": 4, "d_expert": 12}} for d in datas]
    whole = solo(tmp_path, [datas[1]], "")[0]
    paused, resumed = stop_and_go_on(tmp_path, datas, "", first, then)
    assert (paused.outcome.finished, paused.saves[-1]) == (False, LEFT_AT)
    assert_same_outcome(resumed, whole)
