"""Small rooms and queues of every kind, and the words to build them with."""

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from orchestrator.schema import Demand, Device, DeviceKind, Node, Placement, Request
from orchestrator.snapshot import Arrivals, Room, Snapshot

GIB = 2**30


def node(
    node_id: str,
    devices: int,
    *,
    memory_gib: int = 8,
    model: str = "A",
    cpus: float = 0.0,
    host_gib: int = 0,
    device_name: str = "",
) -> Node:
    """Its devices are `a/0`, `a/1`, ... on node `a`; with a `device_name` that stands before the index."""
    return Node(
        node_id=node_id,
        devices=tuple(
            Device(
                device_id=f"{node_id}/{device_name}{index}",
                node_id=node_id,
                index=index,
                kind=DeviceKind.CUDA,
                memory_bytes=memory_gib * GIB,
                model=model,
            )
            for index in range(devices)
        ),
        cpus=cpus,
        host_memory_bytes=host_gib * GIB,
    )


def demand(
    devices: int = 1,
    share: float = 1.0,
    *,
    gib: int = 0,
    cpus: float = 0.0,
    host_gib: int = 0,
    models: Sequence[str] = (),
    max_nodes: int = 1,
    kind: str = "",
) -> Demand:
    return Demand(
        devices=devices,
        share=share,
        memory_bytes=gib * GIB,
        cpus=cpus,
        host_memory_bytes=host_gib * GIB,
        models=tuple(models),
        max_nodes=max_nodes,
        kind=kind,
    )


def asking(*demands: Demand, first: int = 0) -> list[Request]:
    """Requests of stages `0`, `1`, ..., or from another number on."""
    return [
        Request(stage_key=str(number), study_id="study-1", trial_ids=(str(number),), demand=demand, queued_at=0.0)
        for number, demand in enumerate(demands, start=first)
    ]


def snapshot(room: Room, expected: Mapping[Demand, float] | None = None) -> Snapshot:
    return Snapshot(at=0.0, room=room, arrivals=Arrivals(known=expected, seen=expected))


def taken(room: Room, *holds: tuple[Sequence[str], float]) -> Room:
    """The room once somebody holds these devices, this share of each."""
    for device_ids, share in holds:
        room.take(Placement(stage_key="", device_ids=tuple(device_ids), share=share, memory_bytes=0))
    return room


def device_ids(placements: Sequence[Placement]) -> list[tuple[str, ...]]:
    return [placement.device_ids for placement in placements]


NODES = st.lists(
    st.builds(
        lambda devices, gib, model, cpus, host: (devices, gib, model, cpus, host),
        st.integers(0, 4),
        st.sampled_from([4, 8]),
        st.sampled_from("AB"),
        st.sampled_from([0.0, 2.0, 4.5, 8.0]),
        st.sampled_from([0, 8, 16]),
    ),
    max_size=4,
).map(
    lambda rows: [
        node("abcd"[n], devices, memory_gib=gib, model=model, cpus=cpus, host_gib=host)
        for n, (devices, gib, model, cpus, host) in enumerate(rows)
    ]
)
DEMANDS = st.builds(
    demand,
    st.integers(0, 4),
    st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.81, 1.0]),
    gib=st.integers(0, 5),
    cpus=st.sampled_from([0.0, 0.5, 1.0, 3.333]),
    host_gib=st.sampled_from([0, 1, 7]),
    models=st.sampled_from([(), (), ("A",), ("B",), ("A", "B")]),
    max_nodes=st.sampled_from([1, 1, 2, 3]),
    kind=st.sampled_from(["", "learn", "rollout"]),
)
QUEUES = st.lists(DEMANDS, max_size=8)
# Queues that ask for the same few things again and again.
REPEATING = st.lists(DEMANDS, min_size=1, max_size=3).flatmap(
    lambda few: st.lists(st.lists(st.sampled_from(few), max_size=6), min_size=2, max_size=5)
)
EXPECTED = st.dictionaries(DEMANDS, st.integers(1, 20), max_size=5)
CONFLICTS = st.sampled_from([{}, {"learn": ("rollout",), "rollout": ("learn",)}, {"learn": ("learn",)}])
