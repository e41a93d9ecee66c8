"""Which stage of which trial is run again, and from where. Reads the store and the artifacts, writes nothing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.home import Home
from orchestrator.ports import Store
from orchestrator.schema import Stage, Study, Trial
from orchestrator.schema.fusion_key import fusion_key
from orchestrator.store.opening import find_study

TRACED_STEPS = 10
"""Steps that are traced, beside those that are timed."""
_STEP = "step-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A stage of a trial, how it is run again, and how its own runs used their devices.

    `checkpoint` is the folder that it goes on from, None for its own start. `steps` of 0 is the whole stage. `held_s`
    and `busy_s`: wall time from placement to release over all its runs in the study, and the part in which they were
    computing by their own timer [s]; 0 where none has ended.
    """

    study: Study
    trial: Trial
    stage: Stage
    steps: int
    width: int
    parent: Path | None
    warm: Path | None
    checkpoint: Path | None
    held_s: float
    busy_s: float

    def request(self, cache: Path) -> dict[str, Any]:
        """As the profiler takes it; folders that aren't there are ""."""
        folders = {"parent_dir": self.parent, "warm_dir": self.warm, "checkpoint": self.checkpoint, "cache_dir": cache}
        return {
            "stage": asdict(self.stage),
            "steps": self.steps,
            "traced_steps": TRACED_STEPS,
            "width": self.width,
            **{name: str(folder or "") for name, folder in folders.items()},
        }


def choose(store: Store, home: Home, target: str, stage_name: str, steps: int, width: int) -> Choice:
    """`target` is a trial's id, or "#3" in the last study; `stage_name` "" is its last stage.

    Goes on from the stage's newest checkpoint that leaves so many steps to do; copies whose seeds differ begin at the
    stage's start, and so does a whole stage. Raises ConfigError for what isn't there or can't be fused.
    """
    trial = _find_trial(store, target)
    stage = _find_stage(trial, stage_name)
    if width > 1:
        _require_fusible(stage, width)
    study = store.study(trial.study_id)
    lines = [
        line for line in store.allocations(trial.study_id) if line.stage_key == stage.key and line.closed_at is not None
    ]
    return Choice(
        study=study,
        trial=trial,
        stage=stage,
        steps=steps,
        width=width,
        parent=_parent(home, study, trial, stage),
        warm=_existing(home.artifacts / "kept" / stage.warm_from, study, trial, "the checkpoint that it starts from")
        if stage.warm_from
        else None,
        checkpoint=_newest_checkpoint(home, trial, stage, steps) if width == 1 and steps > 0 else None,
        held_s=sum((line.closed_at or line.opened_at) - line.opened_at for line in lines),
        busy_s=sum(line.busy_s for line in lines),
    )


def _find_trial(store: Store, target: str) -> Trial:
    number = target.removeprefix("#")
    trial_id = f"{find_study(store, None).study_id}-{int(number):04d}" if number.isdecimal() else target
    try:
        return store.trial(trial_id)
    except KeyError:
        raise ConfigError("trial", target, "no such trial; `orchestrator status STUDY` lists them") from None


def _find_stage(trial: Trial, name: str) -> Stage:
    stages: Mapping[str, Stage] = {stage.name: stage for stage in trial.variant.stages}
    if not name:
        return trial.variant.stages[-1]
    if name not in stages:
        raise ConfigError("--stage", name, f"{trial.trial_id} has no such stage; it has {', '.join(stages)}")
    return stages[name]


def _require_fusible(stage: Stage, width: int) -> None:
    if not stage.fused_entrypoint:
        raise ConfigError("--width", width, f"stage {stage.name} has no fused program; leave it at 1")
    try:
        fusion_key(stage.config)
    except ValueError as error:
        raise ConfigError("--width", width, f"{error}: leave it at 1") from error


def _parent(home: Home, study: Study, trial: Trial, stage: Stage) -> Path | None:
    if not stage.parent_key:
        return None
    name = next((each.name for each in trial.variant.stages if each.key == stage.parent_key), "before it")
    return _existing(home.artifacts / "stages" / stage.parent_key, study, trial, f"the output of stage {name}")


def _existing(folder: Path, study: Study, trial: Trial, what: str) -> Path:
    if folder.is_dir():
        return folder
    again = f"orchestrator run {' '.join(study.overrides)}"
    raise ConfigError("trial", trial.trial_id, f"{what} is gone ({folder}); run the study again: {again}")


def _newest_checkpoint(home: Home, trial: Trial, stage: Stage, steps: int) -> Path | None:
    folders = (home.artifacts / "checkpoints" / trial.study_id / stage.key).glob(f"{_STEP}*")
    done = {int(folder.name.removeprefix(_STEP)): folder for folder in folders}
    enough = [step for step in done if stage.budget_steps - step >= steps + TRACED_STEPS]
    return done[max(enough)] if enough else None
