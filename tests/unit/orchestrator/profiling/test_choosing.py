"""Which stage is run again, and from where: on a store in memory and a home with folders in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.home import Home
from orchestrator.profiling import choose
from orchestrator.profiling.choosing import TRACED_STEPS
from orchestrator.schema import Command, CommandKind, Trial
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.builders import stage, study, trials, variant

BUDGET = 100


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def trial_of(**changed: object) -> Trial:
    """A warm-up, and a main stage of `BUDGET` steps that may be fused."""
    warmup = stage("warmup")
    main = replace(stage("main", warmup, steps=BUDGET, fusable=True), key="main-key", parent_key="parent-key")
    (trial,) = trials([variant(replace(warmup, key="parent-key"), replace(main, **changed))])  # type: ignore[arg-type]
    return trial


def store_of(trial: Trial) -> MemoryStore:
    store = MemoryStore()
    command = Command(command_id=0, at=0.0, author="anna", kind=CommandKind.SUBMIT, target=trial.study_id)
    submitted = RecordStudy(study=replace(study(), overrides=("study=test", "seed=1,2")))
    store.submit(command, submitted, [RecordTrial(trial=trial, was=None, at=0.0)])
    return store


def with_parent(home: Home) -> Home:
    (home.artifacts / "stages" / "parent-key").mkdir(parents=True)
    return home


def with_checkpoint(home: Home, step: int) -> Path:
    folder = home.artifacts / "checkpoints" / "study-1" / "main-key" / f"step-{step}"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("target", ["study-1-0000", "#0", "0"])
def test_a_trial_is_named_by_its_id_or_by_its_number_in_the_last_study(target: str, home: Home) -> None:
    choice = choose(store_of(trial_of()), with_parent(home), target, "", 5, 1)
    assert (choice.trial.trial_id, choice.stage.name) == ("study-1-0000", "main")
    assert choice.parent == home.artifacts / "stages" / "parent-key"


def test_an_earlier_stage_is_chosen_by_its_name_and_needs_no_parent(home: Home) -> None:
    choice = choose(store_of(trial_of()), home, "#0", "warmup", 5, 1)
    assert (choice.stage.name, choice.parent) == ("warmup", None)


@pytest.mark.parametrize(
    ("target", "stage_name", "message"),
    [
        ("#7", "", "trial=#7: no such trial"),
        ("study-2-0000", "", "trial=study-2-0000: no such trial"),
        ("#0", "rl", "--stage=rl: study-1-0000 has no such stage; it has warmup, main"),
    ],
)
def test_what_is_not_there_is_refused_by_its_name(target: str, stage_name: str, message: str, home: Home) -> None:
    with pytest.raises(ConfigError) as refused:
        choose(store_of(trial_of()), home, target, stage_name, 5, 1)
    assert message in str(refused.value)


def test_a_parent_whose_output_is_gone_is_to_be_run_again(home: Home) -> None:
    with pytest.raises(ConfigError) as refused:
        choose(store_of(trial_of()), home, "#0", "", 5, 1)
    assert "the output of stage warmup is gone" in str(refused.value)
    assert "orchestrator run study=test seed=1,2" in str(refused.value)


def test_a_kept_checkpoint_that_is_gone_is_refused_too(home: Home) -> None:
    with pytest.raises(ConfigError, match="the checkpoint that it starts from is gone"):
        choose(store_of(trial_of(warm_from="kept-1")), with_parent(home), "#0", "", 5, 1)


def test_it_goes_on_from_the_newest_checkpoint_that_leaves_enough_steps(home: Home) -> None:
    early, late = with_checkpoint(home, 20), with_checkpoint(home, 60)
    with_checkpoint(home, BUDGET)
    store, steps = store_of(trial_of()), BUDGET - 60 - TRACED_STEPS
    with_parent(home)
    assert choose(store, home, "#0", "", steps, 1).checkpoint == late
    assert choose(store, home, "#0", "", steps + 1, 1).checkpoint == early
    assert choose(store, home, "#0", "", BUDGET, 1).checkpoint is None


@pytest.mark.parametrize(("steps", "width"), [(0, 1), (5, 2)])
def test_a_whole_stage_and_copies_begin_at_the_start(steps: int, width: int, home: Home) -> None:
    with_checkpoint(home, 20)
    assert choose(store_of(trial_of()), with_parent(home), "#0", "", steps, width).checkpoint is None


def test_copies_of_what_cannot_be_fused_are_refused_with_the_reason(home: Home) -> None:
    with pytest.raises(ConfigError, match="--width=2: stage main has no fused program"):
        choose(store_of(trial_of(fused_entrypoint="")), home, "#0", "", 5, 2)
    config = dict(trial_of().variant.stages[-1].config)
    config["deepspeed"] = {**config["deepspeed"], "gradient_accumulation_steps": 2}
    with pytest.raises(ConfigError, match="gradient_accumulation_steps=2"):
        choose(store_of(trial_of(config=config)), home, "#0", "", 5, 2)


def test_a_request_is_plain_data(home: Home) -> None:
    request = choose(store_of(trial_of()), with_parent(home), "#0", "", 5, 2).request(home.cache)
    assert (request["steps"], request["traced_steps"], request["width"]) == (5, TRACED_STEPS, 2)
    assert (request["checkpoint"], request["warm_dir"]) == ("", "")
    assert request["parent_dir"].endswith("parent-key")
    assert request["stage"]["key"] == "main-key"
