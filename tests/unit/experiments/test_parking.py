"""What waits in host memory comes back as it was, and a stage that parks trains as one that doesn't."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.parking import Parking
from orchestrator.schema import Assignment
from tests.unit.experiments.stage_runs import (
    ALGORITHMS,
    RecordingChannel,
    Result,
    assert_same_weights,
    run_on,
    run_stage,
    stage_data,
    told,
    warmed_up,
)


def run_parked(assignment: Assignment, stop_at: int) -> Result:
    return run_on(replace(assignment, parks=True), RecordingChannel(stop_at))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return warmed_up(tmp_path_factory.mktemp("parking"))


def test_parked_tensors_stay_what_and_who_they_are() -> None:
    tensors = [torch.randn(5, 3), torch.tensor(7.0), torch.zeros(0)]
    before, places = [tensor.clone() for tensor in tensors], [tensor.data_ptr() for tensor in tensors]
    parking = Parking(torch.device("cpu"))
    parking.park(tensors)
    parking.park(tensors)  # those that are parked stay
    assert all(torch.equal(tensor, was) for tensor, was in zip(tensors, before, strict=True))
    assert tensors[0].data_ptr() != places[0]
    parking.unpark()
    assert all(torch.equal(tensor, was) for tensor, was in zip(tensors, before, strict=True))


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_stage_that_parks_trains_bit_for_bit_as_one_that_does_not(
    warm: tuple[Path, Path, Path], algorithm: str, zero_stage: int
) -> None:
    folder, problems, parent = warm
    data = stage_data(problems, ALGORITHMS[algorithm], deepspeed={"zero_optimization": {"stage": zero_stage}})
    name = f"{algorithm}-{zero_stage}"
    (plain,) = run_stage(folder, data, parent=parent, name=f"{name}-plain")
    (parked,) = run_stage(folder, data, parent=parent, name=f"{name}-parked", function=run_parked)
    assert parked.reports == plain.reports
    assert_same_weights(plain, parked)


def test_a_checkpoint_of_parked_state_is_gone_on_from_exactly(warm: tuple[Path, Path, Path]) -> None:
    folder, problems, parent = warm
    data = stage_data(problems, ALGORITHMS["grpo"])
    (plain,) = run_stage(folder, data, parent=parent, name="whole")
    cut = [
        run_stage(folder, data, parent=parent, name="cut", stop_at=stop_at, function=run_parked)[0]
        for stop_at in (7, -1)
    ]
    assert not cut[0].outcome.finished
    assert told(*cut) == plain.reports
    assert_same_weights(plain, cut[1])


@pytest.mark.gpu
def test_on_a_gpu_parked_memory_is_there_for_others() -> None:
    device = torch.device("cuda", 0)
    tensors = [torch.randn(1 << 26, device=device) for _ in range(2)]
    before, reserved = [tensor.cpu() for tensor in tensors], torch.cuda.memory_reserved(device)
    parking = Parking(device)
    parking.park(tensors)
    assert all(tensor.is_pinned() for tensor in tensors)
    assert torch.cuda.memory_reserved(device) <= reserved - 2 * 4 * (1 << 26)
    parking.unpark()
    assert all(torch.equal(tensor.cpu(), was) for tensor, was in zip(tensors, before, strict=True))
