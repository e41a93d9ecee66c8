"""The model of the stage before, quantized: its accuracy, and what its answers cost then.

Nothing is learned. `start_accuracy` and the first evaluation on the dev split are of the model as it was, so the gain
of the stage is what quantization costs. The output is that model and `quantization.json`, which says how it is served;
`load_quantized` makes that of it. Quantizing is deterministic, so this is the model that was measured.
"""

import copy
import json
from functools import partial
from pathlib import Path
from typing import cast

import torch

from experiments.building import Model, load_model
from experiments.channel import Channel
from experiments.fusion.lora.base import FrozenBase
from experiments.fusion.lora.stack import LoraStack
from experiments.models.decoder import Decoder
from experiments.models.kv_cache import QuantizedHfCache, QuantizedKVCache, WithQuantizedCache
from experiments.models.quantization import quantize
from experiments.rollout import CachedModel
from experiments.stages.session import open_session
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import AnyModelConfig, HfModelConfig, QuantizeConfig, Weights, stage_config

FILE = "quantization.json"


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Runs or resumes the stage; raises what `open_session` does."""
    algorithm = cast(QuantizeConfig, stage_config(assignment.stage.config).algorithm)
    with open_session(assignment, channel, assignment.world_size) as (session, engine):
        session.evaluate_if_due()
        if session.progress.step == 0:
            if session.stop_requested():
                return session.pause()
            session.complete_step(tokens=0)
        trained, model = engine.decoder(), session.config.model
        outcome = session.finish(served_model(trained, model, algorithm.weights, algorithm.kv_bits))
        if session.rank == 0:
            description = {"weights": algorithm.weights, "kv_bits": algorithm.kv_bits}
            (Path(assignment.output_dir) / FILE).write_text(json.dumps(description, indent=2) + "\n")
        return outcome


def served_model(model: Model, config: AnyModelConfig, weights: Weights, kv_bits: int) -> CachedModel:
    """A copy of `model` with quantized weights and cache; adapters stay as they are, over a quantized base."""
    if isinstance(model, LoraStack) and weights != Weights.none:
        base = FrozenBase.load(cast(HfModelConfig, config), model.device)
        quantize(base.model, weights)
        model = LoraStack.of(base, [model.adapter()], model.adapter().rank)
    elif weights != Weights.none:
        model = copy.deepcopy(model)
        quantize(model, weights)
    if not kv_bits:
        return model
    if isinstance(model, Decoder):
        return WithQuantizedCache(model, partial(QuantizedKVCache, model.config.layers, kv_bits))
    return WithQuantizedCache(model, partial(QuantizedHfCache, kv_bits))


def load_quantized(model: AnyModelConfig, folder: Path, device: torch.device) -> CachedModel:
    """What the stage measured, of its output. Raises FileNotFoundError where there is none."""
    description = json.loads((folder / FILE).read_text())
    trained = load_model(model, folder, device)
    return served_model(trained, model, Weights(description["weights"]), description["kv_bits"])
