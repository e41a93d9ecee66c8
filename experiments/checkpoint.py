"""Checkpoints inside a stage, and the stage's output.

A checkpoint is a folder `step-N` that appears whole or not at all: written under another name, then renamed. It holds
the engine's state in DeepSpeed's layout (every ZeRO stage, every process of a gang) and, per process, its progress and
its random generators. A stage resumed from it on a CPU continues bit for bit.

A warm stage, which has none of its own yet, starts from a kept checkpoint of another stage: weights, optimizer state,
progress and generators are carried exactly, hyperparameters are its own.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from experiments.engine import Engine
from experiments.models.decoder import save_decoder

PREFIX, _UNFINISHED, _ENGINE = "step-", "unfinished-", "engine"

Layout = dict[str, Any]
"""What a checkpoint depends on, by the names of the config: whoever differs in it can't go on from there."""


def save_checkpoint(
    folder: Path, engine: Engine, layout: Layout, step: int, progress: dict[str, Any], sampler: torch.Generator
) -> None:
    """Writes `step-N` and removes older ones. Collective. `progress` is plain data."""
    unfinished = folder / f"{_UNFINISHED}{step}"
    unfinished.mkdir(parents=True, exist_ok=True)
    engine.save(unfinished, _ENGINE)
    state = {"layout": layout, "progress": progress, "random": _random_state(sampler, engine.device)}
    torch.save(state, unfinished / f"process-{engine.rank}.pt")
    dist.barrier()
    if engine.rank == 0:
        final = folder / f"{PREFIX}{step}"
        if not final.exists():  # it does when a stage is stopped again before its next step: the same state
            unfinished.rename(final)
        for old in folder.iterdir():
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
    dist.barrier()  # or a fast process would write its next one while this one is tidied away


def has_checkpoint(folder: Path) -> bool:
    """Whether a stage has written one in its own folder."""
    return any(folder.glob(f"{PREFIX}*"))


def load_checkpoint(
    folder: Path, warm: Path | None, engine: Engine, layout: Layout, sampler: torch.Generator
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
    _restore_random_state(state["random"], sampler, engine.device)
    return state["progress"]


def _require_layout(source: Path, written: Layout, mine: Layout) -> None:
    for name, value in mine.items():
        if written[name] != value:
            raise ValueError(
                f"{name}={value}: the checkpoint {source.name} was written with {written[name]}; keep that"
            )


def save_output(folder: Path, engine: Engine) -> None:
    """Writes the final weights and the model's shape into the stage's output folder, by process 0. Collective."""
    decoder = engine.decoder()
    if engine.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        save_decoder(decoder.state_dict(), decoder.config, decoder.vocab_size, folder)
    dist.barrier()


def _random_state(sampler: torch.Generator, device: torch.device) -> dict[str, Any]:
    return {
        "sampler": sampler.get_state(),
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def _restore_random_state(state: dict[str, Any], sampler: torch.Generator, device: torch.device) -> None:
    sampler.set_state(state["sampler"])
    torch.set_rng_state(state["torch"])
    if state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], device)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
