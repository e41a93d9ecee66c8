"""Real stages, recorded whole, under the rule that needs what they report of parts of the problems."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.stopping import Hold
from orchestrator.sweep import compose_study
from tests.bench.stopping.curves import Curve, record
from tests.bench.stopping.replay import trial_of
from tests.unit.experiments.children import run_in_child
from tests.unit.orchestrator.stopping.studies import policy

# Two settings that learn, and differ by nothing that matters; two that learn nothing. One seed: only parts can tell.
STUDY = [
    *("study=peers", "algorithm=sft_small", "optimizer.lr=1e-3,1e-8", "seed=0", "optimizer.weight_decay=0.0,1e-6"),
    *("algorithm.max_steps=120", "recipe.stages.warmup.algorithm.max_steps=40"),
]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> list[Curve]:
    return run_in_child(_recorded, tmp_path_factory.mktemp("curves"))


def _recorded(folder: Path) -> list[Curve]:
    return record(compose_study(STUDY).variants, folder)


@pytest.mark.slow
def test_a_curve_has_every_evaluation_with_its_folds(curves: list[Curve]) -> None:
    for curve in curves:
        assert [evaluation.step for evaluation in curve.evaluations] == [0.0, 40.0, 80.0, 120.0]
        assert all(sum(e.folds) / len(e.folds) == pytest.approx(e.accuracy) for e in curve.evaluations)


@pytest.mark.slow
def test_the_signed_rank_test_stops_who_learns_nothing_and_nobody_who_is_as_good(curves: list[Curve]) -> None:
    learning = [curve for curve in curves if "optimizer.lr=0.001" in curve.overrides]
    assert len(learning) == 2
    reached = [replace(trial_of(n, curve), evaluations=curve.evaluations[:3]) for n, curve in enumerate(curves)]
    verdicts = policy("wilcoxon", resource="steps", min_resource=40.0, rung_factor=2)(reached)
    assert all(isinstance(verdict, Hold) and verdict.stop.confidence >= 0.9 for verdict in verdicts)
    stopped = {int(verdict.trial_id.rpartition("-")[2]) for verdict in verdicts}
    assert stopped == {n for n, curve in enumerate(curves) if curve not in learning}
