"""A store with two teams' studies in it, and its service."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.config import AccessConfig
from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.home import Home
from orchestrator.ports import Store
from orchestrator.schema import Command, CommandKind
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.builders import study, warm_started
from tests.unit.orchestrator.rig import CLUSTER


def opened_home(folder: Path) -> Home:
    home = Home(folder / "home")
    home.prepare()
    return home


def opened_store(home: Home) -> DatabaseStore:
    return DatabaseStore(f"sqlite:///{home.store_path}")


def access(**limits: Any) -> AccessConfig:
    return AccessConfig(name="test", **{"import_roots": ["experiments"], "path_roots": [], **limits})


def queue_study(store: Store, study_id: str, tenant: str, at: float = 0.0) -> int:
    """A study of two trials, `<study_id>-0000` and `-0001`. The number of the command that stands for it."""
    submitted = replace(study(study_id, at), tenant=tenant, config={"cluster": CLUSTER})
    trials = [RecordTrial(trial=trial, was=None, at=at) for trial in warm_started(2, study_id)]
    command = Command(command_id=0, at=at, author="somebody", kind=CommandKind.SUBMIT, target=study_id)
    return store.submit(command, RecordStudy(study=submitted), trials)
