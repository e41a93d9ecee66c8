"""From overrides to a study that is ready to be queued."""

from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.dotted import resolve
from orchestrator.home import HOME_VARIABLE, Home
from orchestrator.schema import DeviceKind
from orchestrator.submission import check_entrypoint, prepare


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def jsonl(folder: Path, *lines: str) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_data_of_the_study_is_read_once_and_kept_in_the_cache(home: Home) -> None:
    prepare(["study=rl_vs_sft", "task.size=1500", "task.split.dev=50", "task.split.test=50"], home)
    assert len(list(home.cache.rglob("*.json"))) == 1


def test_every_stage_has_a_demand(home: Home) -> None:
    submission = prepare(["study=rl_vs_sft", "seed=0"], home)
    stages = {stage.key for variant in submission.variants for stage in variant.stages}
    assert set(submission.demands(DeviceKind.CPU)) == stages


def test_two_studies_of_one_submission_have_ids_of_their_own(home: Home) -> None:
    submission = prepare([], home)
    ids = {submission.new_study(now=0.0).study_id for _ in range(20)}
    assert len(ids) == 20
    assert all(study_id.startswith("single-19700101-000000-") for study_id in ids)


def test_a_broken_line_of_data_is_refused_with_file_and_line(home: Home, tmp_path: Path) -> None:
    path = jsonl(tmp_path, '{"prompt": "1+1=", "answer": "2"}', "{broken")
    with pytest.raises(ConfigError, match=rf"{path}:2"):
        prepare(["task=jsonl", f"task.path={path}"], home)


def test_a_task_with_too_few_problems_for_its_splits_is_refused(home: Home) -> None:
    with pytest.raises(ConfigError, match="task=addition"):
        prepare(["task.split.test=1000000"], home)


@pytest.mark.parametrize(
    ("entrypoint", "problem"),
    [
        ("nowhere", "names no function"),
        ("nowhere:run", "no module named 'nowhere'"),
        ("nowhere.at.all:run", "no module named 'nowhere.at.all'"),
        ("experiments.stages.sft:nope", "experiments.stages.sft has no 'nope'"),
    ],
)
def test_an_entrypoint_that_names_nothing_is_refused_without_an_import(
    home: Home, entrypoint: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm.entrypoint={entrypoint}: {problem}"):
        prepare([f"algorithm.entrypoint={entrypoint}"], home)
    with pytest.raises(ConfigError, match=r"^recipe.stages.warmup.algorithm.entrypoint="):
        prepare([f"recipe.stages.warmup.algorithm.entrypoint={entrypoint}"], home)


@pytest.mark.parametrize("name", ["run", "SftConfig", "Assignment"])
def test_a_name_that_a_module_defines_or_imports_is_an_entrypoint(name: str) -> None:
    check_entrypoint(f"experiments.stages.sft:{name}", "algorithm.entrypoint")


def test_a_loader_that_reads_no_task_is_refused(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"^task.loader=os:system: can't read the task"):
        prepare(["task.loader=os:system"], home)


def test_a_string_that_names_nothing_is_refused_with_its_field() -> None:
    with pytest.raises(ConfigError, match=r"cluster.implementation=cluster.ray:Nope"):
        resolve("cluster.ray:Nope", "cluster.implementation")


def test_the_home_is_the_environments_or_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert Home.from_environment().root == tmp_path
    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.chdir(tmp_path)
    assert Home.from_environment().root == tmp_path / ".orchestrator"
