"""Which mechanisms a study uses, and how each of them is switched off."""

import pytest

from orchestrator.ablation.mechanisms import MECHANISMS, used_by, without
from orchestrator.ablation.runner import arrangements
from orchestrator.sweep import compose_study


def test_a_study_behind_a_warm_up_shares_stages_and_fuses() -> None:
    assert used_by(compose_study(["study=rl_vs_sft"])) == ("fusion", "refill", "shared_stages")


def test_a_single_stage_has_nothing_to_share() -> None:
    assert "shared_stages" not in used_by(compose_study(["recipe=from_scratch"]))


def test_a_cluster_in_one_process_fuses_nothing() -> None:
    assert used_by(compose_study(["recipe=from_scratch", "cluster=local"])) == ()


def test_shares_of_devices_are_packing() -> None:
    assert "packing" in used_by(compose_study(["cluster.share_per_trial=0.5"]))


LENGTHS = ["recipe=from_scratch", "algorithm=sft", "algorithm.max_steps=20,40"]


def test_runs_of_two_lengths_share_a_trunk() -> None:
    assert "trunks" in used_by(compose_study(LENGTHS))
    assert "trunks" not in used_by(compose_study(LENGTHS[:2]))


@pytest.mark.parametrize(
    "other", ["optimizer.schedule=linear", "stopping=median", "study.share_stages=false", "study.share_trunks=false"]
)
def test_where_no_trunk_is_cut_there_is_none_to_switch_off(other: str) -> None:
    assert "trunks" not in used_by(compose_study([*LENGTHS, other]))


@pytest.mark.parametrize("name", sorted(set(MECHANISMS) - {"trunks"}))
def test_what_is_switched_off_is_not_used_any_more(name: str) -> None:
    given = ["study=rl_vs_sft", "stopping=successive_halving", "cluster.share_per_trial=0.5", "phases=antiphase"]
    assert name in used_by(compose_study(given))
    assert name not in used_by(compose_study(without(given, [name])))


def test_what_was_said_of_a_group_that_is_replaced_goes_with_it() -> None:
    given = ["study=rl_vs_sft", "fusion.max_width=4", "optimizer.lr=1e-3"]
    assert without(given, ["fusion"]) == ("study=rl_vs_sft", "optimizer.lr=1e-3", "fusion=off")


def test_a_value_is_replaced_by_the_one_that_switches_off() -> None:
    assert without(["cluster.share_per_trial=0.5", "seed=1"], ["packing"]) == ("cluster.share_per_trial=1.0", "seed=1")


def test_arrangements_are_all_then_without_each_then_none() -> None:
    made = arrangements(["study=rl_vs_sft"], ["fusion", "shared_stages"])
    assert [a.name for a in made] == ["all", "without fusion", "without shared_stages", "none"]
    assert made[-1].overrides == ("study=rl_vs_sft", "fusion=off", "study.share_stages=false")


def test_one_mechanism_needs_no_arrangement_without_all() -> None:
    assert [a.name for a in arrangements([], ["fusion"])] == ["all", "without fusion"]
