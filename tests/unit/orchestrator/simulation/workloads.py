"""Small workloads, and simulations of them whose outcome can be worked out by hand."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.schema import Demand, Device, DeviceKind, Node, Trace, TraceStage, TraceTrial
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.recorder import Recorder
from orchestrator.simulation.results import Result
from orchestrator.simulation.runner import Simulation

PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time
a,1000,1024,1,500,,LS,Running,0,100,0
b,1000,1024,1,500,,LS,Running,0,200,0
c,1000,1024,2,1000,,LS,Running,10,110,10
d,1000,1024,1,1000,,LS,Pending,20,60,
"""
NODES = "sn,cpu_milli,memory_mib,gpu,model\nn0,8000,65536,2,T4\n"


def node(node_id: str = "n0", devices: int = 1, *, cpus: float = 0.0, model: str = "T4") -> Node:
    return Node(
        node_id=node_id,
        devices=tuple(
            Device(
                device_id=f"{node_id}/{i}", node_id=node_id, index=i, kind=DeviceKind.CUDA, memory_bytes=0, model=model
            )
            for i in range(devices)
        ),
        cpus=cpus,
    )


def stage(duration_s: float, *, devices: int = 1, share: float = 1.0, key: str = "", cpus: float = 0.0) -> TraceStage:
    demand = Demand(devices=devices, share=share, memory_bytes=0, cpus=cpus)
    return TraceStage(name="train", demand=demand, duration_s=duration_s, key=key)


def trial(trial_id: str, at: float, *stages: TraceStage, study: str = "", tenant: str = "default") -> TraceTrial:
    return TraceTrial(
        trial_id=trial_id, study_id=study or trial_id, submitted_at=at, stages=stages, tenant=tenant, line=2
    )


def trace(*trials: TraceTrial) -> Trace:
    return Trace(name="small", trials=trials, file="small.csv")


@cache
def config(*overrides: str) -> Mapping[str, Any]:
    """A resolved simulation config; its trace is never read."""
    (run,) = compose_runs(["trace=alibaba2023", "trace.pods=none", *overrides])
    return run.config


def simulation(
    trials: Sequence[TraceTrial], nodes: Sequence[Node], *overrides: str, recorder: Recorder | None = None
) -> Simulation:
    return Simulation(config(*overrides), trace(*trials), nodes, recorder)


def simulated(trials: Sequence[TraceTrial], nodes: Sequence[Node], *overrides: str) -> Result:
    run = simulation(trials, nodes, *overrides)
    run.to_the_end()
    return run.result({}, began=0.0)


def files(folder: Path, pods: str = PODS, nodes: str = NODES) -> list[str]:
    """The overrides that name a trace with these rows."""
    (folder / "pods.csv").write_text(pods)
    (folder / "nodes.csv").write_text(nodes)
    return ["trace=alibaba2023", f"trace.pods={folder}/pods.csv", f"trace.nodes={folder}/nodes.csv"]
