"""A stage that keeps account of itself: short steps, frequent checkpoints, and a result that tells each step done.

It imports nothing heavy, so that a killed forkserver is back in a fraction of a second. `alive/<bundle_id>` in the
checkpoint's folder has the time of its first and, as the file's own time, of its last sign of life.
"""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from experiments.channel import Channel
from orchestrator.schema import Assignment, Outcome

STEP_S, PULSES = 0.05, 10
REPORT_EVERY, SAVE_EVERY = 5, 10
STATE, RESULT = "state.json", "result.json"


def chain(seed: int, steps: int) -> str:
    """What `steps` steps, each done once and in order, make of a seed."""
    state = f"seed {seed}"
    for step in range(1, steps + 1):
        state = after(state, step)
    return state


def after(state: str, step: int) -> str:
    """The state behind one more step."""
    return hashlib.sha256(f"{state}:{step}".encode()).hexdigest()


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Metrics: `steps`."""
    folder = Path(assignment.checkpoint_dir)
    pulse = folder / "alive" / assignment.bundle_id
    pulse.parent.mkdir(exist_ok=True)
    pulse.write_text(f"{time.time()}\n")
    seed, steps = int(assignment.stage.config["seed"]), assignment.stage.budget_steps
    done = _saved(assignment) or {"step": 0, "state": f"seed {seed}", "reported": []}
    step, state, reported = int(done["step"]), str(done["state"]), list(done["reported"])
    for point in reported:  # whoever was to pass them on may have died with them
        channel.report(point, {"train/loss": 1.0 / point}, point / steps)
    while step < steps:
        for _ in range(PULSES):
            time.sleep(STEP_S / PULSES)
            os.utime(pulse)
        step, state = step + 1, after(state, step + 1)
        if step % REPORT_EVERY == 0:
            channel.report(step, {"train/loss": 1.0 / step}, step / steps)
            reported.append(step)
        stop = channel.stop_requested()
        if stop or step % SAVE_EVERY == 0:
            _save(folder, {"step": step, "state": state, "reported": reported})
            channel.saved(step)
        if stop and step < steps:
            return Outcome(busy_s=0.0, finished=False)
    print(f"step {step} of {steps}")
    output = Path(assignment.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / RESULT).write_text(json.dumps({"state": state, "steps": step}))
    return Outcome(metrics={"steps": float(step), "accuracy": 1.0}, busy_s=0.0)


def _saved(assignment: Assignment) -> dict[str, Any] | None:
    """The newest checkpoint; of another stage, what it reported is not this one's."""
    own = sorted(Path(assignment.checkpoint_dir).glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    if own:
        return json.loads((own[-1] / STATE).read_text())
    if assignment.warm_dir:
        return json.loads((Path(assignment.warm_dir) / STATE).read_text()) | {"reported": []}
    return None


def _save(folder: Path, content: dict[str, Any]) -> None:
    """A folder `step-N`, there whole or not at all, and no older ones."""
    final, unfinished = folder / f"step-{content['step']}", folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    (unfinished / STATE).write_text(json.dumps(content))
    if not final.exists():
        unfinished.rename(final)
    for older in folder.glob("step-*"):
        if older != final:
            shutil.rmtree(older)
