"""What was searched, in a line and in tables."""

from dataclasses import replace

import pytest

from orchestrator.report.document import build_report
from orchestrator.report.page import html_page
from orchestrator.report.searched import search_entry, search_line, shortened
from orchestrator.schema import TrialState
from tests.unit.orchestrator.builders import stage, study, trials, variant

SEARCH = {"name": "tpe", "trials": 64, "metric": "dev_accuracy", "direction": "maximize", "seed": 0}
SEARCHED = replace(study(), config={"search": SEARCH}, sweep=("optimizer.lr=interval(0,1)", "seed=0,1"))


def two_points() -> list:
    texts = [("optimizer.lr=0.0012345678901", f"seed={n}") for n in range(2)] + [("optimizer.lr=0.5", "seed=0")]
    made = trials([variant(stage(f"main@{n}"), overrides=text) for n, text in enumerate(texts)])
    values = (0.5, 0.7, 0.9)
    over = [
        replace(t, state=TrialState.COMPLETED, ended_at=1.0, metrics={"dev_accuracy": value})
        for t, value in zip(made, values, strict=True)
    ]
    return [*over[:2], replace(over[2], state=TrialState.RUNNING, metrics={})]


def test_the_best_point_is_a_mean_over_its_seeds() -> None:
    entry = search_entry(SEARCHED, two_points())
    assert entry is not None
    assert entry["best"] == {"point": ["optimizer.lr=0.0012345678901"], "value": 0.6, "numbers": [0, 1]}
    assert entry["points"] == {"running": 1, "completed": 1, "pruned": 0, "failed": 0}


def test_one_line_says_how_far_it_is_and_what_is_best() -> None:
    entry = search_entry(SEARCHED, two_points())
    assert entry is not None
    expected = "tpe asked 3 of 64 trials, best so far dev_accuracy 0.6 at optimizer.lr=0.001235 (#0, #1)"
    assert search_line(entry) == expected
    nothing = search_entry(SEARCHED, [])
    assert nothing is not None
    assert search_line(nothing) == "tpe asked 0 of 64 trials"


def test_a_grid_was_not_searched() -> None:
    assert search_entry(study(), []) is None
    assert "<h2>Search</h2>" not in html_page(build_report(study(), [], [], 1.0))


def test_the_page_says_what_the_search_asked_what_is_best_and_by_which_trials() -> None:
    page = html_page(build_report(SEARCHED, two_points(), [], 1.0))
    assert "tpe asked 3 of 64 trials, best so far dev_accuracy 0.6 at optimizer.lr=0.001235 (#0, #1)." in page
    assert "Points: 1 running, 1 completed." in page
    assert "maximize dev_accuracy" in page
    assert "optimizer.lr=interval(0,1) seed=0,1" in page


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("optimizer.lr=0.00012345678901234", "optimizer.lr=0.0001235"),
        ("optimizer.lr=1.2345678901234e-05", "optimizer.lr=1.235e-05"),
        ("optimizer.lr=0.0005", "optimizer.lr=0.0005"),
        ("seed=1234567890", "seed=1234567890"),
        ("task.path=/a/b.jsonl", "task.path=/a/b.jsonl"),
    ],
)
def test_only_long_fractions_are_cut(text: str, short: str) -> None:
    assert shortened([text]) == short
