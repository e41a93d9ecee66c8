"""One stage under a profiler, alone or as a stack of copies: `python -m experiments.profiling FOLDER`.

FOLDER holds `request.json` (see `Request`) and gets `measured.json` (see `_document`) and `trace.json.gz`, torch's, for
chrome://tracing or https://ui.perfetto.dev. Nothing outside is written to but the cache that all stages share.

Torch's profiler slows small operators down by half and more. So the time by part is that of steps without it, taken by
`parts.Clock`; a few steps more are traced, and their time counts nowhere.
"""

import gc
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from experiments.channel import Channel
from experiments.parts import COMPUTING, Clock, Part, heard_by
from orchestrator.schema import Assignment, DeviceKind, Outcome, Stage

REQUEST, MEASURED, TRACE = "request.json", "measured.json", "trace.json.gz"
WARM_STEPS = 3
"""So many steps at most come before the traced ones."""
TOP_OPERATORS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to profile: `steps` of a stage (0: all of it) and `traced_steps` more, `width` copies of it at once, whose
    seeds follow each other.

    `checkpoint` is a folder `step-N` to go on from, "" for the stage's own start. The other folders: see `Assignment`.
    """

    stage: Mapping[str, Any]
    steps: int
    traced_steps: int
    width: int
    checkpoint: str
    parent_dir: str
    warm_dir: str
    cache_dir: str


def main(folder: Path) -> None:
    """Profiles what `folder` asks for; raises what the stage does."""
    request = Request(**json.loads((folder / REQUEST).read_text()))
    kind = DeviceKind.CUDA if torch.cuda.is_available() else DeviceKind.CPU
    scratch = folder / "scratch"
    try:
        assignments = [_assignment(request, kind, scratch / str(copy), copy) for copy in range(request.width)]
        with _Course(request, kind, folder / TRACE) as course:
            _run(assignments, course)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    (folder / MEASURED).write_text(json.dumps(_document(course, request, kind), indent=1))


def _assignment(request: Request, kind: DeviceKind, scratch: Path, copy: int) -> Assignment:
    """Of one copy, with folders of its own."""
    stage = Stage(**request.stage)
    config = {**stage.config, "seed": stage.config["seed"] + copy}
    checkpoints = scratch / "checkpoints"
    checkpoints.mkdir(parents=True)
    if request.checkpoint:
        shutil.copytree(request.checkpoint, checkpoints / Path(request.checkpoint).name)
    gpus = torch.cuda.device_count()
    return Assignment(
        bundle_id=f"copy-{copy}",
        stage=replace(stage, config=config),
        output_dir=str(scratch / "output"),
        parent_dir=request.parent_dir,
        checkpoint_dir=str(checkpoints),
        cache_dir=request.cache_dir,
        device_kind=kind,
        device_indexes=(0,),
        share=1.0 / request.width,
        threads=max(1, (os.cpu_count() or 1) // gpus) if gpus else 1,
        memory_bytes=0,
        warm_dir=request.warm_dir,
    )


def _run(assignments: Sequence[Assignment], course: "_Course") -> None:
    stage = assignments[0].stage
    if len(assignments) == 1:
        _resolve(stage.entrypoint)(assignments[0], _Channel(course))
    else:
        _resolve(stage.fused_entrypoint)(_Copies(assignments, course))


def _resolve(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


class _Course:
    """What happens at which step boundary: the trace begins and ends, and the program stops.

    Boundary n, from 1, is the one before the n-th step of this run.
    """

    def __init__(self, request: Request, kind: DeviceKind, trace: Path) -> None:
        warm = min(WARM_STEPS, request.steps) if request.steps else WARM_STEPS
        self._traced_from, self._traced_to = warm + 1, warm + 1 + request.traced_steps
        self._last = request.steps + request.traced_steps + 1 if request.steps else sys.maxsize
        self._trace = trace
        on_gpu = kind is DeviceKind.CUDA
        self._profile = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])
        self._tracing = False
        self._boundary = 0
        self.clock = Clock(torch.cuda.synchronize if on_gpu else lambda: None)
        self.operators: list[dict[str, Any]] = []

    def __enter__(self) -> "_Course":
        self._heard = heard_by(self._part)
        self._heard.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.clock.charge()
        self._heard.__exit__(None, None, None)
        if self._tracing:
            self._end_trace()

    @property
    def steps(self) -> int:
        """The steps that were timed."""
        done = self._boundary - (1 if self._boundary >= self._last else 0)
        return done - max(0, min(done + 1, self._traced_to) - self._traced_from)

    @property
    def traced_steps(self) -> int:
        """The steps that the trace has."""
        return self._boundary - (1 if self._boundary >= self._last else 0) - self.steps

    def over(self, boundary: int) -> bool:
        """Whether the program stops at this boundary. Whoever of its members comes to one first has it begin."""
        if boundary > self._boundary:
            self._boundary = boundary
            self._reach(boundary)
        return boundary >= self._last

    def _reach(self, boundary: int) -> None:
        if boundary == 1:
            self.clock.begin_steps()
        if boundary == self._traced_from:
            self.clock.stop()
            self._tracing = True
            self._profile.__enter__()
        elif boundary == self._traced_to:
            self._end_trace()
            self.clock.go_on()

    def _end_trace(self) -> None:
        self._tracing = False
        self._profile.__exit__(None, None, None)
        self._profile.export_chrome_trace(str(self._trace))
        self.operators = _top_operators(self._profile)

    def _part(self, part: Part) -> AbstractContextManager[None]:
        """While the trace is made the clock stands still."""
        return record_function(part) if self._tracing else self.clock.part(part)


def _top_operators(profiled: profile) -> list[dict[str, Any]]:
    """Those with the most time of their own, on the GPU where there is one, over the traced steps."""
    labels = get_args(Part)
    rows = [
        {
            "name": event.key,
            "calls": event.count,
            "self_cpu_s": event.self_cpu_time_total / 1e6,
            "self_device_s": event.self_device_time_total / 1e6,
        }
        for event in profiled.key_averages()
        if event.key not in labels
    ]
    rows.sort(key=lambda row: (row["self_device_s"], row["self_cpu_s"]), reverse=True)
    return rows[:TOP_OPERATORS]


class _Channel:
    """To a stage that nobody listens to; it says when to stop."""

    def __init__(self, course: _Course) -> None:
        self._course, self._asked = course, 0

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None: ...

    def saved(self, step: int) -> None: ...

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None: ...

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def stop_requested(self) -> bool:
        self._asked += 1
        return self._course.over(self._asked)


class _Copies:
    """A `Stack` whose members all come at the beginning."""

    def __init__(self, assignments: Sequence[Assignment], course: _Course) -> None:
        self._waiting: list[tuple[Assignment, Channel]] = [(each, _Channel(course)) for each in assignments]

    def arrivals(self, timeout_s: float = 0.0) -> Sequence[tuple[Assignment, Channel]]:
        come, self._waiting = self._waiting, []
        return come

    def ended(self, bundle_id: str, outcome: Outcome) -> None: ...

    def failed(self, bundle_id: str, error: Exception) -> None:
        raise error


def _document(course: _Course, request: Request, kind: DeviceKind) -> dict[str, Any]:
    """What was measured: seconds by part with their shares (0 to 1) of the wall and of the CPU time, the parts of it
    that are overhead, and the operators of the traced steps. Times are of `steps` steps of all copies together, with
    start-up and evaluations among them, and the end of a stage that was run to its end."""
    wall, cpu = course.clock.wall_s, course.clock.cpu_s
    wall_s, cpu_s = sum(wall.values()), sum(cpu.values())
    computing_wall_s = sum(wall.get(part, 0.0) for part in COMPUTING)
    computing_cpu_s = sum(cpu.get(part, 0.0) for part in COMPUTING)
    return {
        "device_kind": str(kind),
        "device": torch.cuda.get_device_name(0) if kind is DeviceKind.CUDA else "one CPU core",
        "torch": torch.__version__,
        "width": request.width,
        "steps": course.steps,
        "traced_steps": course.traced_steps,
        "whole_stage": request.steps == 0,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "overhead": 1.0 - computing_wall_s / wall_s,
        "overhead_cpu": 1.0 - computing_cpu_s / cpu_s,
        "parts": [
            {
                "part": part,
                "wall_s": wall.get(part, 0.0),
                "cpu_s": cpu.get(part, 0.0),
                "share": wall.get(part, 0.0) / wall_s,
                "share_cpu": cpu.get(part, 0.0) / cpu_s,
                "overhead": part not in COMPUTING,
            }
            for part in get_args(Part)
        ],
        "operators": course.operators,
    }


if __name__ == "__main__":
    # What a stage on a cluster finds imported: it is no part of its start, and no collection of garbage looks at it.
    importlib.import_module("experiments.preload")
    gc.collect()
    gc.freeze()
    main(Path(sys.argv[1]))
