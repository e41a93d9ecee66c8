"""Checks over several fields of how a queue is served."""

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.config import ConfigError, TenantConfig
from orchestrator.validation.ranges import PACKING_CHECKS, SEARCH_CHECKS, STOPPING_CHECKS, apply
from orchestrator.validation.shapes import check_fields


def check_half_life(prefix: str, ordering: Mapping[str, Any]) -> None:
    """What was used long ago counts less: after how long, where the ordering looks at it."""
    if ordering.get("half_life_s", 1.0) <= 0:
        raise ConfigError(f"{prefix}ordering.half_life_s", ordering["half_life_s"], "use a positive number of seconds")


def check_packing(prefix: str, packing: Mapping[str, Any]) -> None:
    """The knobs that the chosen policy has."""
    apply(prefix, tuple(check for check in PACKING_CHECKS if check[0] in packing), packing)


def check_search(prefix: str, search: Mapping[str, Any]) -> None:
    """The knobs that the chosen search has."""
    apply(prefix, tuple(check for check in SEARCH_CHECKS if check[0] in search), search)


def check_stopping(prefix: str, stopping: Mapping[str, Any]) -> None:
    """The knobs that the chosen policy has, and each algorithm's grace in its unit."""
    apply(prefix, tuple(check for check in STOPPING_CHECKS if check[0] in stopping), stopping)
    of_budget = stopping.get("grace_unit") == "budget"
    for algorithm, grace in stopping.get("grace", {}).items():
        if not (0 <= grace <= 1 if of_budget else 0 <= grace < math.inf):
            remedy = "use a fraction of the budget, 0 to 1" if of_budget else "use 0 or more units of stopping.resource"
            raise ConfigError(f"{prefix}grace.{algorithm}", grace, f"{remedy}; stopping.grace_unit says which it is")


def check_grace(prefix: str, cluster: Mapping[str, Any]) -> None:
    """How long who is asked to stop may take, where the cluster waits for that."""
    if cluster.get("stop_grace_s", 1.0) <= 0:
        raise ConfigError(f"{prefix}cluster.stop_grace_s", cluster["stop_grace_s"], "use a positive number of seconds")


def check_tenants(prefix: str, tenants: Mapping[str, Any]) -> None:
    """Weights and limits of every tenant."""
    for name, tenant in tenants["tenants"].items():
        _check_tenant(f"{prefix}tenants.tenants.{name}.", tenant)


def _check_tenant(prefix: str, tenant: Mapping[str, Any]) -> None:
    check_fields(prefix, TenantConfig, tenant)
    if not tenant["weight"] > 0:
        raise ConfigError(f"{prefix}weight", tenant["weight"], "use a positive number; 2 gets twice the share of 1")
    for name in ("quota", "borrowing_limit"):
        if tenant[name] is not None and not tenant[name] >= 0:
            raise ConfigError(
                f"{prefix}{name}", tenant[name], "use a number of devices, 0 or more, or null for no limit"
            )
