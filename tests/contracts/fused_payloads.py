"""Programs of stacks for the cluster's tests: real fused entrypoints without torch.

`run` gives each member a turn at a time. What a member does is in its stage's config: `steps` until it is done (0:
never), `fails` at its first turn, `raises` out of the program, `pause_s` before each of its turns, `takes_bytes` of
memory, `deaf` to being asked to stop. `once` takes in the first member only, `leave` nobody at all.
"""

import os
import time
from pathlib import Path

from orchestrator.schema import Outcome

IDLE_S = 0.3


def run(stack):
    members, steps, held = {}, {}, []
    idle_since = time.monotonic()
    while members or time.monotonic() - idle_since < IDLE_S:
        for assignment, channel in stack.arrivals(0.0 if members else IDLE_S):
            members[assignment.bundle_id] = assignment, channel
            print(f"{assignment.bundle_id} is in", flush=True)
        for name, (assignment, channel) in list(members.items()):
            if _turn(stack, name, assignment, channel, steps, held):
                del members[name]
                idle_since = time.monotonic()


def _turn(stack, name, assignment, channel, steps, held):
    """Whether the member has left."""
    config, step = assignment.stage.config, steps.get(name, 0) + 1
    time.sleep(config.get("pause_s", 0.005))
    if channel.stop_requested() and not config.get("deaf"):
        Path(assignment.checkpoint_dir, "step").write_text(str(step))
        stack.ended(name, Outcome(finished=False, busy_s=0.125))
        return True
    if config.get("raises"):
        raise RuntimeError("the program is broken")
    if config.get("fails"):
        stack.failed(name, ValueError("the checkpoint is damaged"))
        return True
    if step == 1:
        held.append(bytearray(os.urandom(1 << 20)) * (config.get("takes_bytes", 0) >> 20))
        channel.measured(1000, 2000, None)
    steps[name] = step
    channel.report(step, {"pid": float(os.getpid())}, 0.5)
    if step != config.get("steps", 0):
        return False
    channel.saved(step)
    Path(assignment.output_dir, "weights.bin").write_bytes(name.encode())
    stack.ended(name, Outcome(metrics={"steps": step}))
    return True


def once(stack):
    """Serves its first member and returns, deaf to whoever comes meanwhile."""
    ((assignment, channel),) = stack.arrivals()
    channel.report(1, {"pid": float(os.getpid())}, 0.5)
    time.sleep(assignment.stage.config.get("pause_s", 0.0))
    stack.ended(assignment.bundle_id, Outcome(metrics={"pid": os.getpid()}))


def leave(stack):
    """Takes nobody in."""
