"""The rooms that a service's config names."""

from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.home import Home
from orchestrator.service.rooms import build_cluster, build_policies, build_tenants, service_config, store_id
from orchestrator.sweep import compose_study

LOCAL = {"name": "local", "implementation": "cluster.local:LocalCluster", "devices": 0, "devices_per_trial": 1}


def test_a_key_that_the_clusters_constructor_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cluster.implementation=.*'nope'"):
        build_cluster(LOCAL | {"nope": 1}, Home(tmp_path), term=1)


def test_stores_are_told_apart(tmp_path: Path) -> None:
    assert store_id(Home(tmp_path / "a")) != store_id(Home(tmp_path / "b"))
    assert store_id(Home(tmp_path / "a")) == store_id(Home(tmp_path / "a"))


def test_policies_are_those_of_the_config() -> None:
    overrides = ["ordering=fair_share", "ordering.half_life_s=60", "packing=exclusive", "tenants=two_teams"]
    policies = build_policies(service_config(compose_study(overrides).config))
    assert (policies.half_life_s, policies.whole_devices) == (60.0, True)
    assert policies.tenants["reasoning"].quota == 2.5


def test_a_quota_of_null_is_no_quota() -> None:
    tenants = build_tenants(service_config(compose_study([]).config)["tenants"])
    assert (tenants["default"].quota, tenants["default"].borrowing_limit) == (None, None)
