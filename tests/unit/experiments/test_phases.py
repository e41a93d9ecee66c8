"""What stages tell of their phases: alone and as one program, what their configs declare."""

from pathlib import Path

import pytest

from experiments.stages.program import Program
from orchestrator.sweep import compose_study
from tests.unit.experiments.stack_runs import Seat, run_stack
from tests.unit.experiments.stage_runs import ALGORITHMS, RecordingChannel, run_stage, stage_data, write_problems


def declared(algorithm: str) -> list[str]:
    config = compose_study(["recipe=from_scratch", f"algorithm={algorithm}"]).config
    phases: list[str] = config["algorithm"]["phases"]
    return phases


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_a_stage_goes_through_the_declared_phases_at_each_step(tmp_path: Path, algorithm: str) -> None:
    data = stage_data(write_problems(tmp_path), ALGORITHMS[algorithm])
    (result,) = run_stage(tmp_path, data)
    assert result.phases == declared(algorithm) * 12
    assert "phase_wait_s" not in result.outcome.metrics


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_a_stack_goes_through_them_once_for_all_its_members(tmp_path: Path, algorithm: str) -> None:
    problems = write_problems(tmp_path)
    seats = [Seat(stage_data(problems, ALGORITHMS[algorithm], seed=seed), f"m{seed}") for seed in range(2)]
    run = run_stack(tmp_path, seats)
    assert not run.errors
    assert run.results["m0"].phases == declared(algorithm) * 12
    assert run.results["m1"].phases == []


def test_waiting_for_ones_turn_is_not_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 10.0, 10.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    program = Program()
    with program.phase(RecordingChannel(), "learn"):
        pass
    assert (program.phase_wait_s, program.busy_s) == (10.0, 3.0)
