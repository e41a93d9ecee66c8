"""When an agent was last alive."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ray.pulse import last_pulse, pulse_path

LIVE = """
import os, sys
from pathlib import Path
from cluster.ray.pulse import live_with
live_with(os.getppid(), Path(sys.argv[1]))
"""


@pytest.fixture
def pulse(tmp_path: Path) -> Path:
    return pulse_path(tmp_path, "life")


def test_a_killed_agent_was_alive_until_its_last_pulse(pulse: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LIVE, str(pulse)]) as agent:
        while not pulse.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        agent.kill()
        killed_at = time.time()
    time.sleep(0.5)
    assert last_pulse(pulse) == pytest.approx(killed_at, abs=0.25)
    assert not pulse.exists()


def test_an_agent_ends_with_its_raylet(pulse: Path) -> None:
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {LIVE!r}, {str(pulse)!r}])"
    subprocess.run([sys.executable, "-c", f"{parent}; import time; time.sleep(2)"], check=True)
    time.sleep(0.5)
    before = pulse.stat().st_mtime
    time.sleep(0.5)
    assert pulse.stat().st_mtime == before


def test_a_pulse_that_can_not_be_seen_is_now(pulse: Path) -> None:
    assert last_pulse(pulse) == pytest.approx(time.time(), abs=1.0)
    assert os.listdir(pulse.parent.parent) == []
