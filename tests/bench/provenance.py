"""Where, when and how a record was made."""

import argparse
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.submission import git_revision


def provenance(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """What every record carries beside its numbers; of the arguments not where something lies on this machine."""
    return {
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "revision": git_revision(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "sizes": {name: value for name, value in vars(arguments).items() if not Path(str(value)).is_absolute()},
        "command": command,
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    packages = ("torch", "deepspeed", "ray", "mlflow")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": "hidden",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
