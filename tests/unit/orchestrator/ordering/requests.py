"""Requests as orderings and quotas look at them."""

from collections.abc import Sequence

from orchestrator.schema import Demand, Request
from tests.unit.orchestrator.builders import GIB


def waiting(
    key: str,
    *,
    at: float = 0.0,
    tenant: str = "default",
    priority: int = 0,
    expected_s: float | None = None,
    devices: int = 1,
    share: float = 1.0,
    memory_bytes: int = GIB,
    cpus: float = 0.0,
    host_memory_bytes: int = 0,
    preemptions: int = 0,
) -> Request:
    return Request(
        stage_key=key,
        study_id=f"study-of-{tenant}",
        trial_ids=(key,),
        demand=Demand(
            devices=devices, share=share, memory_bytes=memory_bytes, cpus=cpus, host_memory_bytes=host_memory_bytes
        ),
        queued_at=at,
        tenant=tenant,
        priority=priority,
        expected_s=expected_s,
        preemptions=preemptions,
    )


def keys(requests: Sequence[Request]) -> list[str]:
    return [request.stage_key for request in requests]
