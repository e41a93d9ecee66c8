"""`profile` as a user meets it: a trial that never ran, on a real tiny stage."""

import gzip
import json
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

from orchestrator.cli import app
from orchestrator.home import HOME_VARIABLE, STORE_VARIABLE, Home
from orchestrator.service import devices_lock
from orchestrator.store.opening import usable_store

OVERRIDES = [
    *("task=jsonl", "recipe=from_scratch", "algorithm=sft", "algorithm.max_steps=40", "algorithm.batch_size=8"),
    *("model.d_model=16", "model.layers=1", "model.heads=2", "model.kv_heads=1", "model.d_ff=32"),
    *("task.split.supervised=60", "task.split.dev=16", "task.split.test=16", "evaluation.timed_answers=1"),
    "tracking=memory",
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    monkeypatch.setattr(devices_lock, "lock_path", lambda: tmp_path / "devices.lock")
    made = Home.from_environment()
    made.prepare()
    return made


@pytest.fixture
def submitted(home: Home, tmp_path: Path) -> Home:
    problems = tmp_path / "problems.jsonl"
    pairs = [(a, b) for a in range(14) for b in range(10)]
    problems.write_text("".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n" for a, b in pairs))
    done = invoke("submit", *OVERRIDES, f"task.path={problems}")
    assert done.exit_code == 0, done.output
    return home


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_home_without_studies_is_refused(home: Home) -> None:
    done = invoke("profile", "#0")
    assert done.exit_code == 2
    assert "no study was run here" in done.output


def test_an_unknown_trial_is_refused(submitted: Home) -> None:
    done = invoke("profile", "#7")
    assert done.exit_code == 2
    assert "trial=#7: no such trial" in done.output


@pytest.mark.slow
def test_a_trial_that_waits_is_profiled_and_left_as_it_is(submitted: Home) -> None:
    done = invoke("profile", "#0", "--steps", "5", "--format", "json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["steps"], document["width"], document["alone"]) == (5, 1, True)
    assert {"forward", "backward", "optimizer", "decode"} < {part["part"] for part in document["parts"]}
    trace = Path(document["trace"])
    assert any(
        event.get("name") == "forward" for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    )
    assert sorted(path.name for path in trace.parent.iterdir()) == ["log.txt", "profile.json", "trace.json.gz"]
    assert {path.name for path in submitted.artifacts.iterdir()} == {"cache", "profiles"}
    store = usable_store(submitted)
    assert store.allocations() == []
    assert [trial.state for trial in store.trials(document["study_id"])] == ["queued"]
    store.close()


@pytest.mark.slow
def test_while_another_run_has_the_devices_it_says_so(submitted: Home) -> None:
    with FileLock(devices_lock.lock_path()):
        done = invoke("profile", "#0", "--steps", "5", "--width", "2")
    assert done.exit_code == 0, done.output
    assert "another run holds this machine's devices" in done.stderr
    assert "2 copies as one program" in " ".join(done.stdout.split())
    assert "https://ui.perfetto.dev" in done.stdout
