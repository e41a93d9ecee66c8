"""Stages for the cluster contract: real entrypoints without torch, small enough to run by the dozen."""

import json
import os
import signal
import time
from pathlib import Path

from orchestrator.schema import Outcome

POINTS = 3
GRANTED, TOO_MUCH = 1 << 30, 1 << 50
SAVES = (1, 2)


def succeed(assignment, channel):
    """Reports three points, writes one file."""
    for step in range(1, POINTS + 1):
        channel.report(step, {"train/loss": 1.0 / step}, step / POINTS)
    Path(assignment.output_dir, "weights.bin").write_bytes(bytes(range(256)) * 16)
    return Outcome(metrics={"eval/accuracy": 0.5}, busy_s=0.25, peak_memory_bytes=1234)


def save(assignment, channel):
    """Reports and saves each step; starts behind the newest checkpoint, its own or that of a warm stage's parent."""
    folder = Path(assignment.checkpoint_dir)
    done = max((int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=0)
    if done == 0 and assignment.warm_dir:
        done = int(Path(assignment.warm_dir, "state").read_text())
    for step in range(max(1, done), POINTS + 1):
        channel.report(step, {"train/loss": 1.0 / step}, step / POINTS)
        if step in SAVES and step > done:
            unfinished = folder / f"unfinished-{step}"
            unfinished.mkdir()
            (unfinished / "state").write_text(str(step))
            unfinished.rename(folder / f"step-{step}")
            channel.saved(step)
    return Outcome()


def say_what_it_takes(assignment, channel):
    """Every rank says its own."""
    channel.measured((assignment.rank + 1) * 1000, 2000, 0.5)
    return Outcome()


def take_turns(assignment, channel):
    """Writes down when it goes into a phase, and when it leaves it."""
    log = os.open(Path(assignment.cache_dir, "turns"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for _ in range(10):
        for phase in ("rollout", "learn"):
            with channel.phase(phase):
                os.write(log, f"+ {phase}\n".encode())
                time.sleep(0.005)
                os.write(log, f"- {phase}\n".encode())
    return Outcome(metrics={"parks": float(assignment.parks)})


def copy_parent(assignment, channel):
    """Needs the parent stage's committed file."""
    data = Path(assignment.parent_dir, "weights.bin").read_bytes()
    Path(assignment.output_dir, "copy.bin").write_bytes(data)
    return Outcome(metrics={"bytes": len(data)})


def fail(assignment, channel):
    print("about to fail")
    raise ValueError("the loss is not a number")


def kill_itself(assignment, channel):
    channel.report(0, {"train/loss": 1.0}, 0.1)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def until_stopped(assignment, channel):
    """Runs until it is asked to stop, then leaves a checkpoint."""
    step = 0
    while not channel.stop_requested():
        channel.report(step, {"step": float(step)}, 0.1)
        step += 1
        time.sleep(0.01)
    Path(assignment.checkpoint_dir, "step").write_text(str(step))
    return Outcome(finished=False, busy_s=0.125)


def deaf(assignment, channel):
    """Never looks at what it is asked."""
    channel.report(0, {}, 0.0)
    time.sleep(600)


def unasked(assignment, channel):
    return Outcome(finished=False)


def not_an_outcome(assignment, channel):
    return {"eval/accuracy": 1.0}


def meet(assignment, channel):
    """A gang meets at its rendezvous file; rank 0 writes who came and where each one sits."""
    place = Path(assignment.rendezvous)
    with place.open("a") as stream:
        stream.write(f"{assignment.rank} {assignment.device_indexes[0]} {os.getpid()}\n")
    deadline = time.monotonic() + 20
    while len(place.read_text().splitlines()) < assignment.world_size:
        assert time.monotonic() < deadline, "the others did not come"
        time.sleep(0.01)
    channel.report(assignment.rank, {"rank": float(assignment.rank)}, 1.0)
    if assignment.rank == 0:
        Path(assignment.output_dir, "gang.txt").write_text(place.read_text())
    return Outcome(metrics={"world_size": assignment.world_size})


def last_rank_dies(assignment, channel):
    """Rank 1 is killed; rank 0 would wait for ever."""
    if assignment.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def grow(assignment, channel):
    """Takes more and more host memory, in pieces that are really touched."""
    held = []
    for _ in range(200):
        held.append(bytearray(os.urandom(1 << 20)) * 8)
        time.sleep(0.01)
    return Outcome()


def ask_for_too_much(assignment, channel):
    """An allocation that no machine can make."""
    import numpy as np

    np.empty(TOO_MUCH, dtype=np.uint8)


def write_place(assignment, channel):
    """Where the process sits: its cores, session, variables."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    print("printed by the stage")
    Path(assignment.output_dir, "place.txt").write_text(
        repr(
            {
                "cores": cores,
                "session_leader": os.getsid(0) == os.getpid(),
                "threads": os.environ["OMP_NUM_THREADS"],
                "gpus": os.environ["CUDA_VISIBLE_DEVICES"],
                "oom_score": int(Path("/proc/self/oom_score_adj").read_text()) if Path("/proc").exists() else 1000,
                "sigint_blocked": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            }
        )
    )
    return Outcome()


def print_environment(assignment, channel):
    print(json.dumps(dict(os.environ)))
    return Outcome()


def print_and_stay(assignment, channel):
    print("printed by the stage")
    channel.report(0, {}, 0.0)
    time.sleep(600)


def leave_a_grandchild(assignment, channel):
    """Forks a process that would outlive the stage, and tells its pid in a report."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    channel.report(0, {"grandchild": float(pid)}, 0.5)
    if assignment.stage.config.get("stay"):
        time.sleep(600)
    return Outcome()
