"""The service makes room by itself."""

import os
import time
from pathlib import Path

import pytest

from cluster.outputs import Artifacts
from orchestrator.home import STORE_VARIABLE, Home
from orchestrator.schema import Outcome
from orchestrator.service.cache_keeper import making_room
from orchestrator.store.opening import usable_store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    made = Home(tmp_path)
    made.prepare()
    usable_store(made).close()
    artifacts = Artifacts(made.artifacts)
    artifacts.prepare("b", "gone", "key")
    (artifacts.incoming("b") / "weights").write_text("w" * 2**20)
    artifacts.commit("b", "key", Outcome())
    os.utime(artifacts.stage("key"), (time.time() - 10_000,) * 2)
    return made


def test_what_is_over_the_bound_goes_while_the_service_runs(home: Home) -> None:
    said: list[str] = []
    deadline = time.monotonic() + 60
    with making_room({"max_gib": 1e-6, "min_age_s": 60.0, "every_s": 0.05}, home, said.append):
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "removed" in said[0]
    assert Artifacts(home.artifacts).verified("key") is None


def test_without_a_bound_nobody_looks(home: Home) -> None:
    with making_room({"max_gib": 0.0, "min_age_s": 60.0, "every_s": 0.01}, home, print):
        time.sleep(0.1)
    assert Artifacts(home.artifacts).verified("key") is not None
