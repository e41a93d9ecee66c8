"""What every stage shares: set-up, evaluation, reporting, checkpoints, and the outcome. No loop lives here.

A stage opens a `Session`, trains step by step, and ends with `finish` or, when asked to stop, with `pause`. `Progress`
is all that a stage has to remember between steps, besides weights, optimizer and random generators. A session that
shares its process is evaluated by whoever drives them all, and ends with `conclude` then.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from experiments.batches import seeded_generator
from experiments.building import Model, initial_model
from experiments.channel import Channel
from experiments.checkpoint import (
    PREFIX,
    StageEngine,
    fits,
    has_checkpoint,
    leave_state,
    load_checkpoint,
    save_checkpoint,
    save_output,
)
from experiments.engine import Engine, open_device
from experiments.evaluate import Evaluation, evaluate
from experiments.gang import sum_over_processes
from experiments.generators import seed_all
from experiments.judging import Judge
from experiments.measuring import Measurement, Meter
from experiments.outcomes import measured_outcomes
from experiments.parts import timed_as
from experiments.rollout import CachedModel
from experiments.rollout.speculative import speculative_outcomes
from experiments.schedule import learning_rate
from experiments.stages.program import Program
from experiments.tasks import Problem, Task, load_task, tokenizer_of
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import StageConfig, stage_config

REPORT_EVERY_STEPS = 10
RESEND_S = 60.0
"""Whoever passes a report on may die before it is written down, and the stage with it. A resumed stage says again what
it had said within this time before its checkpoint; what is known already is not counted again."""


@dataclass
class Progress:
    """step: steps done. position: where in the endless order of the data the next step begins [items].
    tokens_seen: prompt and answer tokens, BOS and EOS included, that this process computed.

    series: what was recorded since the last report, as (value, weight). reported: the latest reports, as (time, step,
    metrics, fraction done).
    """

    step: int = 0
    position: int = 0
    tokens_seen: int = 0
    start_accuracy: float = -1.0
    dev_accuracy: float = 0.0
    dev_step: int = -1
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    reported: list[tuple[float, int, dict[str, float], float]] = field(default_factory=list)


class Session:
    """One stage run in one process: its data, engine and progress. `restore` it before its first step."""

    def __init__(
        self,
        assignment: Assignment,
        channel: Channel,
        config: StageConfig,
        task: Task,
        engine: StageEngine,
        program: Program,
        items_per_step: int,
    ) -> None:
        self.assignment, self.channel, self.config, self.task = assignment, channel, config, task
        self.engine, self.program = engine, program
        self.rank, self.world_size = assignment.rank, assignment.world_size
        self.device = engine.device
        self.tokenizer = tokenizer_of(config.model, config.task)
        self.judge = Judge(task, self.tokenizer)
        self.sampler = seeded_generator(config.seed, "sampling")
        self.progress = Progress()
        self.meter = Meter(assignment, self.device)
        self._items_per_step = items_per_step
        self._layout = {"algorithm.name": config.algorithm.name, **engine.layout}
        self._busy_before_s, self._waited_before_s = program.busy_s, program.phase_wait_s

    def restore(self) -> None:
        """Goes on from the newest checkpoint in the stage's own folder or, without one, from where a warm stage starts,
        or from the state that it continues if that is there.

        Raises what `load_checkpoint` does.
        """
        own = Path(self.assignment.checkpoint_dir)
        warm = Path(self.assignment.warm_dir) if self.assignment.warm_dir else None
        if warm is not None and self.assignment.stage.continues and not fits(warm, self.engine, self._layout):
            warm = None
        saved = load_checkpoint(own, warm, self.engine, self._layout, self.sampler)
        if saved is not None:
            self.progress = Progress(**saved)
        self._report_again(of_another=warm is not None and not has_checkpoint(own))
        self.program.join(self.assignment.bundle_id)

    @property
    def just_warm(self) -> bool:
        """Whether this is a warm stage that has not trained yet: what ended its parent doesn't end it."""
        return bool(self.assignment.stage.warm_from) and self.progress.step == self.assignment.stage.warm_step

    def busy(self) -> AbstractContextManager[None]:
        """Counts the time inside as computing: evaluation, and what is no phase of a step."""
        return self.program.busy()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Around a step's `rollout` or `learn`, see `Channel.phase`; counts the time inside as computing."""
        return self.program.phase(self.channel, name)

    def learning_rate(self) -> float:
        """The rate of the current step."""
        return learning_rate(self.config.optimizer, self.progress.step, self.config.algorithm.max_steps)

    @property
    def start_is_due(self) -> bool:
        """Whether to evaluate on the test split what the stage starts from."""
        return self.progress.start_accuracy < 0.0

    @property
    def dev_is_due(self) -> bool:
        """Whether to evaluate on the dev split: at steps 0, every_steps, 2 every_steps... once."""
        return self.progress.step % self.config.evaluation.every_steps == 0 and not self.knows_dev_accuracy

    @property
    def knows_dev_accuracy(self) -> bool:
        """Whether the dev split has been evaluated at this step."""
        return self.progress.dev_step == self.progress.step

    def take_start(self, test: Evaluation) -> None:
        """Keeps the accuracy on the test split that the stage starts from."""
        self.progress.start_accuracy = test.accuracy

    def take_dev(self, dev: Evaluation) -> None:
        """Keeps and reports `eval/accuracy` of this step, and of each fold. Collective."""
        self.progress.dev_accuracy, self.progress.dev_step = dev.accuracy, self.progress.step
        folds = {f"eval/fold/{fold}": accuracy for fold, accuracy in enumerate(dev.folds)}
        self._report({"eval/accuracy": dev.accuracy, **folds, "train/tokens_seen": self._tokens_seen()})

    def evaluate_if_due(self) -> None:
        """Evaluates what is due. Collective."""
        if self.start_is_due:
            self.take_start(self._evaluate(self.task.test))
        if self.dev_is_due:
            self.take_dev(self._evaluate(self.task.dev))

    def next_items(self) -> slice:
        """The positions of this step's items, of all processes, in the endless order of the data."""
        return slice(self.progress.position, self.progress.position + self._items_per_step)

    @timed_as("report")
    def record(self, values: Mapping[str, Tensor | float], weight: float = 1.0) -> None:
        """Adds to the `train/*` series: means over `REPORT_EVERY_STEPS` steps (and the gang) weighted by `weight`."""
        series = self.progress.series
        for name, value in values.items():
            series.setdefault(name, []).append((float(value), weight))

    @timed_as("report")
    def complete_step(self, tokens: int) -> None:
        """Counts a step and the `tokens` it took of this process; reports the series when due. Collective."""
        self.progress.step += 1
        self.progress.position += self._items_per_step
        self.progress.tokens_seen += tokens
        if self.progress.step % REPORT_EVERY_STEPS == 0:
            self._report_series()
        self._tell_measured(self.meter.after_step(self.program.most_members, learned=self.engine.learned > 0))

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether to write a periodic checkpoint at this step boundary."""
        return self.program.checkpoint_due(self.assignment.bundle_id)

    def stop_requested(self) -> bool:
        """Whether to pause at this step boundary; writes the periodic checkpoint when it is due. Collective."""
        stop, checkpoint = self.channel.stop_requested(), self.checkpoint_is_due
        if self.world_size > 1:
            flags = torch.tensor([float(stop), float(checkpoint)], device=self.device)
            stop, checkpoint = map(bool, sum_over_processes(flags).tolist())
        if checkpoint and not stop:
            self.save()
        return stop

    def save(self) -> None:
        """Writes a checkpoint. Collective."""
        since = time.time() - RESEND_S
        self.progress.reported = [report for report in self.progress.reported if report[0] >= since]
        folder = Path(self.assignment.checkpoint_dir)
        with self.program.checkpointing(self.assignment.bundle_id):
            # As it stands: a deep copy of the reports takes as long as writing them.
            save_checkpoint(folder, self.engine, self._layout, self.progress.step, vars(self.progress), self.sampler)
        if self.rank == 0:
            self.channel.saved(self.progress.step)

    def pause(self) -> Outcome:
        """The outcome of a stage that was asked to stop: a checkpoint, no output."""
        self.save()
        return self._outcome(self._counts(), finished=False)

    def finish(self, served: CachedModel | None = None) -> Outcome:
        """The outcome of a stage that is done; `served`: what its users get, if that is not the trained model as it is.
        Collective.

        The last checkpoint comes first, before the series are cut in `conclude`: whoever goes on from it reports them
        as if the stage had never ended.
        """
        self.save()
        if not self.knows_dev_accuracy:
            self.take_dev(self._evaluate(self.task.dev, served))
        return self.conclude(self._evaluate(self.task.test, served), served)

    def conclude(self, test: Evaluation, served: CachedModel | None = None) -> Outcome:
        """Writes the output, whose evaluation on the test split is given; returns the stage's outcome. `served` as in
        `finish`. Collective."""
        self._report_series()
        model = self.engine.decoder()
        measured = served or model
        with self.busy():
            cost = measured_outcomes(measured, self.task, self.task.test, self.tokenizer, self.config.evaluation)
            timed = self.config.evaluation.timed_answers
            cost |= speculative_outcomes(measured, self.task, self.task.test, self.tokenizer, timed)
        save_output(Path(self.assignment.output_dir), model, self.config.model, self.rank)
        self._leave_state()
        self._report({}, done=1.0)
        metrics = {
            "accuracy": test.accuracy,
            "accuracy_low": test.low,
            "accuracy_high": test.high,
            "dev_accuracy": self.progress.dev_accuracy,
            "start_accuracy": self.progress.start_accuracy,
            "tokens_per_answer": test.tokens_per_answer,
            **cost,
            **self._counts(),
        }
        if self.assignment.phase_dir:
            metrics["phase_wait_s"] = self.program.phase_wait_s - self._waited_before_s
        return self._outcome(metrics, finished=True)

    def _leave_state(self) -> None:
        """For longer stages of its trunk: the checkpoint that was written when the stage was done."""
        stage = self.assignment.stage
        checkpoint = Path(self.assignment.checkpoint_dir) / f"{PREFIX}{self.progress.step}"
        if stage.leaves_state and self.rank == 0:
            leave_state(checkpoint, Path(self.assignment.output_dir), stage.trunk, stage.trunk_steps, self.world_size)

    def _outcome(self, metrics: Mapping[str, float], *, finished: bool) -> Outcome:
        busy_s, peak = self.program.busy_s - self._busy_before_s, self._last_measured()
        if finished:
            metrics = {**metrics, "peak_memory_bytes": float(peak)}
        return Outcome(metrics=metrics, busy_s=busy_s, peak_memory_bytes=peak, finished=finished)

    def _counts(self) -> dict[str, float]:
        return {"steps": float(self.progress.step), "tokens_seen": self._tokens_seen()}

    def _tokens_seen(self) -> float:
        """Of all processes. Collective."""
        if self.world_size == 1:
            return float(self.progress.tokens_seen)
        return float(sum_over_processes(torch.tensor(self.progress.tokens_seen, device=self.device)))

    def _evaluate(self, problems: Sequence[Problem], served: CachedModel | None = None) -> Evaluation:
        with self.busy():
            size = self.config.evaluation.batch_size
            return evaluate(served or self.engine.decoder(), self.judge, problems, size)

    @timed_as("report")
    def _report_series(self) -> None:
        series, names = self.progress.series, sorted(self.progress.series)
        if not names:
            return
        sums = [
            (sum(value * weight for value, weight in series[n]), sum(weight for _, weight in series[n])) for n in names
        ]
        totals = self._over_processes(sums)
        means = {name: total / weight for name, (total, weight) in zip(names, totals, strict=True) if weight}
        if means:
            self._report({**means, "train/tokens_seen": self._tokens_seen()})
        # The names stay, so that every process of a gang has the same rows in the next sum.
        self.progress.series = {name: [] for name in names}

    def _over_processes(self, rows: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """Their sums over the gang. Collective."""
        if self.world_size == 1:
            return rows
        summed = sum_over_processes(torch.tensor(rows, dtype=torch.float64, device=self.device)).tolist()
        return [(total, weight) for total, weight in summed]

    def _report(self, metrics: Mapping[str, float], done: float | None = None) -> None:
        if self.rank == 0:
            fraction = min(1.0, self.progress.step / self.config.algorithm.max_steps) if done is None else done
            self.progress.reported.append((time.time(), self.progress.step, dict(metrics), fraction))
            self.channel.report(self.progress.step, metrics, fraction)

    def _report_again(self, *, of_another: bool) -> None:
        """What was reported shortly before the checkpoint; nothing if that is the checkpoint `of_another` stage."""
        if of_another:
            self.progress.reported = []
        if self.rank == 0:
            for _, step, metrics, fraction in self.progress.reported:
                self.channel.report(step, metrics, fraction)

    def _tell_measured(self, measured: Measurement | None) -> None:
        if measured is not None:
            self.channel.measured(measured.memory_bytes, measured.host_memory_bytes, measured.utilisation)

    def _last_measured(self) -> int:
        """The peak memory of the run that ends [bytes]; whoever listens has its other figures too."""
        measured = self.meter.now(self.program.most_members)
        self._tell_measured(measured)
        return measured.memory_bytes


@contextmanager
def open_session(
    assignment: Assignment, channel: Channel, items_per_step: int, prepare: Callable[[Model], None] | None = None
) -> Iterator[tuple[Session, Engine]]:
    """Sets a stage up, from its checkpoint if there is one; `items_per_step` examples or prompts are shared by a gang.
    `prepare` changes in place how the model computes, but none of its parameters' names.

    Raises TaskError for a task that cannot be built as configured, ValueError for fewer items than processes, and what
    `load_checkpoint` does.
    """
    if items_per_step < assignment.world_size:
        raise ValueError(f"{items_per_step} items per step cannot be shared by {assignment.world_size} processes")
    config = stage_config(assignment.stage.config)
    seed_all(config.seed)
    task = load_task(config.task, Path(assignment.cache_dir), config.model)
    device = open_device(assignment)
    model = initial_model(config, assignment.parent_dir, device)
    if prepare is not None:
        prepare(model)
    engine = Engine(model, config.deepspeed, config.optimizer, items_per_step, device)
    session = Session(assignment, channel, config, task, engine, Program(), items_per_step)
    session.restore()
    if assignment.parks:
        engine.park()
    yield session, engine
    if assignment.world_size > 1:
        # A group of one stays, for the next stage of this process: DeepSpeed keeps references to it for good.
        dist.destroy_process_group()
