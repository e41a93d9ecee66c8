"""The whole Hydra surface as structured configs.

Hydra refuses unknown keys and wrong types through these dataclasses; `orchestrator.validation` refuses values out of
range. Every refusal is a `ConfigError` that names the field, the value and what would do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from orchestrator.schema.training import (
    AlgorithmConfig,
    DeepSpeedConfig,
    EvaluationConfig,
    GrpoConfig,
    ModelConfig,
    OptimizerConfig,
    SftConfig,
    TaskConfig,
)


class ConfigError(Exception):
    """A config that can't run. The message is one or two lines for the person who wrote it."""

    def __init__(self, field_name: str, value: object, remedy: str) -> None:
        super().__init__(f"{field_name}={value}: {remedy}")
        self._parts = field_name, str(value), remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels between processes."""
        return type(self), self._parts


@dataclass
class RecipeConfig:
    """The ordered stages of a variant, by name; each has `algorithm`, `optimizer` and `seed`. The last stage is the
    one that the variant is about; stages before it are shared by the variants whose configs agree on them."""

    name: str = MISSING
    stages: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClusterConfig:
    """Where bundles run. `implementation` is `package.module:Class`; `devices` 0 takes all there are.

    share_per_trial: the fraction of each of its `devices_per_trial` devices that a trial holds. memory_per_trial_gib:
    of each of them; 0 estimates it. max_attempts: how often a stage may be lost with its worker. max_memory_raises:
    how often one that takes more memory than it was given may be given more. max_slowdown_per_trial: how many times
    longer than alone on its device its steps may take beside others; 0 is any number. Fields that a subclass adds go
    to the implementation's constructor.
    """

    name: str = MISSING
    implementation: str = MISSING
    devices: int = 0
    devices_per_trial: int = 1
    share_per_trial: float = 1.0
    memory_per_trial_gib: float = 0.0
    max_attempts: int = 3
    max_memory_raises: int = 3
    max_slowdown_per_trial: float = 0.0


@dataclass
class NodeClusterConfig(ClusterConfig):
    """preload: modules that the forkserver imports before it forks. stop_grace_s: how long a bundle that is asked to
    stop may take to reach a step boundary."""

    preload: list[str] = field(default_factory=list)
    stop_grace_s: float = 10.0


@dataclass
class RayClusterConfig(NodeClusterConfig):
    """`address` (host:port) of a running Ray cluster; empty starts one on this machine for the time of the study."""

    address: str = ""


@dataclass
class PolicyConfig:
    """The name of one policy of a family: `packing` or `stopping`."""

    name: str = MISSING


@dataclass
class BestFitConfig(PolicyConfig):
    """`cpu_weight`: how much free cores count beside free devices when the fullest node is looked for, from 0 (only
    devices do) to 1 (only cores do)."""

    cpu_weight: float = 0.5


@dataclass
class DotProductConfig(PolicyConfig):
    """`largest`: take the node that has most of what is asked for, as Tetris does, and not the one that has least."""

    largest: bool = False


@dataclass
class FragmentationConfig(PolicyConfig):
    """`popularity`: fragments are counted over the most frequent demands that together make up this part of all."""

    popularity: float = 0.95


@dataclass
class FrontierConfig(PolicyConfig):
    """`look_ahead`: how many of those that wait are looked at together. `hold`: how many may be left waiting for better
    company, in studies where nothing ends; null is all but one of a trace's window, and none on a live cluster.
    `spread`: a part of a device goes to a free one as long as the rests of those in use are worth less than this part
    of the free ones. `tries`: in how many more orders a queue is served where somebody is left out."""

    look_ahead: int = 64
    hold: int | None = None
    spread: float = 0.06
    tries: int = 24


@dataclass
class OptimalConfig(PolicyConfig):
    """`limit_s`: how long the solver may take for one cycle."""

    limit_s: float = 60.0


@dataclass
class RandomConfig(PolicyConfig):
    """`seed`: of what is drawn."""

    seed: int = 0


@dataclass
class OrderingConfig:
    """Who goes next. Whoever has waited for `max_wait_s` goes first, by arrival, under every policy."""

    name: str = MISSING
    max_wait_s: float = 21600.0


@dataclass
class FairShareConfig(OrderingConfig):
    """`half_life_s`: after this time what a tenant used counts half."""

    half_life_s: float = 86400.0


@dataclass
class PreemptionConfig:
    """Who makes room. A trial is preempted at most `max_preemptions` times, and not before it held its devices for
    `min_hold_s`."""

    name: str = MISSING
    max_preemptions: int = 3
    min_hold_s: float = 10.0


@dataclass
class TenantConfig:
    """See `schema.Tenant`. `quota` and `borrowing_limit` are in devices, fractions count; null is no limit."""

    weight: float = 1.0
    quota: float | None = None
    borrowing_limit: float | None = None
    max_priority: int = 0


@dataclass
class TenantsConfig:
    """Everybody who may submit, by name."""

    name: str = MISSING
    tenants: dict[str, TenantConfig] = field(default_factory=dict)


@dataclass
class AccessConfig:
    """What a config that arrives over the wire may do. Paths are folders, import roots are packages; everything below
    them is allowed, nothing beside them."""

    name: str = MISSING
    import_roots: list[str] = field(default_factory=list)
    path_roots: list[str] = field(default_factory=list)
    max_variants: int = 20_000
    max_overrides: int = 200
    max_override_chars: int = 2_000
    max_body_bytes: int = 1_000_000


@dataclass
class TrackingConfig:
    """`uri`: an MLflow server (http://...) or database; empty is `mlflow.db` in the home folder."""

    name: str = MISSING
    uri: str = ""


@dataclass
class StudyConfig:
    """`sweep` maps override keys to values in Hydra's sweep grammar; the command line has the last word.

    reuse_stages: take a non-final stage's output from an earlier study where its key is the same. tenant: whose quota
    and share it counts against. priority: higher goes first under `ordering=priority`, and may preempt lower ones.
    """

    name: str = MISSING
    sweep: dict[str, str] = field(default_factory=dict)
    reuse_stages: bool = True
    tenant: str = "default"
    priority: int = 0


@dataclass
class DebugConfig:
    """Marks a debugging overlay; `none` changes nothing."""

    name: str = MISSING


@dataclass
class Config:
    """One variant, fully resolved. `ordering`, `packing`, `preemption`, `tenants`, `access`, `tracking` and most of
    `cluster` are the service's: a study that is submitted to a running one takes them from there."""

    study: StudyConfig = MISSING
    recipe: RecipeConfig = MISSING
    algorithm: Any = MISSING
    optimizer: OptimizerConfig = MISSING
    model: ModelConfig = MISSING
    task: TaskConfig = MISSING
    deepspeed: DeepSpeedConfig = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = MISSING
    ordering: OrderingConfig = MISSING
    packing: PolicyConfig = MISSING
    preemption: PreemptionConfig = MISSING
    stopping: PolicyConfig = MISSING
    tenants: TenantsConfig = MISSING
    access: AccessConfig = MISSING
    tracking: TrackingConfig = MISSING
    debug: DebugConfig = MISSING
    seed: int = 0


SCHEMAS: Mapping[tuple[str, str], type] = {
    ("", "base_config"): Config,
    ("study", "base_study"): StudyConfig,
    ("recipe", "base_recipe"): RecipeConfig,
    ("algorithm", "base_algorithm"): AlgorithmConfig,
    ("algorithm", "base_sft"): SftConfig,
    ("algorithm", "base_grpo"): GrpoConfig,
    ("optimizer", "base_optimizer"): OptimizerConfig,
    ("model", "base_model"): ModelConfig,
    ("task", "base_task"): TaskConfig,
    ("deepspeed", "base_deepspeed"): DeepSpeedConfig,
    ("cluster", "base_cluster"): ClusterConfig,
    ("cluster", "base_node"): NodeClusterConfig,
    ("cluster", "base_ray"): RayClusterConfig,
    ("ordering", "base_ordering"): OrderingConfig,
    ("ordering", "base_fair_share"): FairShareConfig,
    ("preemption", "base_preemption"): PreemptionConfig,
    ("tenants", "base_tenants"): TenantsConfig,
    ("access", "base_access"): AccessConfig,
    ("packing", "base_policy"): PolicyConfig,
    ("packing", "base_best_fit"): BestFitConfig,
    ("packing", "base_dot_product"): DotProductConfig,
    ("packing", "base_fragmentation"): FragmentationConfig,
    ("packing", "base_frontier"): FrontierConfig,
    ("packing", "base_optimal"): OptimalConfig,
    ("packing", "base_random"): RandomConfig,
    ("stopping", "base_policy"): PolicyConfig,
    ("tracking", "base_tracking"): TrackingConfig,
    ("debug", "base_debug"): DebugConfig,
}


def register_schemas(schemas: Mapping[tuple[str, str], type] = SCHEMAS, provider: str = __name__) -> None:
    """Make structured configs known to Hydra by group and name: the `base_*` entries that the YAML files start from."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for (group, name), schema in schemas.items():
        store.store(group=group or None, name=name, node=schema, provider=provider)
