"""Whose periodic checkpoint is due, and what they cost in all."""

from itertools import pairwise

import pytest

from experiments.stages import program
from experiments.stages.program import CHECKPOINT_COSTS, CHECKPOINT_LEAST_S, Program


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves on: `clock[0]` [s]."""
    now = [0.0]
    monkeypatch.setattr(program.time, "perf_counter", lambda: now[0])
    return now


def _train(clock, names, cost_s, until_s, step_s=0.01):
    """(name, time) of each periodic checkpoint of a program that does nothing else but steps."""
    process, written = Program(), []
    for name in names:
        process.join(name)
    while clock[0] < until_s:
        for name in names:
            if process.checkpoint_due(name):
                with process.checkpointing(name):
                    clock[0] += cost_s
                written.append((name, clock[0]))
        clock[0] += step_s
    return written


@pytest.mark.parametrize("members", [1, 3, 16])
@pytest.mark.parametrize("cost_s", [0.001, 0.05, 0.5])
def test_checkpoints_take_their_part_of_the_time_at_most_however_many_stages_write_them(clock, members, cost_s):
    written = _train(clock, [str(n) for n in range(members)], cost_s, until_s=200.0)
    assert 0 < len(written) * cost_s <= clock[0] / CHECKPOINT_COSTS + cost_s


def test_stages_take_turns(clock):
    written = [name for name, _ in _train(clock, ["a", "b", "c"], 0.001, until_s=20.0)]
    assert written[:6] == ["a", "b", "c", "a", "b", "c"]


def test_no_stage_writes_more_often_than_it_would_alone(clock):
    times = [at for name, at in _train(clock, ["a", "b", "c"], 0.001, until_s=20.0) if name == "b"]
    assert min(later - sooner for sooner, later in pairwise(times)) >= 0.99 * CHECKPOINT_LEAST_S


def test_who_has_left_is_not_waited_for(clock):
    process = Program()
    for name in ("a", "b"):
        process.join(name)
    process.leave("a")
    clock[0] += CHECKPOINT_LEAST_S
    assert process.checkpoint_due("b")


def test_the_first_one_comes_no_sooner_than_after_a_stage_has_joined(clock):
    process = Program()
    clock[0] += 100.0
    process.join("a")
    assert not process.checkpoint_due("a")


def test_busy_time_is_what_was_spent_inside(clock):
    process = Program()
    with process.busy():
        clock[0] += 3.0
    clock[0] += 5.0
    assert process.busy_s == 3.0
