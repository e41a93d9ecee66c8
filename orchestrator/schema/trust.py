"""Models that bring code of their own: whose may be run, by what the administrator of a machine says."""

import os
from pathlib import Path

TRUSTED_MODELS = "ORCHESTRATOR_TRUSTED_MODELS"
"""Environment variable: folders, separated as in PATH. A model in one of them, or below it, is trusted. Whoever writes
a study can't set it where stages run."""


def code_is_trusted(folder: str | Path) -> bool:
    """Whether code that lies beside the model in `folder` may be run on this machine."""
    model = Path(folder).resolve()
    trusted = filter(None, os.environ.get(TRUSTED_MODELS, "").split(os.pathsep))
    return any(model.is_relative_to(Path(name).resolve()) for name in trusted)
