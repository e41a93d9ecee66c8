"""One variant, trained by the project's solo stages: what runs inside every system's processes but ours.

`train` calls the stages' entrypoints one after another, as a script of a person's own would. Heavy imports happen when
it is called: a process that holds a device pays for them while it holds it.
"""

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.schema import Assignment, DeviceKind, Stage
from tests.bench.peers.accounting import Experiment, Work
from tests.bench.peers.study import stages_of

Listener = Callable[[float, float], None]
"""Told of each evaluation on the dev split: the fraction done of the stage, and the accuracy."""


@dataclass
class Course:
    """How far a variant has come. `steps` are those of whole stages, `stage` is the index of the one that runs."""

    stages: Sequence[Stage]
    first: int = 0
    stage: int = 0
    progress: float = 0.0
    dev_accuracy: float = -1.0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        return self.stage == len(self.stages)

    @property
    def fraction(self) -> float:
        """Of the full budget, stages before `first` included."""
        done = float(sum(stage.budget_steps for stage in self.stages[: self.stage]))
        if not self.completed:
            done += self.progress * self.stages[self.stage].budget_steps
        return done / sum(stage.budget_steps for stage in self.stages)

    @property
    def given(self) -> float:
        """The part of the full budget that was trained elsewhere."""
        before = sum(stage.budget_steps for stage in self.stages[: self.first])
        return before / sum(stage.budget_steps for stage in self.stages)


class CourseChannel:
    """Notes in a course what a stage says, and passes evaluations on."""

    def __init__(self, course: Course, listener: Listener | None) -> None:
        self._course, self._listener = course, listener

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        self._course.progress = progress
        if "eval/accuracy" in metrics:
            self._course.dev_accuracy = metrics["eval/accuracy"]
            if self._listener is not None:
                self._listener(progress, metrics["eval/accuracy"])

    def saved(self, step: int) -> None:
        pass

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        pass

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def stop_requested(self) -> bool:
        return False


def train(
    course: Course,
    folder: Path,
    cache: Path,
    last: int | None = None,
    listener: Listener | None = None,
    parent: str = "",
) -> str:
    """Trains the stages of `course` from its `first` to before `last` (all). Returns the last output's folder.

    `parent` is the output that the first one starts from. `listener` hears of the final stage only: what comes before
    it is the same for every variant. A listener that raises ends the training; `course` then says how far it came.
    """
    for index in range(course.first, len(course.stages) if last is None else last):
        stage = course.stages[index]
        course.stage, course.progress = index, 0.0
        final = index == len(course.stages) - 1
        place = folder / stage.name
        assignment = Assignment(
            bundle_id="",
            stage=stage,
            output_dir=str(place / "output"),
            parent_dir=parent,
            checkpoint_dir=str(place / "checkpoint"),
            cache_dir=str(cache),
            device_kind=DeviceKind.CPU,
            device_indexes=(0,),
            share=1.0,
            threads=1,
            memory_bytes=0,
        )
        module, _, name = stage.entrypoint.partition(":")
        run = getattr(importlib.import_module(module), name)
        outcome = run(assignment, CourseChannel(course, listener if final else None))
        course.stage, course.metrics, parent = index + 1, outcome.metrics, assignment.output_dir
    return parent


def train_and_log(folder: Path, number: int, listener: Listener | None = None, parent: str = "") -> None:
    """Trains variant `number` in this process and leaves what became of it in `folder`, also if it is stopped.

    With a `parent`, the output of the stages before the last, only the last one is trained.
    """
    stages = stages_of(folder, number)
    first = len(stages) - 1 if parent else 0
    course = Course(stages, first=first, stage=first)
    began_at = time.time()
    try:
        train(course, folder / "work" / f"{number:04d}", folder / "cache", listener=listener, parent=parent)
    finally:
        work = Work(pid=os.getpid(), born_at=born_at(), number=number, began_at=began_at, ended_at=time.time())
        log(folder, number, {"work": asdict(work), **of_course(course)})


def of_course(course: Course) -> dict[str, Any]:
    return {
        "completed": course.completed,
        "fraction": course.fraction,
        "given": course.given,
        "dev_accuracy": course.dev_accuracy,
    }


def log(folder: Path, number: int, line: Mapping[str, Any]) -> None:
    """One file per variant: several processes write at once."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    (folder / "log" / f"{number:04d}.json").write_text(json.dumps(line))


def logged(folder: Path, stopped: frozenset[int] = frozenset()) -> tuple[list[Experiment], list[Work]]:
    """What `train_and_log` left; `stopped` are the variants that a rule stopped."""
    experiments, work = [], []
    for path in sorted((folder / "log").glob("*.json")):
        line = json.loads(path.read_text())
        piece = Work(**line["work"])
        experiments.append(
            Experiment(
                number=piece.number,
                decided=line["completed"] or piece.number in stopped,
                completed=line["completed"],
                fraction=line["fraction"],
                reused=line["given"],
                dev_accuracy=line["dev_accuracy"],
            )
        )
        work.append(piece)
    return experiments, work


def born_at() -> float:
    """When this process was created [s since the epoch]."""
    import psutil

    return float(psutil.Process().create_time())
