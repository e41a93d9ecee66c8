"""A profile as an artifact of the trial's tracked run."""

from orchestrator.home import Home
from orchestrator.profiling.choosing import Choice
from orchestrator.profiling.running import PROFILE, Profile

FOLDER = "profiles"


def attach(choice: Choice, home: Home, profiled: Profile) -> bool:
    """Whether the study is in MLflow, and the trial's run there has the files now, in a folder of their own."""
    tracking = choice.study.config.get("tracking", {"name": "memory"})
    if tracking["name"] != "mlflow":
        return False
    from orchestrator.tracking.mlflow import MlflowTracker

    tracker = MlflowTracker(tracking["uri"] or home.mlflow_uri, home.artifacts / "mlflow")
    files = (profiled.trace, profiled.folder / PROFILE)
    return tracker.attach(choice.study, choice.trial.trial_id, files, f"{FOLDER}/{profiled.folder.name}")
