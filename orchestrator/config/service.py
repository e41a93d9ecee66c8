"""The configs of what a service has: its devices, its tenants, its room, and where it records."""

from dataclasses import dataclass, field

from omegaconf import MISSING


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
