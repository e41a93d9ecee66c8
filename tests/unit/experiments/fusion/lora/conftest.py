import pytest

from tests.unit.experiments.fusion.fused_runs import SFT, variant, write_even_problems, write_mixed_problems
from tests.unit.experiments.fusion.lora.lora_runs import pretrained, task_of


@pytest.fixture(scope="package")
def lora_study(tmp_path_factory):
    """(problems of one length, of three lengths, their tasks by these paths, a base that is right now and then)."""
    folder = tmp_path_factory.mktemp("lora")
    even, mixed = write_even_problems(folder), write_mixed_problems(folder)
    tasks = {path: task_of(folder, variant(path, SFT, 0)) for path in (even, mixed)}
    return even, mixed, tasks, pretrained(tasks[even])
