"""Checkpoints inside a stage, and the stage's output.

A checkpoint is a folder `step-N` that appears whole or not at all: written under another name, then renamed. It holds
the engine's state in DeepSpeed's layout (every ZeRO stage, every process of a gang) and, per process, its progress and
its random generators. A stage resumed from it on a CPU continues bit for bit.

A warm stage, which has none of its own yet, starts from a kept checkpoint of another stage: weights, optimizer state,
progress and generators are carried exactly, hyperparameters are its own. One that continues another stage's trunk
starts from the last checkpoint in that one's output the same way, as if the two were one run.
"""

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from experiments.building import Model, save_model
from experiments.gang import meet
from experiments.generators import restore_all, state_of_all
from experiments.parts import timed_as
from orchestrator.schema.training import AnyModelConfig

PREFIX, _UNFINISHED, _ENGINE = "step-", "unfinished-", "engine"
STATE, TRUNK = "state", "trunk.json"
"""Of an output that a longer stage may continue: the last checkpoint, and what it is the end of."""

Layout = dict[str, Any]
"""What a checkpoint depends on, by the names of the config: whoever differs in it can't go on from there."""


class StageEngine(Protocol):
    """What set-up, evaluation, checkpoints and output need: an `Engine`, or one member of a stack."""

    learned: int

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def layout(self) -> Layout: ...
    def decoder(self) -> Model: ...
    def save(self, folder: Path, tag: str) -> None: ...
    def load(self, folder: Path, tag: str) -> None: ...


@timed_as("checkpoint")
def save_checkpoint(
    folder: Path, engine: StageEngine, layout: Layout, step: int, progress: dict[str, Any], sampler: torch.Generator
) -> None:
    """Writes `step-N` and removes older ones. Collective. `progress` is plain data."""
    unfinished = folder / f"{_UNFINISHED}{step}"
    unfinished.mkdir(parents=True, exist_ok=True)
    engine.save(unfinished, _ENGINE)
    state = {
        "layout": layout,
        # As one object: torch asks about each of thousands of small ones, and they would take most of the time.
        "progress": pickle.dumps(progress),
        "random": {"sampler": sampler.get_state(), **state_of_all(engine.device)},
    }
    torch.save(state, unfinished / f"process-{engine.rank}.pt")
    meet()
    if engine.rank == 0:
        final = folder / f"{PREFIX}{step}"
        if not final.exists():  # it does when a stage is stopped again before its next step: the same state
            unfinished.rename(final)
        for old in folder.iterdir():
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
    meet()  # or a fast process would write its next one while this one is tidied away


def has_checkpoint(folder: Path) -> bool:
    """Whether a stage has written one in its own folder."""
    return any(folder.glob(f"{PREFIX}*"))


@timed_as("checkpoint")
def load_checkpoint(
    folder: Path, warm: Path | None, engine: StageEngine, layout: Layout, sampler: torch.Generator
) -> dict[str, Any] | None:
    """Restores engine and generators and returns the progress: of the newest checkpoint in `folder`; of `warm`, the
    contents of a kept one, where there is none yet; None where there is neither.

    Raises ValueError if it was written by a gang of another size or in another layout, FileNotFoundError if `warm` is
    not there.
    """
    steps = [int(path.name.removeprefix(PREFIX)) for path in folder.glob(f"{PREFIX}*")]
    source = folder / f"{PREFIX}{max(steps)}" if steps else warm
    if source is None:
        return None
    written_by = len(list(source.glob("process-*.pt")))
    if written_by == 0:
        raise FileNotFoundError(f"{source} holds no checkpoint")
    if written_by != engine.world_size:
        raise ValueError(f"{source} was written by {written_by} processes, this gang has {engine.world_size}")
    # Not `weights_only`: numpy's generator state is no tensor. The file is this project's own.
    state = torch.load(source / f"process-{engine.rank}.pt", weights_only=False)
    _require_layout(source, state["layout"], layout)
    engine.load(source, _ENGINE)
    sampler.set_state(state["random"]["sampler"])
    restore_all(state["random"], engine.device)
    return progress_of(state)


def progress_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The progress that the state of a process in a checkpoint holds; earlier revisions wrote it as it is."""
    held = state["progress"]
    progress: dict[str, Any] = pickle.loads(held) if isinstance(held, bytes) else held
    return progress


def fits(source: Path, engine: StageEngine, layout: Layout) -> bool:
    """Whether there is a checkpoint at `source` that a gang of this size and layout can go on from."""
    if len(list(source.glob("process-*.pt"))) != engine.world_size:
        return False
    written = torch.load(source / f"process-{engine.rank}.pt", weights_only=False)["layout"]
    return all(written.get(name) == value for name, value in layout.items())


@timed_as("checkpoint")
def leave_state(checkpoint: Path, output: Path, trunk: str, steps: int, processes: int) -> None:
    """Puts a stage's last checkpoint into its output, as the end of a trunk after so many steps. Files are shared by
    hard links, or copied where the file system has none."""
    shutil.copytree(checkpoint, output / STATE, copy_function=_link_or_copy)
    (output / TRUNK).write_text(json.dumps({"trunk": trunk, "steps": steps, "processes": processes}))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _require_layout(source: Path, written: Layout, mine: Layout) -> None:
    for name, value in mine.items():
        if written[name] != value:
            raise ValueError(
                f"{name}={value}: the checkpoint {source.name} was written with {written[name]}; keep that"
            )


@timed_as("checkpoint")
def save_output(folder: Path, model: Model, config: AnyModelConfig, rank: int) -> None:
    """Writes the final model into the stage's output folder, by process 0. Collective."""
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, config, folder)
    meet()
