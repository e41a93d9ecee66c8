"""Where leads look: trackers record studies and trials for people, never for the scheduler.

Every tracker fulfils `orchestrator.ports.Tracker` and describes runs in the words of `tracking.runs`; a
`forwarder.Forwarder` tells it the store's journal. Importing this package imports no tracking backend; MLflow is first
imported at the first record, in the process of `tracking.process`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from orchestrator.ports import Tracker

__all__ = ["TRACKERS", "build_tracker"]


def _memory(uri: str, artifacts: Path) -> Tracker:
    from orchestrator.tracking.memory import MemoryTracker

    return MemoryTracker()


def _mlflow(uri: str, artifacts: Path) -> Tracker:
    from orchestrator.tracking.mlflow import MlflowTracker

    return MlflowTracker(uri, artifacts / "mlflow")


TRACKERS: Final[Mapping[str, Callable[[str, Path], Tracker]]] = {"memory": _memory, "mlflow": _mlflow}


def build_tracker(name: str, *, uri: str = "", artifacts: Path = Path("artifacts")) -> Tracker:
    """The tracker of that name; nothing is opened before its `check` or first record.

    `uri` is where an external tracker writes (`sqlite:////path/mlflow.db`, `http://host:5000`); `artifacts` is the
    folder for the artifacts of runs that no server stores. Raises ValueError for a name that is not in `TRACKERS`.
    """
    if name not in TRACKERS:
        raise ValueError(f"tracking={name}: no such tracker; use one of {', '.join(sorted(TRACKERS))}")
    return TRACKERS[name](uri, artifacts)
