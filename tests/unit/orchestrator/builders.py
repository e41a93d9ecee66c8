"""Small real objects for tests of the core."""

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.events import NodeJoined, StudySubmitted
from orchestrator.schema import Demand, Device, DeviceKind, Stage, Study, Trial, Variant
from orchestrator.schema.training import (
    DeepSpeedConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    SftConfig,
    StageConfig,
    TaskConfig,
)

GIB = 2**30


def device(index: int, node: str = "node-a", memory_bytes: int = 8 * GIB) -> Device:
    return Device(
        device_id=f"{node}/cpu{index}", node_id=node, index=index, kind=DeviceKind.CPU, memory_bytes=memory_bytes
    )


def fusable_config(**changed: object) -> dict[str, object]:
    """A stage's config as plain data, of stages that may be fused."""
    algorithm = SftConfig(name="sft", entrypoint="tests:run", fused_entrypoint="tests:run_many")
    config = StageConfig(
        algorithm, OptimizerConfig(), ModelConfig(), TaskConfig(), DeepSpeedConfig(), EvaluationConfig()
    )  # fmt: skip
    return asdict(config) | changed


def stage(name: str, parent: Stage | None = None, steps: int = 10, *, fusable: bool = False) -> Stage:
    parent_key = parent.key if parent else ""
    return Stage(
        name=name.split("@")[0],
        key=f"{parent_key}>{name}",
        parent_key=parent_key,
        entrypoint="tests:run",
        config=fusable_config() if fusable else {},
        budget_steps=steps,
        fused_entrypoint="tests:run_many" if fusable else "",
    )


def variant(*stages: Stage, algorithm: str = "sft", overrides: Sequence[str] = (), seed: int = 0) -> Variant:
    return Variant(
        key=stages[-1].key, algorithm=algorithm, seed=seed, overrides=tuple(overrides), config={}, stages=stages
    )


def study(study_id: str = "study-1", at: float = 0.0) -> Study:
    return Study(study_id=study_id, name="test", sweep=(), config={}, submitted_at=at, device_kind=DeviceKind.CPU)


def trials(variants: Sequence[Variant], study_id: str = "study-1", at: float = 0.0) -> tuple[Trial, ...]:
    return tuple(
        Trial(trial_id=f"{study_id}-{n:04d}", study_id=study_id, number=n, variant=v, submitted_at=at)
        for n, v in enumerate(variants)
    )


def warm_started(count: int, study_id: str = "study-1", *, fusable: bool = False) -> tuple[Trial, ...]:
    """Trials with a private last stage behind one shared warm-up."""
    warmup = stage("warmup")
    mains = [stage(f"main@{n}", warmup, steps=30, fusable=fusable) for n in range(count)]
    return trials([variant(warmup, main) for main in mains], study_id)


def submitted(
    count: int,
    share: float = 1.0,
    devices: int = 1,
    memory_bytes: int = GIB,
    study_id: str = "study-1",
    *,
    fusable: bool = False,
) -> StudySubmitted:
    made = warm_started(count, study_id, fusable=fusable)
    demand = Demand(devices=devices, share=share, memory_bytes=memory_bytes)
    return StudySubmitted(
        at=0.0,
        study=study(study_id),
        trials=made,
        demands={s.key: demand for t in made for s in t.variant.stages},
    )


def demand(share: float = 1.0, devices: int = 1, memory_bytes: int = GIB) -> Demand:
    return Demand(devices=devices, share=share, memory_bytes=memory_bytes)


def joined(count: int = 2, node: str = "node-a") -> NodeJoined:
    return NodeJoined(at=0.0, node_id=node, devices=tuple(device(i, node) for i in range(count)))
