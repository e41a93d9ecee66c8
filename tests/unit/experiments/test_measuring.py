"""What a stage says of the memory and the time that it takes."""

import time
from dataclasses import replace

import pytest
import torch

from experiments import measuring
from experiments.measuring import FIRST_STEPS, Meter, private_peak_bytes
from orchestrator.schema import Assignment, DeviceKind
from tests.unit.experiments.children import run_in_child
from tests.unit.orchestrator.builders import stage

MIB = 1 << 20
ASSIGNMENT = Assignment(
    bundle_id="b",
    stage=stage("main"),
    output_dir="",
    parent_dir="",
    checkpoint_dir="",
    cache_dir="",
    device_kind=DeviceKind.CPU,
    device_indexes=(0,),
    share=1.0,
    threads=1,
    memory_bytes=MIB,
)
CPU = torch.device("cpu")


def _steps_that_are_told(grow_by_mib: int) -> list[int]:
    """Of ten steps, the fifth of which takes more memory."""
    held, told = [], []
    meter = Meter(ASSIGNMENT, CPU)
    for step in range(1, 11):
        if step == 5 and grow_by_mib:
            held.append(torch.ones(grow_by_mib * MIB // 4))
        if meter.after_step() is not None:
            told.append(step)
    return told


def _with_pauses_of_nothing(grow_by_mib: int) -> list[int]:
    measuring.LEAST_S = 0.0
    return _steps_that_are_told(grow_by_mib)


def test_it_is_told_after_the_first_steps_and_not_again_while_nothing_grows() -> None:
    assert run_in_child(_with_pauses_of_nothing, 0) == [FIRST_STEPS]


def test_it_is_told_again_once_more_memory_is_taken() -> None:
    assert run_in_child(_with_pauses_of_nothing, 400) == [FIRST_STEPS, 5]


def test_it_is_told_again_no_sooner_than_some_seconds_later() -> None:
    assert run_in_child(_steps_that_are_told, 400) == [FIRST_STEPS]


def _peak_after_giving_back() -> tuple[int, int]:
    before = private_peak_bytes()
    block = torch.ones(200 * MIB // 4)
    del block
    return before, private_peak_bytes()


def test_the_peak_counts_what_was_given_back_and_not_what_is_shared_with_the_forkserver() -> None:
    before, after = run_in_child(_peak_after_giving_back)
    assert 190 * MIB < after - before < 260 * MIB
    assert before < 250 * MIB  # torch and deepspeed alone are more


def _busy(busy_s: float, idle_s: float, shares: tuple[float, ...]) -> list[float]:
    meters = [Meter(replace(ASSIGNMENT, share=share), CPU) for share in shares]
    until = time.process_time() + busy_s
    while time.process_time() < until:
        pass
    time.sleep(idle_s)
    return [meter.now().utilisation or 0.0 for meter in meters]


def test_a_process_that_waits_is_less_busy() -> None:
    (busy,), (idle,) = run_in_child(_busy, 0.2, 0.0, (1.0,)), run_in_child(_busy, 0.01, 1.0, (1.0,))
    assert 0.0 < idle < busy <= 1.0


def test_a_part_of_a_core_is_busy_with_a_part_of_its_time() -> None:
    whole, quarter = run_in_child(_busy, 0.1, 0.9, (1.0, 0.25))
    assert 3.0 * whole < quarter <= 1.0


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_gpu_that_nvml_does_not_know_is_of_unknown_utilisation(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_device: torch.device) -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    meter = Meter(replace(ASSIGNMENT, share=share), torch.device("cuda", 0))
    meter._sample(1)
    assert meter._utilisation(1) is None
