"""A profile as tables."""

from typing import Any

import pytest

from orchestrator.profiling.table import operators_grid, overhead_lines, parts_grid


def document(**changed: Any) -> dict[str, Any]:
    parts = [
        {"part": "forward", "wall_s": 1.5, "cpu_s": 1.0, "share": 0.75, "share_cpu": 0.8, "overhead": False},
        {"part": "verify", "wall_s": 0.5, "cpu_s": 0.25, "share": 0.25, "share_cpu": 0.2, "overhead": True},
    ]
    return {
        "trial_id": "study-0003",
        "stage": "main",
        "steps": 50,
        "traced_steps": 10,
        "started_at_step": 0,
        "whole_stage": False,
        "width": 1,
        "device": "one CPU core",
        "device_kind": "cpu",
        "alone": True,
        "wall_s": 2.0,
        "cpu_s": 1.25,
        "overhead": 0.25,
        "overhead_cpu": 0.2,
        "runs_held_s": 0.0,
        "runs_busy_s": 0.0,
        "parts": parts,
        "operators": [{"name": "aten::mm", "calls": 120, "self_cpu_s": 0.05, "self_device_s": 0.2}],
    } | changed


def test_each_part_has_its_seconds_its_share_and_whether_it_is_overhead() -> None:
    assert parts_grid(document()).rows == (
        ("forward", "1.500", "75.0", "1.000", "80.0", ""),
        ("verify", "0.500", "25.0", "0.250", "20.0", "yes"),
        ("all", "2.000", "100.0", "1.250", "100.0", ""),
    )


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "50 steps, on one CPU core (device_kind=cpu)"),
        ({"started_at_step": 200}, "50 steps from step 200, on"),
        ({"whole_stage": True, "steps": 590}, "590 steps, from start to end, on"),
        ({"width": 8}, "50 steps, 8 copies as one program, on"),
    ],
)
def test_the_title_says_what_was_run(changed: dict[str, Any], text: str) -> None:
    assert text in parts_grid(document(**changed)).title


def test_operators_are_said_per_step_with_gpu_time_where_there_is_a_gpu() -> None:
    assert operators_grid(document()).rows == (("aten::mm", "12", "5.00"),)
    assert operators_grid(document(device_kind="cuda")).rows == (("aten::mm", "12", "5.00", "20.00"),)


def test_a_stage_that_ended_before_any_step_was_traced_has_no_division_by_zero() -> None:
    assert operators_grid(document(traced_steps=0)).rows == (("aten::mm", "120", "50.00"),)


def test_overhead_is_said_of_the_profile_and_of_the_runs_in_the_ledger() -> None:
    assert overhead_lines(document())[0].endswith("25.0 % of the wall time, 20.0 % of the CPU time.")
    assert len(overhead_lines(document())) == 1
    shared = overhead_lines(document(alone=False, runs_held_s=20.0, runs_busy_s=19.0))
    assert "Another run used" in shared[1]
    assert "held their devices for 20.0 s; 5.0 % of it lies outside" in shared[2]
