"""The fusion key of a stage in a few digits."""

import hashlib
import json

from orchestrator.schema import Stage
from orchestrator.schema.fusion_key import fusion_key


def fusion_digest(stage: Stage) -> str:
    """Equal for stages that may be members of one stack; "" for one that has no fused program or can't be fused.

    A fused program trains the stages of its own package: whoever puts an entrypoint of another one into a config gets
    that, alone, and not what the fused program takes for it.
    """
    if not stage.fused_entrypoint or _package(stage.entrypoint) != _package(stage.fused_entrypoint):
        return ""
    try:
        fields = fusion_key(stage.config)
    except ValueError:
        return ""
    said = json.dumps([stage.fused_entrypoint, stage.entrypoint, fields], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _package(entrypoint: str) -> str:
    return entrypoint.partition(":")[0].rpartition(".")[0]
