"""What a trial's gain is above."""

from dataclasses import replace

import pytest

from cluster.simulated import Script
from orchestrator.control.views import report_document
from orchestrator.events import Launch
from orchestrator.report.document import build_report
from orchestrator.report.gain import base_accuracies, bases_of, gain_of, telling_stages
from orchestrator.report.table import comparison_grid, markdown, trial_grid
from orchestrator.schema import Outcome, Stage, Trial, TrialState
from tests.unit.orchestrator.builders import stage, variant
from tests.unit.orchestrator.report.studies import a_study, a_trial
from tests.unit.orchestrator.rig import Rig


def chain(*names: str) -> tuple[Stage, ...]:
    made: list[Stage] = []
    for name in names:
        made.append(stage(name, made[-1] if made else None))
    return tuple(made)


def of_recipe(number: int, seed: int, names: tuple[str, ...], *, accuracy: float = 0.9, start: float = 0.8) -> Trial:
    stages = chain(*names)
    made = a_trial(number, "r1", seed, accuracy, start=start)
    overrides = (f"recipe={number}", f"seed={seed}")
    return replace(
        made,
        stage_index=len(stages),
        variant=variant(*stages, algorithm=f"r{number}", overrides=overrides, seed=seed),
    )


R1 = of_recipe(0, 0, ("base", "cold@0", "rl@0"))
SFT = of_recipe(1, 0, ("base", "sft@0"), accuracy=0.6, start=0.25)
BASE, COLD = R1.variant.stages[:2]


def names_of(trial: Trial, *trials: Trial) -> list[str]:
    return [stage.name for stage in bases_of([trial, *trials])[trial.trial_id]]


def test_the_base_is_what_all_trials_of_a_seed_begin_with() -> None:
    assert names_of(R1, SFT) == ["base"]
    assert names_of(R1, of_recipe(1, 0, ("base", "cold@0", "dpo@0"))) == ["base", "cold"]
    assert names_of(R1, of_recipe(1, 0, ("base", "cold@0", "dpo@0")), of_recipe(2, 1, ("sft@1",))) == ["base", "cold"]


def test_a_recipes_last_stage_is_in_no_base() -> None:
    assert names_of(R1, replace(R1, trial_id="a clone of it")) == ["base", "cold"]
    assert names_of(R1, of_recipe(1, 0, ("base",))) == []


def test_a_part_of_a_last_stage_is_in_no_base_either() -> None:
    warmup = stage("warmup")
    first = replace(stage("main@100", warmup), trunk="t", trunk_steps=100)
    longer = [replace(stage(f"main@{steps}", warmup), trunk="t", continues=first.key) for steps in (200, 400)]
    trials = [replace(of_recipe(n, 0, ("x",)), variant=variant(warmup, first, last)) for n, last in enumerate(longer)]
    assert names_of(trials[0], trials[1]) == ["warmup"]


def test_a_trial_alone_with_its_seed_is_held_against_its_first_stage() -> None:
    assert names_of(R1) == ["base"]
    assert names_of(of_recipe(0, 0, ("main@0",))) == []


def test_a_gain_of_a_recipe_is_above_its_base_and_not_above_where_its_last_stage_began() -> None:
    bases = base_accuracies([R1, SFT])
    assert bases == {R1.trial_id: 0.25, SFT.trial_id: 0.25}
    assert gain_of(R1, bases) == pytest.approx(0.65)
    assert gain_of(SFT, bases) == pytest.approx(0.35)


def test_a_base_that_no_last_stage_began_with_is_known_by_its_own_outcome() -> None:
    assert telling_stages([R1]) == [BASE.key]
    assert base_accuracies([R1]) == {}
    assert base_accuracies([R1], {BASE.key: Outcome(metrics={"accuracy": 0.2})}) == {R1.trial_id: 0.2}


def test_where_nothing_is_shared_the_base_is_the_weights_that_each_recipe_begins_with() -> None:
    small = of_recipe(0, 0, ("warmup@small", "main@small"))
    large = of_recipe(1, 0, ("main@large",), start=0.125)
    keys = [small.variant.stages[0].key, large.variant.stages[0].key]
    assert telling_stages([small, large]) == keys
    known = base_accuracies([small, large], {keys[0]: Outcome(metrics={"accuracy": 0.5, "start_accuracy": 0.0625})})
    assert known == {small.trial_id: 0.0625, large.trial_id: 0.125}


def test_a_student_of_new_weights_does_not_tell_how_good_its_teacher_is() -> None:
    *before, last = chain("base", "student@0")
    student = replace(last, config={"algorithm": {"name": "distill", "fresh": True}})
    trial = replace(R1, variant=variant(*before, student, algorithm="distill"))
    assert base_accuracies([trial]) == {}


def test_an_unfinished_trial_has_no_gain_and_tells_of_no_base() -> None:
    running = replace(SFT, state=TrialState.RUNNING)
    assert base_accuracies([R1, running]) == {}
    assert gain_of(running, {running.trial_id: 0.2}) is None


def test_every_form_shows_that_gain() -> None:
    document = build_report(a_study(), [R1, SFT], [], now=0.0)
    assert [row[5] for row in comparison_grid(document).rows] == ["+65.0", "+35.0"]
    assert [row[7] for row in trial_grid(document).rows] == ["+65.0", "+35.0"]
    assert [trial["gain"] for trial in document["trials"]] == pytest.approx([0.65, 0.35])
    best = document["verdict"]["algorithms"]["r0"]
    assert best["best_trial"]["gain"] == best["best_setting"]["gain_mean"] == pytest.approx(0.65)
    assert "65.0 points above what all share" in document["verdict"]["text"]
    assert document["base"] == {"stages": ["base"], "accuracy_mean": 0.25}
    assert "above base, with which all trials of a seed begin (25.0 % on average)" in markdown(document)


def test_outcomes_of_the_store_reach_the_document() -> None:
    document = build_report(a_study(), [R1], [], now=0.0, outcomes={BASE.key: Outcome(metrics={"accuracy": 0.2})})
    assert document["settings"][0]["gain_mean"] == pytest.approx(0.7)


def test_a_study_in_the_store_knows_its_base_by_the_outcome_of_its_warm_up() -> None:
    def script(launch: Launch) -> Script:
        accuracy = 0.75 if launch.stage.name == "main" else 0.5
        return Script(duration_s=1.0, outcome=Outcome(metrics={"accuracy": accuracy}))

    rig = Rig(script)
    rig.submit(2)
    rig.run()
    document = report_document(rig.store, rig.store.study("study-1"), rig.cluster.now())
    assert document["base"] == {"stages": ["warmup"], "accuracy_mean": 0.5}
    assert [trial["gain"] for trial in document["trials"]] == [0.25, 0.25]
