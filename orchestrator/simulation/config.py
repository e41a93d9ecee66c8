"""The structured configs of `conf/simulate.yaml`. Hydra refuses unknown keys and wrong types through them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from orchestrator.config import DefragmentationConfig, OrderingConfig, PreemptionConfig, TenantsConfig
from orchestrator.simulation.workload_model import SyntheticConfig


@dataclass
class TraceConfig:
    """A workload. `reader` is `package.module:function`; it is called with the fields that a subclass adds and
    `skip_bad_rows`, and returns a `schema.Trace`. To a `seed` of its own that of the simulation is added.

    protocol: how the trace is played, see `simulation.protocols`. window: under `arrivals_only`, how many arrivals wait
    together. known_demands: the packing is told how often each demand comes; null is yes under `arrivals_only`.
    """

    name: str = MISSING
    reader: str = MISSING
    protocol: str = "replay"
    window: int = 1
    known_demands: bool | None = None


@dataclass
class Alibaba2023Config(TraceConfig):
    """The files of the trace; without `nodes` the cluster must be given by `cluster.nodes`."""

    pods: str = MISSING
    nodes: str = ""


@dataclass
class CsvTraceConfig(TraceConfig):
    """Our own format, see `schema.trace_table`; without `nodes` the cluster must be given by `cluster.nodes`."""

    file: str = MISSING
    nodes: str = ""


@dataclass
class PolluxConfig(TraceConfig):
    """A workload of Pollux; `profiles` is the folder of its applications, by default the one beside the file. The
    cluster it was made for: `nodes` nodes of `gpus_per_node` GPUs."""

    workload: str = MISSING
    profiles: str = ""
    nodes: int = 16
    gpus_per_node: int = 4


@dataclass
class SyntheticTraceConfig(SyntheticConfig, TraceConfig):
    """A generated workload with the knobs of `workload_model.SyntheticConfig`."""


@dataclass
class SimulatedClusterConfig:
    """`nodes` nodes like those of the trace, each kind in its proportion; 0 takes the trace's as they are.
    `implementation` is `package.module:Class`.

    Of a node: `devices_per_node` devices of `device_memory_gib` and `model`, `cpus_per_node` cores and
    `host_memory_gib_per_node`; 0 cores or host memory are no limit. Null, and an empty model, is what the trace's nodes
    have; of a trace without nodes, 8 devices of 80 GiB and no limit. oversubscription: as in `ClusterConfig`.
    startup_s: from launch to start. max_attempts: how often a stage may be lost with its worker. slowdown:
    `package.module:function`, how many times longer than alone a launch takes beside others (see
    `cluster.simulated.Slowdown`); empty is not at all.
    """

    name: str = MISSING
    implementation: str = MISSING
    nodes: int = 0
    devices_per_node: int | None = None
    device_memory_gib: float | None = None
    model: str = ""
    cpus_per_node: float | None = None
    host_memory_gib_per_node: float | None = None
    oversubscription: float = 1.0
    startup_s: float = 0.0
    max_attempts: int = 3
    slowdown: str = ""


@dataclass
class InterferenceConfig:
    """How work on one device slows each other down, as it really is; what the loop knows of it, it learns from reports.

    slowdowns: by phase, by the phase beside it, how much longer its steps take for a neighbour of equal share, in parts
    of a step alone (see `simulation.company`); none is that nobody is slowed down. step_s: how long a step of any stage
    takes alone. report_every_s: how often a run says how far it has come.
    """

    name: str = MISSING
    slowdowns: dict[str, dict[str, float]] = field(default_factory=dict)
    step_s: float = 1.0
    report_every_s: float = 60.0


@dataclass
class SimulateConfig:
    """One simulated run. `durations`: `known` tells the policies how long every stage takes, `learned` lets them find
    out as the live service does."""

    trace: TraceConfig = MISSING
    cluster: SimulatedClusterConfig = MISSING
    ordering: OrderingConfig = MISSING
    packing: Any = MISSING
    preemption: PreemptionConfig = MISSING
    defragmentation: DefragmentationConfig = MISSING
    interference: InterferenceConfig = MISSING
    tenants: TenantsConfig = MISSING
    durations: str = "known"
    seed: int = 0


SCHEMAS: Mapping[tuple[str, str], type] = {
    ("", "base_simulate"): SimulateConfig,
    ("trace", "base_trace"): TraceConfig,
    ("trace", "base_alibaba2023"): Alibaba2023Config,
    ("trace", "base_csv"): CsvTraceConfig,
    ("trace", "base_pollux"): PolluxConfig,
    ("trace", "base_synthetic"): SyntheticTraceConfig,
    ("cluster", "base_simulated"): SimulatedClusterConfig,
    ("interference", "base_interference"): InterferenceConfig,
}
