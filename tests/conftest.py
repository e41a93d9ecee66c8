"""How tests are spread over processes by `pytest -n 2 --dist loadgroup`: by file, so that what a file sets up is set up
once, and all those that take hold of this machine's devices in one process, where they can't wait for each other."""

from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_HOLD_DEVICES = (
    "bench",
    "contracts/test_cluster.py",
    "faults",
    "integration",
    "unit/cluster",
    "unit/orchestrator/service",
    "unit/orchestrator/test_execution.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.path.relative_to(_HERE).as_posix()
        holds_devices = any(file == place or file.startswith(f"{place}/") for place in _HOLD_DEVICES)
        item.add_marker(pytest.mark.xdist_group("devices" if holds_devices else file))


@pytest.fixture(scope="session")
def hf_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of a tiny Hugging Face model that answers sums right now and then, file of the sums)."""
    from tests.hf_models import taught, write_model, write_tokenizer
    from tests.unit.experiments.stage_runs import write_problems

    folder = tmp_path_factory.mktemp("hf")
    model, problems = folder / "model", write_problems(folder)
    write_tokenizer(model)
    write_model(model)
    taught(model, problems)
    return model, problems
