"""Stages that take what they like of the host's memory, really touched, and one that minds its own business."""

import json
import time
from pathlib import Path

import psutil

from experiments.channel import Channel
from orchestrator.schema import Assignment, Outcome

STEP_S = 0.05
STATE = "state.json"


def grow_once(assignment: Assignment, channel: Channel) -> Outcome:
    """Needs 1.25 times what it is given at first, and no more than that however often it is begun."""
    return _grow(assignment, channel, of_first=1.25)


def grow_always(assignment: Assignment, channel: Channel) -> Outcome:
    """Needs 1.25 times what it is given, whatever that is."""
    return _grow(assignment, channel, of_first=0.0)


def mind_own_business(assignment: Assignment, channel: Channel) -> Outcome:
    """Takes next to nothing, step by step, and tells how many those were."""
    steps = assignment.stage.budget_steps
    for step in range(1, steps + 1):
        time.sleep(STEP_S)
        channel.report(step, {"train/loss": 1.0 / step}, step / steps)
    return Outcome(metrics={"steps": float(steps)})


def _touched(size: int) -> bytearray:
    """So many bytes, or none, each page of which was written to: others are nobody's."""
    made = bytearray(max(0, size))
    made[::4096] = b"x" * len(made[::4096])
    return made


def _grow(assignment: Assignment, channel: Channel, of_first: float) -> Outcome:
    """A checkpoint of every step tells how far it has come and what it was given at first [bytes]."""
    state = Path(assignment.checkpoint_dir, STATE)
    before = json.loads(state.read_text()) if state.exists() else {"step": 0, "given": assignment.memory_bytes}
    needed = of_first * before["given"] if of_first else 1.25 * assignment.memory_bytes
    steps, held = assignment.stage.budget_steps, []
    for step in range(max(1, int(before["step"])), steps + 1):
        missing = int(needed * step / steps) - psutil.Process().memory_full_info().uss
        held.append(_touched(missing))
        time.sleep(STEP_S)
        state.write_text(json.dumps({"step": step, "given": before["given"]}))
        channel.saved(step)
        channel.report(step, {"train/loss": 1.0 / step}, step / steps)
    time.sleep(1.0)  # a sample is taken every half second
    return Outcome(metrics={"steps": float(steps), "began_at": float(before["step"])})


def jump(assignment: Assignment, channel: Channel) -> Outcome:
    """Takes nine tenths of what it is given, lets itself be seen with it, and then at once more than there is."""
    held = [_touched(int(0.9 * assignment.memory_bytes) - psutil.Process().memory_full_info().uss)]
    channel.report(1, {"train/loss": 1.0}, 0.1)
    time.sleep(1.5)
    held.append(_touched(4 * assignment.memory_bytes))
    return Outcome()
