import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.report.live import (
    LINE_INTERVAL_S,
    MIN_LINE_INTERVAL_S,
    Best,
    DeviceUse,
    LiveView,
    Progress,
    Resident,
    progress_line,
    progress_table,
)
from orchestrator.schema import TrialState


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def progress(at: float = 0.0, completed: int = 3, devices: int = 2) -> Progress:
    resident = Resident(trial_numbers=(4, 5), stage="grpo", share=0.5, progress=0.42)
    idle = tuple(DeviceUse(device_id=f"node-a/cpu{n}") for n in range(1, devices))
    return Progress(
        at=at,
        study="rl_vs_sft",
        elapsed_s=75.0,
        counts={TrialState.COMPLETED: completed, TrialState.RUNNING: 2, TrialState.QUEUED: 11},
        devices=(DeviceUse(device_id="node-a/cpu0", residents=(resident,)), *idle),
        best=(Best(algorithm="grpo", accuracy=0.61, trial_number=4),),
        experiments_per_gpu_hour=312.4,
        eta_s=130.0,
        device_kind="cpu",
        message="#6 waits for warmup",
    )


def lines(*shown: Progress) -> list[str]:
    buffer = io.StringIO()
    with LiveView(Console(file=buffer, width=80)) as view:
        for each in shown:
            view.update(each)
    return buffer.getvalue().splitlines()


def test_a_line_says_all_that_matters() -> None:
    (line,) = lines(progress())
    assert line == (
        "1:15 | 11 queued, 2 running, 3 completed | devices 1/2 busy | best grpo 61.0 % dev (#4) | "
        "312 experiments per GPU-hour (CPU cores stand in) | ETA 2:10"
    )


def test_a_log_gets_a_line_when_something_changed_but_no_more_than_one_in_a_while() -> None:
    soon, later = MIN_LINE_INTERVAL_S - 1, MIN_LINE_INTERVAL_S
    assert len(lines(progress(0), progress(1), progress(soon))) == 1
    assert len(lines(progress(0), progress(later))) == 1
    assert len(lines(progress(0), progress(later, completed=4), progress(later + 1, completed=4))) == 2


def test_a_study_in_which_nothing_changes_still_gives_signs_of_life() -> None:
    assert len(lines(progress(0), progress(LINE_INTERVAL_S), progress(2 * LINE_INTERVAL_S))) == 3


def test_the_last_state_is_in_the_log_even_if_it_came_too_soon() -> None:
    assert "4 completed" in lines(progress(0), progress(1, completed=4))[-1]


def test_a_terminal_shows_devices_with_who_sits_on_them() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(progress_table(progress()))
    text = console.file.getvalue()
    assert "node-a/cpu0" in text
    assert "42 %  grpo #4, #5 on 0.5 of it" in text
    assert "idle" in text


def test_a_terminal_is_drawn_in_place_and_left_with_one_line() -> None:
    buffer = io.StringIO()
    with LiveView(Console(file=buffer, width=100, force_terminal=True)) as view:
        view.update(progress())
    assert "\x1b[" in buffer.getvalue()
    assert "1:15 | 11 queued" in buffer.getvalue().splitlines()[-1]


@pytest.mark.parametrize("variable", ["CI", "NO_COLOR"])
def test_ci_and_no_color_get_plain_lines(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    buffer = io.StringIO()
    with LiveView(Console(file=buffer, width=100, force_terminal=True)) as view:
        view.update(progress())
    assert "\x1b[?25l" not in buffer.getvalue()
    assert "█" not in buffer.getvalue()


def test_a_narrow_terminal_and_many_devices_are_shown_in_part() -> None:
    console = Console(file=io.StringIO(), width=40)
    console.print(progress_table(progress(devices=64)))
    text = console.file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 40
    assert "48 more devices" in text


def test_nothing_known_yet_is_said() -> None:
    text = progress_line(replace(progress(), counts={}, devices=(), best=(), eta_s=None))
    assert "no trials yet" in text
    assert "ETA unknown" in text


def test_an_update_is_cheap() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with LiveView(console) as view:
        view.update(progress(0.0))
        began = time.perf_counter()
        for n in range(1, 51):
            view.update(progress(float(n), completed=n))
        assert (time.perf_counter() - began) / 50 < 0.02
