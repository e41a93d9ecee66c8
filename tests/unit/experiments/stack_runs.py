"""Runs the fused entrypoint in a child, with a stack that hands members out at chosen steps of the program."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.stages import fused
from orchestrator.schema import Assignment, Outcome
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.stage_runs import RecordingChannel, Result, assignment_of, weights_in


@dataclass
class Seat:
    """A member: after how many questions of the program it arrives, and its own which-th question stops it."""

    data: dict[str, Any]
    name: str
    arrives_at: int = 0
    stop_at: int = -1
    parent: Path | str = ""
    warm: Path | None = None


@dataclass
class ListedStack:
    """A `Stack` with a list of members; it remembers what became of each."""

    seats: list[tuple[int, Assignment, RecordingChannel]]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    questions: int = 0
    together: int = 0
    """How many were in it at most."""

    def arrivals(self, timeout_s=0.0):
        if timeout_s:  # nobody is there: whoever is next comes now
            self.questions = max(self.questions, min((at for at, *_ in self.seats), default=0))
        come = [(assignment, channel) for at, assignment, channel in self.seats if at <= self.questions]
        self.seats = [seat for seat in self.seats if seat[0] > self.questions]
        self.questions += 1
        return come

    def ended(self, bundle_id, outcome):
        self.outcomes[bundle_id] = outcome

    def failed(self, bundle_id, error):
        self.errors[bundle_id] = f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class StackRun:
    """What became of each member: its result, or why it failed."""

    results: dict[str, Result]
    errors: dict[str, str]


def run_stack(folder: Path, seats: list[Seat], *, function=None) -> StackRun:
    """The fused stage with these members; `folder / name` gets each one's output and checkpoints, run again it resumes.

    Every step is reported. `function` runs in the child before the program does.
    """
    listed = [
        (s.arrives_at, assignment_of(folder, s.data, parent=s.parent, name=s.name, warm=s.warm), s.stop_at)
        for s in seats
    ]
    return run_in_child(_run, listed, function)


def _run(listed: list[tuple[int, Assignment, int]], function) -> StackRun:
    from experiments.stages import session

    session.REPORT_EVERY_STEPS = 1
    if function is not None:
        function()
    channels = {assignment.bundle_id: RecordingChannel(stop_at) for _, assignment, stop_at in listed}
    stack = ListedStack([(at, assignment, channels[assignment.bundle_id]) for at, assignment, _ in listed])
    fused.run(stack)
    results = {}
    for _, assignment, _ in listed:
        name = assignment.bundle_id
        if name not in stack.outcomes:
            continue
        weights = weights_in(Path(assignment.output_dir))
        channel = channels[name]
        told = channel.reports, weights, channel.saves, channel.measurements, channel.phases
        results[name] = Result(stack.outcomes[name], *told)
    return StackRun(results, stack.errors)
