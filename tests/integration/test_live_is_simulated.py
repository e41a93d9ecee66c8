"""A study that really ran, replayed in the simulator: the same decisions in the same order, and the same makespan."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.home import Home
from orchestrator.simulation.replay import Comparison, replay
from orchestrator.store.opening import open_store

# The warnings are those of the service's third parties. The time is for a machine whose devices somebody else holds.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

# Six trials of three lengths behind one warm-up: enough for devices to be given out in turn.
STUDY = [
    *("study=rl_vs_sft", "study.name=live", "cluster=node", "tracking=memory", "algorithm=sft", "optimizer.lr=1e-3"),
    *("algorithm.max_steps=250,700,1200", "seed=0,1", "recipe.stages.warmup.algorithm.max_steps=60"),
    *("evaluation.every_steps=100", "evaluation.timed_answers=2", "task.size=1500", "task.split.supervised=100"),
    *("task.split.dev=50", "task.split.test=50"),
]


def command(home: Path, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "ORCHESTRATOR_HOME": str(home), "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module", params=[("cluster.devices=2",), ("cluster.devices=1", "cluster.share_per_trial=0.5")])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the study ran: on two devices, and two trials at a time on one."""
    home = tmp_path_factory.mktemp("home")
    code, output = command(home, "run", *STUDY, *request.param)
    assert code == 0, output
    return home


@pytest.fixture(scope="module")
def compared(home: Path) -> Comparison:
    with closing(open_store(Home(home))) as store:
        return replay(store)


def test_the_simulator_gives_the_same_stages_the_same_devices_in_the_same_order(compared: Comparison) -> None:
    assert len(compared.live) == 7
    assert [(d.stage_key, d.device_ids) for d in compared.simulated] == [
        (d.stage_key, d.device_ids) for d in compared.live
    ]


def test_the_predicted_makespan_is_within_ten_percent(compared: Comparison) -> None:
    assert compared.live_makespan_s > 5.0
    assert abs(compared.makespan_error) < 0.1


def test_the_command_says_so(home: Path) -> None:
    code, output = command(home, "trace", "replay")
    assert code == 0, output
    assert "decisions: 7 of 7 are the same, in the same order" in output


def test_what_is_exported_is_simulated_from_its_file(home: Path, compared: Comparison) -> None:
    from orchestrator.simulation.composing import compose_runs
    from orchestrator.simulation.runner import simulate

    file = home / "live.csv"
    code, output = command(home, "trace", "export", "-o", str(file))
    assert code == 0, output
    (run,) = compose_runs(["trace=csv", f"trace.file={file}", f"trace.nodes={home / 'live.nodes.csv'}"])
    result = simulate(run.config)
    assert result.completed == 6
    assert result.makespan_s == pytest.approx(compared.live_makespan_s, rel=0.1)
