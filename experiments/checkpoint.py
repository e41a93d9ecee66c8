"""Checkpoints inside a stage, and the stage's output.

A checkpoint is a folder `step-N` that appears whole or not at all: written under another name, then renamed. It holds
the engine's state in DeepSpeed's layout (every ZeRO stage, every process of a gang) and, per process, its progress and
its random generators. A stage resumed from it on a CPU continues bit for bit.
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

_PREFIX, _UNFINISHED, _ENGINE = "step-", "unfinished-", "engine"


def save_checkpoint(
    folder: Path, engine: Engine, step: int, progress: dict[str, Any], sampler: torch.Generator
) -> None:
    """Writes `step-N` and removes older ones. Collective. `progress` is plain data."""
    unfinished = folder / f"{_UNFINISHED}{step}"
    unfinished.mkdir(parents=True, exist_ok=True)
    engine.save(unfinished, _ENGINE)
    state = {"progress": progress, "random": _random_state(sampler, engine.device)}
    torch.save(state, unfinished / f"process-{engine.rank}.pt")
    dist.barrier()
    if engine.rank == 0:
        final = folder / f"{_PREFIX}{step}"
        if not final.exists():  # it does when a stage is stopped again before its next step: the same state
            unfinished.rename(final)
        for old in folder.iterdir():
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
    dist.barrier()  # or a fast process would write its next one while this one is tidied away


def load_checkpoint(folder: Path, engine: Engine, sampler: torch.Generator) -> dict[str, Any] | None:
    """Restores engine and generators from the newest checkpoint and returns its progress, None where there is none.

    Raises ValueError if it was written by a gang of another size.
    """
    steps = [int(path.name.removeprefix(_PREFIX)) for path in folder.glob(f"{_PREFIX}*")]
    if not steps:
        return None
    newest = folder / f"{_PREFIX}{max(steps)}"
    written_by = len(list(newest.glob("process-*.pt")))
    if written_by != engine.world_size:
        raise ValueError(f"{newest} was written by {written_by} processes, this gang has {engine.world_size}")
    # Not `weights_only`: numpy's generator state is no tensor. The file is this project's own.
    state = torch.load(newest / f"process-{engine.rank}.pt", weights_only=False)
    engine.load(newest, _ENGINE)
    _restore_random_state(state["random"], sampler, engine.device)
    return state["progress"]


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
