"""Two nodes of four devices with two residents each: a gang of four finds room in all and nowhere together."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.schema import Request, Resident
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.ordering.requests import waiting
from tests.unit.orchestrator.sharing.snapshots import ids, resident, snapshot

AT, HOUR_S = 1000.0, 3600.0


def gang(devices: int = 4, *, max_nodes: int = 1, share: float = 1.0) -> Request:
    request = waiting("gang", devices=devices, share=share, memory_bytes=0)
    return replace(request, demand=replace(request.demand, max_nodes=max_nodes))


def running(
    key: str,
    device_ids: Sequence[str],
    *,
    left_s: float | None = HOUR_S,
    unsaved_s: float = 0.0,
    held_s: float = 500.0,
    share: float = 1.0,
    preemptions: int = 0,
    stopping: bool = False,
) -> Resident:
    """Expected to run for `left_s` more; it has for `held_s`."""
    request = waiting(key, devices=len(device_ids), share=share, memory_bytes=0, preemptions=preemptions)
    made = resident(request, device_ids, opened_at=AT - held_s, unsaved_s=unsaved_s, stopping=stopping)
    return replace(made, expected_end_at=None if left_s is None else AT + left_s)


def scattered(residents: Sequence[Resident] | None = None, nodes: Sequence[int] = (4, 4)) -> Snapshot:
    if residents is None:
        residents = [running(f"{node}{n}", ids(node, n), unsaved_s=float(node == "a")) for node in "ab" for n in (0, 1)]
    return snapshot(nodes=nodes, residents=residents, at=AT)
