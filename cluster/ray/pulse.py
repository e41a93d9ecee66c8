"""When an agent was last alive. Ray tells of an actor's death a second or two later, which no ledger should count."""

import contextlib
import os
import time
from pathlib import Path

_EVERY_S = 0.1


def pulse_path(home: Path, life: str) -> Path:
    """The file that an agent touches many times a second, in one of its lives."""
    return home / "pulses" / f"agent-{life}"


def live_with(raylet: int, pulse: Path) -> None:
    """Touch `pulse` for as long as `raylet` is this process's parent, then end the process: Ray's workers outlive a
    killed raylet by many seconds."""
    with contextlib.suppress(OSError):
        pulse.parent.mkdir(parents=True, exist_ok=True)
    while os.getppid() == raylet:
        with contextlib.suppress(OSError):  # a full disk: then a death is known when Ray tells of it
            pulse.touch()
        time.sleep(_EVERY_S)
    os._exit(1)


def last_pulse(pulse: Path) -> float:
    """When it last beat [s since the epoch]; now, where it can't be seen. The file is removed: that life is over."""
    try:
        at = pulse.stat().st_mtime
    except OSError:
        return time.time()
    pulse.unlink(missing_ok=True)
    return at
