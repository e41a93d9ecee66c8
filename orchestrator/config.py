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
    DpoConfig,
    EvaluationConfig,
    GrpoConfig,
    HfModelConfig,
    ModelConfig,
    OptimizerConfig,
    QuantizationAwareSftConfig,
    QuantizationConfig,
    QuantizeConfig,
    RejectionSftConfig,
    RolloutConfig,
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
    """The ordered stages of a variant, by name; each has `algorithm`, `optimizer` and `seed`, and may have a `model` of
    its own in place of the variant's. The last stage is the one that the variant is about; stages before it are shared
    by the variants whose configs agree on them. `compared_as`: what its variants are called where they are compared;
    "" is the recipe's own name, and a recipe around any algorithm takes that one's."""

    name: str = MISSING
    compared_as: str = ""
    stages: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClusterConfig:
    """Where bundles run. `implementation` is `package.module:Class`; `devices` 0 takes all there are.

    share_per_trial: the fraction of each of its `devices_per_trial` devices that a trial holds. memory_per_trial_gib:
    of each of them; 0 estimates it. oversubscription: a share below 1 counts as so many times less, so that a device
    takes more of them than it has room for; memory stays as asked. max_attempts: how often a stage may be lost with its
    worker. max_memory_raises: how often one that takes more memory than it was given may be given more.
    max_slowdown_per_trial: how many times longer than alone on its device its steps may take beside others; 0 is any
    number. fuses: whether several trials may run in one program there. Fields that a subclass adds go to the
    implementation's constructor.
    """

    name: str = MISSING
    implementation: str = MISSING
    devices: int = 0
    devices_per_trial: int = 1
    share_per_trial: float = 1.0
    memory_per_trial_gib: float = 0.0
    oversubscription: float = 1.0
    max_attempts: int = 3
    max_memory_raises: int = 3
    max_slowdown_per_trial: float = 0.0
    fuses: bool = True


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
    """The name of one policy of a family: `packing`, or `stopping` where nothing is stopped."""

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
    of the free ones. `tries`: in how many more orders a queue is served where somebody is left out.
    `apart`: whether free devices are taken to have no company; null is yes, but in simulations where nobody slows
    anybody down."""

    look_ahead: int = 64
    hold: int | None = None
    spread: float = 0.06
    tries: int = 24
    apart: bool | None = None


@dataclass
class OptimalConfig(PolicyConfig):
    """`limit_s`: how long the solver may take for one cycle."""

    limit_s: float = 60.0


@dataclass
class RandomConfig(PolicyConfig):
    """`seed`: of what is drawn."""

    seed: int = 0


@dataclass
class FusionConfig:
    """Whether variants that differ in numbers only train as one program. `max_width`: how many at most; how many it
    will be is measured. `refill`: seats that members have left go to others of their kind at once. `patience_s`: for
    how long whoever waits may be overtaken by those."""

    name: str = MISSING
    max_width: int = 16
    refill: bool = True
    patience_s: float = 300.0


@dataclass
class PhasesConfig:
    """Whether programs that share a device take turns in what they do: one decodes while the other learns."""

    name: str = MISSING


@dataclass
class SearchConfig:
    """Which of a sweep's combinations are tried. `grid`, which has nothing but its name: every one."""

    name: str = MISSING


@dataclass
class SamplerConfig(SearchConfig):
    """Points are drawn one by one, by what those that are over have shown, while others run.

    trials: how many trials there may be in all, a point's trials being as many as its `seeds`: from the variant's own
    seed on, or those that the sweep lists under `seed`. metric: of the last stage, a mean over a point's seeds; it must
    not be measured on test problems. direction: maximize or minimize it. seed: of what is drawn. ahead: points are
    drawn while fewer trials than this wait; 0 is twice the devices.
    """

    trials: int = 32
    metric: str = "dev_accuracy"
    direction: str = "maximize"
    seed: int = 0
    seeds: int = 1
    ahead: int = 0


@dataclass
class ModelSamplerConfig(SamplerConfig):
    """`startup`: so many points are drawn at random, before what they showed says where to look."""

    startup: int = 10


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
class DefragmentationConfig:
    """Who moves so that a blocked request finds its devices together. A trial that made room or moved `max_moves` times
    is not moved, nor is one that has held its devices for less than `min_hold_s`. `restart_s`: what leaving and going
    on elsewhere costs [s]. `margin`: how many times what is lost the wait that is saved must be worth."""

    name: str = MISSING
    max_moves: int = 2
    min_hold_s: float = 60.0
    restart_s: float = 30.0
    margin: float = 2.0


@dataclass
class EarlyStoppingConfig(PolicyConfig):
    """resource: what trials are compared by, `device_seconds`, `tokens` or `steps` of their last stage. min_resource:
    the first rung, in units of it; each rung lies `rung_factor` times further than the one before, and the best
    1/`reduction_factor` go on where the rule has such a part. grace: by algorithm (`others`: those not named), how long
    a trial is left alone, as a fraction of its budget of steps (`grace_unit=budget`) or in units of the resource
    (`resource`). min_trials: nobody is judged on a rung before so many have reached it. confidence: no verdict is given
    that is less sure. finish_share: the part of the stopped trials that is trained to its end all the same, drawn by
    `seed`, to measure what stopping costs."""

    resource: str = "device_seconds"
    min_resource: float = 1.0
    rung_factor: int = 2
    reduction_factor: int = 3
    grace: dict[str, float] = field(default_factory=dict)
    grace_unit: str = "budget"
    min_trials: int = 4
    confidence: float = 0.9
    finish_share: float = 0.1
    seed: int = 0


@dataclass
class HyperbandConfig(EarlyStoppingConfig):
    """`brackets`: settings are dealt into so many; those of bracket b are not judged on their first b rungs."""

    brackets: int = 3


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
class CacheConfig:
    """How much room stage outputs and checkpoints may take. `max_gib` 0 is any. The service looks every `every_s`
    seconds and removes what was used least recently; nothing that a trial needs which is not over, and nothing that was
    used within `min_age_s` seconds."""

    name: str = MISSING
    max_gib: float = 0.0
    min_age_s: float = 3600.0
    every_s: float = 600.0


@dataclass
class TrackingConfig:
    """`uri`: an MLflow server (http://...) or database; empty is `mlflow.db` in the home folder."""

    name: str = MISSING
    uri: str = ""


@dataclass
class StudyConfig:
    """`sweep` maps override keys to values in Hydra's sweep grammar; the command line has the last word.

    share_stages: run equal stages once for all that need them; if not, each trial runs all of its own. reuse_stages:
    take a non-final stage's output from an earlier study where its key is the same. share_trunks: runs that differ in
    length only, or in their decay, do once what they have in common (see `sweep.trunks`). tenant: whose quota and share
    it counts against. priority: higher goes first under `ordering=priority`, and may preempt lower ones.
    """

    name: str = MISSING
    sweep: dict[str, str] = field(default_factory=dict)
    share_stages: bool = True
    reuse_stages: bool = True
    share_trunks: bool = True
    tenant: str = "default"
    priority: int = 0


@dataclass
class ReportConfig:
    """`patience_s`: how long a user waits for an answer; those that come later are worth nothing. null: for ever."""

    patience_s: float | None = None


@dataclass
class DebugConfig:
    """Marks a debugging overlay; `none` changes nothing."""

    name: str = MISSING


@dataclass
class Config:
    """One variant, fully resolved. `ordering`, `packing`, `fusion`, `phases`, `preemption`, `defragmentation`,
    `tenants`, `access`, `tracking` and most of `cluster` are the service's: a study that is submitted to a running one
    takes them from there."""

    study: StudyConfig = MISSING
    recipe: RecipeConfig = MISSING
    algorithm: Any = MISSING
    optimizer: OptimizerConfig = MISSING
    model: Any = MISSING
    quantization: QuantizationConfig = MISSING
    task: TaskConfig = MISSING
    deepspeed: DeepSpeedConfig = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    rollout: RolloutConfig = MISSING
    report: ReportConfig = field(default_factory=ReportConfig)
    cluster: ClusterConfig = MISSING
    ordering: OrderingConfig = MISSING
    packing: PolicyConfig = MISSING
    fusion: FusionConfig = MISSING
    phases: PhasesConfig = MISSING
    preemption: PreemptionConfig = MISSING
    defragmentation: DefragmentationConfig = MISSING
    stopping: PolicyConfig = MISSING
    search: SearchConfig = MISSING
    tenants: TenantsConfig = MISSING
    access: AccessConfig = MISSING
    tracking: TrackingConfig = MISSING
    cache: CacheConfig = MISSING
    debug: DebugConfig = MISSING
    seed: int = 0


SCHEMAS: Mapping[tuple[str, str], type] = {
    ("", "base_config"): Config,
    ("study", "base_study"): StudyConfig,
    ("recipe", "base_recipe"): RecipeConfig,
    ("algorithm", "base_algorithm"): AlgorithmConfig,
    ("algorithm", "base_sft"): SftConfig,
    ("algorithm", "base_grpo"): GrpoConfig,
    ("algorithm", "base_rejection_sft"): RejectionSftConfig,
    ("algorithm", "base_dpo"): DpoConfig,
    ("algorithm", "base_quantize"): QuantizeConfig,
    ("algorithm", "base_quantization_aware_sft"): QuantizationAwareSftConfig,
    ("optimizer", "base_optimizer"): OptimizerConfig,
    ("model", "base_model"): ModelConfig,
    ("model", "base_hf"): HfModelConfig,
    ("quantization", "base_quantization"): QuantizationConfig,
    ("rollout", "base_rollout"): RolloutConfig,
    ("task", "base_task"): TaskConfig,
    ("deepspeed", "base_deepspeed"): DeepSpeedConfig,
    ("cluster", "base_cluster"): ClusterConfig,
    ("cluster", "base_node"): NodeClusterConfig,
    ("cluster", "base_ray"): RayClusterConfig,
    ("ordering", "base_ordering"): OrderingConfig,
    ("ordering", "base_fair_share"): FairShareConfig,
    ("preemption", "base_preemption"): PreemptionConfig,
    ("defragmentation", "base_defragmentation"): DefragmentationConfig,
    ("tenants", "base_tenants"): TenantsConfig,
    ("access", "base_access"): AccessConfig,
    ("fusion", "base_fusion"): FusionConfig,
    ("phases", "base_phases"): PhasesConfig,
    ("packing", "base_policy"): PolicyConfig,
    ("packing", "base_best_fit"): BestFitConfig,
    ("packing", "base_dot_product"): DotProductConfig,
    ("packing", "base_fragmentation"): FragmentationConfig,
    ("packing", "base_frontier"): FrontierConfig,
    ("packing", "base_optimal"): OptimalConfig,
    ("packing", "base_random"): RandomConfig,
    ("stopping", "base_policy"): PolicyConfig,
    ("stopping", "base_successive_halving"): EarlyStoppingConfig,
    ("stopping", "base_hyperband"): HyperbandConfig,
    ("stopping", "base_median"): EarlyStoppingConfig,
    ("stopping", "base_wilcoxon"): EarlyStoppingConfig,
    ("search", "base_search"): SearchConfig,
    ("search", "base_random"): SamplerConfig,
    ("search", "base_cmaes"): SamplerConfig,
    ("search", "base_tpe"): ModelSamplerConfig,
    ("search", "base_gp"): ModelSamplerConfig,
    ("tracking", "base_tracking"): TrackingConfig,
    ("cache", "base_cache"): CacheConfig,
    ("debug", "base_debug"): DebugConfig,
}


# What was registered last: doing it again takes longer than composing does.
_registered: list[Mapping[tuple[str, str], type]] = []


def register_schemas(schemas: Mapping[tuple[str, str], type] = SCHEMAS, provider: str = __name__) -> None:
    """Make structured configs known to Hydra by group and name: the `base_*` entries that the YAML files start from."""
    from hydra.core.config_store import ConfigStore

    if _registered == [schemas]:
        return
    _registered[:] = [schemas]
    store = ConfigStore.instance()
    for (group, name), schema in schemas.items():
        store.store(group=group or None, name=name, node=schema, provider=provider)
