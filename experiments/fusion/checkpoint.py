"""A member's checkpoint as that of a solo stage, both ways.

`MemberEngine` is one member of a bundle with the interface of `experiments.engine.Engine` that checkpoints, outputs and
evaluation need. `experiments.checkpoint.save_checkpoint` and `load_checkpoint` take it as they take an engine, and
what they write is read by either: the file of DeepSpeed's ZeRO stage 0, with the state of torch's AdamW.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.fusion.bundle import Bundle
from experiments.fusion.optimizer import moments_of
from experiments.models.decoder import Decoder

STATES_FILE = "mp_rank_00_model_states.pt"
"""DeepSpeed's name for the state of one process without ZeRO."""


class MemberEngine:
    """One member of a bundle, wherever in the stack it is; it may be made before the member is put in.

    `learned` is for whoever drives the bundle to count updates in, see `Engine`.
    """

    rank, world_size = 0, 1

    def __init__(self, bundle: Bundle, name: str) -> None:
        self._bundle, self._name = bundle, name
        self.learned = 0

    @property
    def device(self) -> torch.device:
        """Where the stack is."""
        return self._bundle.engine.device

    @property
    def layout(self) -> dict[str, Any]:
        """What a checkpoint depends on; see `Engine.layout`."""
        return {
            "model": self._model_layout(),
            "deepspeed.zero_optimization.stage": 0,
            "deepspeed.bf16.enabled": False,
        }

    def decoder(self) -> Decoder:
        """An ordinary decoder with a copy of the member's weights."""
        return self._bundle.engine.decoder(self._place)

    def save(self, folder: Path, tag: str) -> None:
        """Weights and optimizer state, at `folder/tag`."""
        (folder / tag).mkdir(parents=True, exist_ok=True)
        member = self._bundle.member(self._name)
        engine, place = self._bundle.engine, self._place
        optimizer = engine.optimizer_state(place, member.learning_rate())
        steps = int(engine.optimizer.steps[place])
        states = {
            "module": self._solo_weights(),
            "optimizer": optimizer,
            "lr_scheduler": None,
            "skipped_steps": 0,
            "global_steps": steps,
            "global_samples": member.next_items().start,
            "dp_world_size": 1,
            "mp_world_size": 1,
        }
        torch.save(states, folder / tag / STATES_FILE)

    def load(self, folder: Path, tag: str) -> None:
        """What `save`, or a solo stage without ZeRO, wrote. Hyperparameters stay those of the member.

        Raises FileNotFoundError if it cannot be read.
        """
        path = folder / tag / STATES_FILE
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint of this engine at {folder / tag}")
        # Not `weights_only`: DeepSpeed's file holds classes of its own. The file is this project's.
        states = torch.load(path, weights_only=False, map_location=self.device)
        self._restore(states["module"], states["optimizer"])

    def _model_layout(self) -> dict[str, Any]:
        stack = self._bundle.engine.stack
        return {**asdict(stack.config), "vocab_size": stack.vocab_size}

    def _solo_weights(self) -> OrderedDict[str, Tensor]:
        """The state dict of the member alone; its weights are views of one row, which a file has as one piece."""
        stack, place = self._bundle.engine.stack, self._place
        row = stack.weights.detach()[place].to("cpu", copy=True)
        state = stack.member_state(place) | stack.layout.unpack(row)
        return OrderedDict((name, weight.cpu()) for name, weight in state.items())

    def _restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
        engine = self._bundle.engine
        layout = engine.stack.layout
        engine.restore(self._place, layout.pack(weights), moments_of(optimizer, layout, self.device))
        engine.stack.restore_beside(self._place, weights)

    @property
    def _place(self) -> int:
        return self._bundle.place(self._name)
