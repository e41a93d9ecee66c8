"""The rooms put together as the service's config names them. What lies outside this package is a dotted string."""

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

from orchestrator.config import ClusterConfig, ConfigError
from orchestrator.dotted import resolve
from orchestrator.fusion import Fusion
from orchestrator.home import Home
from orchestrator.loop import Policies
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.phases import BesideBarred
from orchestrator.ports import Cluster
from orchestrator.schema import Tenant
from orchestrator.sharing.defragmentation import DEFRAGMENTATIONS
from orchestrator.sharing.preemption import PREEMPTIONS

SERVICE_PARTS = (
    "cluster",
    "ordering",
    "packing",
    "fusion",
    "phases",
    "preemption",
    "defragmentation",
    "tenants",
    "tracking",
    "cache",
    "access",
)


def service_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a composed config that are the service's, for the lease and for whoever asks. A study that was
    submitted before there was a part lacks it."""
    return {part: config[part] for part in SERVICE_PARTS if part in config}


def build_policies(config: Mapping[str, Any]) -> Policies:
    """How the queue is served."""
    defragmentation = config.get("defragmentation", {"name": "never"})
    packing = PACKINGS[config["packing"]["name"]](**_knobs(config["packing"]))
    antiphase = config.get("phases", {"name": "off"})["name"] == "antiphase"
    return Policies(
        ordering=ORDERINGS[config["ordering"]["name"]](config["ordering"]),
        packing=BesideBarred(packing) if antiphase else packing,
        preemption=PREEMPTIONS[config["preemption"]["name"]](config["preemption"]),
        defragmentation=DEFRAGMENTATIONS[defragmentation["name"]](defragmentation),
        tenants=build_tenants(config["tenants"]),
        half_life_s=float(config["ordering"].get("half_life_s", 86_400.0)),
        whole_devices=config["packing"]["name"] == "exclusive",
        max_memory_raises=int(config["cluster"].get("max_memory_raises", 3)),
        fusion=build_fusion(config),
        antiphase=antiphase,
    )


def build_fusion(config: Mapping[str, Any]) -> Fusion | None:
    """None where it is switched off or nothing is said of it, or the cluster runs one stage a program."""
    fusion = config.get("fusion")
    if fusion is None or fusion["name"] == "off" or not config["cluster"].get("fuses", True):
        return None
    return Fusion(**_knobs(fusion))


def _knobs(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in policy.items() if name != "name"}


def build_tenants(tenants: Mapping[str, Any]) -> dict[str, Tenant]:
    """By name."""
    return {name: Tenant(name=name, **fields) for name, fields in tenants["tenants"].items()}


def store_id(home: Home) -> str:
    """Tells the services of different stores apart where they meet: on a machine, on a Ray cluster."""
    return hashlib.sha256(home.store_url.encode()).hexdigest()[:12]


def build_cluster(cluster: Mapping[str, Any], home: Home, term: int) -> Cluster:
    """The implementation takes the home, the artifacts, the devices, and what its own config adds.

    Raises ConfigError if it takes something else.
    """
    implementation = resolve(cluster["implementation"], "cluster.implementation")
    own = {name: value for name, value in cluster.items() if name not in ClusterConfig.__dataclass_fields__}
    shared: dict[str, Any] = {name: cluster[name] for name in ("devices", "devices_per_trial")}
    shared |= {"home": home.root, "artifacts": home.artifacts, "owner": store_id(home), "term": term}
    try:
        inspect.signature(implementation).bind(**shared, **own)
    except TypeError as error:
        remedy = f"{error}; its fields are those of its constructor, and cluster={cluster['name']} has the right ones"
        raise ConfigError("cluster.implementation", cluster["implementation"], remedy) from error
    built: Cluster = implementation(**shared, **own)
    return built
