"""Which way of training finds most per GPU-hour."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.accounting import Seat
from orchestrator.report.gain import shared_stages
from orchestrator.report.per_hour import kind_of, per_hour_entry, stage_seconds
from orchestrator.report.verdict import verdict_of
from orchestrator.schema import Stage, Trial
from tests.unit.orchestrator.builders import stage, variant
from tests.unit.orchestrator.report.studies import a_trial, ledger

FAMILY = {
    "sft": "sft",
    "cold": "sft",
    "rl": "grpo",
    "rejection": "rejection_sft",
    "final": "grpo",
    "student": "distill",
}
RECIPES = {
    "sft": ("sft",),
    "r1_zero": ("rl",),
    "r1": ("cold", "rl", "rejection", "final"),
    "distill": ("cold", "rl", "student"),
}
HELD = {"base": 50.0, "sft": 10.0, "cold": 5.0, "rl": 20.0, "rejection": 5.0, "final": 10.0, "student": 10.0}
BASE = stage("base")


def stages(recipe: str, seed: int) -> tuple[Stage, ...]:
    chain = [BASE]
    for name in RECIPES[recipe]:
        made = stage(f"{name}@{seed}", chain[-1], steps=30)
        algorithm = {"name": FAMILY[name], "fresh": name == "student"}
        chain.append(replace(made, config={"algorithm": algorithm}))
    return tuple(chain)


def trial(number: int, recipe: str, seed: int, accuracy: float, start: float) -> Trial:
    made = a_trial(number, recipe, seed, accuracy, start=start)
    overrides = (f"recipe={recipe}", f"seed={seed}")
    chain = stages(recipe, seed)
    return replace(
        made, stage_index=len(chain), variant=variant(*chain, algorithm=recipe, overrides=overrides, seed=seed)
    )


ACCURACIES = {"sft": 0.6, "r1_zero": 0.5, "r1": 0.9, "distill": 0.7}
STARTS = {"sft": 0.2, "r1_zero": 0.2, "r1": 0.8, "distill": 0.0}


def study(names: Sequence[str], seeds: Sequence[int] = (0, 1, 2)) -> dict[str, list[Trial]]:
    return {
        name: [trial(n * 10 + s, name, s, ACCURACIES[name] + 0.01 * s, STARTS[name]) for s in seeds]
        for n, name in enumerate(names)
    }


def held_of(groups: dict[str, list[Trial]]) -> dict[str, float]:
    return {s.key: HELD[s.name] for group in groups.values() for t in group for s in t.variant.stages}


def test_a_recipe_pays_for_all_of_its_own_stages_and_for_nothing_that_all_share() -> None:
    groups = study(list(RECIPES))
    entry = per_hour_entry(groups, held_of(groups))
    assert entry is not None
    costs = {each["algorithm"]: each["gpu_seconds"] for each in entry["ranking"]}
    assert costs == {"sft": 10.0, "r1_zero": 20.0, "r1": 40.0, "distill": 35.0}


def test_a_gain_is_above_what_all_share_and_not_above_where_the_last_stage_began() -> None:
    groups = study(list(RECIPES))
    entry = per_hour_entry(groups, held_of(groups))
    assert entry is not None
    gains = {each["algorithm"]: round(each["gain"], 6) for each in entry["ranking"]}
    assert gains == {"sft": 0.41, "r1_zero": 0.31, "r1": 0.71, "distill": 0.51}
    sft = next(each for each in entry["ranking"] if each["algorithm"] == "sft")
    assert sft["per_gpu_hour"] == pytest.approx(0.41 / 10 * 3600)
    assert sft["low"] < sft["per_gpu_hour"] < sft["high"]


def test_rl_is_held_against_sft_with_the_sign_that_comes_out() -> None:
    groups = study(list(RECIPES))
    entry = per_hour_entry(groups, held_of(groups))
    assert entry is not None
    claim = entry["rl_against_sft"]
    assert (claim["leader"], claim["runner_up"], claim["excludes_zero"]) == ("r1_zero", "sft", True)
    assert claim["difference"] == pytest.approx((0.31 / 20 - 0.41 / 10) * 3600)
    assert claim["difference"] < 0


def test_a_recipe_of_both_is_neither_rl_nor_sft() -> None:
    groups = study(list(RECIPES))
    everybody = [t for group in groups.values() for t in group]
    kinds = {name: kind_of(group, everybody) for name, group in groups.items()}
    assert kinds == {"sft": "sft", "r1_zero": "rl", "r1": "mixed", "distill": "mixed"}


def test_what_learns_nothing_does_not_change_what_a_recipe_is() -> None:
    groups = study(["sft", "r1_zero"])
    for group in groups.values():
        for n, each in enumerate(group):
            chain = each.variant.stages
            last = replace(stage(f"quantize@{n}", chain[-1]), config={"algorithm": {"name": "quantize"}})
            group[n] = replace(each, variant=replace(each.variant, stages=(*chain, last)))
    everybody = [t for group in groups.values() for t in group]
    assert {name: kind_of(group, everybody) for name, group in groups.items()} == {"sft": "sft", "r1_zero": "rl"}


def test_where_nobody_measured_what_all_share_nothing_is_compared() -> None:
    groups = study(["r1", "distill"])
    assert per_hour_entry(groups, held_of(groups)) is None


def test_what_all_share_is_judged_by_the_trials_that_are_compared() -> None:
    groups = study(["r1", "distill"])
    assert [s.name for s in shared_stages([groups["r1"][0], groups["distill"][0]])] == ["base", "cold", "rl"]
    assert [s.name for s in shared_stages([groups["r1"][0]])] == ["base", "cold", "rl", "rejection"]


def test_a_trial_whose_own_stage_an_earlier_study_ran_has_no_price() -> None:
    groups = study(["sft", "r1_zero"])
    held = held_of(groups)
    for name in [key for key in held if key.endswith("rl@0")]:
        del held[name]
    entry = per_hour_entry(groups, held)
    assert entry is not None
    assert {each["algorithm"]: each["seeds"] for each in entry["ranking"]} == {"sft": [0, 1, 2], "r1_zero": [1, 2]}


def test_one_seed_has_no_interval_and_settles_nothing() -> None:
    groups = study(["sft", "r1_zero"], seeds=[0])
    entry = per_hour_entry(groups, held_of(groups))
    assert entry is not None
    assert entry["comparison"]["difference_low"] is None
    assert not entry["rl_against_sft"]["excludes_zero"]


def test_the_verdict_says_it_in_words() -> None:
    groups = study(list(RECIPES))
    verdict = verdict_of([t for group in groups.values() for t in group], held_of(groups))
    assert verdict["winner"] == "r1"
    assert "Per GPU-hour that a recipe would hold alone" in verdict["text"]
    assert "Does RL find more per GPU-hour than SFT here? No: r1_zero - SFT is -9,180 points" in verdict["text"]
    assert (
        "r1: best setting as composed, 91.0 ± 1.0 % over 3 seeds, 71.0 points above what all share" in verdict["text"]
    )
    assert any("distill, r1 and r1_zero trained on prompts beyond the supervised set" in n for n in verdict["notes"])


def test_a_stage_holds_its_lines_and_what_its_seats_left() -> None:
    (line,) = ledger(60.0)
    more = replace(line, bundle_id="b2", opened_at=200.0, closed_at=None)
    assert stage_seconds([line, more], {"b": Seat(5.0, 2)}, 230.0) == {"k": 60.0 + 5.0 + 30.0}
