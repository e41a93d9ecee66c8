"""Who takes turns with whom on a device: one decodes while the other learns. Pure."""

from orchestrator.phases.antiphase import LEAST_SHARE, Antiphase, complementary, merged
from orchestrator.phases.company import BesideBarred

__all__ = ["LEAST_SHARE", "Antiphase", "BesideBarred", "complementary", "merged"]
