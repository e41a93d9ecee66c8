"""The checks of a resolved simulation config that run before anything is simulated."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.dotted import resolve
from orchestrator.simulation.config import SimulateConfig, SimulatedClusterConfig
from orchestrator.simulation.protocols import PROTOCOLS
from orchestrator.validation import validate_policies
from orchestrator.validation.ranges import OVERSUBSCRIPTION

DURATIONS = ("known", "learned")

_COUNT = (lambda value: value >= 1, "use a whole number of at least 1")
_NON_NEGATIVE = (lambda value: value >= 0, "use 0 or more")
_LIKE_THE_TRACES = "null is what the trace's nodes have"

_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("trace.protocol", lambda value: value in PROTOCOLS, f"there is: {', '.join(PROTOCOLS)}"),
    ("trace.window", *_COUNT),
    ("cluster.nodes", lambda value: value >= 0, "use a number of nodes, or 0 for those of the trace"),
    ("cluster.devices_per_node", lambda v: v is None or 1 <= v <= 1024, f"use 1 to 1024; {_LIKE_THE_TRACES}"),
    ("cluster.device_memory_gib", lambda v: v is None or 0 <= v <= 1e6, f"use 0 to 1e6 GiB; {_LIKE_THE_TRACES}"),
    ("cluster.cpus_per_node", lambda v: v is None or 0 <= v <= 1e6, f"use 0 (no limit) to 1e6; {_LIKE_THE_TRACES}"),
    (
        "cluster.host_memory_gib_per_node",
        lambda v: v is None or 0 <= v <= 1e9,
        f"use 0 (no limit) to 1e9 GiB; {_LIKE_THE_TRACES}",
    ),
    ("cluster.oversubscription", *OVERSUBSCRIPTION),
    ("cluster.startup_s", *_NON_NEGATIVE),
    ("cluster.max_attempts", *_COUNT),
    ("interference.step_s", lambda value: value > 0, "use a positive number of seconds"),
    ("interference.report_every_s", lambda value: value > 0, "use a positive number of seconds"),
    ("durations", lambda value: value in DURATIONS, f"there is: {', '.join(DURATIONS)}"),
    ("seed", lambda value: 0 <= value < 2**31, "use a whole number from 0 to 2147483647"),
)


def validate(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first value of a resolved simulation config that can't run."""
    for path, accepts, remedy in _CHECKS:
        value: Any = config
        for name in path.split("."):
            value = value[name]
        if not accepts(value) or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(path, value, remedy)
    for name in ("implementation", "slowdown"):
        if dotted := config["cluster"][name]:
            resolve(dotted, f"cluster.{name}")
    _check_slowdowns(config)
    _check_known("", SimulateConfig, config)
    _check_known("cluster.", SimulatedClusterConfig, config["cluster"])
    validate_policies(config)
    protocol = config["trace"]["protocol"]
    for group in ("preemption", "defragmentation"):
        name = config[group]["name"]
        if name != "never" and not PROTOCOLS[protocol].timed:
            raise ConfigError(group, name, f"nobody leaves under trace.protocol={protocol}; use never")


def _check_slowdowns(config: Mapping[str, Any]) -> None:
    for phase, beside in config["interference"]["slowdowns"].items():
        for other, excess in beside.items():
            if not 0.0 <= excess < math.inf:
                remedy = "use 0 (not felt at all) or more; 1 is a device that is divided fairly"
                raise ConfigError(f"interference.slowdowns.{phase}.{other}", excess, remedy)
    slowdown = config["cluster"]["slowdown"]
    if slowdown and config["interference"]["slowdowns"]:
        raise ConfigError("cluster.slowdown", slowdown, "leave it empty, or use interference=none")


def _check_known(prefix: str, schema: type, part: Mapping[str, Any]) -> None:
    """Hydra's `+key=value` adds whatever it is told to; what a trace has of its own is checked against its reader."""
    known = {field.name for field in fields(schema)}
    for name, value in part.items():
        if name not in known:
            raise ConfigError(f"{prefix}{name}", value, f"unknown key; there is: {', '.join(sorted(known))}")
