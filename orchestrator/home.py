"""Where a user's studies live on disk: the store, the embedded MLflow, artifacts and logs, under one folder."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import ConfigError

HOME_VARIABLE = "ORCHESTRATOR_HOME"
STORE_VARIABLE = "ORCHESTRATOR_STORE"
DEFAULT_HOME = ".orchestrator"


@dataclass(frozen=True, slots=True)
class Home:
    """`root` is absolute. Nothing is created before `prepare`."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """`$ORCHESTRATOR_HOME`, or `.orchestrator` in the working directory."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).absolute())

    @property
    def store_path(self) -> Path:
        return self.root / "store.db"

    @property
    def store_url(self) -> str:
        """`$ORCHESTRATOR_STORE`, for a database that several machines share, or `store.db` in the home."""
        return os.environ.get(STORE_VARIABLE) or f"sqlite:///{self.store_path}"

    @property
    def has_store(self) -> bool:
        """Whether anything was ever run here, as far as that can be told without opening the store."""
        return bool(os.environ.get(STORE_VARIABLE)) or self.store_path.exists()

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def cache(self) -> Path:
        return self.artifacts / "cache"

    def trunk_ends(self, trunk: str, processes: int) -> set[int]:
        """The steps at which stages of a trunk ended whose outputs are there, with the training state of a gang of so
        many `processes`. What `cluster.outputs` wrote down when it committed them."""
        ends: set[int] = set()
        for note in (self.artifacts / "trunks" / trunk).glob("*"):
            with contextlib.suppress(OSError, ValueError, KeyError):  # it is being written, or gone by now
                end = json.loads(note.read_bytes())
                if end["processes"] == processes and (self.artifacts / "stages" / note.name).is_dir():
                    ends.add(int(end["steps"]))
        return ends

    def report_folder(self, study_id: str) -> Path:
        """Where a study's report files are written."""
        return self.artifacts / "reports" / study_id

    def pulse_path(self, term: int) -> Path:
        """Touched many times a second by the leader of a term: its age tells since when that is dead."""
        return self.root / "pulses" / str(term)

    @property
    def sharing_path(self) -> Path:
        """What whoever leads here has measured of work that shares devices."""
        return self.root / "sharing.json"

    def prepare(self) -> None:
        """Make the folders. Raises ConfigError if that is impossible."""
        try:
            for folder in (self.artifacts, self.cache, self.root / "logs", self.root / "pulses"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = f"{error.strerror}; set {HOME_VARIABLE} to a folder that can be written"
            raise ConfigError(HOME_VARIABLE, self.root, remedy) from error
