"""Members, their data and their stack: one call is one step of all of them.

Whoever drives a bundle owns the members' progress: it takes a step's values, counts the step, and takes out whoever is
done, between steps. A stage's `Session` is a member as it stands; `SoloProgress` is one that needs torch only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch

from experiments.batches import seeded_generator
from experiments.curriculum import ProblemOrder, problem_order
from experiments.evaluate import Evaluation
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.dpo import dpo_step
from experiments.fusion.engine import StackEngine
from experiments.fusion.evaluate import evaluate_members
from experiments.fusion.grpo import Draw, GrpoTurn, References, grpo_step
from experiments.fusion.optimizer import MemberOptimizer, Moments
from experiments.fusion.sft import sft_step
from experiments.fusion.values import Phase, StepValues, any_time
from experiments.judging import Judge
from experiments.models.decoder import Decoder
from experiments.models.multi_token import further_weight
from experiments.rollout import sampling_noise
from experiments.schedule import learning_rate
from experiments.tasks import Task, tokenizer_of
from orchestrator.schema.fusion_key import require_one_key
from orchestrator.schema.training import (
    DpoConfig,
    GrpoConfig,
    ModelConfig,
    QuantizationAwareSftConfig,
    SftConfig,
    StageConfig,
)


class Member(Protocol):
    """What a bundle asks a member before each step."""

    config: StageConfig
    sampler: torch.Generator

    def learning_rate(self) -> float:
        """The rate of its current step."""

    def next_items(self) -> slice:
        """The positions of its current step's items in the endless order of its data."""


@dataclass
class SoloProgress:
    """A member that counts its own steps."""

    config: StageConfig
    step: int = 0
    position: int = 0
    sampler: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.sampler = seeded_generator(self.config.seed, "sampling")

    def learning_rate(self) -> float:
        return learning_rate(self.config.optimizer, self.step, self.config.algorithm.max_steps)

    def next_items(self) -> slice:
        return slice(self.position, self.position + items_per_step(self.config))

    def complete_step(self, rounds: int = 1) -> None:
        """Counts one step that took its number of items so many times."""
        self.step += 1
        self.position += rounds * items_per_step(self.config)


@dataclass
class _Seat:
    member: Member
    order: ProblemOrder[Any]
    initial: Decoder | None


@dataclass(frozen=True, slots=True)
class Departed:
    """What a member takes along: enough to go on alone, or in another stack."""

    member: Member
    decoder: Decoder
    moments: Moments


class Bundle:
    """A stack of members of one fusion key. Members are known by name; the order is that of their arrival."""

    def __init__(
        self,
        task: Task,
        config: StageConfig,
        device: torch.device,
        make_engine: Callable[[StackedDecoder, Sequence[MemberOptimizer]], StackEngine] = StackEngine,
    ) -> None:
        """Empty; for members of the fusion key of `config`. Raises ValueError if that can't be fused."""
        require_one_key([config])
        self.task = task
        self._config, self._tokenizer = config, tokenizer_of(config.model, config.task)
        self._judge = Judge(task, self._tokenizer)
        self.engine = make_engine(self._empty_stack().to(device), [])
        self._further_weight = _further_weight(config)
        layout = self.engine.stack.layout
        if not self._further_weight and (front := layout.size_before("further.")) < layout.row_size:
            self.engine.optimizer.learned = front
        self._seats: dict[str, _Seat] = {}
        self._references: References | None = None

    @property
    def names(self) -> list[str]:
        """The members, in the order of the stack."""
        return list(self._seats)

    def member(self, name: str) -> Member:
        """A member by its name."""
        return self._seats[name].member

    def place(self, name: str) -> int:
        """Where in the stack a member is now."""
        return self.names.index(name)

    def step(self, phase: Phase = any_time) -> dict[str, StepValues]:
        """One step of every member; `phase` is entered around each phase of it."""
        seats = list(self._seats.values())
        lrs = [seat.member.learning_rate() for seat in seats]
        if isinstance(self._config.algorithm, GrpoConfig):
            turns = [self._turn(seat, lr) for seat, lr in zip(seats, lrs, strict=True)]
            values = grpo_step(self.engine, turns, self._judge, self._references, phase, self._further_weight)
            return dict(zip(self.names, values, strict=True))
        batches = [seat.order[seat.member.next_items()] for seat in seats]
        if isinstance(self._config.algorithm, DpoConfig):
            assert self._references is not None
            algorithms = [cast(DpoConfig, seat.member.config.algorithm) for seat in seats]
            values = dpo_step(self.engine, batches, algorithms, lrs, self._tokenizer, self._references, phase)
        else:
            values = sft_step(self.engine, batches, lrs, self._tokenizer, phase, self._further_weight)
        return dict(zip(self.names, values, strict=True))

    def evaluate(self, names: Sequence[str], split: str, batch_size: int) -> dict[str, Evaluation]:
        """Greedy accuracy of some members on a split of the task (`dev`, `test`)."""
        places = [self.place(name) for name in names]
        results = evaluate_members(self.engine.stack, self._judge, getattr(self.task, split), batch_size, places)
        return dict(zip(names, results, strict=True))

    def take_out(self, name: str) -> Departed:
        """Removes a member and compacts the stack; says what it leaves with."""
        departed = self.state(name)
        self.drop([name])
        return departed

    def drop(self, names: Sequence[str]) -> None:
        """Removes members and compacts the stack."""
        self.engine.keep([place for place, name in enumerate(self._seats) if name not in names])
        for name in names:
            del self._seats[name]
        self._references = self._gather_references()

    def state(self, name: str) -> Departed:
        """Copies of what a member has."""
        place = self.place(name)
        return Departed(self._seats[name].member, self.engine.decoder(place), self.engine.moments(place))

    def put_in(
        self,
        name: str,
        member: Member,
        initial: Decoder,
        weights: Decoder | None = None,
        moments: Moments | None = None,
        items: Sequence[Any] | None = None,
    ) -> None:
        """Adds a member at the end: from its `initial` decoder, or where it has trained, from `weights` and `moments`.

        A KL is measured from `initial`, which is the reference of preferences too. `items` are what it learns of where
        its stage samples that, examples (`Problem`) or pairs (`Pair`); else it learns of the task. Raises ValueError
        for a name that is taken, for another fusion key, naming the field, and for weights of another shape.
        """
        if name in self._seats:
            raise ValueError(f"{name!r} is in the bundle already")
        require_one_key([self._config, member.config])
        self.engine.append(initial if weights is None else weights, optimizer_of(member.config), moments)
        self._seats[name] = self._seat(member, initial, items)
        self._references = self._gather_references()

    def _seat(self, member: Member, initial: Decoder, items: Sequence[Any] | None) -> _Seat:
        algorithm, seed = member.config.algorithm, member.config.seed
        split = "supervised" if isinstance(algorithm, SftConfig) else "rl"
        order = problem_order(self.task, split, seed) if items is None else ProblemOrder([], items, seed)
        needed = isinstance(algorithm, DpoConfig) or (isinstance(algorithm, GrpoConfig) and algorithm.kl_weight != 0.0)
        return _Seat(member, order, initial if needed else None)

    def _turn(self, seat: _Seat, lr: float) -> GrpoTurn:
        algorithm = cast(GrpoConfig, seat.member.config.algorithm)
        return GrpoTurn(algorithm, self._draws(seat, algorithm), lr)

    def _draws(self, seat: _Seat, algorithm: GrpoConfig) -> Iterator[Draw]:
        """Round by round: the problems where the round before ended, and noise from the member's own generator."""
        items, count = seat.member.next_items(), algorithm.prompts_per_step
        while True:
            problems = seat.order[items]
            steps = self.task.config.max_answer_tokens
            yield Draw(problems, sampling_noise(count * algorithm.group_size, steps, seat.member.sampler))
            items = slice(items.stop, items.stop + count)

    def _gather_references(self) -> References | None:
        placed = [(place, seat.initial) for place, seat in enumerate(self._seats.values()) if seat.initial is not None]
        if not placed:
            return None
        stack = self._stack_of([initial for _, initial in placed]).to(self.engine.device)
        return References(stack, [place for place, _ in placed])

    def _empty_stack(self) -> StackedDecoder:
        stack = StackedDecoder.empty(cast(ModelConfig, self._config.model), self._tokenizer.vocab_size)
        algorithm = self._config.algorithm
        return stack.fake_quantize(algorithm.weights) if isinstance(algorithm, QuantizationAwareSftConfig) else stack

    def _stack_of(self, decoders: Sequence[Decoder]) -> StackedDecoder:
        return StackedDecoder.of(decoders)


def optimizer_of(config: StageConfig) -> MemberOptimizer:
    """A stage's optimizer as a member's."""
    return MemberOptimizer(config.optimizer, config.deepspeed.gradient_clipping)


def items_per_step(config: StageConfig) -> int:
    """Examples, pairs or prompts that one step takes of the data."""
    algorithm = config.algorithm
    return algorithm.prompts_per_step if isinstance(algorithm, GrpoConfig) else cast(SftConfig, algorithm).batch_size


def _further_weight(config: StageConfig) -> float:
    """What the loss of multi-token prediction weighs in a stage; preferences are of whole answers."""
    if isinstance(config.algorithm, DpoConfig):
        return 0.0
    return further_weight(config.model, supervised=isinstance(config.algorithm, SftConfig))
