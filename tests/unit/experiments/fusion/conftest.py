import pytest

from tests.unit.experiments.fusion.fused_runs import write_even_problems, write_mixed_problems
from tests.unit.experiments.stage_runs import run_stage, stage_data


@pytest.fixture(scope="package")
def study(tmp_path_factory):
    """(folder, problems without padding, problems with, output of a warm-up that is right now and then)."""
    folder = tmp_path_factory.mktemp("fusion")
    even, mixed = write_even_problems(folder), write_mixed_problems(folder)
    data = stage_data(even, {"name": "sft", "max_steps": 150, "batch_size": 16}, lr=1e-2)
    run_stage(folder, data, name="warm-up")
    return folder, even, mixed, folder / "warm-up" / "output"
