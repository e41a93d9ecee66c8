"""Runs side by side."""

from dataclasses import replace

from orchestrator.simulation.results import Fairness, Result
from orchestrator.simulation.table import grids, groups_of

RUN = Result(policy="best_fit", seed=0, overrides={}, makespan_s=100.0, utilisation=0.5, jct_mean_s=10.0)


def cells(*results):
    """The first table's cells by row name."""
    grid = next(iter(grids(results)))
    return {row[0]: row[1:] for row in grid.rows}


def test_runs_that_differ_in_seeds_are_one_column_with_mean_and_spread():
    other = replace(RUN, seed=1, makespan_s=104.0)
    assert cells(RUN, other)["makespan"] == ("102 s ± 2.83 s",)


def test_what_does_not_vary_has_no_spread():
    assert cells(RUN, replace(RUN, seed=1))["utilisation"] == ("50.00 %",)


def test_every_policy_and_setting_is_a_column_of_its_own():
    runs = [RUN, replace(RUN, policy="frontier"), replace(RUN, overrides={"cluster.nodes": "12"})]
    assert [group.name for group in groups_of(runs)] == ["best_fit", "frontier", "best_fit cluster.nodes=12"]


def test_many_columns_are_several_tables():
    runs = [replace(RUN, policy=f"p{n}") for n in range(9)]
    assert [len(grid.header) - 1 for grid in grids(runs)] == [4, 4, 1]


def test_what_no_run_can_say_has_no_row():
    assert "unallocated at 100 % demand" not in cells(RUN)
    assert "unallocated at 100 % demand" in cells(replace(RUN, unallocated_share_at_100=4.8))


def test_rows_that_were_left_out_are_told():
    assert "rows skipped" not in cells(RUN)
    assert cells(replace(RUN, skipped_rows=3))["rows skipped"] == ("3",)


def test_several_tenants_have_a_table_of_their_own():
    fair = {"mine": Fairness(mean=1.0, max=1.0), "theirs": Fairness(mean=2.0, max=5.0)}
    last = list(grids([replace(RUN, fairness_by_tenant=fair)]))[-1]
    assert last.rows == (("best_fit", "mine", "1", "1"), ("best_fit", "theirs", "2", "5"))
