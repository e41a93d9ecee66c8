"""Launches of the contract's payloads on a node's first device, and waiting for what becomes of them."""

import time
from dataclasses import replace
from pathlib import Path

from orchestrator.events import BUNDLE_ENDS, Launch
from orchestrator.schema import Placement, Stage
from tests.contracts import cluster_payloads, fused_payloads

ROOT = str(Path(cluster_payloads.__file__).parents[2])


def make_launch(devices, payload="succeed", *, bundle_id="b", key="", config=None, budget_steps=3):
    key = key or f"key-{bundle_id}"
    return Launch(
        bundle_id=bundle_id,
        study_id="study",
        stage=Stage(
            name="stage",
            key=key,
            parent_key="",
            entrypoint=f"{cluster_payloads.__name__}:{payload}",
            config=config or {},
            budget_steps=budget_steps,
        ),
        trial_ids=("trial",),
        placement=Placement(stage_key=key, device_ids=tuple(d.device_id for d in devices), share=1.0, memory_bytes=0),
        devices=tuple(devices),
        attempt=0,
    )


def make_member(device, bundle_id, *, program="run", stack_id="stack", memory_bytes=0, **config):
    """A launch of a member of a stack whose program is one of `tests.contracts.fused_payloads`."""
    launch = make_launch((device,), bundle_id=bundle_id, config=config)
    stage = replace(launch.stage, fused_entrypoint=f"{fused_payloads.__name__}:{program}")
    placement = replace(launch.placement, stack_id=stack_id, memory_bytes=memory_bytes)
    return replace(launch, stage=stage, placement=placement)


def wait_for(source, bundle_id, *kinds, patience_s=30.0):
    """The first event of one of `kinds` (default: the terminal one) of a bundle."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for event in source.poll(1.0):
            if getattr(event, "bundle_id", None) == bundle_id and isinstance(event, kinds or BUNDLE_ENDS):
                return event
    raise AssertionError(f"{bundle_id} did not get to {kinds or BUNDLE_ENDS}")
