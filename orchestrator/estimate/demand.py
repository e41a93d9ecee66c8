"""What a stage asks for before anything like it has run."""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from orchestrator.estimate.stages import ALONE_BYTES, Footprint, stage_footprint
from orchestrator.schema import Demand, DeviceKind, Stage
from orchestrator.schema.training import stage_config


def stage_demands(stages: Iterable[Stage], cluster: Mapping[str, Any], kind: DeviceKind) -> dict[str, Demand]:
    """What each of the stages of recipes asks for under `cluster`, by stage key."""
    by_key = {stage.key: stage for stage in stages}
    return {key: stage_demand(stage, cluster, kind, by_key.get(stage.parent_key)) for key, stage in by_key.items()}


def stage_demand(stage: Stage, cluster: Mapping[str, Any], kind: DeviceKind, before: Stage | None = None) -> Demand:
    """What a stage asks for under `cluster` (a resolved `ClusterConfig`). `before`: the stage before it, if known."""
    devices = int(cluster["devices_per_trial"])
    share = oversubscribed(float(cluster["share_per_trial"]), float(cluster.get("oversubscription", 1.0)))
    algorithm = stage.config.get("algorithm", {})
    memory_bytes, parkable_bytes = stated_memory_bytes(cluster), 0
    host_memory_bytes = memory_bytes if kind is DeviceKind.CPU else ALONE_BYTES
    if not memory_bytes:
        footprint = footprint_of(stage, cluster, kind, before)
        memory_bytes, parkable_bytes = footprint.device_bytes, footprint.parkable_bytes
        host_memory_bytes = memory_bytes if kind is DeviceKind.CPU else footprint.host_bytes
    return Demand(
        devices=devices,
        share=share,
        memory_bytes=memory_bytes,
        # A core that stands in for a GPU is the core that its process computes on.
        cpus=devices * share if kind is DeviceKind.CPU else float(devices),
        host_memory_bytes=devices * host_memory_bytes,
        kind=str(algorithm.get("name", stage.name)),
        max_slowdown=float(cluster.get("max_slowdown_per_trial", 0.0)),
        phases=tuple(algorithm.get("phases", ())),
        parkable_bytes=parkable_bytes,
    )


def oversubscribed(share: float, factor: float) -> float:
    """What a share of a device counts as on a cluster that promises `factor` times what it has: a whole device is
    promised once only. Who shares gets what is there; `interference` measures what that costs them."""
    return share if share >= 1.0 else share / factor


def stated_memory_bytes(cluster: Mapping[str, Any]) -> int:
    """The memory of a device that a person has said a trial takes [bytes]; 0 if it is to be estimated."""
    return int(float(cluster.get("memory_per_trial_gib", 0.0)) * 2**30)


def footprint_of(stage: Stage, cluster: Mapping[str, Any], kind: DeviceKind, before: Stage | None = None) -> Footprint:
    """What one process of a stage takes under `cluster`, by what it is for; `before` as in `stage_demand`. Raises as
    `stage_config` does."""
    preloaded = bool(cluster.get("preload"))
    policy = "" if before is None or "sampling" not in stage.config["algorithm"] else json.dumps(_shape(before.config))
    return _footprint(json.dumps(_shape(stage.config)), policy, kind, int(cluster["devices_per_trial"]), preloaded)


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stage's config that its memory depends on: the thousands of variants of a sweep share a few."""
    algorithm = {name: value for name, value in config["algorithm"].items() if name != "max_steps"}
    task = {name: config["task"][name] for name in ("max_prompt_tokens", "max_answer_tokens", "split")}
    return {**config, "algorithm": algorithm, "task": task, "optimizer": {}, "seed": 0}


@lru_cache(maxsize=1024)
def _footprint(shape: str, policy: str, kind: DeviceKind, devices: int, preloaded: bool) -> Footprint:
    before = stage_config(json.loads(policy)) if policy else None
    return stage_footprint(stage_config(json.loads(shape)), kind, devices, preloaded=preloaded, policy=before)
