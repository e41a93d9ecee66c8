"""The cluster on Ray: one agent actor per node holds its devices. See README.md."""

from cluster.ray.driver import RayCluster

__all__ = ["RayCluster"]
