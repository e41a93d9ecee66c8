"""The whole Hydra surface as structured configs.

Hydra refuses unknown keys and wrong types through these dataclasses; `orchestrator.validation` refuses values out of
range. Every refusal is a `ConfigError` that names the field, the value and what would do.

`policies.py` holds the groups of whoever decides, `service.py` those of what a service has, `schema.training` those
that reach the worker; here is what a study is, the config that all make up, and their names in Hydra (`SCHEMAS`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from orchestrator.config.errors import ConfigError
from orchestrator.config.policies import (
    BestFitConfig,
    DefragmentationConfig,
    DotProductConfig,
    EarlyStoppingConfig,
    FairShareConfig,
    FragmentationConfig,
    FrontierConfig,
    FusionConfig,
    HyperbandConfig,
    ModelSamplerConfig,
    OptimalConfig,
    OrderingConfig,
    PhasesConfig,
    PolicyConfig,
    PreemptionConfig,
    RandomConfig,
    SamplerConfig,
    SearchConfig,
)
from orchestrator.config.service import (
    AccessConfig,
    CacheConfig,
    ClusterConfig,
    NodeClusterConfig,
    RayClusterConfig,
    TenantConfig,
    TenantsConfig,
    TrackingConfig,
)
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

__all__ = [
    "SCHEMAS",
    "AccessConfig",
    "BestFitConfig",
    "CacheConfig",
    "ClusterConfig",
    "Config",
    "ConfigError",
    "DebugConfig",
    "DefragmentationConfig",
    "DotProductConfig",
    "EarlyStoppingConfig",
    "FairShareConfig",
    "FragmentationConfig",
    "FrontierConfig",
    "FusionConfig",
    "HyperbandConfig",
    "ModelSamplerConfig",
    "NodeClusterConfig",
    "OptimalConfig",
    "OrderingConfig",
    "PhasesConfig",
    "PolicyConfig",
    "PreemptionConfig",
    "RandomConfig",
    "RayClusterConfig",
    "RecipeConfig",
    "ReportConfig",
    "SamplerConfig",
    "SearchConfig",
    "StudyConfig",
    "TenantConfig",
    "TenantsConfig",
    "TrackingConfig",
    "register_schemas",
]


@dataclass
class RecipeConfig:
    """The ordered stages of a variant, by name; each has `algorithm`, `optimizer` and `seed`, and may have a `model` of
    its own in place of the variant's. One that is null is left out. The last stage is the one that the variant is
    about; stages before it are shared by the variants whose configs agree on them. `compared_as`: what its variants are
    called where they are compared; "" is the recipe's own name, and a recipe around any algorithm takes that one's."""

    name: str = MISSING
    compared_as: str = ""
    stages: dict[str, Any] = field(default_factory=dict)


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
