"""A synthetic post-training workload, made as it is read: a million trials never lie in memory at once.

Studies arrive as a Poisson process whose rate follows the hours and the days; each is a sweep of trials that differ in
length only. One seed makes one workload, however often and however far it is read. `workload_model` has the knobs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import numpy as np

from orchestrator.schema import Demand, Device, DeviceKind, Node, Trace, TraceStage, TraceTrial
from orchestrator.schema.trace_table import GIB
from orchestrator.simulation.workload_model import (
    CUT_FROM,
    CUT_TO,
    RECIPES,
    SyntheticConfig,
    check_synthetic,
    highest_rhythm,
    probabilities,
    rhythm,
    studies_per_s,
    tail_from_s,
    weights_of,
)

_URGENT = 10
# Of the memory, cores and host memory that belong to the share it takes, a study asks for one of these parts. Few of
# them, as in real sweeps: what a policy keeps per demand stays small.
_MEMORY_PARTS = (0.4, 0.6, 0.9)
_HOST_PART = 0.75


def read(*, skip_bad_rows: bool = False, **knobs: object) -> Trace:
    """The reader of `conf/trace/synthetic.yaml`: a workload with these knobs of `SyntheticConfig`; it has no bad rows.

    Raises ConfigError for a knob that is out of range.
    """
    del skip_bad_rows
    return generate(SyntheticConfig(**knobs))  # type: ignore[arg-type]


def generate(config: SyntheticConfig) -> Trace:
    """The workload and the nodes that its load is meant for. Raises ConfigError."""
    check_synthetic(config)
    return Trace(name="synthetic", trials=SyntheticTrials(config), nodes=synthetic_nodes(config))


class SyntheticTrials(Sequence[TraceTrial]):
    """The trials in order of submission. Iterating makes them anew; an index walks there from the first."""

    def __init__(self, config: SyntheticConfig) -> None:
        self._config = config
        self._last: TraceTrial | None = None

    def __len__(self) -> int:
        return self._config.trials

    def __iter__(self) -> Iterator[TraceTrial]:
        return islice((trial for study in _studies(self._config) for trial in study.trials()), len(self))

    @overload
    def __getitem__(self, index: int) -> TraceTrial: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TraceTrial]: ...
    def __getitem__(self, index: int | slice) -> TraceTrial | Sequence[TraceTrial]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return tuple(islice(self, start, stop, step)) if step > 0 else tuple(self)[index]
        at = range(len(self))[index]
        if at < len(self) - 1:
            return next(islice(self, at, None))
        # When a workload ends is asked for more than once, and the walk there is the longest.
        if self._last is None:
            self._last = next(islice(self, at, None))
        return self._last


def synthetic_nodes(config: SyntheticConfig) -> tuple[Node, ...]:
    """Nodes of equal size; the models take turns on them by weight, in whole nodes."""
    weights = weights_of(config, "models")
    ends = np.round(np.cumsum(np.array(probabilities(weights.values()))) * config.nodes).astype(int).tolist()
    counts = np.diff([0, *ends]).tolist()
    models = [model for model, count in zip(weights, counts, strict=True) for _ in range(count)]
    width = len(str(config.nodes - 1))
    return tuple(_node(config, f"node-{number:0{width}}", model) for number, model in enumerate(models))


def _node(config: SyntheticConfig, node_id: str, model: str) -> Node:
    devices = tuple(
        Device(
            device_id=f"{node_id}/{DeviceKind.CUDA.value}{index}",
            node_id=node_id,
            index=index,
            kind=DeviceKind.CUDA,
            memory_bytes=round(config.memory_gib * GIB),
            model=model,
        )
        for index in range(config.devices_per_node)
    )
    host_memory_bytes = round(config.host_memory_gib * GIB)
    return Node(node_id=node_id, devices=devices, cpus=config.cpus_per_node, host_memory_bytes=host_memory_bytes)


# --- studies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Study:
    """One sweep. `lengths_s` are its trials' last stages, `warmup_s` the stage before them that they share (0: none).
    `demands` by stage name."""

    study_id: str
    tenant: str
    priority: int
    submitted_at: float
    stage_names: tuple[str, ...]
    demands: Mapping[str, Demand]
    lengths_s: Sequence[float]
    warmup_s: float
    rollout: float

    def trials(self) -> Iterator[TraceTrial]:
        """By number, all submitted at once."""
        last = self.stage_names[-1]
        before = tuple(
            self._stage(name, self.warmup_s, key=f"{self.study_id}/{name}") for name in self.stage_names[:-1]
        )
        for number, length_s in enumerate(self.lengths_s):
            yield TraceTrial(
                trial_id=f"{self.study_id}-{number:03}",
                study_id=self.study_id,
                submitted_at=self.submitted_at,
                stages=(*before, self._stage(last, length_s)),
                tenant=self.tenant,
                priority=self.priority,
            )

    def _stage(self, name: str, duration_s: float, key: str = "") -> TraceStage:
        rollout_s = self.rollout * duration_s if name == "grpo" else 0.0
        phases = {"rollout": rollout_s, "learn": duration_s - rollout_s} if rollout_s else {"learn": duration_s}
        return TraceStage(name=name, demand=self.demands[name], duration_s=duration_s, key=key, phases=phases)


def _studies(config: SyntheticConfig) -> Iterator[_Study]:
    """Studies without end, in order of arrival."""
    rng = np.random.default_rng(config.seed)
    draw = _Draw(config, rng)
    for number, at in enumerate(_arrivals(config, rng)):
        yield draw.study(number, at)


def _arrivals(config: SyntheticConfig, rng: np.random.Generator) -> Iterator[float]:
    """Times of a Poisson process with a rate that follows `rhythm`, by thinning (Lewis and Shedler, 1979) [s]."""
    highest = highest_rhythm(config)
    mean_gap_s = 1.0 / (studies_per_s(config) * highest)
    at = 0.0
    while True:
        at += rng.exponential(mean_gap_s)
        if rng.random() * highest < rhythm(config, at):
            yield at


class _Draw:
    """Draws studies; what it looks up is made once."""

    def __init__(self, config: SyntheticConfig, rng: np.random.Generator) -> None:
        self._config = config
        self._rng = rng
        ranks = np.arange(1, config.tenants + 1, dtype=float) ** -config.tenant_skew
        self._tenants = ranks / ranks.sum()
        self._models = sorted({device.model for node in synthetic_nodes(config) for device in node.devices})
        self._tail_from_s = tail_from_s(config)
        self._values = {name: list(weights_of(config, name)) for name in ("recipes", "shares", "gangs")}
        self._chances = {name: probabilities(weights_of(config, name).values()) for name in self._values}

    def study(self, number: int, at: float) -> _Study:
        """The next study, submitted `at` [s]."""
        config, rng = self._config, self._rng
        recipe = self._one_of("recipes")
        names = RECIPES[recipe]
        typical_s = self._typical_s()
        count = self._trial_count()
        lengths_s = typical_s * np.exp(config.spread * rng.standard_normal(count) - config.spread**2 / 2)
        cut = rng.random(count) < config.cut_short
        lengths_s[cut] *= rng.uniform(CUT_FROM, CUT_TO, int(cut.sum()))
        return _Study(
            study_id=f"{recipe}-{number:06}",
            tenant=f"team-{rng.choice(config.tenants, p=self._tenants) + 1}",
            priority=_URGENT if rng.random() < config.urgent else 0,
            submitted_at=at,
            stage_names=names,
            demands=self._demands(names),
            lengths_s=lengths_s.tolist(),
            warmup_s=config.warmup * typical_s if len(names) > 1 else 0.0,
            rollout=config.rollout,
        )

    def _one_of(self, name: str) -> str:
        chances = self._chances[name]
        return self._values[name][self._rng.choice(len(chances), p=chances)]

    def _trial_count(self) -> int:
        least, most = self._config.least_trials, self._config.most_trials
        return min(most, int(math.exp(self._rng.uniform(math.log(least), math.log(most + 1)))))

    def _typical_s(self) -> float:
        config, rng = self._config, self._rng
        if rng.random() < config.tail:
            drawn_s = self._tail_from_s * math.pow(1.0 - rng.random(), -1.0 / config.tail_exponent)
        else:
            drawn_s = config.median_s * math.exp(config.sigma * rng.standard_normal())
        return min(config.longest_s, drawn_s)

    def _demands(self, names: Sequence[str]) -> dict[str, Demand]:
        """One shape for all of a study's stages."""
        config, rng = self._config, self._rng
        size, devices, share = rng.random(), 1, 1.0
        if size < config.fractional:
            share = float(self._one_of("shares"))
        elif size < config.fractional + config.gangs_part:
            devices = int(self._one_of("gangs"))
        on_one_node = devices <= config.devices_per_node
        pinned = rng.random() < config.pinned and on_one_node
        models = (self._models[rng.integers(len(self._models))],) if pinned else ()
        # Whole GiB and thousandths of cores, so that equal demands are equal.
        memory_gib = math.floor(config.memory_gib * share * _MEMORY_PARTS[rng.integers(len(_MEMORY_PARTS))])
        of_node = _HOST_PART * devices * share / config.devices_per_node
        return {
            name: Demand(
                devices=devices,
                share=share,
                memory_bytes=memory_gib * GIB,
                cpus=round(config.cpus_per_node * of_node, 3),
                host_memory_bytes=math.floor(config.host_memory_gib * of_node) * GIB,
                models=models,
                max_nodes=1 if on_one_node else math.ceil(devices / config.devices_per_node),
                kind=name,
            )
            for name in names
        }
