"""A longer stage that continues a shorter one of its trunk is the uninterrupted run, bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.checkpoint import STATE, TRUNK
from tests.unit.experiments.children import run_gang
from tests.unit.experiments.stage_runs import (
    ALGORITHMS,
    MEASURED,
    Result,
    assert_same_weights,
    assignment_of,
    run_alone,
    stage_data,
    warmed_up,
)

WSD = {"schedule": "wsd", "decay_steps": 18, "decay": "sqrt"}


@pytest.fixture(scope="module")
def grounds(tmp_path_factory):
    """(folder, problems, the output of a warm-up)"""
    return warmed_up(tmp_path_factory.mktemp("trunk"))


def run(grounds, name: str, algorithm: str, steps: int, *, start: Path | None = None, begun=0, **optimizer) -> Result:
    folder, problems, parent = grounds
    data = stage_data(problems, {**ALGORITHMS[algorithm], "max_steps": steps}, warmup_steps=4, **optimizer)
    given = assignment_of(folder, data, parent=parent if algorithm == "grpo" else "", name=name)
    stage = replace(
        given.stage,
        budget_steps=steps,
        trunk="trunk",
        trunk_steps=steps - 18 if optimizer else steps,
        continues="" if start is None else "shorter",
        warm_step=begun,
    )
    (result,) = run_gang(run_alone, [(replace(given, stage=stage, warm_dir=str(start or "")), -1)])
    return result


def state_of(grounds, name: str) -> Path:
    return grounds[0] / name / "output" / STATE


def points(result: Result, after: int) -> list[tuple[int, str, float]]:
    return [(step, n, v) for step, metrics, _ in result.reports for n, v in metrics.items() if step > after]


def assert_same(continued: Result, whole: Result, after: int) -> None:
    assert continued.weights
    assert_same_weights(whole, continued)
    assert points(continued, after) == points(whole, after)
    metrics = [{k: v for k, v in r.outcome.metrics.items() if k not in MEASURED} for r in (continued, whole)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(("algorithm", "cut"), [("sft", 37), ("grpo", 26)])
def test_what_continues_is_the_uninterrupted_run_bit_for_bit(grounds, algorithm, cut):
    """56 steps at a constant rate, and 56 of which the last 18 decay, from one trunk that is cut in mid-series."""
    shorter = run(grounds, f"{algorithm}-short", algorithm, cut)
    start = state_of(grounds, f"{algorithm}-short")
    for name, optimizer in (("constant", {}), ("wsd", WSD)):
        whole = run(grounds, f"{algorithm}-{name}-whole", algorithm, 56, **optimizer)
        continued = run(grounds, f"{algorithm}-{name}", algorithm, 56, start=start, begun=cut, **optimizer)
        assert_same(continued, whole, after=cut)
        assert min(step for step, _, _ in continued.reports) > cut
        assert min(fraction for _, _, fraction in continued.reports) > cut / 56
        told = [p for p in points(shorter, -1) if p[0] < cut]
        assert told == [p for p in points(whole, -1) if p[0] < cut]


def test_where_there_is_nothing_to_continue_the_stage_runs_from_its_beginning(grounds):
    whole = run(grounds, "alone", "sft", 12)
    gone = run(grounds, "gone", "sft", 12, start=grounds[0] / "nowhere", begun=6)
    assert_same(gone, whole, after=-1)


def test_a_stage_that_ends_off_its_trunk_leaves_no_state(grounds):
    run(grounds, "decayed", "sft", 24, **WSD)
    assert not state_of(grounds, "decayed").exists()
    assert not (grounds[0] / "decayed" / "output" / TRUNK).exists()
