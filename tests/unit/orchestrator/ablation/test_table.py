"""The table of an ablation."""

from orchestrator.ablation.table import grid


def result(arrangement: str, rate: float, wall_s: float = 10.0) -> dict[str, object]:
    winner = {"overrides": ["optimizer.lr=0.1"], "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    return {
        "arrangement": arrangement,
        "experiments_per_gpu_hour": rate,
        "completed_equivalent_per_gpu_hour": rate,
        "device_s": 3600.0 / rate,
        "wall_s": wall_s,
        "winner": winner,
    }


def test_each_arrangement_is_compared_with_the_first() -> None:
    rows = grid([result("all", 200.0), result("without fusion", 50.0)]).rows
    assert [(row[0], row[2]) for row in rows] == [("all", "100 %"), ("without fusion", "25 %")]


def test_repeats_are_a_mean_with_its_range() -> None:
    (row,) = grid([result("all", 100.0), result("all", 300.0)]).rows
    assert row[1] == "200 (100-300)"


def test_the_winner_is_shown_with_its_interval() -> None:
    (row,) = grid([result("all", 100.0)]).rows
    assert row[-1] == "optimizer.lr=0.1: 50.0 % (40-60)"


def test_a_run_without_a_winner_says_so() -> None:
    (row,) = grid([result("all", 100.0) | {"winner": None}]).rows
    assert row[-1] == "none"
