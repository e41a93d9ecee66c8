"""The log of a process: bounded, and cut off with a word about it."""

import os
import subprocess
import sys

from tests.unit.cluster.launches import ROOT

CHATTERBOX = """
import sys, time
from cluster.log import bound_output, redirect_output

redirect_output(sys.argv[1])
bound_output(limit_bytes=1000, every_s=0.02)
print("first line")
deadline = time.monotonic() + 1.0
while time.monotonic() < deadline:
    print("a line of some thirty characters")
    time.sleep(0.001)
"""


def test_a_log_stops_growing_and_says_so(tmp_path):
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", CHATTERBOX, str(log)], env=environment, check=True, timeout=30)
    text = log.read_text()
    assert text.startswith("first line\n")
    assert text.endswith("\n[the log has 1000 bytes: further output is dropped]\n")
    assert len(text) < 1100


SHORT = """
import os, signal, sys
from cluster.log import bound_output, redirect_output

redirect_output(sys.argv[1])
bound_output(limit_bytes=1000, every_s=0.02)
print("last words")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_last_words_of_a_killed_process_are_there(tmp_path):
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", SHORT, str(log)], env=environment, check=False, timeout=30)
    assert log.read_text() == "last words\n"
