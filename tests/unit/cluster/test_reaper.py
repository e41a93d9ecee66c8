"""The reaper tidies up when its starter ends, and not before."""

import subprocess
import sys

from cluster.reaper import Reaper

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_processes_and_the_folder_are_gone_once_it_is_closed(tmp_path):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    with subprocess.Popen(SLEEP) as process:
        reaper = Reaper(str(folder), [process.pid])
        assert process.poll() is None
        reaper.close()
        assert process.wait(5.0) == -9
    assert not folder.exists()


STARTER = """
import os, signal, subprocess, sys
from cluster.reaper import Reaper

victim = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"])
Reaper(sys.argv[1], [victim.pid])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_they_are_gone_once_the_starter_was_killed(tmp_path):
    """The victim holds the pipe that is read here: its end is the victim's."""
    folder = tmp_path / "folder"
    folder.mkdir()
    starter = subprocess.run([sys.executable, "-c", STARTER, str(folder)], capture_output=True, timeout=30, check=False)
    assert starter.returncode == -9
