import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["experiments.preload", "experiments.preload_hf"])
def test_the_preloaded_process_has_one_thread_and_prints_nothing(module):
    code = f"import {module}, os, sys; sys.stderr.write(str(len(os.listdir('/proc/self/task'))))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "1")
