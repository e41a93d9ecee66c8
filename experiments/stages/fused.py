"""Many stages of one fusion key as one program: members join and leave at step boundaries, the others train on.

A member goes the way of its stage alone (`experiments.stages.sft`, `experiments.stages.grpo`): the same steps, reports,
evaluations, checkpoints and outcome. What members do together is one pass: a step, an evaluation that several are due
for. What can fail in one member only, its set-up, its checkpoints and its output, fails that member only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.channel import Channel, Stack
from experiments.engine import open_device
from experiments.evaluate import Evaluation
from experiments.fusion.bundle import Bundle, items_per_step
from experiments.fusion.values import StepValues
from experiments.generators import OwnGenerators
from experiments.parts import timed_as
from experiments.stages import dpo, grpo, rejection_sft, sft
from experiments.stages.bundles import initial_member, member_engine, open_bundle
from experiments.stages.program import Program
from experiments.stages.sampling import Drawn
from experiments.stages.session import Session
from experiments.tasks import load_task
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import (
    AlgorithmConfig,
    DpoConfig,
    GrpoConfig,
    QuantizationAwareSftConfig,
    RejectionSftConfig,
    SftConfig,
    StageConfig,
    stage_config,
)

REFILL_S = 1.0
"""An empty stack waits so long for new members [s]: whoever gives out seats hears of free ones at once, and to start
another program takes about as long."""

IS_DONE: Mapping[type[AlgorithmConfig], Callable[[Session], bool]] = {
    SftConfig: sft.is_done,
    GrpoConfig: grpo.is_done,
    QuantizationAwareSftConfig: sft.is_done,
    RejectionSftConfig: sft.is_done,
    DpoConfig: dpo.is_done,
}
DRAWS: Mapping[type[AlgorithmConfig], Callable[[Session, str], Drawn[Any]]] = {
    RejectionSftConfig: rejection_sft.examples_of,
    DpoConfig: dpo.pairs_of,
}
"""Those that learn of what they sample, once, from the output of the stage before."""


def run(stack: Stack) -> None:
    """Trains whoever arrives, until nobody is left and nobody comes. Raises only what hits all members alike."""
    members = _Members(stack)
    while members.admit():
        members.evaluate_due()
        members.let_done_finish()
        members.let_asked_pause()
        members.step()


@dataclass(frozen=True, slots=True)
class _Member:
    session: Session
    generators: OwnGenerators
    drawn: Drawn[Any] | None


class _Members:
    """By the ids of their bundles, in the order of their arrival, and the stack that trains them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._program = Program()
        self._members: dict[str, _Member] = {}
        self._device: torch.device | None = None
        self._bundle: Bundle | None = None
        self._of_beginnings: dict[tuple[object, ...], Evaluation] = {}

    def admit(self) -> bool:
        """Takes in who has arrived; False once nobody is there and nobody came."""
        arrivals = self._stack.arrivals(0.0 if self._members else REFILL_S)
        for number, (assignment, channel) in enumerate(arrivals):
            if number and any(member.drawn is not None for member in self._members.values()):
                self.let_asked_pause()  # each samples for as long as it takes: nobody is to wait for all of them
            self._device = self._device or open_device(assignment)
            with self._failing_alone(assignment.bundle_id):
                self._members[assignment.bundle_id] = self._set_up(assignment, channel, self._device)
        return bool(self._members or arrivals)

    def evaluate_due(self) -> None:
        """What the members begin with, and the evaluations of this step."""
        for session, result in self._evaluate([s for s in self._sessions() if s.start_is_due], "test"):
            session.take_start(result)
        self._take_dev([s for s in self._sessions() if s.dev_is_due])

    def let_done_finish(self) -> None:
        """Whoever is done leaves a checkpoint, is evaluated a last time, and hands in the output."""
        for session in self._done():
            with self._by_itself(session):
                session.save()
        done = self._done()  # without whom that has failed
        self._take_dev([session for session in done if not session.knows_dev_accuracy])
        for session, result in self._evaluate(done, "test"):
            with self._by_itself(session):
                self._end(session, session.conclude(result))

    def let_asked_pause(self) -> None:
        """Whoever is asked to stop leaves a checkpoint and goes; one of those who stay may be due for one."""
        for session in self._sessions():
            if session.channel.stop_requested():
                with self._by_itself(session):
                    self._end(session, session.pause())
            elif session.checkpoint_is_due:
                with self._by_itself(session):
                    session.save()

    def step(self) -> None:
        """One step of all."""
        if not self._members:
            return
        assert self._bundle is not None
        values = self._bundle.step(self._sessions()[0].phase)  # the device is one, whoever of them asks
        for session in self._sessions():
            _count(session, values[session.assignment.bundle_id])

    def _sessions(self) -> list[Session]:
        return [member.session for member in self._members.values()]

    def _done(self) -> list[Session]:
        return [session for session in self._sessions() if IS_DONE[type(session.config.algorithm)](session)]

    def _set_up(self, assignment: Assignment, channel: Channel, device: torch.device) -> _Member:
        name, config = assignment.bundle_id, stage_config(assignment.stage.config)
        generators = OwnGenerators(config.seed, device)
        with generators.in_use():
            if self._bundle is None:
                task = load_task(config.task, Path(assignment.cache_dir), config.model)
                self._bundle = open_bundle(task, config, device)
            bundle = self._bundle
            engine, count = member_engine(bundle, name, config), items_per_step(config)
            learner, draw = _learner(assignment, config), DRAWS.get(type(config.algorithm))
            session = Session(learner, channel, config, bundle.task, engine, self._program, count)
            drawn = None if draw is None else draw(session, assignment.parent_dir)
            items = None if drawn is None else drawn.items
            bundle.put_in(name, session, initial_member(bundle, config, learner.parent_dir), items=items)
            session.restore()
        return _Member(session, generators, drawn)

    def _take_dev(self, sessions: Sequence[Session]) -> None:
        for session, result in self._evaluate(sessions, "dev"):
            session.take_dev(result)

    def _evaluate(self, sessions: Sequence[Session], split: str) -> list[tuple[Session, Evaluation]]:
        """All at once; only those with other batches go separately. Of those that begin with the same one is asked."""
        keys = [(split, session.config.evaluation.batch_size, *_weights_of(session)) for session in sessions]
        asked = {key: session for key, session in zip(keys, sessions, strict=True) if key not in self._of_beginnings}
        by_size: dict[int, list[str]] = {}
        for session in asked.values():
            by_size.setdefault(session.config.evaluation.batch_size, []).append(session.assignment.bundle_id)
        results: dict[str, Evaluation] = {}
        if by_size:
            assert self._bundle is not None
            with self._program.busy():
                for size, names in by_size.items():
                    results |= self._bundle.evaluate(names, split, size)
        known = self._of_beginnings | {key: results[session.assignment.bundle_id] for key, session in asked.items()}
        for key, session in asked.items():
            if session.progress.step == 0:
                self._of_beginnings[key] = known[key]
        return [(session, known[key]) for key, session in zip(keys, sessions, strict=True)]

    def _end(self, session: Session, outcome: Outcome) -> None:
        drawn = self._members[session.assignment.bundle_id].drawn
        if drawn is not None:
            outcome = drawn.handed_in(session, outcome)
        self._forget(session.assignment.bundle_id)
        self._stack.ended(session.assignment.bundle_id, outcome)

    def _forget(self, name: str) -> None:
        """Takes a member out, however far its set-up came."""
        self._members.pop(name, None)
        self._program.leave(name)
        if self._bundle is not None and name in self._bundle.names:
            self._bundle.drop([name])

    @contextmanager
    def _by_itself(self, session: Session) -> Iterator[None]:
        """Around what a member does that concerns no other: with its own generators, and at its own risk."""
        name = session.assignment.bundle_id
        with self._failing_alone(name), self._members[name].generators.in_use():
            yield

    @contextmanager
    def _failing_alone(self, name: str) -> Iterator[None]:
        """An error inside is this member's; only memory is everybody's."""
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            self._forget(name)
            self._stack.failed(name, error)


def _learner(assignment: Assignment, config: StageConfig) -> Assignment:
    """The assignment of whoever trains, whose parent it begins with."""
    algorithm = config.algorithm
    return rejection_sft.learner(assignment, algorithm) if isinstance(algorithm, RejectionSftConfig) else assignment


def _weights_of(session: Session) -> tuple[object, ...]:
    """What tells the weights of a member from those of others; equal for those that begin with the same."""
    if session.progress.step > 0:
        return (session.assignment.bundle_id,)
    parent, config = session.assignment.parent_dir, session.config
    return parent, repr(config.model), None if parent else config.seed


@timed_as("report")
def _count(session: Session, values: StepValues) -> None:
    """A step of a member, as its stage counts it."""
    session.engine.learned += len(values.updates)
    for update in values.updates:
        session.record(update)
    session.record(values.step)
    session.record(values.averages, weight=values.problems)
    session.progress.position += (values.rounds - 1) * items_per_step(session.config)
    session.complete_step(values.tokens)
